"""CUDA kernels of deformable attention from logits, lane by lane on the CPU, against the twin."""

from functools import partial

import pytest
import torch

from operator_checks import assert_deformable_kernels_match
from operator_inputs import ms_deform_attn_with_logits_inputs
from segcore.ops import ms_deform_attn_with_logits_reference

assert_matches_twin = partial(
    assert_deformable_kernels_match,
    name="ms_deform_attn_with_logits",
    twin=ms_deform_attn_with_logits_reference,
    differentiable=("value", "reference_points", "sampling_offsets", "attention_logits"),
    double_tolerance=1e-9,
)


@pytest.mark.parametrize("boxes", [False, True], ids=["points", "boxes"])
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (torch.float64, {}),
        (torch.float64, {"channels": 7, "queries": 1, "points": 1}),
        (torch.float64, {"channels": 71, "heads": 1, "points": 3}),  # in parts, 64-bit offsets
        (torch.float64, {"queries": 44, "spread": 4.0}),  # the cells of the maps
        (torch.float32, {"channels": 32, "queries": 13}),
        (torch.float16, {"channels": 32}),
        (torch.bfloat16, {"channels": 40}),
    ],
    ids=str,
)
def test_matches_twin(on_host, dtype, sizes, boxes):
    assert_matches_twin(
        on_host, ms_deform_attn_with_logits_inputs(boxes=boxes, dtype=dtype, **sizes)
    )


@pytest.mark.parametrize("empty", ["batch", "heads", "queries", "points", "channels"])
def test_empty(on_host, empty):
    assert_matches_twin(on_host, ms_deform_attn_with_logits_inputs(**{empty: 0}))


def test_half_values_beside_float_offsets(on_host):
    arguments = ms_deform_attn_with_logits_inputs(dtype=torch.float16)
    for name in ("sampling_offsets", "attention_logits"):
        arguments[name] = arguments[name].float()
    assert_matches_twin(on_host, arguments)


def test_large_logits(on_host):
    """Whose exponentials alone would be infinite, or all 0."""
    arguments = ms_deform_attn_with_logits_inputs()
    arguments["attention_logits"] = 1000 * arguments["attention_logits"]
    assert_matches_twin(on_host, arguments)


def test_too_many_levels_are_refused(on_host):
    value, logits = torch.zeros(1, 65, 1, 4), torch.zeros(1, 1, 1, 65, 1)
    references, offsets = torch.zeros(1, 1, 65, 2), torch.zeros(1, 1, 1, 65, 1, 2)
    with pytest.raises(RuntimeError, match="spatial_shapes: expected at most 64 levels on CUDA"):
        on_host.ms_deform_attn_with_logits(value, [1, 1] * 65, references, offsets, logits)
