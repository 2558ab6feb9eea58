"""Implementations that others use of what our operators compute, called like ours.

Each loader returns a function, or raises an error whose text says what is missing: nothing is
downloaded here unless the library itself does it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from segcore.ops import ClusterNeighborhood, cluster_attention, ms_deform_attn

SpatialShapes = Sequence[tuple[int, int]]
Loaders = Mapping[str, Callable[[], Callable[..., Tensor]]]
MAX_IMAGES_OF_LAUNCH = 64  # "im2col_step" of the kernels that descend from Deformable DETR's


class _Kernels(torch.autograd.Function):
    """A pair of functions, forward and backward, as an operator of autograd."""

    @staticmethod
    def forward(ctx, run: Callable, run_backward: Callable, differentiable: Sequence[int], *inputs):
        ctx.run_backward, ctx.differentiable, ctx.inputs = run_backward, differentiable, inputs
        return run(*inputs)

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        grads = ctx.run_backward(grad_output, *ctx.inputs)
        by_index = dict(zip(ctx.differentiable, grads, strict=True))
        return None, None, None, *(by_index.get(i) for i in range(len(ctx.inputs)))


def _triton_kernels(name: str, differentiable: Sequence[int]) -> Callable[..., Tensor]:
    """Load our Triton kernels, which serve where there is no CUDA library."""
    from segcore.ops import _triton

    if not torch.cuda.is_available():
        raise RuntimeError("Triton's kernels need a GPU")
    if problem := _triton.find_problem():
        raise ImportError(problem)
    functions = (_triton.deferred(name, name), _triton.deferred(name, f"{name}_backward"))
    return partial(_Kernels.apply, *functions, differentiable)


def triton_ms_deform_attn() -> Callable[..., Tensor]:
    """Load our Triton kernels of deformable attention."""
    kernels = _triton_kernels("ms_deform_attn", (0, 2, 3))

    def run(value: Tensor, shapes: SpatialShapes, locations: Tensor, weights: Tensor) -> Tensor:
        return kernels(value, [size for shape in shapes for size in shape], locations, weights)

    return run


def mmcv_ms_deform_attn() -> Callable[..., Tensor]:
    """Load the CUDA kernels of OpenMMLab, which mmdetection uses."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction as Function

    def run(value: Tensor, shapes: SpatialShapes, locations: Tensor, weights: Tensor) -> Tensor:
        sizes, starts = _levels(shapes, value)
        step = min(len(value), MAX_IMAGES_OF_LAUNCH)
        return Function.apply(
            value, sizes, starts, locations.to(value), weights.to(value), step
        )  # its arguments have one type

    return run


def hub_ms_deform_attn() -> Callable[..., Tensor]:
    """Load the CUDA kernels of the Hugging Face hub, from its cache."""
    from kernels import get_kernel

    hub = get_kernel("kernels-community/deformable-detr", version=1)
    return _transformers_call(hub.layers.MultiScaleDeformableAttention())


def transformers_ms_deform_attn() -> Callable[..., Tensor]:
    """Load the PyTorch implementation of Transformers."""
    from transformers.models.deformable_detr import modeling_deformable_detr as transformers

    return _transformers_call(transformers.MultiScaleDeformableAttention())


def _transformers_call(module: nn.Module) -> Callable[..., Tensor]:
    def run(value: Tensor, shapes: SpatialShapes, locations: Tensor, weights: Tensor) -> Tensor:
        sizes, starts = _levels(shapes, value)
        step = min(len(value), MAX_IMAGES_OF_LAUNCH)
        locations, weights = locations.to(value), weights.to(value)
        return module(value, sizes, list(shapes), starts, locations, weights, step)

    return run


_level_tensors: dict[tuple, tuple[Tensor, Tensor]] = {}


def _levels(shapes: SpatialShapes, value: Tensor) -> tuple[Tensor, Tensor]:
    """Sizes and first rows of the levels, on the device; made once, as models do."""
    key = (tuple(shapes), value.device)
    if key not in _level_tensors:
        sizes = torch.tensor(shapes, device=value.device)
        _level_tensors[key] = sizes, sizes.prod(-1).cumsum(0) - sizes.prod(-1)
    return _level_tensors[key]


def triton_cluster_attention() -> Callable[..., Tensor]:
    """Load our Triton kernels of attention over clusters."""
    kernels = _triton_kernels("cluster_attention", (0, 1, 2, 6, 7, 8, 9))

    def run(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, around: ClusterNeighborhood, *rest):
        scale = q.shape[-1] ** -0.5
        clusters = (around.clusters, around.cluster_size)
        return kernels(q, k, v, positions, *clusters, *rest, scale, *around.inverse_lists())

    return run


def flex_cluster_attention() -> Callable[..., Tensor]:
    """Load FlexAttention with the mask of the clusters: no bias of position, no blank token."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    masks = WeakKeyDictionary()
    compiled = torch.compile(flex_attention) if torch.cuda.is_available() else flex_attention

    def run(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, around: ClusterNeighborhood, *_):
        batch, tokens = q.shape[:2]
        if around not in masks:
            # Of (B, N, clusters), looked up: a loop over the clusters of a token does not compile.
            sees = q.new_zeros(batch, tokens, around.num_clusters, dtype=torch.bool)
            sees.scatter_(2, around.clusters.long(), True)

            def sees_token(image, head, query, key):
                return sees[image, query, key // around.cluster_size]

            masks[around] = create_block_mask(
                sees_token, batch, None, tokens, tokens, device=q.device
            )
        q, k, v = (rows.transpose(1, 2) for rows in (q, k, v))
        return compiled(q, k, v, block_mask=masks[around]).transpose(1, 2).flatten(2)

    return run


def natten_cluster_attention() -> Callable[..., Tensor]:
    """Load NATTEN: 7x7 neighbors on the grid instead of 6 clusters of 8."""
    from natten import na2d

    def run(q: Tensor, k: Tensor, v: Tensor, *_) -> Tensor:
        side = round(q.shape[1] ** 0.5)
        q, k, v = (rows.unflatten(1, (side, side)) for rows in (q, k, v))
        return na2d(q, k, v, kernel_size=7).flatten(3).flatten(1, 2)

    return run


DEFORMABLE = {
    "ours": lambda: ms_deform_attn,
    "twin": lambda: ms_deform_attn.reference,
    "Triton": triton_ms_deform_attn,
    "mmcv": mmcv_ms_deform_attn,
    "hub": hub_ms_deform_attn,
    "Transformers": transformers_ms_deform_attn,
}
CLUSTERS = {
    "ours": lambda: cluster_attention,
    "twin": lambda: cluster_attention.reference,
    "Triton": triton_cluster_attention,
    "FlexAttention": flex_cluster_attention,
    "NATTEN": natten_cluster_attention,
}
"""Name -> loader. The last two compute something near, not the same."""
NEAR = {"FlexAttention", "NATTEN"}
