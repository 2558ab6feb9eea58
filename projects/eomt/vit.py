"""Plain vision transformers of timm as sequences of tokens."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segcore.backbones.timm_models import create_timm_model
from segcore.errors import ConfigError
from segcore.layers import Linear

NAMED = {"key": "MODEL.EOMT.VIT.NAME", "kind": "a plain ViT of timm"}
NEEDED = ("patch_embed", "_pos_embed", "blocks", "norm", "num_prefix_tokens", "embed_dim")


class Tokens(NamedTuple):
    """Tokens of a batch before the first block.

    Attributes:
        values: (B, P + h * w, C), prefix tokens (class, registers) in front of the patches.
        grid: (h, w), the patches row by row.
        rotary: sines and cosines of the patches, (h * w, 2d), or (n, heads, h * w, 2d) where each
            block has its own; None without rotary positions.
    """

    values: Tensor
    grid: tuple[int, int]
    rotary: Tensor | None


class TimmViT(nn.Module):
    """A plain ViT of timm, block by block: absolute or rotary positions, any prefix tokens.

    Args:
        name: model of timm.
        image_size: (H, W) that absolute positions are made for; other sizes resample them.
        patch_size: side of a patch in pixels; 0 for that of the model.
        drop_path_rate: rate of the last block.
        arguments: further arguments of the model's constructor, such as ``depth``.

    Raises:
        ConfigError: there is no such model, or it is none of tokens that one loop runs through.
    """

    float32_parts = ("vit.rope",)  # see segcore.precision

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int],
        *,
        patch_size: int = 0,
        drop_path_rate: float = 0.0,
        arguments: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.name = name
        arguments = {
            "img_size": image_size,
            "dynamic_img_size": True,
            "drop_path_rate": drop_path_rate,
            **({"patch_size": patch_size} if patch_size else {}),
            **(arguments or {}),
        }
        self.vit = create_timm_model(name, arguments, **NAMED)
        if isinstance(getattr(self.vit, "norm", None), nn.Identity):
            # Models that average the tokens normalize the mean instead.
            self.vit = create_timm_model(name, arguments | {"use_fc_norm": False}, **NAMED)
        _require_tokens(name, self.vit)
        if getattr(self.vit, "attn_pool", None) is not None:
            self.vit.attn_pool = None  # the classifier's, which nothing here trains
        _use_linear_of_segcore(self.vit.blocks)
        self.embed_dim = self.vit.embed_dim
        self.num_prefix_tokens = self.vit.num_prefix_tokens
        self.patch_size = tuple(self.vit.patch_embed.patch_size)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.vit.blocks

    @property
    def grid_size(self) -> tuple[int, int]:
        """(h, w) of the absolute positions."""
        return tuple(self.vit.patch_embed.grid_size)

    def freezing_order(self) -> list[list[nn.Module | nn.Parameter]]:
        """Everything before the blocks, and each block, see ``segcore.engine.freezing``."""
        embedding = [
            *self.vit.parameters(recurse=False),  # positions and prefix tokens
            *(part for part in self.vit.children() if part not in (self.blocks, self.vit.norm)),
        ]
        return [embedding, *([block] for block in self.blocks)]

    def tokens(self, images: Tensor) -> Tokens:
        """Embed normalized images (B, 3, H, W), sides a multiple of the patch size."""
        patches = self.vit.patch_embed(images)
        grid = tuple(patches.shape[1:3])
        values, rotary = self.vit._pos_embed(patches), None
        if isinstance(values, tuple):
            values, rotary = values
        if hasattr(self.vit, "norm_pre"):
            values = self.vit.norm_pre(values)
        return Tokens(values, grid, rotary)

    def run_block(
        self, index: int, values: Tensor, rotary: Tensor | None = None, mask: Any = None
    ) -> Tensor:
        """Run a block on tokens (B, N, C).

        Args:
            rotary: as in :class:`Tokens`, one row a token from the prefix tokens on.
            mask: of attention, as ``scaled_dot_product_attention`` takes it.
        """
        if rotary is None:
            return self.blocks[index](values, attn_mask=mask)
        if rotary.dim() == 4:
            rotary = rotary[index]
        return self.blocks[index](values, rope=rotary, attn_mask=mask)

    def normalize(self, values: Tensor) -> Tensor:
        """Apply the final norm of the ViT."""
        return self.vit.norm(values)


def with_identity_rotation(rotary: Tensor | None, count: int) -> Tensor | None:
    """Put ``count`` rows of sine 0 and cosine 1 in front: tokens that are not rotated."""
    if rotary is None:
        return None
    half = rotary.shape[-1] // 2
    rows = rotary.new_zeros((*rotary.shape[:-2], count, 2 * half))
    rows[..., half:] = 1
    return torch.cat((rows, rotary), dim=-2)


def _use_linear_of_segcore(blocks: nn.ModuleList) -> None:
    """Replace linear layers by :class:`segcore.layers.Linear`, with the GELU of MLPs in them."""
    from timm.layers import Mlp

    for module in list(blocks.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is not nn.Linear:
                continue
            gelu = type(module) is Mlp and name == "fc1" and _is_exact_gelu(module.act)
            setattr(module, name, Linear.replace(layer, "gelu" if gelu else "none"))
            if gelu:
                module.act = nn.Identity()


def _is_exact_gelu(module: nn.Module) -> bool:
    return isinstance(module, nn.GELU) and module.approximate == "none"


def _require_tokens(name: str, vit: nn.Module) -> None:
    lacking = [attribute for attribute in NEEDED if not hasattr(vit, attribute)]
    if not lacking and "attn_mask" not in inspect.signature(vit.blocks[0].forward).parameters:
        lacking = ["blocks with attn_mask"]
    if not lacking and isinstance(vit.norm, nn.Identity):
        lacking = ["norm"]
    if lacking:
        raise ConfigError(
            f"{NAMED['key']}: expected {NAMED['kind']}, got {name!r}, which has no "
            f"{', '.join(lacking)}"
        )
