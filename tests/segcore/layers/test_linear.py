import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from segcore.layers import Linear, linear, onednn

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}
needs_onednn = pytest.mark.skipif(
    not onednn.has_operators(), reason="PyTorch has no oneDNN operators for this processor"
)


def large_layer(activation="none", bias=True):
    """A layer and an input that oneDNN takes."""
    torch.manual_seed(0)
    return Linear(40, 72, bias, activation=activation), torch.randn(2, 1000, 40)


def plain(layer, x):
    return ACTIVATIONS[layer.activation](F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_f_linear_in_training_and_evaluation(activation, bias):
    layer, x = large_layer(activation, bias)
    torch.testing.assert_close(layer(x), plain(layer, x))
    with torch.inference_mode():
        torch.testing.assert_close(layer.eval()(x), plain(layer, x))


@pytest.mark.parametrize("bias", [True, False])
def test_replacement_has_the_parameters_and_the_mode(bias):
    layer = torch.nn.Linear(40, 72, bias).eval()
    replacement = Linear.replace(layer, "gelu")
    assert replacement.weight is layer.weight and replacement.bias is layer.bias
    assert not replacement.training
    x = torch.randn(3, 40)
    torch.testing.assert_close(replacement(x), F.gelu(layer(x)))


@pytest.mark.parametrize("shape", [(40,), (0, 40), (3, 40), (2, 1000, 40)])
def test_every_shape(shape):
    layer, _ = large_layer()
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), plain(layer, x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_f_linear(activation):
    layer, x = large_layer(activation)
    weights = torch.randn(2, 1000, 72)
    tensors = (x.requires_grad_(), layer.weight, layer.bias)
    actual = torch.autograd.grad((layer(x) * weights).sum(), tensors)
    expected = torch.autograd.grad((plain(layer, x) * weights).sum(), tensors)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_double_backward():
    layer, x = large_layer()
    x.requires_grad_()
    (first,) = torch.autograd.grad((layer(x) ** 2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    matrix = layer.weight.T @ layer.weight
    torch.testing.assert_close(second, (2 * matrix.sum(0)).expand_as(x), rtol=1e-4, atol=1e-4)


@needs_onednn
def test_large_products_take_onednn(monkeypatch):
    calls = []
    taken = onednn.linear
    monkeypatch.setattr(onednn, "linear", lambda *a, **k: calls.append(0) or taken(*a, **k))
    layer, x = large_layer()
    layer(x)
    layer(x[0, :2])
    assert len(calls) == 1


@needs_onednn
@torch.no_grad()
def test_few_rows_take_the_weight_as_it_is():
    layer = Linear(256, 200).eval()
    layer(torch.randn(100, 256))
    assert layer._reordered is None
    layer(torch.randn(1000, 256))
    assert layer._reordered is not None


@needs_onednn
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.mul_(2),
        lambda layer: layer.load_state_dict({"weight": torch.ones(72, 40), "bias": layer.bias}),
        lambda layer: setattr(layer, "weight", torch.nn.Parameter(torch.ones(72, 40))),
        lambda layer: layer.double().float().weight.add_(1),
        lambda layer: (layer.train(), layer.weight.data.mul_(2), layer.eval()),
    ],
)
@torch.no_grad()
def test_a_changed_weight_counts(change):
    layer, x = large_layer()
    layer.eval()(x)
    change(layer)
    torch.testing.assert_close(layer(x), plain(layer, x))


@torch.no_grad()
def test_used_layers_are_copied_and_pickled():
    layer, x = large_layer()
    layer.eval()(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))


def test_autocast_and_other_types():
    layer, x = large_layer()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64


def test_is_f_linear_in_an_exported_program():
    layer, x = large_layer("relu")
    targets = {node.target for node in torch.export.export(layer.eval(), (x,)).graph.nodes}
    assert torch.ops.aten.linear.default in targets


@torch.no_grad()
def test_compiles_without_graph_break():
    layer, x = large_layer("relu")
    compiled = torch.compile(layer.eval(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), plain(layer, x))


def test_function_takes_a_map_as_weight():
    queries, pixels = torch.randn(5, 16), torch.randn(30_000, 16)
    torch.testing.assert_close(linear(queries, pixels), queries @ pixels.T)
