import pytest
import torch
from torch.autograd import gradcheck
from torch.library import opcheck

import operator_checks as checks
from operator_inputs import window_attention_inputs as make_inputs
from segcore.ops import window_attention, window_attention_reference

SIZES = (
    {},
    {"batch": 0},
    {"size": (1, 1)},
    {"size": (8, 12), "shift": (0, 0)},
    {"size": (3, 13), "shift": (0, 3)},
    {"size": (13, 3), "shift": (3, 0)},
    {"window": 1, "shift": (0, 0)},
    {"window": 7, "shift": (3, 3), "channels": 32},
    {"window": 12, "shift": (6, 6), "channels": 17, "batch": 1},
    {"channels": 1, "heads": 1},
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_twin(sizes, dtype):
    arguments = make_inputs(dtype=dtype, **sizes)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    ours, twins = window_attention(**arguments), window_attention_reference(**arguments)
    assert ours.dtype == twins.dtype == dtype
    torch.testing.assert_close(ours, twins, **tolerance)


@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_half_error_is_at_most_twice_that_of_pytorch(dtype):
    checks.assert_half_error_at_most_twice_pytorchs(
        window_attention, window_attention_reference, make_inputs(dtype=dtype), ()
    )


def test_large_logits():
    """The largest logit is subtracted: exponentials neither overflow nor vanish together."""
    arguments = make_inputs(dtype=torch.float32)
    arguments["bias"] = 300 * arguments["bias"]
    torch.testing.assert_close(
        window_attention(**arguments), window_attention_reference(**arguments)
    )


def test_the_twin_has_the_gradient():
    """Of every argument that has one; the kernel would cut it off."""
    arguments = make_inputs(batch=1, size=(3, 2), heads=1, channels=2, window=2, shift=(1, 0))
    tensors = [arguments[name].requires_grad_() for name in ("qkv", "padding", "bias")]
    assert gradcheck(lambda *t: window_attention(*t, 2, (1, 0)), tensors)


@checks.needs_binary("window_attention")
def test_result_does_not_depend_on_threads():
    arguments = make_inputs(dtype=torch.float32, size=(40, 40), channels=32)
    checks.assert_independent_of_threads(window_attention, arguments, ())


@checks.needs_binary("window_attention")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_opcheck(dtype):
    *tensors, window, shift = make_inputs(dtype=dtype).values()
    opcheck(torch.ops.segcore.window_attention, (*tensors, window, *shift, 0.5))


def test_compiles_without_graph_break():
    arguments = make_inputs(dtype=torch.float32)
    compiled = torch.compile(window_attention, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**arguments), window_attention(**arguments))


def test_strides():
    arguments = make_inputs()
    changed = {
        "qkv": arguments["qkv"].transpose(1, 2).contiguous().transpose(1, 2),
        "bias": arguments["bias"].mT.contiguous().mT,
        "padding": arguments["padding"].repeat_interleave(2)[::2],
    }
    torch.testing.assert_close(
        window_attention(**arguments | changed), window_attention(**arguments)
    )


@pytest.mark.parametrize("operator", [window_attention, window_attention_reference])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"qkv": lambda x: x[0]}, ValueError, r"qkv: expected shape \(B, H, W, 3 \* h \* c\)"),
        ({"qkv": lambda x: x.int()}, TypeError, "qkv: expected one of float64"),
        ({"qkv": lambda x: x[..., 1:]}, ValueError, r"qkv: expected 3 \* h \* c numbers a cell"),
        ({"qkv": lambda x: x[:, :0]}, ValueError, "qkv: expected sides of at least 1"),
        ({"padding": lambda x: x[1:]}, ValueError, r"padding: expected shape \(72,\)"),
        ({"padding": lambda x: x.half()}, TypeError, "padding: expected the type of qkv"),
        ({"bias": lambda x: x[0]}, ValueError, "bias: expected shape"),
        ({"bias": lambda x: x[:, 1:]}, ValueError, r"bias: expected shape \(3, 16, 16\)"),
        ({"bias": lambda x: x.to("meta")}, ValueError, "bias: expected the device of qkv"),
        ({"window": lambda _: 0}, ValueError, "window: expected at least 1, got 0"),
        ({"shift": lambda _: (0, 4)}, ValueError, "shift: expected two numbers from 0 to 3"),
    ],
)
def test_bad_arguments_are_named(operator, change, error, message):
    with pytest.raises(error, match=message):
        operator(**checks.changed(make_inputs(), change))


@checks.needs_binary("window_attention")
@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (1, torch.zeros(71, dtype=torch.float64), "padding: expected size 72"),
        (2, torch.zeros(3, 16, 16), "bias: expected Double, got Float"),
        (2, torch.zeros(5, 16, 16, dtype=torch.float64), "qkv: expected 3"),
        (3, 5, "bias: expected size 25"),
        (4, 4, "shift: expected from 0 to window - 1, got 4"),
        (5, -1, "shift: expected from 0 to window - 1, got -1"),
    ],
)
def test_the_compiled_operator_guards_itself(index, value, message):
    *tensors, window, shift = make_inputs().values()
    arguments = [*tensors, window, *shift, 0.5]
    arguments[index] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.segcore.window_attention(*arguments)
