"""Transformer decoder over clips: a query has one class and a mask in every frame."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from mask2former.transformer_decoder import (
    TRANSFORMER_DECODER_REGISTRY,
    MultiScaleMaskedTransformerDecoder,
)
from mask2former_video.position_encoding import SinePositionEncoding3D


@TRANSFORMER_DECODER_REGISTRY.register()
class VideoMultiScaleMaskedTransformerDecoder(MultiScaleMaskedTransformerDecoder):
    """Learned queries attend to the tokens of all frames of a clip at once.

    Parameters, their names and their shapes are those of the decoder of images. A query whose mask
    is empty in some frames does not look at these; one without any mask looks at all frames.
    """

    @configurable
    def __init__(self, in_channels: int, *, num_frames: int, **options: Any):
        """
        Args:
            in_channels: of each map that the queries attend to.
            num_frames: frames T of a clip in training. In evaluation, a batch is one clip.
            options: arguments of :class:`MultiScaleMaskedTransformerDecoder`.
        """
        super().__init__(in_channels, **options)
        self.num_frames = num_frames
        self.position_encoding = SinePositionEncoding3D(options["hidden_dim"] // 2)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, in_channels: int, mask_classification: bool = True
    ) -> dict[str, Any]:
        options = super().from_config(cfg, in_channels, mask_classification)
        return {**options, "num_frames": cfg.INPUT.SAMPLING_FRAME_NUM}

    def forward(
        self,
        maps: Sequence[Tensor],
        mask_features: Tensor,
        mask_projection: nn.Module | None = None,
    ) -> dict[str, Any]:
        """Predict a class and a mask in every frame for each query.

        Args:
            maps: ``num_levels`` maps (B * T, in_channels, H_l, W_l), clip after clip, coarse to
                fine.
            mask_features: per-pixel embedding (B * T, mask_dim, H, W).
            mask_projection: see :class:`MultiScaleMaskedTransformerDecoder`.

        Returns:
            {"pred_logits": (B, Q, K+1), the last is "no object"; "pred_masks": logits
            (B, Q, T, H, W); "aux_outputs": the same two of the queries before each layer, in
            training; else empty}.

        Raises:
            ValueError: the frames are no multiple of ``num_frames`` in training.
        """
        self._check_levels(maps)
        num_frames = self.num_frames if self.training else len(mask_features)
        if len(mask_features) % num_frames:
            raise ValueError(
                f"mask_features: expected clips of {num_frames} frames "
                f"(INPUT.SAMPLING_FRAME_NUM), got {len(mask_features)} frames"
            )
        positions = [
            self.position_encoding(num_frames, level.shape[-2:], device=level.device)
            for level in maps
        ]
        projected = [
            projection(level) for projection, level in zip(self.input_proj, maps, strict=True)
        ]
        resized = [
            F.interpolate(
                mask_features.detach(), size=level.shape[-2:], mode="bilinear", align_corners=False
            )
            for level in maps
        ]
        outputs = self._decode(
            [_clip_tokens(level, num_frames) for level in projected],
            [_clip_tokens(position, num_frames) for position in positions],
            [_clip_tokens(level, num_frames).transpose(1, 2) for level in resized],
            # One tall map of all frames of a clip: (B, mask_dim, T * H, W).
            mask_features.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(2, 3),
            mask_projection,
        )
        for prediction in (outputs, *outputs["aux_outputs"]):
            prediction["pred_masks"] = prediction["pred_masks"].unflatten(2, (num_frames, -1))
        return outputs


def _clip_tokens(maps: Tensor, num_frames: int) -> Tensor:
    """Arrange maps (B * T, C, H, W) as the tokens (B, T * H * W, C) of clips, frame after frame."""
    clips = maps.flatten(2).transpose(1, 2).unflatten(0, (-1, num_frames))
    return clips.flatten(1, 2)
