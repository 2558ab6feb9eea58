"""What the queries of a mask decoder attend to, block by block, for pictures of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from panoptic_segformer.mask_decoder import MaskDecoder
from segcore.inference import attention_maps


@contextmanager
def recorded_attention(decoder: MaskDecoder, rows: Sequence[int]) -> Iterator[list[Tensor]]:
    """Watch a decoder run on one image.

    Args:
        rows: the queries to watch, as rows of what the decoder takes.

    Yields:
        A list that is filled, block by block, with maps (len(rows), h, w) at the size of the finest
        level; see :func:`attention_maps`.
    """
    maps = []

    def record(attention, inputs) -> None:
        queries, memory, levels, *_ = inputs
        (weights,) = attention.attention(queries[:, rows], memory)
        maps.append(attention_maps(weights, levels))

    handles = [layer.cross_attn.register_forward_pre_hook(record) for layer in decoder.layers]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
