"""The network of EoMT: a ViT whose last blocks see the queries, and the head that reads them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eomt.attention_mask import DrawUniform, QueryRowsMask, release, visible_patches
from eomt.vit import TimmViT, with_identity_rotation
from mask2former.mask_classification import MaskOutputs


class ScaleBlock(nn.Module):
    """Double the sides of a map: transposed convolution, GELU, depthwise convolution, norm."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        x = self.conv2(nn.functional.gelu(self.conv1(x)))
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class EncoderOnlyMaskTransformer(nn.Module):
    """EoMT (Kerssies et al., 2025): queries join the tokens of a ViT for its last blocks.

    Args:
        backbone: the ViT.
        num_classes: K, without "no object".
        num_queries: Q.
        num_blocks: L, the last blocks of the ViT, which see the queries.
        draw_uniform: source of the random numbers that release queries from their masks.

    Attributes:
        attn_mask_probs: (L,), the probability that a query keeps its mask, for each of these
            blocks; set by :meth:`set_mask_probabilities`.
    """

    def __init__(
        self,
        *,
        backbone: TimmViT,
        num_classes: int,
        num_queries: int,
        num_blocks: int,
        draw_uniform: DrawUniform = torch.rand,
    ):
        super().__init__()
        depth, channels = len(backbone.blocks), backbone.embed_dim
        if not 1 <= num_blocks <= depth:
            raise ValueError(
                f"num_blocks: expected 1 to {depth}, the blocks of {backbone.name}, got "
                f"{num_blocks} (MODEL.EOMT.NUM_BLOCKS)"
            )
        self.backbone = backbone
        self.num_classes = num_classes
        self.first_block = depth - num_blocks
        self.draw_uniform = draw_uniform
        self.q = nn.Embedding(num_queries, channels)
        self.class_head = nn.Linear(channels, num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
            nn.GELU(),
            nn.Linear(channels, channels),
        )
        doublings = max(1, int(math.log2(max(backbone.patch_size))) - 2)
        self.upscale = nn.Sequential(*(ScaleBlock(channels) for _ in range(doublings)))
        self.register_buffer("attn_mask_probs", torch.ones(num_blocks))
        # On the host as well, so that a training step need not wait for the device.
        self.mask_probabilities = (1.0,) * num_blocks

    @property
    def num_queries(self) -> int:
        return self.q.num_embeddings

    def set_mask_probabilities(self, probabilities: Sequence[float]) -> None:
        """Set the probability that a query keeps its mask, for each block that sees queries.

        Raises:
            ValueError: their number is not that of the blocks.
        """
        if len(probabilities) != len(self.attn_mask_probs):
            raise ValueError(
                f"probabilities: expected {len(self.attn_mask_probs)}, one a block that sees "
                f"queries, got {len(probabilities)}"
            )
        self.mask_probabilities = tuple(map(float, probabilities))
        self.attn_mask_probs.copy_(torch.tensor(self.mask_probabilities))

    def forward(self, images: Tensor, *, masked_attention: bool = False) -> list[MaskOutputs]:
        """Predict masks in normalized images (B, 3, H, W).

        Args:
            masked_attention: predict before each block that sees the queries, too, and hide from
                a query the patches outside of its predicted mask, as in training.

        Returns:
            The predictions by depth, L + 1 of them with masked attention, else one.
        """
        x, grid, rotary = self.backbone.tokens(images)
        for index in range(self.first_block):
            x = self.backbone.run_block(index, x, rotary)
        x = torch.cat((self.q.weight.expand(len(x), -1, -1).to(x.dtype), x), dim=1)
        rotary = with_identity_rotation(rotary, self.num_queries)
        predictions = []
        for index in range(self.first_block, len(self.backbone.blocks)):
            mask = None
            if masked_attention:
                predictions.append(self.predict(x, grid))
                probability = self.mask_probabilities[index - self.first_block]
                mask = self.attention_mask(predictions[-1].mask_logits, grid, probability, x)
            x = self.backbone.run_block(index, x, rotary, mask)
        return [*predictions, self.predict(x, grid)]

    def attention_mask(
        self, mask_logits: Tensor, grid: tuple[int, int], probability: float, tokens: Tensor
    ) -> QueryRowsMask | None:
        """Mask of the attention in the next block; None if every query sees everything."""
        if probability <= 0:
            return None
        visible = visible_patches(mask_logits.detach(), grid)
        visible = release(visible, probability, self.draw_uniform)
        return QueryRowsMask.of_patches(visible, tokens.shape[1])

    def predict(self, tokens: Tensor, grid: tuple[int, int]) -> MaskOutputs:
        """Read class and mask logits off tokens (B, Q + P + hw, C) between two blocks."""
        tokens = self.backbone.normalize(tokens)
        queries = tokens[:, : self.num_queries]
        patches = tokens[:, self.num_queries + self.backbone.num_prefix_tokens :]
        # A view in channels-last memory, which convolutions like.
        maps = self.upscale(patches.unflatten(1, grid).movedim(-1, 1))
        mask_logits = torch.einsum("bqc,bchw->bqhw", self.mask_head(queries), maps)
        return MaskOutputs(self.class_head(queries), mask_logits)
