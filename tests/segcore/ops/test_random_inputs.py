"""Compiled operators against their twins on random sizes, types, strides and contents.

``SEGCORE_RANDOM_CASES`` is the number of cases an operator; ``make sanitize`` runs more of them.
"""

import contextlib
import os
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

import operator_checks as checks
import operator_inputs as inputs
from segcore import ops
from segcore.ops._library import is_compiled

CASES = int(os.environ.get("SEGCORE_RANDOM_CASES", "8"))
TOLERANCES = {torch.float64: 1e-7, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
WILD_VALUES = [torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 1e-30, -0.0, 2.0**31, -(2.0**63)]


class Case(NamedTuple):
    """An operator, a function that makes its arguments, and the largest value of each size."""

    name: str
    make_inputs: Callable
    sizes: dict[str, int]
    differentiable: tuple[str, ...] = ()
    indices: str = ""
    at_least_one: tuple[str, ...] = ()

    @property
    def operator(self):
        return getattr(ops, self.name)

    @property
    def twin(self):
        return getattr(ops, f"{self.name}_reference")


def ms_deform_attn_inputs(*, levels, side, **sizes):
    shapes = [(1 + (3 * i) % (side + 1), 1 + (5 * i) % (side + 1)) for i in range(levels)]
    return inputs.ms_deform_attn_inputs(spatial_shapes=shapes, **sizes)


def ms_deform_attn_with_logits_inputs(*, levels, side, boxes, **sizes):
    shapes = [(1 + (3 * i) % (side + 1), 1 + (5 * i) % (side + 1)) for i in range(levels)]
    return inputs.ms_deform_attn_with_logits_inputs(
        spatial_shapes=shapes, boxes=bool(boxes), **sizes
    )


def point_deform_attn_inputs(*, levels, tokens, height, width, **sizes):
    tokens = [1 + (7 * i) % min(tokens, height * width) for i in range(levels)]
    return inputs.point_deform_attn_inputs(level_sizes=tokens, canvas=(height, width), **sizes)


def knn_inputs(*, batch, queries, points, k, dtype):
    kind = random.choice(["grid", "flat", "one point", "dense corner", "far away", "any"])
    tensors = inputs.knn_inputs(kind, batch, queries, points)
    return {"queries": tensors[0], "points": tensors[1], "k": min(k, points)}


def balanced_clusters_inputs(*, batch, tokens, cluster_size, height, width, dtype):
    positions = torch.rand(batch, tokens, 2) * torch.tensor([width + 2.0, height + 2.0]) - 1
    canvas = (height, width)
    return {"positions": positions, "cluster_size": cluster_size, "canvas": canvas}


OPERATORS = [
    Case(
        "ms_deform_attn",
        ms_deform_attn_inputs,
        {"batch": 3, "heads": 4, "channels": 70, "queries": 9, "levels": 4, "side": 9, "points": 5},
        ("value", "sampling_locations", "attention_weights"),
        at_least_one=("levels",),
    ),
    Case(
        "ms_deform_attn_with_logits",
        ms_deform_attn_with_logits_inputs,
        {"batch": 3, "heads": 4, "channels": 70, "queries": 40, "levels": 4, "side": 9, "points": 5,
         "boxes": 1},
        ("value", "reference_points", "sampling_offsets", "attention_logits"),
        at_least_one=("levels",),
    ),
    Case(
        "cluster_attention",
        inputs.cluster_attention_inputs,
        {"batch": 3, "tokens": 60, "heads": 4, "channels": 70, "cluster_size": 20,
         "clusters_per_token": 4},
        ("q", "k", "v", "pos_weight", "pos_bias", "blank_k", "blank_v"),
        "neighborhood",
        ("cluster_size",),
    ),
    Case(
        "point_gather",
        inputs.point_gather_inputs,
        {"batch": 3, "tokens": 30, "channels": 70, "queries": 20, "k": 6},
        ("features", "weights"),
        "indices",
        ("tokens",),
    ),
    Case(
        "neighborhood_merge",
        inputs.neighborhood_merge_inputs,
        {"batch": 3, "tokens": 30, "channels": 40, "queries": 9, "size": 40, "mask": 1,
         "importance": 1},
        ("features", "importance", "linear_weight", "linear_bias", "norm_weight", "norm_bias"),
        "members",
        ("tokens",),
    ),
    Case(
        "point_deform_attn",
        point_deform_attn_inputs,
        {"batch": 3, "levels": 4, "tokens": 30, "heads": 4, "channels": 40, "queries": 9,
         "points": 5, "k": 6, "height": 9, "width": 9},
        ("values", "locations", "attention", "power"),
        "neighbors",
        ("tokens", "k", "height", "width"),
    ),
    Case(
        "knn",
        knn_inputs,
        {"batch": 3, "queries": 50, "points": 90, "k": 20},
        at_least_one=("points", "k"),
    ),
    Case(
        "balanced_clusters",
        balanced_clusters_inputs,
        {"batch": 3, "tokens": 90, "cluster_size": 20, "height": 30, "width": 30},
        at_least_one=("cluster_size", "height", "width"),
    ),
]  # fmt: skip
operators = pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=checks.needs_binary(c.name)) for c in OPERATORS],
)
seeds = pytest.mark.parametrize("seed", range(CASES))


