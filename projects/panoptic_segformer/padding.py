"""Geometry of padded batches: sizes of the images on the maps of every feature level."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from segcore.layers import grid_reference_points

Size = tuple[int, int]


@dataclass(frozen=True)
class PaddedShapes:
    """Sizes of padded maps and of the images at their top left; the rest of a map is padding.

    Attributes:
        spatial_shapes: (H, W) of the map of each feature level.
        num_images: B.
        valid_shapes: of each image, (h, w) of its part of every map; None: all of the maps.
        dtype: of coordinates; float32 at least.
    """

    spatial_shapes: Sequence[Size]
    num_images: int
    valid_shapes: Sequence[Sequence[Size]] | None
    device: torch.device
    dtype: torch.dtype = torch.float32

    @classmethod
    def from_maps(
        cls,
        maps: Sequence[Tensor],
        padded_size: Size,
        image_sizes: Sequence[Size] | None = None,
    ) -> "PaddedShapes":
        """Collect the shapes of the maps of a batch of images.

        Args:
            maps: (B, C, H_l, W_l) each, fine to coarse.
            padded_size: (H, W) of the batch, in pixels.
            image_sizes: (h, w) of each image without padding; None: there is no padding.
        """
        spatial_shapes = [level.shape[-2:] for level in maps]
        valid_shapes = image_sizes and [
            [nearest_size(size, padded_size, shape) for shape in spatial_shapes]
            for size in image_sizes
        ]
        dtype = torch.promote_types(maps[0].dtype, torch.float32)
        return cls(spatial_shapes, maps[0].shape[0], valid_shapes, maps[0].device, dtype)

    @property
    def num_tokens(self) -> int:
        """Number of tokens S of all levels."""
        return sum(height * width for height, width in self.spatial_shapes)

    def first(self, count: int) -> "PaddedShapes":
        """Return the shapes of the first ``count`` levels."""
        return replace(
            self,
            spatial_shapes=self.spatial_shapes[:count],
            valid_shapes=self.valid_shapes and [shapes[:count] for shapes in self.valid_shapes],
        )

    def finest(self, image: int) -> Size:
        """Return (h, w) of an image on the finest map."""
        return self.spatial_shapes[0] if self.valid_shapes is None else self.valid_shapes[image][0]

    def masks(self) -> list[Tensor] | None:
        """Return padding masks (B, h, w) bool of each level; None without padding."""
        if self.valid_shapes is None:
            return None
        return [self._mask(level) for level in range(len(self.spatial_shapes))]

    def token_mask(self) -> Tensor | None:
        """Return the padding mask (B, S) bool of the tokens of all levels; None without padding."""
        masks = self.masks()
        return None if masks is None else torch.cat([mask.flatten(1) for mask in masks], dim=1)

    def valid_ratios(self) -> Tensor:
        """Return each image's share (x, y) of each map: (B, levels, 2)."""
        if self.valid_shapes is None:
            size = (self.num_images, len(self.spatial_shapes), 2)
            return torch.ones(size, device=self.device, dtype=self.dtype)
        valid = torch.tensor(self.valid_shapes, dtype=self.dtype)
        whole = torch.tensor(self.spatial_shapes, dtype=self.dtype)
        return (valid / whole).flip(-1).to(self.device)

    def reference_points(self) -> Tensor:
        """Return centers (x, y) of tokens' cells in units of each level's map: (B, S, levels, 2).

        A center is at the same point of the image, not of the map, on all levels.
        """
        ratios = self.valid_ratios()
        grids = [
            grid_reference_points([shape], self.device, self.dtype) for shape in self.spatial_shapes
        ]
        in_image = [
            grid / ratio[:, None] for grid, ratio in zip(grids, ratios.unbind(1), strict=True)
        ]
        return torch.cat(in_image, dim=1)[:, :, None] * ratios[:, None]

    def _mask(self, level: int) -> Tensor:
        height, width = self.spatial_shapes[level]
        valid = torch.tensor([shapes[level] for shapes in self.valid_shapes], device=self.device)
        below = torch.arange(height, device=self.device) >= valid[:, :1]
        right = torch.arange(width, device=self.device) >= valid[:, 1:]
        return below[:, :, None] | right[:, None, :]


def nearest_size(image_size: Size, padded_size: Size, map_size: Size) -> Size:
    """Cells (h, w) of a map whose nearest pixel is in the image, as in the official code.

    Args:
        image_size, padded_size: of the image without and with padding, in pixels.
        map_size: (h, w) of the map of the padded image.
    """
    height, width = (
        int(F.interpolate((torch.arange(padded) < valid)[None, None].float(), size=cells).sum())
        for valid, padded, cells in zip(image_size, padded_size, map_size, strict=True)
    )
    return height, width
