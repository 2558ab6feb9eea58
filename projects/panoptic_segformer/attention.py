"""Attention of queries to an image in every block of the mask decoders, for visualization."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from panoptic_segformer.mask_decoder import MaskDecoder
from segcore.functional import at_least_float32
from segcore.inference import PanopticMerging, QueryAttention, attention_maps

if TYPE_CHECKING:
    from panoptic_segformer.meta_arch import PanopticSegFormer

# Indices of queries of the decoder -> for each, maps (h, w) of all blocks.
Lookup = Callable[[Sequence[int]], list[tuple[Tensor, ...]]]


@torch.no_grad()
def query_attention(
    model: "PanopticSegFormer",
    inputs: dict[str, Any],
    queries: Sequence[int] = (),
    *,
    count: int = 6,
) -> list[QueryAttention]:
    """Return attention maps of queries of the mask decoders in an image.

    Args:
        inputs: of one image, as the model takes them.
        queries: indices below ``model.num_queries``; none for those whose masks are segments.
        count: how many of the latter, at most.

    Returns:
        In the order of ``queries``, or by falling merged score of class and mask; on the CPU.
        Labels are contiguous ids, those of things the most probable ones.
    """
    (batch,) = model.batches([inputs])
    location, memory, shapes = model.encode(batch.images, batch.image_sizes)
    with (
        recorded_attention(model.thing_mask_decoder) as thing_maps,
        recorded_attention(model.stuff_mask_decoder) as stuff_maps,
    ):
        thing = model.thing_mask_decoder(
            location.queries, None, memory, shapes.spatial_shapes, all_masks=False
        )
        stuff = model.decode_stuff(memory, shapes, all_masks=False)
    scores, classes = at_least_float32(location.logits[-1][0]).sigmoid().max(dim=-1)
    num_things = len(scores)
    scores = torch.cat((scores, model.stuff_scores(stuff)[0]))
    labels = torch.cat((model.class_order.things[classes], model.class_order.stuff))
    height, width = shapes.finest(0)
    masks = torch.cat((thing.masks[-1][0], stuff.masks[-1][0]))[:, :height, :width]
    merging = model.result_maker.merging
    if not queries:
        queries = queries_of_segments(merging, scores, masks, num_things)[:count]
    merged_scores = merging.rate(scores, masks).scores

    things = [query for query in queries if query < num_things]
    stuffs = [query for query in queries if query >= num_things]
    maps = thing_maps(things) + stuff_maps([query - num_things for query in stuffs])
    maps_by_query = dict(zip(things + stuffs, maps, strict=True))
    return [
        QueryAttention(
            query,
            int(labels[query]),
            float(merged_scores[query]),
            [layer[:height, :width].float().cpu() for layer in maps_by_query[query]],
            masks[query].clamp(max=1).float().cpu(),
        )
        for query in queries
    ]


def queries_of_segments(
    merging: PanopticMerging, scores: Tensor, masks: Tensor, num_things: int
) -> list[int]:
    """Return the queries whose masks are segments, by falling merged score.

    Args:
        scores: (N,) class scores of thing queries and, after them, stuff queries.
        masks: (N, h, w).
    """
    rated = merging.rate(scores, masks)
    # With query indices as classes, segments tell their queries.
    indices = torch.arange(len(scores), device=scores.device)
    _, segments = merging(scores, indices, masks, range(num_things), rated)
    queries = [segment["category_id"] for segment in segments]
    return sorted(queries, key=lambda query: -rated.scores[query])


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
