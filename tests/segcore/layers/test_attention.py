import pytest
import torch
from torch import nn

from segcore.layers import MultiHeadAttention


@pytest.mark.parametrize("masked", [False, True])
def test_equals_torch_module(masked):
    torch.manual_seed(0)
    ours = MultiHeadAttention(24, 4).double()
    theirs = nn.MultiheadAttention(24, 4, batch_first=True).double()
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    query, key, value = (
        torch.randn(2, n, 24, dtype=torch.float64, requires_grad=True) for n in (5, 11, 11)
    )
    visible = blocked = None
    if masked:
        visible = torch.rand(2, 1, 5, 11) > 0.5
        visible[..., 0] = True
        blocked = ~visible.expand(-1, 4, -1, -1).flatten(0, 1)
    actual = ours(query, key, value, visible)
    expected = theirs(query, key, value, attn_mask=blocked, need_weights=False)[0]
    torch.testing.assert_close(actual, expected)

    parameters = [dict(module.named_parameters()) for module in (ours, theirs)]
    weight = torch.randn_like(actual)
    for a, b in zip(
        torch.autograd.grad((actual * weight).sum(), [query, key, value, *ours.parameters()]),
        torch.autograd.grad(
            (expected * weight).sum(),
            [query, key, value, *(parameters[1][name] for name in parameters[0])],
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("heads", [None, 1, 4])
def test_inference_equals_training(heads, dtype):
    """With and without the operator for CPUs, which masks heads alike."""
    torch.manual_seed(0)
    module = MultiHeadAttention(24, 4).to(dtype)
    query, key = torch.randn(2, 5, 24, dtype=dtype), torch.randn(2, 11, 24, dtype=dtype)
    visible = None if heads is None else torch.rand(2, heads, 5, 11) > 0.5
    expected = module(query, key, key, visible)
    with torch.no_grad():
        torch.testing.assert_close(module(query, key, key, visible), expected)


def test_width_must_divide():
    with pytest.raises(ValueError, match="num_heads: expected a divisor of embed_dim 10, got 4"):
        MultiHeadAttention(10, 4)
