"""Test-time augmentation of semantic segmentation."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.modeling import DatasetMapperTTA
from fvcore.transforms import HFlipTransform
from torch import Tensor, nn


class SemanticSegmentorWithTTA(nn.Module):
    """A model whose "sem_seg" is the mean over sizes and flips of the image.

    The model runs on one augmented image at a time, at the output size; results of flipped images
    are flipped back.

    Args:
        cfg: ``TEST.AUG``: MIN_SIZES, MAX_SIZE and FLIP.
        model: returns dicts with "sem_seg" (K, H, W).
        tta_mapper: returns the augmented versions of an input dict, each with its "transforms";
            Detectron2's ``DatasetMapperTTA`` by default.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        tta_mapper: Callable[[dict], list[dict]] | None = None,
    ):
        super().__init__()
        self.model = model
        self.tta_mapper = tta_mapper or DatasetMapperTTA(cfg)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Predict; inputs have "image" (C, H, W) and the output's "height" and "width"."""
        return [{"sem_seg": self._mean_over_versions(record)} for record in batched_inputs]

    def _mean_over_versions(self, record: dict) -> Tensor:
        versions = self.tta_mapper(record)
        total = None
        for version in versions:
            transforms = version.pop("transforms").transforms
            scores = self.model([version])[0]["sem_seg"]
            if any(isinstance(transform, HFlipTransform) for transform in transforms):
                scores = scores.flip(-1)
            total = scores if total is None else total.add_(scores)
        return total / len(versions)
