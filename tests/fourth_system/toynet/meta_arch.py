"""One mask a class: photos to losses, or to results."""

from collections.abc import Collection
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from segcore.checkpoint import rename_on_load
from segcore.inference import (
    InstancePrediction,
    MaskPrediction,
    MaskRating,
    PanopticMerging,
    PanopticPrediction,
    ResultMaker,
)
from segcore.meta_arch import SegmentationModel, checked_target, thing_ids_of

PUBLISHED_HEAD = "decode_head."


def rename_published(names: Collection[str]) -> dict[str, str]:
    """Name of a published checkpoint -> our name, of those that differ."""
    return {
        name: "head." + name.removeprefix(PUBLISHED_HEAD)
        for name in names
        if name.startswith(PUBLISHED_HEAD)
    }


@META_ARCH_REGISTRY.register()
class ToySegmenter(SegmentationModel):
    config_section = "TOYNET"
    checkpoint_renames = staticmethod(rename_published)

    @configurable
    def __init__(
        self, *, backbone: nn.Module, num_classes: int, result_maker: ResultMaker, **pixels: Any
    ):
        super().__init__(size_divisibility=4, **pixels)
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.output_shape()["res2"].channels, num_classes, 1)
        self.result_maker = result_maker
        rename_on_load(self, rename_published)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        test = cfg.MODEL.TOYNET.TEST
        return {
            "backbone": build_backbone(cfg),
            "num_classes": num_classes,
            "result_maker": ResultMaker(
                PanopticMerging.from_config(cfg, "pixel_wise"),
                frozenset(thing_ids_of(cfg.DATASETS.TRAIN, num_classes)),
                semantic_on=test.SEMANTIC_ON,
                instance_on=test.INSTANCE_ON,
                panoptic_on=test.PANOPTIC_ON,
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def network(self, images: Tensor) -> tuple[Tensor]:
        """Images (N, 3, H, W) -> logits of the classes (N, K, H / 4, W / 4)."""
        return (self.head(self.backbone(images)["res2"]),)

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        (maps,) = self.network(self.preprocess_images(batched_inputs).tensor)
        loss = [
            self.loss(logits, checked_target(inputs, len(logits), self.device))
            for logits, inputs in zip(maps, batched_inputs, strict=True)
        ]
        return {"loss_mask": torch.stack(loss).mean()}

    def loss(self, logits: Tensor, target: dict[str, Tensor]) -> Tensor:
        masks = F.interpolate(target["masks"][None].float(), logits.shape[-2:])[0]
        wanted = torch.zeros_like(logits).index_add(0, target["labels"], masks).clamp(max=1)
        return F.binary_cross_entropy_with_logits(logits, wanted)

    def mask_prediction(self, logits: Tensor, *sizes: tuple[int, int]) -> MaskPrediction:
        labels = torch.arange(len(logits), device=logits.device)
        scores = torch.ones(len(logits), device=logits.device)
        return MaskPrediction(
            logits,
            Tensor.sigmoid,
            sizes,
            torch.eye(len(logits), device=logits.device),
            PanopticPrediction(labels, labels, scores),
            InstancePrediction(labels, labels, scores, MaskRating(0.5)),
        )
