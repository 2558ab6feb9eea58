"""The data mapper of Panoptic SegFormer, on COCO panoptic format."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from panopticapi.utils import rgb2id

from segcore.data.mappers.augmentation import flip_crop_resize, opencv_resize_for_test
from segcore.data.mappers.base import TrainMapper
from segcore.data.mappers.reading import read_panoptic_colors
from segcore.data.mappers.registry import register_mapper
from segcore.data.mappers.targets import masks_of, panoptic_targets
from segcore.functional import masks_to_boxes


@register_mapper("panoptic_segformer", test_resize=opencv_resize_for_test)
class PanopticSegFormerMapper(TrainMapper):
    """Instances: every segment of which the crop leaves something of its box, with gt_boxes.

    Left out are crowds, and annotations without area, with a side of their box below one pixel, or
    outside of the photo. Boxes are those annotated, transformed and clipped: they need not be tight
    after a crop, and the mask may be empty.
    """

    needs = ("pan_seg_file_name", "segments_info")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {**super().from_config(cfg), "augmentations": flip_crop_resize(cfg)}

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        path = sample.pop("pan_seg_file_name")
        colors = read_panoptic_colors(path, sample, self.max_pixels)
        segments = sample["segments_info"]
        annotated = annotated_boxes(segments, colors, sample["file_name"])
        boxes = Boxes(transforms.apply_box(annotated))
        boxes.clip(size)
        kept = are_sound(segments, annotated, colors.shape[:2]) & boxes.nonempty().numpy()
        id_map = torch.from_numpy(rgb2id(transforms.apply_segmentation(colors)))
        instances = panoptic_targets(id_map, [segments[i] for i in kept.nonzero()[0]])
        instances.gt_boxes = boxes[torch.from_numpy(kept)]
        return instances


def annotated_boxes(segments: list[dict], colors: np.ndarray, photo: str) -> np.ndarray:
    """Boxes of segments, of their pixels where none is annotated: (n, 4) as (x0, y0, x1, y1).

    Args:
        segments: with ``id`` and perhaps ``bbox``, (x, y, width, height).
        colors: (H, W, 3) uint8 of the panoptic PNG.
        photo: for the error message.

    Raises:
        ValueError: a bbox is not four numbers.
    """
    boxes = np.zeros((len(segments), 4))
    unknown = [i for i, segment in enumerate(segments) if segment.get("bbox") is None]
    if unknown:
        ids = torch.from_numpy(rgb2id(colors))
        masks = masks_of(ids, [segments[i]["id"] for i in unknown])
        boxes[unknown] = masks_to_boxes(masks).numpy()
    for box, segment in zip(boxes, segments, strict=True):
        if segment.get("bbox") is None:
            continue
        try:
            x, y, width, height = map(float, segment["bbox"])
        except (TypeError, ValueError):
            raise ValueError(
                f"segment {segment['id']} of {photo}: bbox: expected four numbers x, y, width, "
                f"height, got {segment['bbox']!r}"
            ) from None
        box[:] = x, y, x + width, y + height
    return boxes


def are_sound(segments: list[dict], boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which segments are to be learned: (n,) bool.

    Args:
        boxes: (n, 4) of the segments.
        size: (H, W) of the photo.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = np.minimum(boxes[:, 2:], size[::-1]) - np.maximum(boxes[:, :2], 0)
    annotated = [not s.get("iscrowd", 0) and s.get("area", 1) > 0 for s in segments]
    return np.array(annotated, dtype=bool) & (sides >= 1).all(axis=1) & (inside > 0).all(axis=1)