def random_size(largest, smallest):
    """0 and 1 are as likely as all others together, nearly."""
    return max(smallest, random.choice([0, 1, *[random.randint(0, largest)] * 4]))


def random_arguments(case):
    sizes = {
        name: random_size(largest, int(name in case.at_least_one))
        for name, largest in case.sizes.items()
    }
    dtype = random.choice([torch.float64, torch.float32, torch.float16, torch.bfloat16])
    return case.make_inputs(**sizes, dtype=dtype)


def laid_out(tensor):
    """The same numbers with other strides and offset, or those of one index along a dimension."""
    kind = random.choice(["as it is", "permuted", "part", "expanded"])
    if tensor.dim() < 2 or kind == "as it is":
        return tensor
    if kind == "permuted":
        dims = random.sample(range(tensor.dim()), tensor.dim())
        inverse = [dims.index(dim) for dim in range(tensor.dim())]
        return tensor.permute(dims).contiguous().permute(inverse)
    dim = random.randrange(tensor.dim())
    if kind == "expanded" and tensor.shape[dim] > 0:
        return tensor.narrow(dim, 0, 1).expand(tensor.shape)
    step, offset = random.randint(1, 3), random.randint(0, 5)
    shape = list(tensor.shape)
    shape[dim] = offset + step * shape[dim]
    whole = tensor.new_zeros(shape)
    part = whole.narrow(dim, offset, shape[dim] - offset)
    part = part[(slice(None),) * dim + (slice(None, None, step),)]
    return part.copy_(tensor)


def with_layouts(arguments):
    return {
        name: laid_out(value) if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }


def with_wild_values(arguments):
    """Some numbers of some floating-point arguments replaced by NaN, infinities and the like."""
    arguments = dict(arguments)
    for name, value in arguments.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        if random.random() < 0.5 or value.numel() == 0:
            continue
        flat = value.clone(memory_format=torch.contiguous_format).view(-1)
        for _ in range(random.randint(1, 5)):
            flat[random.randrange(len(flat))] = random.choice(WILD_VALUES)
        arguments[name] = flat.view(value.shape)
    return arguments


def run(operator, case, arguments):
    if case.differentiable:
        return checks.run_with_gradients(operator, arguments, case.differentiable)
    result = operator(**arguments)
    result = result if isinstance(result, tuple) else (result,)
    return dict(enumerate(result))


@operators
@seeds
def test_matches_twin(case, seed):
    random.seed(seed), torch.manual_seed(seed)
    arguments = with_layouts(random_arguments(case))
    actual, expected = (run(f, case, arguments) for f in (case.operator, case.twin))
    if case.differentiable:
        tolerance = TOLERANCES[expected["output"].dtype]
        checks.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    else:
        assert all(torch.equal(actual[i], expected[i]) for i in expected)


@operators
@seeds
def test_wild_values_stay_in_the_tensors(case, seed):
    """Whatever NaN and infinities give, it has the right form, and indices are in their range."""
    random.seed(seed), torch.manual_seed(seed)
    arguments = with_wild_values(with_layouts(random_arguments(case)))
    actual, expected = (run(f, case, arguments) for f in (case.operator, case.twin))
    for name, theirs in expected.items():
        assert actual[name].shape == theirs.shape and actual[name].dtype == theirs.dtype, name
    if case.name == "knn":
        assert (actual[0] >= 0).all() and (actual[0] < arguments["points"].shape[1]).all()
    if case.name == "balanced_clusters":
        assert torch.equal(actual[0].sort(-1).values, expected[0].sort(-1).values)


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in OPERATORS if c.indices])
@seeds
def test_indices_out_of_range_are_refused(case, seed):
    random.seed(seed)
    if not is_compiled(case.name, "cpu"):
        pytest.skip("segcore/_C.abi3.so has not been built")
    arguments = case.make_inputs(**case.sizes)
    indices = arguments[case.indices]
    count = arguments[case.differentiable[0]].shape[1]
    if isinstance(indices, ops.ClusterNeighborhood):
        count, indices = indices.num_clusters, indices.clusters
    limits = torch.iinfo(indices.dtype)
    wrong = random.choice([-2, limits.min, count, limits.max])
    indices.view(-1)[random.randrange(indices.numel())] = wrong
    with pytest.raises(RuntimeError, match=f"expected .* to {count - 1}, got {wrong}"):
        case.operator(**arguments)


