import pytest
import torch
from torch.autograd import gradcheck
from torch.library import opcheck

import operator_checks as checks
from operator_inputs import attention_inputs as make_inputs
from segcore.ops import attention, attention_reference

SIZES = (
    {},
    {"masked": False},
    {"batch": 0},
    {"queries": 0},
    {"keys": 0},
    {"queries": 1, "keys": 1, "batch": 1},
    {"queries": 13, "keys": 256, "channels": 32, "heads": 1},
    {"queries": 6, "keys": 513, "channels": 17, "masked": False},
    {"queries": 300, "keys": 70, "channels": 1},
    {"queries": 2, "keys": 40, "channels": 100},
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_matches_twin(sizes, dtype):
    arguments = make_inputs(dtype=dtype, **sizes)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    ours, twins = attention(**arguments), attention_reference(**arguments)
    assert ours.dtype == twins.dtype == dtype
    torch.testing.assert_close(ours, twins, **tolerance)


@pytest.mark.parametrize("dtype", checks.HALF_TYPES)
def test_half_error_is_at_most_twice_that_of_pytorch(dtype):
    checks.assert_half_error_at_most_twice_pytorchs(
        attention, attention_reference, make_inputs(dtype=dtype), ()
    )


def test_a_query_that_sees_no_key_gets_zeros():
    output = attention(**make_inputs())
    assert (output[:, 0] == 0).all()
    assert (output[:, 1:] != 0).all()


@pytest.mark.parametrize("logit", [300.0, 1e5])
def test_large_logits(logit):
    """The largest logit is subtracted, that of any block of keys: nothing overflows or vanishes."""
    arguments = make_inputs(dtype=torch.float32, keys=700, masked=False)
    arguments["key"] *= torch.linspace(-1, 1, 700)[:, None] * logit
    torch.testing.assert_close(
        attention(**arguments), attention_reference(**arguments), rtol=1e-3, atol=1e-3
    )


def test_nan_stays_with_its_query():
    arguments = make_inputs(masked=False)
    arguments["query"][0, 2, 0] = torch.nan
    is_nan = attention(**arguments).isnan()
    assert is_nan[0, 2, :8].all() and is_nan.sum() == 8


def test_one_mask_for_all_images():
    arguments = make_inputs()
    mask = arguments["mask"][:1]
    torch.testing.assert_close(
        attention(**arguments | {"mask": mask}),
        attention(**arguments | {"mask": mask.repeat(2, 1, 1)}),
    )


def test_the_twin_has_the_gradient():
    """Of every argument that has one; the kernel would cut it off."""
    arguments = make_inputs(batch=1, queries=2, keys=3, heads=2, channels=2, masked=False)
    tensors = [arguments[name].requires_grad_() for name in ("query", "key", "value")]
    assert gradcheck(lambda *t: attention(*t, 2), tensors)


@checks.needs_binary("attention")
def test_result_does_not_depend_on_threads():
    for queries in (7, 100):
        arguments = make_inputs(dtype=torch.float32, queries=queries, channels=32)
        checks.assert_independent_of_threads(attention, arguments, ())


@checks.needs_binary("attention")
@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(masked):
    a = make_inputs(masked=masked, dtype=torch.float32)
    opcheck(
        torch.ops.segcore.attention,
        (a["query"], a["key"], a["value"], a["mask"], a["heads"], 0.5),
    )


def test_compiles_without_graph_break():
    arguments = make_inputs(dtype=torch.float32)
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(**arguments), attention(**arguments))


def test_strides():
    """Views of one packed projection, and tensors whose rows do not lie side by side."""
    arguments = make_inputs()
    packed = torch.cat((arguments["value"], arguments["key"]), dim=2)
    value, key = packed.chunk(2, dim=2)
    changed = {
        "query": arguments["query"].mT.contiguous().mT,
        "key": key,
        "value": value,
        "mask": arguments["mask"].mT.contiguous().mT,
    }
    torch.testing.assert_close(attention(**arguments | changed), attention(**arguments))


@pytest.mark.parametrize("operator", [attention, attention_reference])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": lambda x: x[0]}, ValueError, r"query: expected shape \(B, Q, h \* c\)"),
        ({"query": lambda x: x.int()}, TypeError, "query: expected one of float64"),
        ({"heads": lambda _: 5}, ValueError, r"query: expected h \* c numbers a row, got 24 for 5"),
        ({"heads": lambda _: 0}, ValueError, "query: expected .* for 0 heads"),
        ({"key": lambda x: x[0]}, ValueError, r"key: expected shape \(B, S, h \* c\)"),
        ({"key": lambda x: x[..., 1:]}, ValueError, r"key: expected shape \(2, 300, 24\)"),
        ({"key": lambda x: x.half()}, TypeError, "key: expected the type of query"),
        ({"value": lambda x: x[:, 1:]}, ValueError, r"value: expected shape \(2, 300, 24\)"),
        ({"value": lambda x: x.to("meta")}, ValueError, "value: expected the device of query"),
        ({"mask": lambda x: x.int()}, TypeError, "mask: expected a bool tensor, got torch.int32"),
        ({"mask": lambda _: True}, TypeError, "mask: expected a bool tensor, got bool"),
        ({"mask": lambda x: x[0]}, ValueError, r"mask: expected shape \(B, Q, S\)"),
        ({"mask": lambda x: x[:, 1:]}, ValueError, r"mask: expected shape \(2, 7, 300\)"),
    ],
)
def test_bad_arguments_are_named(operator, change, error, message):
    with pytest.raises(error, match=message):
        operator(**checks.changed(make_inputs(), change))


@checks.needs_binary("attention")
@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (1, torch.zeros(1, 300, 24, dtype=torch.float64), "key: expected size 2"),
        (2, torch.zeros(2, 299, 24, dtype=torch.float64), "value: expected size 300"),
        (2, torch.zeros(2, 300, 24), "value: expected Double, got Float"),
        (3, torch.ones(2, 7, 299, dtype=torch.bool), "mask: expected size 300"),
        (3, torch.ones(2, 7, 300), "mask: expected Bool, got Float"),
        (4, 5, "query: expected heads"),
        (4, 0, "query: expected heads"),
    ],
)
def test_the_compiled_operator_guards_itself(index, value, message):
    a = make_inputs()
    arguments = [a["query"], a["key"], a["value"], a["mask"], a["heads"], 0.5]
    arguments[index] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.segcore.attention(*arguments)
