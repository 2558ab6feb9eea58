import pytest
import torch
from torch import nn

from segcore.layers import add_norm
from segcore.layers.add_norm import add_norm_
from segcore.ops import add_layer_norm_
from segcore.ops._library import is_compiled


@pytest.fixture
def calls(monkeypatch):
    """Calls of the operator."""
    seen = []

    def count(*args, **options):
        seen.append(args)
        return add_layer_norm_(*args, **options)

    monkeypatch.setattr(add_norm, "add_layer_norm_", count)
    return seen


def make_inputs(dtype=torch.float32):
    torch.manual_seed(0)
    norm = nn.LayerNorm(12, dtype=dtype)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    return norm, *torch.randn(2, 2, 7, 12, dtype=dtype)


def check(norm, x, added, out=None):
    """Compare with the steps; returns what ``add_norm_`` returned."""
    total = x + added
    result = add_norm_(norm, x, added, out)
    torch.testing.assert_close(result, norm(total), rtol=1e-5, atol=1e-5)
    if out is not x:
        assert torch.equal(x, total)
    return result


@torch.no_grad()
def test_takes_the_operator(calls):
    norm, x, added = make_inputs()
    out = torch.empty_like(x)
    assert check(norm, x.clone(), added, out) is out
    check(norm, x.clone(), added)
    assert check(norm, x, added, x) is x
    assert len(calls) == (3 if is_compiled("add_layer_norm_", "cpu") else 0)


@torch.no_grad()
def test_other_types_and_memory_take_steps(calls):
    check(*make_inputs(torch.float64))
    norm, x, added = make_inputs()
    check(norm, x.clone(), added.transpose(0, 1).contiguous().transpose(0, 1))
    wide = torch.empty(2, 9, 12)
    assert check(norm, x, added, wide[:, :7]).data_ptr() == wide.data_ptr()
    assert not calls


@torch.no_grad()
def test_hooks_are_called(calls):
    norm, x, added = make_inputs()
    seen = []
    norm.register_forward_hook(lambda *arguments: seen.append(0))
    add_norm_(norm, x, added)
    assert seen and not calls
