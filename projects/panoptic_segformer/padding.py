"""Where the images of a padded batch lie on the maps of every level."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.layers import grid_reference_points

Size = tuple[int, int]


@dataclass(frozen=True)
class PaddedLevels:
    """Each image has the top left corner of every map; what is below and right of it is padding.

    Attributes:
        sizes: (h, w) of the maps, a level each.
        own: of each image, (h, w) of its corner on every level.
        dtype: of coordinates; float32 at least.
    """

    sizes: Sequence[Size]
    own: Sequence[Sequence[Size]]
    device: torch.device
    dtype: torch.dtype = torch.float32

    @property
    def padded(self) -> bool:
        """Whether there is any padding."""
        return any(list(own) != list(self.sizes) for own in self.own)

    def masks(self) -> list[Tensor] | None:
        """bool (B, h, w) of each level, True = padding; None without any."""
        if not self.padded:
            return None
        return [self._mask(level) for level in range(len(self.sizes))]

    def token_mask(self) -> Tensor | None:
        """bool (B, S) over the tokens of all levels, True = padding; None without any."""
        masks = self.masks()
        return None if masks is None else torch.cat([mask.flatten(1) for mask in masks], dim=1)

    def valid_ratios(self) -> Tensor:
        """(B, levels, 2): an image's share (x, y) of each map."""
        own = torch.tensor(self.own, dtype=self.dtype)
        return (own / torch.tensor(self.sizes, dtype=self.dtype)).flip(-1).to(self.device)

    def reference_points(self) -> Tensor:
        """(B, S, levels, 2): the centre (x, y) of each token's cell, in units of each level's map.

        A cell keeps its place in the image, not on the map, from level to level.
        """
        ratios = self.valid_ratios()
        grid = grid_reference_points(self.sizes, self.device, self.dtype)
        cells = torch.tensor([h * w for h, w in self.sizes], device=self.device)
        in_image = grid / ratios.repeat_interleave(cells, dim=1)
        return in_image[:, :, None] * ratios[:, None]

    def own_tokens(self, tokens: Tensor, image: int) -> Tensor:
        """The tokens (S', C) of one image, without padding.

        Args:
            tokens: (S, C) of the first levels, or of all.
        """
        levels, start = [], 0
        for (height, width), (own_height, own_width) in zip(
            self.sizes, self.own[image], strict=True
        ):
            if start == len(tokens):
                break
            level = tokens[start : start + height * width].unflatten(0, (height, width))
            levels.append(level[:own_height, :own_width].flatten(0, 1))
            start += height * width
        return torch.cat(levels)

    def _mask(self, level: int) -> Tensor:
        height, width = self.sizes[level]
        own = torch.tensor([sizes[level] for sizes in self.own], device=self.device)
        below = torch.arange(height, device=self.device) >= own[:, :1]
        right = torch.arange(width, device=self.device) >= own[:, 1:]
        return below[:, :, None] | right[:, None, :]


def nearest_size(image_size: Size, padded_size: Size, map_size: Size) -> Size:
    """Cells (h, w) of a map whose nearest pixel lies in the image: the original's rule.

    Args:
        image_size, padded_size: of the image without and with padding, in pixels.
        map_size: (h, w) of the map of the padded image.
    """
    height, width = (
        int(F.interpolate((torch.arange(padded) < own)[None, None].float(), size=cells).sum())
        for own, padded, cells in zip(image_size, padded_size, map_size, strict=True)
    )
    return height, width
