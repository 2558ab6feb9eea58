"""Training mappers of EoMT: flip, scale jitter, crop of one size, until something is left."""

from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances

from eomt.augmentation import fixed_size_crops
from segcore.data.mappers import register_mapper
from segcore.data.mappers.base import TrainMapper
from segcore.data.mappers.reading import read_panoptic_map
from segcore.data.mappers.segmentation import rasterize, transform_annotations
from segcore.data.mappers.targets import make_instances, panoptic_targets, semantic_targets

# Crops of an image that are tried until one has a segment; the last is taken as it is.
MAX_CROPS = 100


class CropMapper(TrainMapper):
    """Crops an image until a pixel of a segment is left; segments without a pixel are dropped."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), "augmentations": fixed_size_crops(cfg)}

    def __call__(self, dataset_dict: dict) -> dict:
        for _ in range(MAX_CROPS):
            sample = super().__call__(dataset_dict)
            masks = sample["instances"].gt_masks
            visible = masks.flatten(1).any(1) if len(masks) else torch.zeros(0, dtype=torch.bool)
            sample["instances"] = sample["instances"][visible]
            if len(sample["instances"]):
                break
        return sample


@register_mapper("eomt_panoptic")
class CropPanoptic(CropMapper):
    """Instances: every segment that is not a crowd."""

    needs = ("pan_seg_file_name", "segments_info")

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        path = sample.pop("pan_seg_file_name")
        id_map = read_panoptic_map(path, sample, transforms, self.max_pixels)
        return panoptic_targets(id_map, sample["segments_info"])


@register_mapper("eomt_instance")
class CropInstance(CropMapper):
    """Instances: every annotation that is not a crowd, a mask before it is resized."""

    needs = ("annotations",)

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        classes, segmentations = transform_annotations(sample, T.TransformList([]))
        masks = rasterize(segmentations, (sample["height"], sample["width"])).numpy()
        masks = [transforms.apply_segmentation(mask) for mask in masks]
        masks = np.stack(masks) if masks else np.zeros((0, *size), dtype=np.uint8)
        return make_instances(classes, torch.from_numpy(masks).bool())


@register_mapper("eomt_semantic")
class CropSemantic(CropMapper):
    """Instances: every class of the semantic map except the ignored one. Emits "sem_seg"."""

    needs = ("sem_seg_file_name",)
    reads_semantic_map = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        label = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).ignore_label
        return {
            **super().from_config(cfg),
            "augmentations": fixed_size_crops(cfg, ignore_label=label),
            "ignore_label": label,
        }

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        return semantic_targets(sample["sem_seg"], self.ignore_label)
