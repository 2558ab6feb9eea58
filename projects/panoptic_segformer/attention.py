"""What the queries of a mask decoder attend to, block by block, for pictures of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from panoptic_segformer.mask_decoder import MaskDecoder
from segcore.inference import attention_maps

# Rows of what the decoder took -> of each the maps (h, w) of all blocks.
Lookup = Callable[[Sequence[int]], list[tuple[Tensor, ...]]]


@contextmanager
def recorded_attention(decoder: MaskDecoder) -> Iterator[Lookup]:
    """Watch a decoder run on one image.

    Yields:
        A function that, after the run, gives the attention of queries: by their rows in what the
        decoder took, of each query a map (h, w) of every block, at the size of the finest level;
        see :func:`attention_maps`.
    """
    calls = []

    def record(attention, inputs) -> None:
        queries, memory, levels, *_ = inputs
        calls.append((attention, queries, memory, levels))

    def look_up(rows: Sequence[int]) -> list[tuple[Tensor, ...]]:
        blocks = [
            attention_maps(attention.attention(queries[:, rows], memory)[0], levels)
            for attention, queries, memory, levels in calls
        ]
        return list(zip(*blocks, strict=True))

    handles = [layer.cross_attn.register_forward_pre_hook(record) for layer in decoder.layers]
    try:
        yield look_up
    finally:
        for handle in handles:
            handle.remove()
