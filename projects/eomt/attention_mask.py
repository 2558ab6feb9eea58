"""Masked attention of EoMT (Kerssies et al., 2025, section 3.3): which patches a query sees."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Sizes, dtype and device -> uniform numbers in [0, 1).
DrawUniform = Callable[..., Tensor]


def visible_patches(mask_logits: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the patches inside of the predicted masks: (B, Q, h, w) logits -> (B, Q, hw) bool."""
    resized = F.interpolate(mask_logits, grid, mode="bilinear", align_corners=False)
    return (resized > 0).flatten(2)


def release(visible: Tensor, probability: float, draw: DrawUniform = torch.rand) -> Tensor:
    """Let each query keep its mask with a probability; the others see every patch.

    Args:
        visible: (B, Q, hw) bool.
        draw: called only for probabilities between 0 and 1.
    """
    if probability >= 1:
        return visible
    released = draw(*visible.shape[:2], device=visible.device) > probability
    return visible | released.unsqueeze(-1)


@dataclass(frozen=True)
class QueryRowsMask:
    """Attention mask of the first rows of a sequence; all other rows see everything.

    It takes the place of a tensor in ``scaled_dot_product_attention`` (by ``__torch_function__``),
    which then runs once for the masked rows and once, without a mask, for the rest. A mask of all
    rows would need N / Q times as much memory and would keep the rest off the flash kernels.

    Args:
        rows: (B, 1, Q, N) bool, True where a row sees a column.
    """

    rows: Tensor

    @classmethod
    def of_patches(cls, visible: Tensor, num_tokens: int) -> "QueryRowsMask":
        """Mask whose last columns are ``visible`` (B, Q, hw); those before are always seen."""
        return cls(F.pad(visible, (num_tokens - visible.shape[-1], 0), value=True).unsqueeze(1))

    @property
    def full(self) -> Tensor:
        """The mask of all rows: (B, 1, N, N)."""
        num_queries, num_tokens = self.rows.shape[-2:]
        return F.pad(self.rows, (0, 0, 0, num_tokens - num_queries), value=True)

    @classmethod
    def __torch_function__(
        cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if function is not F.scaled_dot_product_attention:
            return NotImplemented
        query, key, value = args
        options = dict(kwargs or {})
        rows = options.pop("attn_mask").rows
        count = rows.shape[-2]
        parts = ((query[:, :, :count], rows), (query[:, :, count:], None))
        return torch.cat(
            [function(part, key, value, attn_mask=mask, **options) for part, mask in parts], dim=2
        )
