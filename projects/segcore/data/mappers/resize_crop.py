"""Training mappers that resize and crop: semantic, panoptic and instance segmentation.

The registered names are those of the official configurations (MaskFormer, Cheng et al., 2021).
"""

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import Instances

from segcore.data.mappers.augmentation import resize_crop_color_flip
from segcore.data.mappers.base import TrainMapper
from segcore.data.mappers.reading import read_panoptic_map
from segcore.data.mappers.registry import register_mapper
from segcore.data.mappers.segmentation import rasterize, transform_annotations
from segcore.data.mappers.targets import make_instances, panoptic_targets, semantic_targets


class ResizeCropMapper(TrainMapper):
    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        arguments = {
            **super().from_config(cfg),
            "augmentations": resize_crop_color_flip(cfg, limit_category=cls.reads_semantic_map),
            "padded_size": cfg.INPUT.SIZE_DIVISIBILITY,
        }
        if cls.reads_semantic_map:
            crop = cfg.INPUT.CROP
            arguments["ignore_label"] = _ignore_label(cfg.DATASETS.TRAIN)
            arguments["crops_by_category"] = crop.ENABLED and crop.SINGLE_CATEGORY_MAX_AREA < 1
        return arguments


@register_mapper("mask_former_semantic")
class ResizeCropSemantic(ResizeCropMapper):
    """Emits "sem_seg" ((H, W) int64); instances: every class of it except the ignored one."""

    needs = ("sem_seg_file_name",)
    reads_semantic_map = True

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        return semantic_targets(sample["sem_seg"], self.ignore_label)


@register_mapper("mask_former_panoptic")
class ResizeCropPanoptic(ResizeCropMapper):
    """Instances: every segment that is not a crowd. Emits "sem_seg" where the data has it."""

    needs = ("pan_seg_file_name", "segments_info")
    reads_semantic_map = True

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        path = sample.pop("pan_seg_file_name")
        id_map = read_panoptic_map(path, sample, transforms, self.max_pixels)
        return panoptic_targets(self.pad(id_map, 0), sample["segments_info"])


@register_mapper("mask_former_instance")
class ResizeCropInstance(ResizeCropMapper):
    """Instances: every annotation that is not a crowd, also where the crop leaves nothing of it."""

    needs = ("annotations",)

    def make_targets(
        self, sample: dict, transforms: T.TransformList, size: tuple[int, int]
    ) -> Instances:
        classes, segmentations = transform_annotations(sample, transforms)
        masks = rasterize(segmentations, size).view(torch.bool)
        return make_instances(classes, self.pad(masks, 0))


def _ignore_label(datasets: tuple[str, ...]) -> int:
    if not datasets:
        raise ValueError("DATASETS.TRAIN is empty: the training mapper needs its ignore_label")
    label = MetadataCatalog.get(datasets[0]).get("ignore_label")
    if label is None:
        raise ValueError(
            f"the metadata of data set {datasets[0]!r} (DATASETS.TRAIN) has no ignore_label: is it "
            f"registered, and with semantic or panoptic annotation?"
        )
    return label
