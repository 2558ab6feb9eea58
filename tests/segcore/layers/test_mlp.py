import pytest
import torch

from segcore.layers import MLP


def test_relu_between_layers_only():
    torch.manual_seed(0)
    mlp = MLP(3, 5, 2, 3)
    x = torch.randn(4, 3)
    hidden = mlp.layers[1](mlp.layers[0](x).relu()).relu()
    assert torch.equal(mlp(x), mlp.layers[2](hidden))
    assert (mlp(torch.randn(100, 3)) < 0).any()
    assert [tuple(layer.weight.shape) for layer in mlp.layers] == [(5, 3), (5, 5), (2, 5)]


def test_one_layer_is_linear():
    mlp = MLP(3, 5, 2, 1)
    assert tuple(mlp.layers[0].weight.shape) == (2, 3)


def test_no_layer():
    with pytest.raises(ValueError, match="num_layers: expected at least 1, got 0"):
        MLP(3, 5, 2, 0)
