"""The operators and their arguments, and how the parts run and compare them."""

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segcore import ops
from segcore.ops import ClusterNeighborhood

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))  # as pytest has it

import operator_inputs  # noqa: E402

Arguments = dict[str, Any]
Results = dict[str, Tensor]

SIZES: dict[str, tuple[dict[str, Any], ...]] = {
    "ms_deform_attn": (
        {},
        {"batch": 1, "heads": 1, "channels": 5, "queries": 3, "points": 3},
        {"batch": 1, "heads": 8, "channels": 32, "queries": 2000,
         "spatial_shapes": ((50, 84), (25, 42))},
        {"queries": 0},
    ),
    "ms_deform_attn_with_logits": (
        {},
        {"batch": 1, "heads": 1, "channels": 5, "queries": 3, "points": 3, "boxes": True},
        {"batch": 1, "heads": 8, "channels": 32, "queries": 2000,
         "spatial_shapes": ((50, 84), (25, 42))},
        {"queries": 0},
    ),
    "cluster_attention": (
        {},
        {"batch": 1, "tokens": 101, "heads": 1, "channels": 5, "cluster_size": 7},
        {"batch": 1, "tokens": 101, "heads": 1, "channels": 64, "cluster_size": 21},
        {"batch": 1, "tokens": 2048, "heads": 4, "channels": 32, "clusters_per_token": 6},
        {"tokens": 0},
    ),
    "neighborhood_merge": (
        {},
        {"batch": 1, "tokens": 77, "channels": 5, "queries": 31, "size": 9, "mask": False},
        {"batch": 1, "tokens": 2048, "channels": 64, "queries": 512, "size": 48},
        {"queries": 0},
    ),
    "point_gather": (
        {},
        {"batch": 3, "tokens": 500, "channels": 47, "queries": 13, "k": 9},
        {"batch": 1, "tokens": 2048, "channels": 256, "queries": 4096},
        {"queries": 0},
    ),
    "point_deform_attn": (
        {},
        {"batch": 1, "channels": 7, "level_sizes": (5,), "k": 7, "points": 3, "canvas": (1, 40)},
        {"batch": 1, "heads": 8, "channels": 32, "level_sizes": (64, 256, 1024), "queries": 1000,
         "canvas": (64, 64)},
        {"queries": 0},
    ),
}  # fmt: skip
"""Operators with gradients -> options of their inputs: even, odd, large as in use, empty."""

PARAMETERS = {
    "pos_weight", "pos_bias", "blank_k", "blank_v", "power",
    "linear_weight", "linear_bias", "norm_weight", "norm_bias",
}  # fmt: skip
"""Arguments without a dimension of images."""

SUMS_IN_ANOTHER_ORDER = 1e-5
"""Relative difference of float32 sums that atomics make in changing order."""


def make_arguments(name: str, dtype: torch.dtype, device: str, **options: Any) -> Arguments:
    """Return random arguments of an operator."""
    return getattr(operator_inputs, f"{name}_inputs")(dtype=dtype, device=device, **options)


def operator(name: str) -> Callable[..., Tensor]:
    """Return the public function of an operator."""
    return getattr(ops, name)


def twin(name: str) -> Callable[..., Tensor]:
    """Return the PyTorch twin of an operator."""
    return getattr(ops, f"{name}_reference")


def change(arguments: Arguments, edit: Callable[[Tensor], Tensor]) -> Arguments:
    """Return arguments with every tensor edited, that of a neighborhood too."""

    def edited(value: Any) -> Any:
        if isinstance(value, Tensor):
            return edit(value)
        if isinstance(value, ClusterNeighborhood):
            return ClusterNeighborhood(edit(value.clusters), value.cluster_size)
        return value

    return {name: edited(value) for name, value in arguments.items()}


def run(function: Callable[..., Tensor], arguments: Arguments) -> Results:
    """Return the output and the gradients of all arguments that have one, by name.

    The gradient of the output is always the same, and the same for every image.
    """
    inputs = {
        name: value.detach().requires_grad_()
        for name, value in arguments.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    output = function(**(arguments | inputs))
    upstream = _upstream(output.shape[1:], output.dtype, output.device).expand(output.shape)
    grads = torch.autograd.grad(output, list(inputs.values()), upstream, allow_unused=True)
    by_name = {name: grad for name, grad in zip(inputs, grads, strict=True) if grad is not None}
    return {"output": output.detach(), **by_name}


@lru_cache(maxsize=8)  # nothing may be copied to a GPU while a graph is recorded
def _upstream(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).to(device, dtype)


def largest_difference(results: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest difference of results by name, relative to the largest value of each.

    Raises:
        AssertionError: a result is missing, has another shape, or is not finite
    """
    worst = 0.0
    for name, values in results.items():
        assert name in expected, f"{name} is not among {sorted(expected)}"
        theirs = expected[name].to(values.device, torch.float64)
        assert values.shape == theirs.shape, f"{name}: {values.shape} instead of {theirs.shape}"
        if values.numel():
            difference = (values.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1)
            assert difference.isfinite(), f"{name} is not finite"
            worst = max(worst, float(difference))
    return worst


def different_bits(results: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the results that are not equal to the last bit."""
    return [name for name in expected if not torch.equal(results[name], expected[name])]
