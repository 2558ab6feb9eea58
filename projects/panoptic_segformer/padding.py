"""Where the images of a padded batch lie on the maps of every level."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from panoptic_segformer.mask_decoder import MaskDecoder, MaskOutput
from segcore.layers import grid_reference_points, pad_to

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
    def num_tokens(self) -> int:
        """S, of all levels."""
        return sum(height * width for height, width in self.sizes)

    def first(self, count: int) -> "PaddedLevels":
        """The first ``count`` levels."""
        own = [sizes[:count] for sizes in self.own]
        return replace(self, sizes=self.sizes[:count], own=own)

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
        # The output size is known here, and need not be read from a GPU.
        own = ratios.repeat_interleave(cells, dim=1, output_size=self.num_tokens)
        in_image = grid / own
        return in_image[:, :, None] * ratios[:, None]

    def own_tokens(self, tokens: Tensor, image: int) -> Tensor:
        """(S, C) of one image -> (S', C), without those of padding."""
        levels = tokens.split([height * width for height, width in self.sizes])
        return torch.cat(
            [
                level.unflatten(0, size)[:height, :width].flatten(0, 1)
                for level, size, (height, width) in zip(
                    levels, self.sizes, self.own[image], strict=True
                )
            ]
        )

    def _mask(self, level: int) -> Tensor:
        height, width = self.sizes[level]
        own = torch.tensor([sizes[level] for sizes in self.own], device=self.device)
        below = torch.arange(height, device=self.device) >= own[:, :1]
        right = torch.arange(width, device=self.device) >= own[:, 1:]
        return below[:, :, None] | right[:, None, :]


def decode_without_padding(
    decoder: MaskDecoder,
    queries: Tensor,
    position: Tensor | None,
    memory: Tensor,
    levels: PaddedLevels,
    *,
    all_masks: bool,
) -> MaskOutput:
    """What the decoder makes of each image alone; masks (B, N, h, w) are 0 at padding.

    Masked attention would not do: masks of coarse levels are resized from their own borders.
    """
    outputs = [
        decoder(
            queries[image : image + 1],
            position,
            levels.own_tokens(memory[image], image)[None],
            levels.own[image],
            all_masks=all_masks,
        )
        for image in range(len(memory))
    ]
    masks = zip(*(output.masks for output in outputs), strict=True)
    queries_of = zip(*(output.queries for output in outputs), strict=True)
    return MaskOutput(
        [torch.cat([pad_to(mask, levels.sizes[0]) for mask in layer]) for layer in masks],
        [torch.cat(layer) for layer in queries_of],
    )


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
