"""Attention of the queries of a mask decoder in every block, for visualization."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from panoptic_segformer.mask_decoder import MaskDecoder
from segcore.inference import attention_maps

# Indices of queries of the decoder -> for each, maps (h, w) of all blocks.
Lookup = Callable[[Sequence[int]], list[tuple[Tensor, ...]]]


@contextmanager
def recorded_attention(decoder: MaskDecoder) -> Iterator[Lookup]:
    """Watch a decoder run on one image.

    Yields:
        A function that, after the run, returns for each query, given by its index, the attention
        maps (h, w) of every block at the size of the finest level; see :func:`attention_maps`.
    """
    calls = []

    def record(attention, inputs) -> None:
        queries, memory, spatial_shapes, *_ = inputs
        calls.append((attention, queries, memory, spatial_shapes))

    def look_up(rows: Sequence[int]) -> list[tuple[Tensor, ...]]:
        blocks = [
            attention_maps(attention.attention(queries[:, rows], memory)[0], spatial_shapes)
            for attention, queries, memory, spatial_shapes in calls
        ]
        return list(zip(*blocks, strict=True))

    handles = [layer.cross_attn.register_forward_pre_hook(record) for layer in decoder.layers]
    try:
        yield look_up
    finally:
        for handle in handles:
            handle.remove()
