"""Geometry of padded batches: sizes of the images on the maps of every feature level."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from panoptic_segformer.mask_decoder import MaskDecoder, MaskOutput
from segcore.layers import grid_reference_points, pad_to

Size = tuple[int, int]


@dataclass(frozen=True)
class PaddedShapes:
    """Sizes of padded maps and of the images at their top left; the rest of a map is padding.

    Attributes:
        spatial_shapes: (H, W) of the map of each feature level.
        valid_shapes: of each image, (h, w) of its part of every map.
        dtype: of coordinates; float32 at least.
    """

    spatial_shapes: Sequence[Size]
    valid_shapes: Sequence[Sequence[Size]]
    device: torch.device
    dtype: torch.dtype = torch.float32

    @property
    def num_tokens(self) -> int:
        """Number of tokens S of all levels."""
        return sum(height * width for height, width in self.spatial_shapes)

    def first(self, count: int) -> "PaddedShapes":
        """Return the shapes of the first ``count`` levels."""
        return replace(
            self,
            spatial_shapes=self.spatial_shapes[:count],
            valid_shapes=[shapes[:count] for shapes in self.valid_shapes],
        )

    @property
    def padded(self) -> bool:
        """True if any map has padding."""
        return any(list(valid) != list(self.spatial_shapes) for valid in self.valid_shapes)

    def masks(self) -> list[Tensor] | None:
        """Return padding masks (B, h, w) bool of each level; None without padding."""
        if not self.padded:
            return None
        return [self._mask(level) for level in range(len(self.spatial_shapes))]

    def token_mask(self) -> Tensor | None:
        """Return the padding mask (B, S) bool of the tokens of all levels; None without padding."""
        masks = self.masks()
        return None if masks is None else torch.cat([mask.flatten(1) for mask in masks], dim=1)

    def valid_ratios(self) -> Tensor:
        """Return each image's share (x, y) of each map: (B, levels, 2)."""
        valid = torch.tensor(self.valid_shapes, dtype=self.dtype)
        whole = torch.tensor(self.spatial_shapes, dtype=self.dtype)
        return (valid / whole).flip(-1).to(self.device)

    def reference_points(self) -> Tensor:
        """Return centers (x, y) of tokens' cells in units of each level's map: (B, S, levels, 2).

        A center is at the same point of the image, not of the map, on all levels.
        """
        ratios = self.valid_ratios()
        grid = grid_reference_points(self.spatial_shapes, self.device, self.dtype)
        cells = torch.tensor([h * w for h, w in self.spatial_shapes], device=self.device)
        # The output size is known here, and need not be read from a GPU.
        token_ratios = ratios.repeat_interleave(cells, dim=1, output_size=self.num_tokens)
        in_image = grid / token_ratios
        return in_image[:, :, None] * ratios[:, None]

    def valid_tokens(self, tokens: Tensor, image: int) -> Tensor:
        """Return the tokens of one image, (S, C), without those of padding: (S', C)."""
        levels = tokens.split([height * width for height, width in self.spatial_shapes])
        return torch.cat(
            [
                level.unflatten(0, size)[:height, :width].flatten(0, 1)
                for level, size, (height, width) in zip(
                    levels, self.spatial_shapes, self.valid_shapes[image], strict=True
                )
            ]
        )

    def _mask(self, level: int) -> Tensor:
        height, width = self.spatial_shapes[level]
        valid = torch.tensor([shapes[level] for shapes in self.valid_shapes], device=self.device)
        below = torch.arange(height, device=self.device) >= valid[:, :1]
        right = torch.arange(width, device=self.device) >= valid[:, 1:]
        return below[:, :, None] | right[:, None, :]


def decode_without_padding(
    decoder: MaskDecoder,
    queries: Tensor,
    position: Tensor | None,
    memory: Tensor,
    shapes: PaddedShapes,
    *,
    all_masks: bool,
) -> MaskOutput:
    """Run the decoder on each image alone; masks (B, N, h, w) are 0 at padding.

    Masked attention would differ: the masks of coarse levels are resized at their borders.
    """
    outputs = [
        decoder(
            queries[image : image + 1],
            position,
            shapes.valid_tokens(memory[image], image)[None],
            shapes.valid_shapes[image],
            all_masks=all_masks,
        )
        for image in range(len(memory))
    ]
    masks = zip(*(output.masks for output in outputs), strict=True)
    queries_by_layer = zip(*(output.queries for output in outputs), strict=True)
    return MaskOutput(
        [torch.cat([pad_to(mask, shapes.spatial_shapes[0]) for mask in layer]) for layer in masks],
        [torch.cat(layer) for layer in queries_by_layer],
    )


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
