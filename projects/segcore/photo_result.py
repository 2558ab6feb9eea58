"""The segments of one photo, as NumPy arrays, files, pictures and the forms of other libraries."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from segcore.data.panoptic_format import Category
from segcore.demo.results import ResultWriter
from segcore.inference.coco import at_least, coco_records
from segcore.inference.run_lengths import mask_areas
from segcore.requirements import require_supervision
from segcore.visualization import (
    SegmentMap,
    draw_instances,
    draw_panoptic,
    draw_semantic,
    format_rows,
    instance_rows,
    panoptic_rows,
    semantic_rows,
)

if TYPE_CHECKING:
    from supervision import Detections

MIN_SCORE = 0.5  # of instances that are drawn, saved and handed over
NOTEBOOK_EDGE = 1024  # pixels


@dataclass(frozen=True)
class Segment:
    """A segment of the panoptic map, or an instance.

    Attributes:
        id: its value in the panoptic map; of instances the number from 1 on, by falling score.
        name: of its class.
        category_id: of its class, in the data set that the model was trained on.
        is_thing: whether its class is of countable objects.
        score: in [0, 1]; None if the model gives none.
        area: in pixels.
        box: (x0, y0, x1, y1) in pixels, x1 and y1 excluded.
        run_lengths: of instances, the mask as pycocotools has it.
    """

    id: int
    name: str
    category_id: int
    is_thing: bool
    score: float | None
    area: int
    box: tuple[float, float, float, float]
    run_lengths: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def mask(self) -> np.ndarray:
        """The mask (H, W) bool of an instance; that of a segment is ``panoptic == id``."""
        return mask_util.decode(self.run_lengths).view(bool)


class PhotoResult:
    """What a model finds in a photo.

    Args:
        photo: (H, W, 3) uint8, RGB.
        compact: result of :meth:`segcore.Predictor.predict_compact`.
        categories: the classes by contiguous id.
        path: file of the photo, after which results are named.

    Attributes:
        photo: (H, W, 3) uint8, RGB.
        categories: COCO panoptic categories by contiguous id.
        panoptic: ids of ``segments`` (H, W) int32, 0 for none; None if the model gives no panoptic
            result.
        semantic: contiguous classes (H, W) uint8, or int16 or int32 with more classes; None if the
            model gives no semantic result.
    """

    def __init__(
        self,
        photo: np.ndarray,
        compact: dict[str, Any],
        categories: Sequence[Category],
        path: str | Path | None = None,
    ):
        self.photo = photo
        self.categories = categories
        self.path = Path(path or "photo")
        self._compact = compact
        self.panoptic = compact["panoptic_seg"][0].numpy() if "panoptic_seg" in compact else None
        self.semantic = compact["semantic_map"].numpy() if "semantic_map" in compact else None

    @cached_property
    def segments(self) -> list[Segment]:
        """Segments of the panoptic map, of any score; empty if there is none."""
        if self.panoptic is None:
            return []
        return [
            self._segment(
                info["id"],
                info["category_id"],
                info.get("score"),
                extent.area,
                _corners(extent.box),
            )
            for info, extent in zip(self._infos, self._segment_map.extents, strict=True)
        ]

    @cached_property
    def instances(self) -> list[Segment]:
        """Instances of all scores, which may overlap, by falling score; empty if there are none."""
        instances = self._compact.get("instances")
        if instances is None:
            return []
        masks = instances.pred_masks_rle
        rows = zip(
            instances.pred_classes.tolist(),
            instances.scores.tolist(),
            mask_areas(masks).tolist(),
            map(tuple, instances.pred_boxes.tensor.tolist()),
            masks,
            strict=True,
        )
        return [self._segment(number, *row) for number, row in enumerate(rows, start=1)]

    def overlay(self, min_score: float = MIN_SCORE, scale: float = 1.0) -> Image.Image:
        """Draw the panoptic map over the photo; else instances, else classes.

        Args:
            min_score: of instances.
            scale: size of the picture relative to the photo.
        """
        options = (self.categories, scale)
        if self.panoptic is not None:
            picture = draw_panoptic(self.photo, self._segment_map, self._infos, *options)
        elif "instances" in self._compact:
            instances = at_least(self._compact["instances"], min_score)
            picture = draw_instances(self.photo, instances, *options)
        else:
            picture = draw_semantic(self.photo, self.semantic, *options)
        return Image.fromarray(picture)

    def save(self, folder: str | Path, min_score: float = MIN_SCORE) -> None:
        """Write overlay, panoptic PNG and JSON, instances as ``demo.py`` does.

        Raises:
            OutputError: a file cannot be written.
        """
        save_results([self], folder, min_score)

    def to_coco(self, image_id: int = 1, min_score: float = MIN_SCORE) -> list[dict[str, Any]]:
        """Return the instances as records of COCO's result format, with compressed run lengths."""
        if "instances" not in self._compact:
            return []
        instances = at_least(self._compact["instances"], min_score)
        return coco_records(instances, self.categories, image_id)

    def to_supervision(self, min_score: float = MIN_SCORE) -> "Detections":
        """Return the instances, or the things of the panoptic map, for the supervision library.

        ``class_id`` is the contiguous id, ``data["class_name"]`` the name.

        Raises:
            RequirementError: supervision is not installed.
        """
        require_supervision()
        from supervision import Detections

        if "instances" in self._compact:
            found = [segment for segment in self.instances if segment.score >= min_score]
            masks = [segment.mask for segment in found]
        else:
            found = [segment for segment in self.segments if segment.is_thing]
            masks = [self.panoptic == segment.id for segment in found]
        if not found:
            return Detections.empty()
        contiguous = {category["id"]: index for index, category in enumerate(self.categories)}
        scores = [segment.score for segment in found]
        return Detections(
            xyxy=np.array([segment.box for segment in found], np.float32),
            mask=np.stack(masks),
            confidence=None if None in scores else np.array(scores, np.float32),
            class_id=np.array([contiguous[segment.category_id] for segment in found]),
            data={"class_name": np.array([segment.name for segment in found])},
        )

    def __str__(self) -> str:
        """A table of the segments."""
        if self.panoptic is not None:
            areas = [segment.area for segment in self.segments]
            rows = panoptic_rows(areas, self._infos, self.categories, self.panoptic.size)
        elif "instances" in self._compact:
            rows = instance_rows(at_least(self._compact["instances"], MIN_SCORE), self.categories)
        else:
            rows = semantic_rows(self.semantic, self.categories)
        return format_rows(rows)

    def __repr__(self) -> str:
        height, width = self.photo.shape[:2]
        return (
            f"PhotoResult({width} x {height} pixels, {len(self.segments)} segments, "
            f"{len(self.instances)} instances)"
        )

    def _repr_png_(self) -> bytes:
        """The overlay, as notebooks show it."""
        scale = min(1.0, NOTEBOOK_EDGE / max(self.photo.shape[:2]))
        buffer = io.BytesIO()
        self.overlay(scale=scale).save(buffer, "PNG")
        return buffer.getvalue()

    @property
    def _infos(self) -> list[dict[str, Any]]:
        return self._compact["panoptic_seg"][1]

    @cached_property
    def _segment_map(self) -> SegmentMap:
        return SegmentMap.from_ids(self.panoptic, [info["id"] for info in self._infos])

    def _segment(
        self,
        id: int,
        label: int,
        score: float | None,
        area: int,
        box: tuple[float, ...],
        run_lengths: dict[str, Any] | None = None,
    ) -> Segment:
        category = self.categories[label]
        name, category_id, is_thing = category["name"], category["id"], bool(category["isthing"])
        return Segment(id, name, category_id, is_thing, score, area, box, run_lengths)


def save_results(
    results: Sequence[PhotoResult], folder: str | Path, min_score: float = MIN_SCORE
) -> None:
    """Write the results of photos of one model into a folder, with one JSON for all.

    Raises:
        OutputError: a file cannot be written.
    """
    if not results:
        return
    writer = ResultWriter(folder, results[0].categories, min_score)
    for result in results:
        writer.add(result.path, result.photo[:, :, ::-1], result._compact)
    writer.finish()


def _corners(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    x, y, width, height = box
    return x, y, x + width, y + height
