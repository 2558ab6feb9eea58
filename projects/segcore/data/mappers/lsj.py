"""Training mappers with large-scale jitter: COCO panoptic and COCO instance segmentation."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from segcore.data.mappers.augmentation import large_scale_jitter
from segcore.data.mappers.base import TrainMapper
from segcore.data.mappers.reading import read_panoptic_map
from segcore.data.mappers.registry import register_mapper
from segcore.data.mappers.segmentation import bounding_boxes, rasterize, transform_annotations
from segcore.data.mappers.targets import make_instances, panoptic_targets
from segcore.functional import masks_to_boxes

# Sides of a box in pixels from which on an instance counts as still there.
MIN_BOX_SIDE = 1e-5


class LSJMapper(TrainMapper):
    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {**super().from_config(cfg), "augmentations": large_scale_jitter(cfg)}


@register_mapper("coco_panoptic_lsj")
class CocoPanopticLSJ(LSJMapper):
    """Instances: every segment that is not a crowd, with gt_boxes of the masks."""

    needs = ("pan_seg_file_name", "segments_info")

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        path = sample.pop("pan_seg_file_name")
        id_map = read_panoptic_map(path, sample, transforms, self.max_pixels)
        instances = panoptic_targets(id_map, sample["segments_info"])
        instances.gt_boxes = Boxes(masks_to_boxes(instances.gt_masks.bool()))
        return instances


@register_mapper("coco_instance_lsj")
class CocoInstanceLSJ(LSJMapper):
    """Instances: every annotation that is not a crowd and of which the crop leaves something,
    with gt_masks in uint8 and gt_boxes; also emits "padding_mask" ((H, W), True on padding).

    Polygons and boxes tell what is left, not pixels: the mask of a sliver may be empty.
    """

    needs = ("annotations",)

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        photo = np.ones((sample["height"], sample["width"]), dtype=np.uint8)
        # FixedSizeCrop pads with 0, or 255 after v0.6.
        sample["padding_mask"] = torch.from_numpy(transforms.apply_segmentation(photo) != 1)

        classes, segmentations = transform_annotations(sample, transforms)
        boxes = bounding_boxes(segmentations)
        visible = boxes.nonempty(MIN_BOX_SIDE).nonzero().flatten()
        masks = rasterize([segmentations[i] for i in visible], size)
        instances = make_instances([classes[i] for i in visible], masks)
        instances.gt_boxes = boxes[visible]
        return instances
