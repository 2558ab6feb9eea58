"""Panoptic quality of semantic predictions, in which a class is one segment of an image."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util

from segcore.data.convert.masks import run_lengths_to_rle
from segcore.errors import DataError
from segcore.evaluation.panoptic_quality import PanopticQuality
from segcore.evaluation.panoptic_result import PanopticResult
from segcore.text import short_repr


class SemanticQuality(NamedTuple):
    """Results of semantic predictions.

    Attributes:
        panoptic: with the classes as categories 0..K-1.
        mean_iou: sum of the IoU of the classes with ground truth, divided by the number of the
            classes that occur in ground truth or predictions.
    """

    panoptic: PanopticResult
    mean_iou: float


def semantic_quality(
    maps: Iterable[tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    *,
    ignore_label: int = 255,
) -> SemanticQuality:
    """Count predictions against the truth.

    Args:
        maps: for each image its prediction and truth, classes (H, W) in [0, K); pixels of the truth
            may be ``ignore_label`` as well, which is void.
        class_names: of the K classes.

    Raises:
        DataError: the maps of an image differ in size, or have other values.
    """
    num_classes = len(class_names)
    categories = [{"id": i, "name": name, "isthing": 0} for i, name in enumerate(class_names)]
    quality = PanopticQuality(categories)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    for index, (prediction, truth) in enumerate(maps):
        is_void = truth == ignore_label
        for name, classes in (("prediction", prediction), ("truth", truth[~is_void])):
            if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
                raise DataError(
                    f"image {index}: {name}: expected classes in [0, {num_classes}), got "
                    f"{classes.min()} to {classes.max()}"
                )
        if prediction.shape != truth.shape:
            raise DataError(
                f"image {index}: expected a prediction (H, W) of {truth.shape}, got "
                f"{prediction.shape}"
            )
        # Id 0 is void.
        found = prediction.astype(np.int64) + 1
        expected = np.where(is_void, 0, truth.astype(np.int64) + 1)
        quality.update(found, _segments(found), expected, _segments(expected))
        pairs = truth[~is_void].astype(np.int64) * num_classes + prediction[~is_void]
        confusion += np.bincount(pairs, minlength=num_classes**2).reshape(confusion.shape)
    return SemanticQuality(quality.compute(), _mean_iou(confusion))


def prediction_maps(
    predictions: Iterable[Mapping[str, Any]],
    read_truth: Callable[[str], np.ndarray],
    class_ids: Mapping[int, int],
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Yield prediction and truth of each image of Detectron2's ``sem_seg_predictions.json``.

    Pixels without entry are of class 0; later entries cover earlier ones.

    Args:
        predictions: dicts with "file_name", "category_id" and "segmentation", run lengths.
        read_truth: file name of a photo -> its classes (H, W).
        class_ids: category_id -> class in [0, K).

    Raises:
        DataError: an entry has no such form, another category or size.
    """
    by_image = defaultdict(list)
    for entry in predictions:
        types = {"file_name": str, "category_id": int, "segmentation": Mapping}
        is_entry = isinstance(entry, Mapping)
        if not is_entry or not all(isinstance(entry.get(key), t) for key, t in types.items()):
            raise DataError(
                "predictions: expected dicts with file_name, category_id and a segmentation of run "
                f"lengths, got {short_repr(entry)}"
            )
        by_image[entry["file_name"]].append(entry)
    for file_name, entries in by_image.items():
        truth = read_truth(file_name)
        prediction = np.zeros(truth.shape, np.int64)
        for entry in entries:
            category = entry["category_id"]
            if category not in class_ids:
                raise DataError(
                    f"{short_repr(file_name)}: category_id: expected one of the data set's "
                    f"{len(class_ids)}, got {short_repr(category)}"
                )
            rle = run_lengths_to_rle(entry["segmentation"], truth.shape)
            prediction[mask_util.decode(rle).view(bool)] = class_ids[category]
        yield prediction, truth


def _segments(ids: np.ndarray) -> list[dict[str, int]]:
    return [{"id": i, "category_id": i - 1} for i in np.unique(ids).tolist() if i]


def _mean_iou(confusion: np.ndarray) -> float:
    """Return the mean IoU from pixel counts (K, K), rows by truth."""
    truth, found, both = confusion.sum(1), confusion.sum(0), np.diagonal(confusion)
    union = truth + found - both
    occurs = union > 0
    if not occurs.any():
        return float("nan")
    return float((both[truth > 0] / union[truth > 0]).sum() / occurs.sum())
