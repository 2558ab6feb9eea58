"""Heads of per-pixel classification, the baselines of MaskFormer (Cheng et al., 2021, section 4.2).

Detectron2's meta-architecture ``SemanticSegmentor`` takes them.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from mask2former.checkpoint_names import rename_official
from mask2former.head import build_pixel_decoder, decode_pixels
from mask2former.standard_decoder import StandardTransformerDecoder
from segcore.checkpoint import rename_on_load
from segcore.errors import ConfigError
from segcore.functional import at_least_float32

# Stride of the pixel decoder's finest map, fixed as in the official code.
STRIDE = 4


class _PerPixelHead(nn.Module):
    """Class logits of a subclass, resized by ``STRIDE``, and their cross entropy."""

    # Official checkpoints of version 1 have the pixel decoder here: see checkpoint_names.
    _version = 2

    def __init__(
        self, pixel_decoder: nn.Module, *, num_classes: int, loss_weight: float, ignore_value: int
    ):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        rename_on_load(self, partial(rename_official, head=""))

    # Asked by SafeCheckpointer, of names in the whole model.
    checkpoint_renames = staticmethod(rename_official)

    def forward(
        self, features: dict[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Classify pixels.

        Args:
            features: {name: (B, C_l, H_l, W_l)}.
            targets: in training the class of each pixel, int64 (B, H, W).

        Returns:
            In training None and the losses, see :meth:`losses`; else logits (B, K, 4 h, 4 w), for a
            finest map of h x w, and no losses.
        """
        logits, *auxiliary = self.logits(features)
        if not self.training:
            return _upsample(logits), {}
        if targets is None:
            raise ValueError(
                "targets: expected the class of each pixel, 'sem_seg' of the inputs, which "
                "INPUT.DATASET_MAPPER_NAME 'mask_former_semantic' gives, got none"
            )
        losses = {"loss_sem_seg": self._loss(logits, targets)}
        for index, prediction in enumerate(auxiliary):
            losses[f"loss_sem_seg_{index}"] = self._loss(prediction, targets)
        return None, losses

    def logits(self, features: dict[str, Tensor]) -> list[Tensor]:
        """Return logits (B, K, h, w): the final ones, then auxiliary ones in their order."""
        raise NotImplementedError

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross entropy over the pixels that are not ignored, weighted."""
        height, width = targets.shape[-2:]
        logits = _upsample(at_least_float32(logits))
        if height > logits.shape[-2] or width > logits.shape[-1]:
            raise ValueError(
                f"targets: expected (H, W) of at most {STRIDE} times the pixel decoder's finest "
                f"map, {tuple(logits.shape[-2:])}, got {(height, width)}: is res2 among "
                "MODEL.SEM_SEG_HEAD.IN_FEATURES?"
            )
        # Batches need not be multiples of the stride: cut, as Detectron2 does in evaluation.
        logits = logits[..., :height, :width]
        with torch.autocast(logits.device.type, enabled=False):
            loss = F.cross_entropy(logits, targets, ignore_index=self.ignore_value)
        return loss * self.loss_weight


@SEM_SEG_HEADS_REGISTRY.register()
class PerPixelBaselineHead(_PerPixelHead):
    """A 1x1 convolution of the per-pixel embedding."""

    @configurable
    def __init__(self, *, mask_dim: int, num_classes: int, **options: Any):
        """
        Args:
            mask_dim: channels of the per-pixel embedding.
            num_classes: K.
            options: ``pixel_decoder``, see :class:`MaskFormerHead`; ``loss_weight``;
                ``ignore_value``, the target of pixels without class.
        """
        super().__init__(num_classes=num_classes, **options)
        self.predictor = Conv2d(mask_dim, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        pixel_decoder, _ = build_pixel_decoder(cfg, input_shape)
        return {
            **_loss_options(cfg),
            "pixel_decoder": pixel_decoder,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        }

    def class_rows(self) -> Mapping[str, Sequence[int]]:
        """Entries of the whole model with a row for each class."""
        names = ("sem_seg_head.predictor.weight", "sem_seg_head.predictor.bias")
        return dict.fromkeys(names, range(self.num_classes))

    def logits(self, features: dict[str, Tensor]) -> list[Tensor]:
        mask_features, _, _ = self.pixel_decoder.forward_features(features)
        return [self.predictor(mask_features)]


@SEM_SEG_HEADS_REGISTRY.register()
class PerPixelBaselinePlusHead(_PerPixelHead):
    """A transformer decoder with one query a class, whose mask logits are those of the class."""

    @configurable
    def __init__(
        self,
        *,
        transformer_predictor: StandardTransformerDecoder,
        transformer_in_feature: str,
        **options: Any,
    ):
        """
        Args:
            transformer_predictor: with K queries, and without classes.
            transformer_in_feature: see :class:`MaskFormerHead`.
            options: see :class:`PerPixelBaselineHead`.
        """
        super().__init__(**options)
        self.predictor = transformer_predictor
        self.transformer_in_feature = transformer_in_feature

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
        if mask_former.NUM_OBJECT_QUERIES != head.NUM_CLASSES:
            raise ConfigError(
                "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES: expected one query a class, "
                f"{head.NUM_CLASSES} (MODEL.SEM_SEG_HEAD.NUM_CLASSES), got "
                f"{mask_former.NUM_OBJECT_QUERIES}"
            )
        pixel_decoder, in_channels = build_pixel_decoder(cfg, input_shape)
        return {
            **_loss_options(cfg),
            "pixel_decoder": pixel_decoder,
            "transformer_predictor": StandardTransformerDecoder(
                cfg, in_channels, mask_classification=False
            ),
            "transformer_in_feature": mask_former.TRANSFORMER_IN_FEATURE,
        }

    def class_rows(self) -> Mapping[str, Sequence[int]]:
        """Entries of the whole model with a row for each class."""
        return {"sem_seg_head.predictor.query_embed.weight": range(self.num_classes)}

    def logits(self, features: dict[str, Tensor]) -> list[Tensor]:
        decoded = decode_pixels(self.pixel_decoder, features, self.transformer_in_feature)
        outputs = self.predictor(*decoded)
        return [outputs["pred_masks"], *(aux["pred_masks"] for aux in outputs["aux_outputs"])]


def _loss_options(cfg: CfgNode) -> dict[str, Any]:
    head = cfg.MODEL.SEM_SEG_HEAD
    return {
        "num_classes": head.NUM_CLASSES,
        "loss_weight": head.LOSS_WEIGHT,
        "ignore_value": head.IGNORE_VALUE,
    }


def _upsample(logits: Tensor) -> Tensor:
    return F.interpolate(logits, scale_factor=STRIDE, mode="bilinear", align_corners=False)
