"""Panoptic quality, counted image by image ("Panoptic Segmentation", Kirillov et al., CVPR 2019).

Needs NumPy only, and OpenCV for boundaries. Counts and sums are panopticapi's to the last bit.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from segcore.evaluation.boundary import boundary_map
from segcore.evaluation.panoptic_result import PanopticResult
from segcore.evaluation.segment_matching import match_segments


class PanopticQuality:
    """Panoptic quality of a data set, image after image.

    >>> quality = PanopticQuality([{"id": 1, "name": "cat", "isthing": 1}])
    >>> ids, segments = np.array([[7, 7], [0, 0]]), [{"id": 7, "category_id": 1}]
    >>> quality.update(ids, segments, ids, segments)
    >>> quality.compute().mean().pq
    1.0

    Args:
        categories: dicts with "id", and for the groups and names of results "isthing" and "name".
        boundary: the IoU of two segments is the smaller one of their masks and of their boundaries
            (Boundary IoU, Cheng et al., CVPR 2021): Boundary PQ.
        dilation_ratio: width of boundaries as a share of the image's diagonal.
    """

    def __init__(
        self,
        categories: Sequence[Mapping[str, Any]],
        *,
        boundary: bool = False,
        dilation_ratio: float = 0.02,
    ):
        self.categories = [dict(category) for category in categories]
        self.boundary = boundary
        self.dilation_ratio = dilation_ratio
        self._class_indices = {
            category["id"]: index for index, category in enumerate(self.categories)
        }
        if len(self._class_indices) != len(self.categories):
            raise ValueError("categories: expected different ids, got one twice")
        self._images: list[np.ndarray] = []

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def update(
        self,
        prediction: np.ndarray,
        prediction_segments: Sequence[Mapping[str, Any]],
        truth: np.ndarray,
        truth_segments: Sequence[Mapping[str, Any]],
    ) -> None:
        """Count an image; arguments and errors are those of :meth:`outcomes`."""
        self._images.append(self.outcomes(prediction, prediction_segments, truth, truth_segments))

    def outcomes(
        self,
        prediction: np.ndarray,
        prediction_segments: Sequence[Mapping[str, Any]],
        truth: np.ndarray,
        truth_segments: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """Return the outcome of each segment of an image, without counting it.

        Args:
            prediction, truth: integers (H, W), the segment id of each pixel, 0 for void.
            prediction_segments: dicts with "id" and "category_id".
            truth_segments: dicts with "id" and "category_id"; "iscrowd" (0) and "area" (the number
                of pixels) as in COCO's panoptic format.

        Returns:
            Structured array, see :func:`match_segments`.

        Raises:
            ValueError: the maps do not fit, or the segments of the prediction are not those on its
                map.
        """
        boundary = partial(boundary_map, dilation_ratio=self.dilation_ratio)
        return match_segments(
            truth,
            truth_segments,
            prediction,
            prediction_segments,
            self._class_indices,
            boundary=boundary if self.boundary else None,
        )

    def merge(self, *others: "PanopticQuality") -> None:
        """Add the images of others, in this order, which decides the last bit of sums.

        Raises:
            ValueError: they have other categories.
        """
        for other in others:
            if other._class_indices != self._class_indices:
                raise ValueError("merge: expected the same categories")
            self._images += other._images

    def compute(self) -> PanopticResult:
        """Return the result of the images so far."""
        return PanopticResult.of_images(self.categories, self._images)
