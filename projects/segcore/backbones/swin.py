"""Swin Transformer (Liu et al., 2021) as a backbone of four feature maps.

Parameter names are those of the official checkpoints. Inside, maps are channels-last (B, H, W, C).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from segcore.backbones.features import FEATURES, drop_path_rates
from segcore.functional import round_up
from segcore.layers import FeedForward, Linear, has_hooks
from segcore.layers.add_norm import add_norm_
from segcore.layers.by_rows import ROWS, takes_rows
from segcore.ops import window_attention
from segcore.ops.windows import shift_mask, window_merge, window_partition


def pad_to_multiple(x: Tensor, divisor: int) -> Tensor:
    """Zero-pad (B, H, W, C) at the bottom and right to a height and width divisible by it."""
    rows, columns = (round_up(size, divisor) - size for size in x.shape[1:3])
    return F.pad(x, (0, 0, 0, columns, 0, rows))


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of a window's cells, (window^2, window^2), int64."""
    cell = torch.arange(window * window)
    y, x = cell // window, cell % window
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


class PatchEmbed(nn.Module):
    """Non-overlapping patches of an image (B, 3, H, W) as channels-last tokens."""

    def __init__(self, patch_size: int, in_channels: int, dim: int, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (round_up(size, self.patch_size) - size for size in x.shape[-2:])
        return self.norm(self.proj(F.pad(x, (0, columns, 0, rows))).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a bias by relative position."""

    def __init__(
        self,
        dim: int,
        window: int,
        num_heads: int,
        qkv_bias: bool,
        qk_scale: float | None,
        attention_dropout: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale
        self.attention_dropout = attention_dropout
        self.relative_position_bias_table = nn.Parameter(
            torch.empty((2 * window - 1) ** 2, num_heads)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``x`` (B * windows, window^2, C); ``mask`` (windows, window^2, window^2)."""
        batch, length, dim = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.position_bias().unsqueeze(0)
        if mask is not None:
            bias = bias + mask.unsqueeze(1)
            bias = bias.repeat(batch // mask.shape[0], 1, 1, 1)
        x = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias.to(query.dtype).expand(batch, -1, -1, -1),
            dropout_p=self.attention_dropout if self.training else 0.0,
            scale=self.scale,
        )
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(batch, length, dim)))

    def position_bias(self) -> Tensor:
        """Bias of each pair of a window's cells: (heads, window^2, window^2)."""
        bias = self.relative_position_bias_table[self.relative_position_index]
        return bias.permute(2, 0, 1)


