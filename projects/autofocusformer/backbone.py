"""AutoFocusFormer (Ziwen et al., CVPR 2023): a transformer whose tokens gather where an image needs
them, as a backbone of four sets of tokens.

Parameter names are those of the official checkpoints.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from autofocusformer.block import Block
from autofocusformer.clustering import nearest_clusters
from autofocusformer.downsampling import AdaptiveDownsampling
from autofocusformer.tokens import Tokens, grid_positions
from segcore.backbones.features import FEATURES, TokenShape, drop_path_rates
from segcore.functional import at_least_float32, round_up
from segcore.ops import ClusterNeighborhood, take

# Pixels between the cells of the canvas.
PATCH = 4


class PatchEmbedding(nn.Module):
    """Two strided convolutions: one token for every 4 x 4 pixels.

    Args:
        pad: zero-pad an image at the right and bottom to a multiple of 4 pixels, as published for
            segmentation; classification does not.
    """

    def __init__(self, in_channels: int, dim: int, *, norm: bool, pad: bool) -> None:
        super().__init__()
        self.pad = pad
        self.proj1 = nn.Conv2d(in_channels, dim // 2, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(dim // 2)
        self.proj2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, images: Tensor) -> Tokens:
        """(B, in_channels, height, width) -> a token in each cell, row by row."""
        if self.pad:
            rows, columns = (round_up(size, PATCH) - size for size in images.shape[-2:])
            images = F.pad(images, (0, columns, 0, rows))
        x = self.proj2(F.gelu(self.bn(self.proj1(images))))
        canvas = tuple(x.shape[-2:])
        features = self.norm(x.flatten(2).transpose(1, 2))
        positions = grid_positions(canvas, x.device).expand(len(x), -1, -1)
        return Tokens(features, positions, canvas)


class Stage(nn.Module):
    """Blocks over one clustering of the tokens, and the way down to the next stage, if any.

    Args:
        index: from 0; only the first stage is known to have tokens on a full grid.
        drop_paths: of each block.
        block: other arguments of the blocks.
        downsampling: arguments of the way down, None for the last stage.
    """

    def __init__(
        self,
        dim: int,
        index: int,
        drop_paths: Sequence[float],
        *,
        cluster_size: int,
        neighborhood_size: int,
        per_image: bool,
        block: dict[str, Any],
        downsampling: dict[str, Any] | None,
    ) -> None:
        super().__init__()
        self.on_grid = index == 0
        self.cluster_size = cluster_size
        self.neighborhood_size = neighborhood_size
        self.per_image = per_image
        self.blocks = nn.ModuleList(
            Block(dim, drop_path=drop_path, **block) for drop_path in drop_paths
        )
        self.prob_net = self.downsample = None
        if downsampling is not None:
            self.prob_net = nn.Linear(dim, 1)
            self.downsample = AdaptiveDownsampling(dim, stride=2 ** (index + 1), **downsampling)

    def forward(self, tokens: Tokens) -> tuple[Tokens, ClusterNeighborhood]:
        """The tokens after the blocks, in the order of their clusters."""
        order, neighborhood = nearest_clusters(
            tokens,
            cluster_size=self.cluster_size,
            neighborhood_size=self.neighborhood_size,
            per_image=self.per_image,
            same_positions=self.on_grid,
        )
        if order is not None:
            features, positions = take(tokens.features, order), take(tokens.positions, order)
            tokens = Tokens(features, positions, tokens.canvas)
        for block in self.blocks:
            tokens = block(tokens, neighborhood)
        return tokens, neighborhood

    def down(self, tokens: Tokens, neighborhood: ClusterNeighborhood) -> Tokens:
        """The tokens that go on to the next stage."""
        return self.downsample(tokens, self.importance(tokens), neighborhood)

    def importance(self, tokens: Tokens) -> Tensor:
        """Return the importance of each token after the blocks: (B, N), in (0, 1)."""
        return at_least_float32(self.prob_net(tokens.features)).sigmoid().squeeze(-1)


class AutoFocusFormerTrunk(nn.Module):
    """Patch embedding and stages, what backbone and classifier have in common.

    Args:
        in_channels: of the images.
        embed_dim, depths, num_heads, neighborhood_size: of each stage.
        mlp_ratio: width of the MLPs' hidden layers over that of the stage.
        cluster_size: tokens a cluster.
        layer_scale: initial factor of each channel's residuals; 0: none.
        alpha, rate, reserve: see :class:`AdaptiveDownsampling`.
        dropout: of embeddings, projections and MLPs.
        drop_path_rate: stochastic depth of the last block, linear from 0 at the first.
        patch_norm: normalize the embedded patches.
        pad: see :class:`PatchEmbedding`.
        per_image: cluster each image by itself. The official code, and so the training of
            official weights, lets an image's clusters depend on the others in its batch.
        blank_token, plain_offsets: see :class:`NeighborhoodAttention`.
        prior: see :class:`AdaptiveDownsampling`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        embed_dim: Sequence[int] = (32, 128, 256, 384),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        mlp_ratio: float = 2.0,
        cluster_size: int = 8,
        neighborhood_size: Sequence[int] = (48, 48, 48, 48),
        layer_scale: float = 0.0,
        alpha: float = 4.0,
        rate: float = 0.25,
        reserve: bool = True,
        dropout: float = 0.0,
        drop_path_rate: float = 0.0,
        patch_norm: bool = True,
        pad: bool = True,
        per_image: bool = False,
        blank_token: bool = True,
        plain_offsets: bool = False,
        prior: bool = True,
    ) -> None:
        super().__init__()
        by_stage = {
            "embed_dim": embed_dim,
            "depths": depths,
            "num_heads": num_heads,
            "neighborhood_size": neighborhood_size,
        }
        for name, values in by_stage.items():
            if len(values) != len(depths) or any(value < 1 for value in values):
                raise ValueError(
                    f"{name}: expected {len(depths)} positive numbers, as many as depths has, "
                    f"got {list(values)}"
                )
        if cluster_size < 1:
            raise ValueError(f"cluster_size: expected at least 1, got {cluster_size}")
        if not 0 < rate <= 1:
            raise ValueError(f"rate: expected a share in (0, 1], got {rate}")

        self.patch_embed = PatchEmbedding(in_channels, embed_dim[0], norm=patch_norm, pad=pad)
        self.pos_drop = nn.Dropout(dropout)
        drop_paths = drop_path_rates(drop_path_rate, depths)
        downsampling = [
            {"out_dim": out_dim, "alpha": alpha, "rate": rate, "reserve": reserve, "prior": prior}
            for out_dim in embed_dim[1:]
        ]
        self.layers = nn.ModuleList(
            Stage(
                embed_dim[index],
                index,
                drop_paths[index],
                cluster_size=cluster_size,
                neighborhood_size=neighborhood_size[index],
                per_image=per_image,
                block={
                    "num_heads": num_heads[index],
                    "mlp_ratio": mlp_ratio,
                    "layer_scale": layer_scale,
                    "dropout": dropout,
                    "blank_token": blank_token,
                    "plain_offsets": plain_offsets,
                },
                downsampling=down,
            )
            for index, down in enumerate([*downsampling, None])
        )

    def freezing_order(self) -> list[list[nn.Module]]:
        """Embedding and stages, see ``segcore.engine.freezing``; norms of features stay trained."""
        return [[self.patch_embed, self.pos_drop], *([stage] for stage in self.layers)]

    def stages(self, images: Tensor) -> Iterator[Tokens]:
        """Yield the tokens of each stage, for images (B, in_channels, height, width)."""
        if images.dim() != 4 or 0 in images.shape:
            raise ValueError(
                f"images: expected a batch (B, C, height, width), got {tuple(images.shape)}"
            )
        tokens = self.patch_embed(images)
        tokens = tokens.with_features(self.pos_drop(tokens.features))
        for stage in self.layers:
            tokens, neighborhood = stage(tokens)
            yield tokens
            if stage.downsample is not None:
                tokens = stage.down(tokens, neighborhood)

    @torch.no_grad()
    def focus(self, images: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Return positions and importance of the tokens of each stage.

        Args:
            images: (B, in_channels, height, width).

        Returns:
            For each stage the centers of its tokens (B, N, 2), as (x, y) in pixels, and their
            importance (B, N), in (0, 1), which decides with the grid prior which of them stay;
            None for the last stage.
        """
        return [
            (
                PATCH * (tokens.positions + 0.5),
                None if stage.downsample is None else stage.importance(tokens),
            )
            for stage, tokens in zip(self.layers, self.stages(images), strict=True)
        ]


def trunk_arguments(cfg: CfgNode, in_channels: int) -> dict[str, Any]:
    """Arguments of :class:`AutoFocusFormerTrunk` by the keys of ``MODEL.AFF``."""
    aff = cfg.MODEL.AFF
    if aff.ATTN_DROP_RATE:
        raise ValueError(
            "MODEL.AFF.ATTN_DROP_RATE: expected 0, the attention has no dropout, "
            f"got {aff.ATTN_DROP_RATE}"
        )
    return {
        "in_channels": in_channels,
        "embed_dim": aff.EMBED_DIM,
        "depths": aff.DEPTHS,
        "num_heads": aff.NUM_HEADS,
        "mlp_ratio": aff.MLP_RATIO,
        "cluster_size": aff.CLUSTER_SIZE,
        "neighborhood_size": aff.NBHD_SIZE,
        "layer_scale": aff.LAYER_SCALE,
        "alpha": aff.ALPHA,
        "rate": aff.DS_RATE,
        "reserve": aff.RESERVE,
        "dropout": aff.DROP_RATE,
        "drop_path_rate": aff.DROP_PATH_RATE,
        "patch_norm": aff.PATCH_NORM,
        "per_image": aff.PER_IMAGE,
        "blank_token": aff.BLANK_TOKEN,
        "plain_offsets": aff.PLAIN_OFFSETS,
        "prior": aff.GRID_PRIOR,
    }


@BACKBONE_REGISTRY.register()
class AutoFocusFormer(AutoFocusFormerTrunk, Backbone):
    """The tokens of the stages "res2" up to "res5", each set after a separate layer norm.

    The next stage takes the tokens before the norm.

    Args:
        out_features: which of them.
        trunk: arguments of :class:`AutoFocusFormerTrunk`.
    """

    @configurable
    def __init__(self, *, out_features: Sequence[str] = FEATURES, **trunk) -> None:
        super().__init__(**trunk)
        dims = [stage.blocks[0].norm1.normalized_shape[0] for stage in self.layers]
        names = FEATURES[: len(dims)]
        unknown = sorted(set(out_features) - set(names))
        if unknown or not out_features:
            raise ValueError(f"out_features: expected some of {names}, got {list(out_features)}")
        self._out_features = [name for name in names if name in out_features]
        self._shapes = {
            name: TokenShape(channels=dim, stride=PATCH * 2**index)
            for index, (name, dim) in enumerate(zip(names, dims, strict=True))
        }
        for index, name in enumerate(names):
            if name in out_features:
                self.add_module(f"norm{index}", nn.LayerNorm(dims[index]))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        trunk = trunk_arguments(cfg, input_shape.channels)
        return {**trunk, "out_features": cfg.MODEL.AFF.OUT_FEATURES}

    accepts_any_size = True  # see segcore.backbones.features.required_divisor

    @property
    def size_divisibility(self) -> int:
        """Multiple that batches are padded to; any size is accepted."""
        return 32

    def output_shape(self) -> dict[str, TokenShape]:
        """Channels of each feature; its stride says only which is finer."""
        return {name: self._shapes[name] for name in self._out_features}

    def forward(self, images: Tensor) -> dict[str, Tokens]:
        """Image batch (B, in_channels, height, width) -> feature name: its tokens."""
        features = {}
        for index, (name, tokens) in enumerate(zip(self._shapes, self.stages(images), strict=True)):
            if name in self._out_features:
                norm = self.get_submodule(f"norm{index}")
                features[name] = tokens.with_features(norm(tokens.features))
        return features
