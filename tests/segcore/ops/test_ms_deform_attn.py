import pytest
import torch
from torch.autograd import gradcheck
from torch.library import opcheck

import operator_checks as checks
from operator_inputs import ms_deform_attn_inputs
from segcore.ops import ms_deform_attn, ms_deform_attn_reference

SHAPES = [(6, 5), (3, 4), (1, 2)]
needs_binary = checks.needs_binary("ms_deform_attn")
devices = checks.devices("ms_deform_attn")


def make_inputs(*, shapes=SHAPES, requires_grad=False, **options):
    """Random arguments in the order of the operator."""
    arguments = ms_deform_attn_inputs(spatial_shapes=shapes, **options)
    return tuple(
        value.requires_grad_(requires_grad) if isinstance(value, torch.Tensor) else value
        for value in arguments.values()
    )


def run_with_gradients(operator, value, shapes, locations, weights):
    """Output and the three gradients for a fixed upstream gradient."""
    inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
    output = operator(inputs[0], shapes, *inputs[1:])
    generator = torch.Generator().manual_seed(1)
    grad_output = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    return output, *torch.autograd.grad(output, inputs, grad_output.to(output))


def assert_same(arguments, **tolerances):
    actual = run_with_gradients(ms_deform_attn, *arguments)
    expected = run_with_gradients(ms_deform_attn_reference, *arguments)
    for ours, twin in zip(actual, expected, strict=True):
        assert ours.dtype == twin.dtype
        torch.testing.assert_close(ours, twin, **tolerances)


def test_reference_by_hand():
    """Level of 2 x 2 cells 1 2 / 3 4, read at the center, at a cell, and half a cell outside."""
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    locations = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.0, 0.25], [-0.3, 0.5]])
    weights = torch.ones(1, 4, 1, 1, 1)
    for operator in (ms_deform_attn_reference, ms_deform_attn):
        output = operator(value, [(2, 2)], locations.view(1, 4, 1, 1, 1, 2), weights)
        torch.testing.assert_close(output.flatten(), torch.tensor([2.5, 2.0, 0.5, 0.0]))


@devices
@pytest.mark.parametrize("channels", [1, 2, 8, 16, 30, 32, 48, 64, 71])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_twin(channels, dtype, device):
    assert_same(
        make_inputs(channels=channels, dtype=dtype, device=device),
        **({"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}),
    )


@devices
@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "heads": 1, "queries": 1, "points": 1, "shapes": [(1, 1)]},
        {"batch": 3, "heads": 5, "queries": 13, "points": 3, "shapes": [(7, 1), (1, 9)]},
        {"heads": 16, "points": 9, "shapes": [(4, 4)] * 6},
        {"channels": 1025, "queries": 2, "points": 1},
        {"spread": 100.0},
    ],
    ids=str,
)
def test_matches_twin_at_odd_sizes(sizes, device):
    assert_same(make_inputs(device=device, **sizes))


@devices
@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_half_error_is_at_most_twice_that_of_pytorch(dtype, device):
    """The twin on the same half values sets the limit; the truth is the twin in float64."""
    value, shapes, locations, weights = make_inputs(channels=32, dtype=dtype, device=device)
    in_float64 = (value.double(), shapes, locations.double(), weights.double())
    exact = run_with_gradients(ms_deform_attn_reference, *in_float64)
    twin = run_with_gradients(ms_deform_attn_reference, value, shapes, locations, weights)
    actual = run_with_gradients(ms_deform_attn, value, shapes, locations, weights)
    assert actual[0].dtype == actual[1].dtype == dtype
    assert actual[2].dtype == actual[3].dtype == torch.float32
    for ours, theirs, truth in zip(actual, twin, exact, strict=True):
        assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max()


@devices
@pytest.mark.parametrize(
    "sizes",
    [{"queries": 0}, {"batch": 0}, {"points": 0}, {"channels": 0}, {"heads": 0}],
    ids=str,
)
def test_empty(sizes, device):
    assert_same(make_inputs(device=device, **sizes))