class SwinBlock(nn.Module):
    """Attention within (shifted) windows, then an MLP, each with a residual."""

    def __init__(
        self,
        dim: int,
        window: int,
        shift: int,
        mlp_ratio: float,
        dropout: float,
        drop_path: float,
        **attention,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, dropout=dropout, **attention)
        self.drop_path = StochasticDepth(drop_path, mode="row")
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio), dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if not self.training and takes_rows(x):
            return self._infer(x)
        x = x + self.drop_path(self._attend(self.norm1(x), mask if self.shift else None))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        height, width = x.shape[1:3]
        # After the norm: padded cells are zeros and take part as keys.
        x = pad_to_multiple(x, self.window)
        padded = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = window_merge(self.attn(window_partition(x, self.window), mask), self.window, *padded)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return F.pad(x, (0, 0, 0, width - padded[1], 0, height - padded[0]))

    def _infer(self, x: Tensor) -> Tensor:
        """The same without copies of windows, and in strips that a CPU's cache holds."""
        attn, height = self.attn, x.shape[1]
        bias = attn.position_bias()
        padding = x.new_zeros(3 * x.shape[3]) if attn.qkv.bias is None else attn.qkv.bias
        projection_is_seen = has_hooks(attn.proj)  # what hooks have seen is not overwritten

        def strip(rows: Tensor, row_shift: int, out: Tensor | None = None) -> Tensor:
            qkv = attn.qkv(self.norm1(rows))
            attended = window_attention(
                qkv,
                padding.to(qkv.dtype),
                bias,
                self.window,
                (row_shift, self.shift),
                scale=attn.scale,
            )
            attended = attn.proj(attended)
            if projection_is_seen:
                attended = attended.clone()
            normalized = add_norm_(self.norm2, attended, rows)
            return torch.add(attended, self.mlp(normalized), out=out)

        result = torch.empty_like(x)
        # The last row of windows holds what the shift brought there from the top.
        last = round_up(height, self.window) - self.window + self.shift if self.shift else height
        step = max(1, ROWS // (x.shape[0] * x.shape[2] * self.window)) * self.window
        for start in range(self.shift, min(last, height), step):
            end = min(start + step, last, height)
            strip(x[:, start:end], 0, out=result[:, start:end])
        if self.shift:
            top, bottom = x[:, : self.shift], x[:, last:]
            rows = strip(torch.cat((top, bottom), dim=1), self.shift)
            result[:, : self.shift] = rows[:, : top.shape[1]]
            result[:, last:] = rows[:, top.shape[1] :]
        return result


class PatchMerging(nn.Module):
    """Halve the map: four neighbours side by side, normalised, projected to twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, 2)
        if not takes_rows(x):
            return self._merge(x)
        rows = max(1, ROWS // (x.shape[0] * x.shape[2]))
        return torch.cat([self._merge(strip) for strip in x.split(2 * rows, dim=1)], dim=1)

    def _merge(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks with every second one shifted, and the way down to the next stage, if any."""

    def __init__(
        self,
        dim: int,
        window: int,
        drop_paths: Sequence[float],
        downsample: bool,
        use_checkpoint: bool,
        **block,
    ) -> None:
        super().__init__()
        self.window = window
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(
            SwinBlock(dim, window, shift=window // 2 * (i % 2), drop_path=drop_path, **block)
            for i, drop_path in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(dim) if downsample else None

    def forward(self, x: Tensor) -> Tensor:
        """The stage's own output, before the way down."""
        mask = None
        if self.training or not takes_rows(x):
            padded = (round_up(size, self.window) for size in x.shape[1:3])
            shift = (self.window // 2, self.window // 2)
            mask = shift_mask(*padded, self.window, shift, like=x)
        for block in self.blocks:
            if self.use_checkpoint and self.training:
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x


@BACKBONE_REGISTRY.register()
class D2SwinTransformer(Backbone):
    """Swin Transformer with a layer norm on each emitted feature map.

    Stage ``i`` has ``embed_dim * 2**i`` channels at stride ``patch_size * 2**i`` and is emitted as
    "res{i+2}" where ``out_features`` names it; what flows on to the next stage is un-normalised.

    Args:
        pretrain_img_size: input size in pixels that the absolute position embedding is made for.
        qk_scale: of the attention logits; None: 1 / sqrt(channels of a head).
        drop_path_rate: stochastic depth of the last block, linear from 0 at the first.
        absolute_position: add an absolute position embedding.
        use_checkpoint: recompute the blocks' activations in the backward pass, to save memory.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 3,
        pretrain_img_size: int = 224,
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path_rate: float = 0.2,
        absolute_position: bool = False,
        patch_norm: bool = True,
        out_features: Sequence[str] = FEATURES,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        unknown = set(out_features) - set(FEATURES[: len(depths)])
        if len(depths) != len(num_heads) or unknown:
            raise ValueError(
                "Swin: expected as many num_heads as depths, and out_features among"
                f" {FEATURES[: len(depths)]}; got {list(depths)}, {list(num_heads)} and"
                f" {list(out_features)}"
            )
        dims = [embed_dim * 2**stage for stage in range(len(depths))]
        for dim, heads in zip(dims, num_heads, strict=True):
            if dim % heads:
                raise ValueError(f"Swin: {dim} channels are not divisible by {heads} heads")

        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim, patch_norm)
        self.absolute_pos_embed = None
        if absolute_position:
            size = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, embed_dim, size, size))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(dropout)

        drop_paths = drop_path_rates(drop_path_rate, depths)
        self.layers = nn.ModuleList(
            SwinStage(
                dim,
                window_size,
                drop_paths[stage],
                downsample=stage < len(depths) - 1,
                use_checkpoint=use_checkpoint,
                num_heads=num_heads[stage],
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
            for stage, dim in enumerate(dims)
        )
        self._out_features = [name for name in FEATURES if name in out_features]
        self._out_feature_channels = dict(zip(FEATURES, dims, strict=False))
        self._out_feature_strides = {name: patch_size * 2**i for i, name in enumerate(FEATURES)}
        for stage, name in enumerate(FEATURES):
            if name in out_features:
                self.add_module(f"norm{stage}", nn.LayerNorm(dims[stage]))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        swin = cfg.MODEL.SWIN
        return {
            "in_channels": input_shape.channels,
            "pretrain_img_size": swin.PRETRAIN_IMG_SIZE,
            "patch_size": swin.PATCH_SIZE,
            "embed_dim": swin.EMBED_DIM,
            "depths": swin.DEPTHS,
            "num_heads": swin.NUM_HEADS,
            "window_size": swin.WINDOW_SIZE,
            "mlp_ratio": swin.MLP_RATIO,
            "qkv_bias": swin.QKV_BIAS,
            "qk_scale": swin.QK_SCALE,
            "dropout": swin.DROP_RATE,
            "attention_dropout": swin.ATTN_DROP_RATE,
            "drop_path_rate": swin.DROP_PATH_RATE,
            "absolute_position": swin.APE,
            "patch_norm": swin.PATCH_NORM,
            "out_features": swin.OUT_FEATURES,
            "use_checkpoint": swin.USE_CHECKPOINT,
        }

    accepts_any_size = True  # see segcore.backbones.features.required_divisor

    @property
    def size_divisibility(self) -> int:
        """Multiple that batches are padded to; any size is accepted."""
        return 32

    def freezing_order(self) -> list[list[nn.Module | nn.Parameter]]:
        """Embedding and stages, see ``segcore.engine.freezing``; norms of features stay trained."""
        embedding = [self.patch_embed, self.absolute_pos_embed, self.pos_drop]
        return [[part for part in embedding if part is not None], *([s] for s in self.layers)]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Image batch (B, in_channels, H, W) -> feature name: (B, C, H/stride, W/stride)."""
        if x.dim() != 4:
            raise ValueError(f"Swin: expected a batch (B, C, H, W), got {tuple(x.shape)}")
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            position = F.interpolate(self.absolute_pos_embed, size=x.shape[1:3], mode="bicubic")
            x = x + position.permute(0, 2, 3, 1)
        x = self.pos_drop(x)
        features = {}
        for stage, (name, layer) in enumerate(zip(FEATURES, self.layers, strict=False)):
            x = layer(x)
            if name in self._out_features:
                normalised = self.get_submodule(f"norm{stage}")(x)
                feature = normalised.permute(0, 3, 1, 2)
                # A CPU's convolutions take channels-last maps as they are.
                features[name] = feature if takes_rows(feature) else feature.contiguous()
            if layer.downsample is not None:
                x = layer.downsample(x)
        return features
