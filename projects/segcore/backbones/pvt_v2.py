"""Pyramid Vision Transformer v2 (Wang et al., 2022) as a backbone of four feature maps.

Parameter names are those of the official checkpoints. Inside, maps are channels-last (B, H, W, C).
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from segcore.backbones.features import FEATURES, drop_path_rates
from segcore.layers import Linear, attend

# Of the norms of blocks and stages; those of embeddings and reduced keys have PyTorch's 1e-5.
EPSILON = 1e-6
PATCH = 4


def to_channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


class OverlappingPatchEmbed(nn.Module):
    """Patches that overlap by almost half, (B, in_channels, H, W) -> (B, H/stride, W/stride, dim),
    sizes rounded up."""

    def __init__(self, in_channels: int, dim: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 2 * stride - 1, stride, padding=stride - 1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(to_channels_last(self.proj(x)))


class SpatialReductionAttention(nn.Module):
    """Multi-head attention of every cell to a map that is smaller by ``reduction`` a side."""

    def __init__(self, dim: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.reduction = reduction
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        query = self.q(x).flatten(1, 2)
        key, value = self.kv(self._reduced(x)).flatten(1, 2).chunk(2, dim=-1)
        return self.proj(attend(query, key, value, self.num_heads).view(x.shape))

    def _reduced(self, x: Tensor) -> Tensor:
        if self.reduction == 1:
            return x
        # Incomplete rows and columns are dropped, unless nothing would be left.
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, max(0, self.reduction - width), 0, max(0, self.reduction - height)))
        return self.norm(to_channels_last(self.sr(to_channels_first(x))))


class DepthwiseConv(nn.Module):
    """A 3 x 3 convolution of each channel for itself: how the network knows positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_last(self.dwconv(to_channels_first(x)))


class ConvFeedForward(nn.Module):
    """The two linear layers of a ViT block with a depth-wise convolution before the GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.dwconv = DepthwiseConv(hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class PVTBlock(nn.Module):
    """Attention to the reduced map, then the feed-forward layers, each with a residual."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, reduction: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPSILON)
        self.attn = SpatialReductionAttention(dim, num_heads, reduction)
        self.drop_path = StochasticDepth(drop_path, mode="row")
        self.norm2 = nn.LayerNorm(dim, eps=EPSILON)
        self.mlp = ConvFeedForward(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@BACKBONE_REGISTRY.register()
class PyramidVisionTransformerV2(Backbone):
    """PVT v2; the defaults are B0, the others are in ``configs/_base_/backbones``.

    Stage ``i``, from 0, ends at stride ``4 * 2**i`` in a layer norm; this map flows on to the next
    stage and is emitted as "res{i+2}" where ``out_features`` names it.

    Args:
        embed_dims, num_heads, mlp_ratios, depths: channels, attention heads, hidden over outer
            channels of the feed-forward layers, and blocks of each stage.
        sr_ratios: factor by which each stage reduces height and width of its keys and values.
        drop_path_rate: stochastic depth of the last block, linear from 0 at the first.
        use_checkpoint: recompute the blocks' activations in the backward pass, to save memory.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (32, 64, 160, 256),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        depths: Sequence[int] = (2, 2, 2, 2),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_path_rate: float = 0.1,
        out_features: Sequence[str] = FEATURES,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        stages = {
            "embed_dims": embed_dims,
            "num_heads": num_heads,
            "mlp_ratios": mlp_ratios,
            "depths": depths,
            "sr_ratios": sr_ratios,
        }
        for name, values in stages.items():
            if len(values) != len(FEATURES):
                raise ValueError(f"{name}: expected {len(FEATURES)} numbers, got {list(values)}")
        for dim, heads in zip(embed_dims, num_heads, strict=True):
            if dim % heads:
                raise ValueError(
                    f"num_heads: expected divisors of the channels {list(embed_dims)}, got"
                    f" {list(num_heads)}"
                )
        if not set(out_features) <= set(FEATURES):
            raise ValueError(f"out_features: expected some of {FEATURES}, got {list(out_features)}")

        self.use_checkpoint = use_checkpoint
        drop_paths = drop_path_rates(drop_path_rate, depths)
        for stage, dim in enumerate(embed_dims):
            embed = OverlappingPatchEmbed(in_channels, dim, stride=2 if stage else PATCH)
            blocks = nn.ModuleList(
                PVTBlock(dim, num_heads[stage], mlp_ratios[stage], sr_ratios[stage], drop_path)
                for drop_path in drop_paths[stage]
            )
            self.add_module(f"patch_embed{stage + 1}", embed)
            self.add_module(f"block{stage + 1}", blocks)
            self.add_module(f"norm{stage + 1}", nn.LayerNorm(dim, eps=EPSILON))
            in_channels = dim
        self.apply(_initialise)

        self._out_features = [name for name in FEATURES if name in out_features]
        self._out_feature_channels = dict(zip(FEATURES, embed_dims, strict=True))
        self._out_feature_strides = {name: PATCH * 2**i for i, name in enumerate(FEATURES)}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        pvt = cfg.MODEL.PVT
        return {
            "in_channels": input_shape.channels,
            "embed_dims": pvt.EMBED_DIMS,
            "num_heads": pvt.NUM_HEADS,
            "mlp_ratios": pvt.MLP_RATIOS,
            "depths": pvt.DEPTHS,
            "sr_ratios": pvt.SR_RATIOS,
            "drop_path_rate": pvt.DROP_PATH_RATE,
            "out_features": pvt.OUT_FEATURES,
            "use_checkpoint": pvt.USE_CHECKPOINT,
        }

    accepts_any_size = True  # see segcore.backbones.features.required_divisor

    @property
    def size_divisibility(self) -> int:
        """Multiple that batches are padded to; any size is accepted."""
        return 32

    def freezing_order(self) -> list[list[nn.Module]]:
        """First embedding and stages, see ``segcore.engine.freezing``."""
        stages = [
            [self.get_submodule(f"{part}{stage}") for part in ("patch_embed", "block", "norm")]
            for stage in range(1, len(FEATURES) + 1)
        ]
        return [stages[0][:1], *stages]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Image batch (B, in_channels, H, W) -> feature name: (B, C, H/stride, W/stride)."""
        if x.dim() != 4:
            raise ValueError(f"PVT: expected a batch (B, C, H, W), got {tuple(x.shape)}")
        features = {}
        for stage, name in enumerate(FEATURES, start=1):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            for block in self.get_submodule(f"block{stage}"):
                if self.use_checkpoint and self.training:
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            x = to_channels_first(self.get_submodule(f"norm{stage}")(x))
            if name in self._out_features:
                features[name] = x.contiguous()
        return features


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)