def schema_arguments(case, arguments):
    """Arguments in the order of the operator's schema."""
    if case.name == "balanced_clusters":
        return [*arguments.values(), random.random() < 0.5]
    if case.name != "cluster_attention":
        return list(checks.with_flat_sizes(arguments).values())
    q, k, v, positions, neighborhood, *parameters = arguments.values()
    clusters = (neighborhood.clusters, neighborhood.cluster_size)
    return [q, k, v, positions, *clusters, *parameters, 0.5, *neighborhood.inverse_lists()]


def spoiled(value):
    """Another type, shape or number in place of an argument."""
    if isinstance(value, (list, tuple)):
        return random.choice([value[:-1], [*value, 1], [spoiled(1) for _ in value]])
    if not isinstance(value, torch.Tensor):
        return random.choice([0, -1, 1, 2**31, 2**62, 2**63 - 1, -(2**63)])
    edits = [torch.Tensor.double, torch.Tensor.half, torch.Tensor.int, torch.Tensor.bool]
    edits += [lambda t: t[None], lambda t: t.flatten(), lambda t: t.new_empty(0)]
    if value.dim() > 0:
        dim = random.randrange(value.dim())
        edits += [lambda t: t.narrow(dim, 0, 0), lambda t: torch.cat([t, t], dim)]
    return random.choice(edits)(value)


@operators
@seeds
def test_compiled_operators_guard_themselves(case, seed):
    """Spoiled arguments are refused, or do no harm: no crash, nothing for the sanitizers."""
    random.seed(seed), torch.manual_seed(seed)
    values = schema_arguments(case, random_arguments(case))
    output = getattr(torch.ops.segcore, case.name)(*values)
    backward = getattr(torch.ops.segcore, f"{case.name}_backward", None)
    for _ in range(10):
        arguments = [output, *values] if backward else list(values)
        index = random.randrange(len(arguments))
        arguments[index] = spoiled(arguments[index])
        with contextlib.suppress(RuntimeError):
            getattr(torch.ops.segcore, case.name)(*arguments[-len(values) :])
        if backward:
            with contextlib.suppress(RuntimeError):
                backward(*arguments)


def inference_arguments():
    """Arguments of the operators of CPUs for inference, in the order of their schemas."""
    channels_last = {"memory_format": torch.channels_last}
    x, coarse = torch.randn(2, 9, 7, 6).to(**channels_last), torch.randn(2, 9, 4, 3)
    a = inputs.attention_inputs(dtype=torch.float32)
    w = inputs.window_attention_inputs(dtype=torch.float32)
    m = inputs.mask_inference_inputs(dtype=torch.float32)
    sizes = [side for step in m["steps"] for size in step for side in size]
    return {
        "winograd_conv2d": [x, torch.randn(5, 9, 3, 3), *torch.randn(2, 5), True],
        "group_norm_": [x, 3, *torch.randn(2, 9), 1e-5, coarse.to(**channels_last), True],
        "add_layer_norm_": [*torch.randn(2, 5, 9), *torch.randn(2, 9), 1e-5, torch.zeros(5, 9)],
        "attention": [a["query"], a["key"], a["value"], a["mask"], a["heads"], 0.5],
        "window_attention": [w["qkv"], w["padding"], w["bias"], w["window"], *w["shift"], 0.5],
        "mask_inference": [
            m["masks"], sizes, True, m["class_weights"], m["candidates"], m["candidate_scores"],
            0.0, m["measured"], 0.0, True,
        ],
    }  # fmt: skip


@checks.needs_binary("winograd_conv2d")
@pytest.mark.parametrize("name", inference_arguments())
@seeds
def test_compiled_operators_for_inference_guard_themselves(name, seed):
    random.seed(seed), torch.manual_seed(seed)
    operator, values = getattr(torch.ops.segcore, name), inference_arguments()[name]
    operator(*values)
    for _ in range(10):
        arguments = list(values)
        index = random.randrange(len(arguments))
        arguments[index] = spoiled(arguments[index])
        with contextlib.suppress(RuntimeError):
            operator(*arguments)
