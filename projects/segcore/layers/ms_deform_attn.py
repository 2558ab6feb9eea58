"""Multi-scale deformable attention as a module (Deformable DETR, Zhu et al., 2021, section 4.1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segcore.functional import short_softmax
from segcore.layers.by_rows import by_rows, takes_rows
from segcore.layers.convolution import has_hooks
from segcore.layers.linear import Linear
from segcore.ops import ms_deform_attn_with_logits

# A multiply-add of samples, which lie anywhere in memory, takes as long as so many of a product.
FEW = 4


class DeformAttnProjections(nn.Module):
    """The linear layers of deformable attention: what its forms on maps and on tokens share.

    Offsets of the points and their weights are linear in the query; the weights of a head sum to
    one over all levels and points.
    """

    def __init__(
        self, embed_dim: int = 256, num_levels: int = 4, num_heads: int = 8, num_points: int = 4
    ) -> None:
        """
        Args:
            embed_dim: width C of queries, values and output, a multiple of ``num_heads``
            num_levels: L levels of the feature pyramid
            num_heads: M heads of C / M channels
            num_points: P points a head reads on a level
        """
        super().__init__()
        arguments = {
            "embed_dim": embed_dim,
            "num_levels": num_levels,
            "num_heads": num_heads,
            "num_points": num_points,
        }
        for name, number in arguments.items():
            if number < 1:
                raise ValueError(f"{name}: expected at least 1, got {number}")
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim: expected a multiple of {num_heads} heads, got {embed_dim}"
            )
        self.embed_dim = embed_dim
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = Linear(embed_dim, samples * 2)
        self.attention_weights = Linear(embed_dim, samples)
        self.value_proj = Linear(embed_dim, embed_dim)
        self.output_proj = Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let head m look into direction m of M, its point p at p + 1 cells, with equal weights."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None] * steps[:, None]  # (M, 1, P, 2)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(
                offsets.expand(-1, self.num_levels, -1, -1).reshape(-1)
            )
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def offsets_and_logits(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, Q, M, L, P, 2) and, before their softmax, the weights (N, Q, M, L, P)."""
        samples = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*samples, 2))
        return offsets, self.attention_weights(query).unflatten(-1, samples)

    def offsets_and_weights(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, Q, M, L, P, 2) and (N, Q, M, L, P), float32 at least."""
        offsets, logits = self.offsets_and_logits(query)
        precision = torch.promote_types(logits.dtype, torch.float32)
        weights = short_softmax(logits.flatten(-2).to(precision)).view(logits.shape)
        return offsets.to(precision), weights

    def values(self, value: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Return (N, S, M, C / M), zero at padding; on CPUs float32 at least."""

        def project(value: Tensor, padding_mask: Tensor | None = None) -> Tensor:
            value = self.value_proj(value)
            if padding_mask is not None:
                value = value.masked_fill(padding_mask[..., None], 0)
            return value.unflatten(-1, (self.num_heads, -1))

        tensors = (value,) if padding_mask is None else (value, padding_mask)
        if value.device.type != "cpu" or torch.compiler.is_compiling():
            return project(*tensors)
        # Head by head and in the precision of sums, as the operators of a CPU read them, so that
        # no call copies them again.
        precision = torch.promote_types(value.dtype, torch.float32)
        if takes_rows(value):
            images, cells, channels = value.shape
            heads = value.new_empty(
                images, self.num_heads, cells, channels // self.num_heads, dtype=precision
            )
            return by_rows(project, *tensors, out=heads.transpose(1, 2))
        values = project(*tensors).transpose(1, 2)
        values = values.to(precision, memory_format=torch.contiguous_format)
        return values.contiguous().transpose(1, 2)