@devices
def test_no_level_gives_zeros(device):
    value, shapes, locations, weights = make_inputs(device=device, shapes=[])
    for operator in (ms_deform_attn, ms_deform_attn_reference):
        output = operator(value, shapes, locations, weights)
        assert torch.equal(output, torch.zeros(2, 7, 24, dtype=torch.float64, device=device))


@devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", [1e4, -1e30, torch.inf, -torch.inf, torch.nan])
def test_far_outside_contributes_nothing(place, dtype, device):
    value, shapes, locations, weights = make_inputs(dtype=dtype, device=device)
    locations[:, ::2] = place
    locations[:, 1::2, ..., 0] = place
    for result in run_with_gradients(ms_deform_attn, value, shapes, locations, weights):
        assert (result == 0).all()


@devices
def test_cells_outside_do_not_leak(device):
    """An infinite cell only reaches the samples that it is a corner of."""
    value, shapes, locations, weights = make_inputs(device=device, shapes=[(4, 4)])
    value[:, 0] = torch.inf
    locations[..., 0] = 0.9
    assert ms_deform_attn(value, shapes, locations, weights).isfinite().all()


@devices
def test_gradcheck(device):
    value, shapes, locations, weights = make_inputs(
        channels=3, heads=2, queries=3, points=2, device=device, requires_grad=True
    )
    # Gradients of locations jump where a sample crosses from one cell to the next.
    sizes = torch.tensor(shapes, device=device).flip(-1)[:, None]
    cells = locations.detach() * sizes
    cells = (cells - 0.5).floor() + 0.5 + ((cells - 0.5) % 1).clamp(0.05, 0.95)
    locations = (cells / sizes).requires_grad_()
    assert gradcheck(
        lambda *args: ms_deform_attn(args[0], shapes, *args[1:]),
        (value, locations, weights),
        nondet_tol=1e-12,  # of sums by atomics on a GPU
    )


@needs_binary
def test_second_derivative_is_refused():
    value, shapes, locations, weights = make_inputs(requires_grad=True)
    output = ms_deform_attn(value, shapes, locations, weights)
    (grad,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="ms_deform_attn_reference"):
        grad.sum().backward()