class MSDeformAttn(DeformAttnProjections):
    """Attention of queries to a few points of every level, near their reference points."""

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[Sequence[int]] | Tensor,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            query: (N, Q, C)
            reference_points: (N, Q, L, 2) points (x, y), or (N, Q, L, 4) boxes (center x, center y,
                width, height), in units of the map; float32 at least, whatever the type of query
            value: (N, S, C), the cells of all levels one after the other
            spatial_shapes: (H, W) of the L levels, in cells, with sum(H * W) = S
            padding_mask: (N, S), true where value is padding, which counts as zero

        Returns:
            (N, Q, C)

        Raises:
            ValueError, TypeError: an argument has a wrong shape or type
        """
        self._check(query, reference_points, value, spatial_shapes, padding_mask)
        if self._reads_few(query, value):
            return self._attend_unprojected(
                query, reference_points, value, spatial_shapes, padding_mask
            )
        values = self.values(value, padding_mask)

        def attend(query: Tensor, reference_points: Tensor) -> Tensor:
            return self.attend(query, reference_points, values, spatial_shapes)

        return by_rows(attend, query, reference_points)

    def attend(
        self,
        query: Tensor,
        reference_points: Tensor,
        values: Tensor,
        spatial_shapes: Sequence[Sequence[int]] | Tensor,
    ) -> Tensor:
        """Attend to ``values`` that are prepared, (N, S, M, C / M): see :meth:`values`."""
        sampled = ms_deform_attn_with_logits(
            values, spatial_shapes, reference_points, *self.offsets_and_logits(query)
        )
        return self.output_proj(sampled.to(query.dtype))

    def _reads_few(self, query: Tensor, value: Tensor) -> bool:
        """Whether projecting what queries read takes less time than projecting all values."""
        samples = 4 * self.num_heads * self.num_levels * self.num_points  # a bilinear one has four
        return (
            takes_rows(query)
            and value.dtype in (torch.float32, torch.float64)
            and FEW * query.shape[1] * (samples + self.embed_dim) < value.shape[1] * self.embed_dim
            and not has_hooks(self)
        )

    def _attend_unprojected(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[Sequence[int]] | Tensor,
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Attend to ``value``, and project the weighted sums: the projection is linear.

        Its bias counts as much as the weights within maps and images do.
        """
        inside = value.new_ones(value.shape[:2])
        if padding_mask is not None:
            inside = inside.masked_fill(padding_mask, 0)
            value = value.masked_fill(padding_mask[..., None], 0)
        # Every head of a query is a query of one head, which reads all channels.
        offsets, logits = (x.flatten(1, 2).unsqueeze(2) for x in self.offsets_and_logits(query))
        points = reference_points.repeat_interleave(self.num_heads, dim=1)
        sums, share = (
            ms_deform_attn_with_logits(values, spatial_shapes, points, offsets, logits)
            .unflatten(1, (query.shape[1], self.num_heads))
            .transpose(1, 2)
            for values in (value.unsqueeze(2), inside[..., None, None])
        )  # (N, M, Q, C), (N, M, Q, 1)
        weight = self.value_proj.weight.unflatten(0, (self.num_heads, -1))
        bias = self.value_proj.bias.unflatten(0, (self.num_heads, 1, -1))
        sampled = sums @ weight.mT + share * bias
        return self.output_proj(sampled.transpose(1, 2).flatten(2))

    def _check(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[Sequence[int]] | Tensor,
        padding_mask: Tensor | None,
    ) -> None:
        channels = self.embed_dim
        for name, tensor in (("query", query), ("value", value)):
            if tensor.dim() != 3 or tensor.shape[-1] != channels:
                raise ValueError(
                    f"{name}: expected shape (N, tokens, {channels}), got {tuple(tensor.shape)}"
                )
        if len(spatial_shapes) != self.num_levels:
            raise ValueError(
                f"spatial_shapes: expected {self.num_levels} levels, got {len(spatial_shapes)}"
            )
        batch, queries, _ = query.shape
        expected = (batch, queries, self.num_levels)
        shape = tuple(reference_points.shape)
        if shape not in ((*expected, 2), (*expected, 4)):
            raise ValueError(
                f"reference_points: expected shape {expected} + (2 or 4,), got {shape}"
            )
        if padding_mask is not None and padding_mask.shape != value.shape[:2]:
            raise ValueError(
                f"padding_mask: expected shape {tuple(value.shape[:2])}, "
                f"got {tuple(padding_mask.shape)}"
            )
        if padding_mask is not None and padding_mask.dtype != torch.bool:
            raise TypeError(f"padding_mask: expected bool, got {padding_mask.dtype}")