@needs_binary
@devices
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize(
    "sizes", [{}, {"queries": 0}, {"channels": 30, "shapes": [(3, 5)]}], ids=str
)
def test_opcheck(sizes, dtype, device):
    value, shapes, locations, weights = make_inputs(
        dtype=dtype, device=device, requires_grad=True, **sizes
    )
    flat = [side for shape in shapes for side in shape]
    opcheck(torch.ops.segcore.ms_deform_attn.default, (value, flat, locations, weights))
    grad_output = torch.randn_like(ms_deform_attn(value, shapes, locations, weights))
    arguments = (grad_output, value, flat, locations, weights)
    opcheck(
        torch.ops.segcore.ms_deform_attn_backward.default,
        tuple(arg.detach() if isinstance(arg, torch.Tensor) else arg for arg in arguments),
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_break(dynamic):
    arguments = make_inputs(dtype=torch.float32)
    compiled = torch.compile(ms_deform_attn, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    expected = run_with_gradients(ms_deform_attn, *arguments)
    actual = run_with_gradients(compiled, *arguments)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_autocast_keeps_the_type_of_value(dtype):
    value, shapes, locations, weights = make_inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        assert ms_deform_attn(value, shapes, locations, weights).dtype == torch.float32
        output = ms_deform_attn(value.to(dtype), shapes, locations.to(dtype), weights.to(dtype))
    assert output.dtype == dtype
    expected = ms_deform_attn(
        value.to(dtype), shapes, locations.to(dtype).float(), weights.to(dtype).float()
    )
    assert torch.equal(output, expected)


def test_gradients_have_the_types_of_the_arguments():
    value, shapes, locations, weights = make_inputs(dtype=torch.bfloat16)
    arguments = [value, locations.double(), weights.half()]
    inputs = [tensor.requires_grad_() for tensor in arguments]
    output = ms_deform_attn(inputs[0], shapes, *inputs[1:])
    grads = torch.autograd.grad(output.sum(), inputs)
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float64, torch.float16]


def test_shapes_as_tensor_and_strided_arguments():
    value, shapes, locations, weights = make_inputs()
    expected = ms_deform_attn(value, shapes, locations, weights)
    strided = value.transpose(1, 3).contiguous().transpose(1, 3)
    reversed_points = locations.flip(-1).flip(-1).transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous() and not reversed_points.is_contiguous()
    actual = ms_deform_attn(strided, torch.tensor(shapes), reversed_points, weights)
    assert torch.equal(actual, expected)


@needs_binary
@pytest.mark.parametrize("sizes", [{}, {"batch": 1, "heads": 1, "shapes": [(40, 40)]}], ids=str)
def test_result_does_not_depend_on_threads(sizes):
    arguments = make_inputs(queries=2000, channels=33, dtype=torch.float32, **sizes)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(run_with_gradients(ms_deform_attn, *arguments))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("operator", [ms_deform_attn, ms_deform_attn_reference])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"value": lambda v: v[0]}, ValueError, r"value: expected shape \(N, S, M, D\)"),
        ({"value": lambda v: v[:, 1:]}, ValueError, "spatial_shapes: .* have 44 cells, .* has 43"),
        ({"value": lambda v: v.long()}, TypeError, "value: expected one of float64"),
        ({"value": lambda v: v.numpy()}, TypeError, "value: expected a tensor, got ndarray"),
        ({"locations": lambda x: x[..., :1]}, ValueError, "sampling_locations: expected shape"),
        ({"locations": lambda x: x[:, :, :2]}, ValueError, "sampling_locations: expected shape"),
        ({"locations": lambda x: x.flatten(3)}, ValueError, "sampling_locations: expected shape"),
        ({"weights": lambda w: w[:, :5]}, ValueError, "attention_weights: expected shape"),
        ({"weights": lambda w: w.int()}, TypeError, "attention_weights: expected one of"),
        ({"weights": lambda w: w.to("meta")}, ValueError, "attention_weights: expected the device"),
        ({"shapes": lambda s: s[:2]}, ValueError, "spatial_shapes"),
        ({"shapes": lambda s: [(*s[0], 1), *s[1:]]}, ValueError, "height, width"),
        ({"shapes": lambda s: [(-6, -5), *s[1:]]}, ValueError, "at least 1"),
        ({"shapes": lambda s: torch.tensor(s).float()}, TypeError, "CPU int64"),
        ({"shapes": lambda s: torch.tensor(s).flatten()}, ValueError, "spatial_shapes"),
    ],
)
def test_bad_arguments_are_named(operator, change, error, message):
    value, shapes, locations, weights = make_inputs()
    arguments = {"value": value, "shapes": shapes, "locations": locations, "weights": weights}
    arguments |= {name: edit(arguments[name]) for name, edit in change.items()}
    with pytest.raises(error, match=message):
        operator(*arguments.values())


@needs_binary
@pytest.mark.parametrize(
    ("position", "edit", "message"),
    [
        (0, lambda v: v[:, 1:], "value: has 43 tokens"),
        (0, lambda v: v.float(), "sampling_locations: expected Float, got Double"),
        (1, lambda s: s[:-1], "pairs"),
        (1, lambda s: [0, *s[1:]], "from 1 to"),
        (2, lambda x: x[:, :, :1], "sampling_locations: expected size 3 in dimension 2, got 1"),
        (3, lambda w: w[..., 0], "attention_weights: expected 5 dimensions, got 4"),
    ],
)
def test_the_compiled_operator_guards_itself(position, edit, message):
    value, shapes, locations, weights = make_inputs()
    arguments = [value, [side for shape in shapes for side in shape], locations, weights]
    arguments[position] = edit(arguments[position])
    with pytest.raises(RuntimeError, match=message):
        torch.ops.segcore.ms_deform_attn(*arguments)
