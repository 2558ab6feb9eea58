import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from segcore.layers import convolution, convolve, differentiable_convolution, onednn
from segcore.ops import winograd_conv2d


def make(norm, kernel_size=3, **options):
    torch.manual_seed(0)
    module = Conv2d(
        6, 8, kernel_size, padding=kernel_size // 2, bias=norm is None, norm=norm, **options
    )
    if hasattr(norm, "running_var"):
        with torch.no_grad():
            for tensor in (norm.weight, norm.running_var):
                tensor.uniform_(0.5, 2)
            for tensor in (norm.bias, norm.running_mean):
                tensor.normal_()
    return module


NORMS = {
    "none": lambda: None,
    "frozen": lambda: FrozenBatchNorm2d(8),
    "batch": lambda: nn.BatchNorm2d(8),
    "group": lambda: nn.GroupNorm(2, 8),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}, {"activation": F.relu}])
def test_equals_module_sum_and_activation(norm, kernel_size, options):
    module = make(NORMS[norm](), kernel_size, **options).eval()
    x = torch.randn(2, 6, 9, 11)
    expected = module(x)
    added = torch.randn_like(expected)
    with torch.no_grad():
        torch.testing.assert_close(convolve(module, x), expected)
        torch.testing.assert_close(convolve(module, x, "relu"), expected.relu())
        before = added.clone()
        sums = convolve(module, x, "relu", added)
        torch.testing.assert_close(sums, (expected + added).relu())
        assert torch.equal(added, before)
        sums = convolve(module, x, "relu", added.clone(), overwrite_added=True)
        torch.testing.assert_close(sums, (expected + added).relu())


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", [None, F.relu])
def test_coarse_map_is_resized_and_added(norm, activation):
    module = make(NORMS[norm](), activation=activation).eval()
    x, coarse, added = torch.randn(2, 6, 9, 11), torch.randn(2, 8, 5, 4), torch.randn(2, 8, 9, 11)
    expected = module(x) + F.interpolate(coarse, (9, 11), mode="bilinear", align_corners=False)
    before = coarse.clone()
    torch.testing.assert_close(convolve(module, x, coarse=coarse), expected)
    actual = convolve(module, x, "relu", added, coarse=coarse)
    torch.testing.assert_close(actual, (expected + added).relu())
    assert torch.equal(coarse, before)


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", [None, F.relu])
def test_winograd(norm, activation, monkeypatch):
    """Where there are enough tiles; both ways of a module, in turns."""
    calls = []
    monkeypatch.setattr(
        convolution, "winograd_conv2d", lambda *a, **k: calls.append(1) or winograd_conv2d(*a, **k)
    )
    monkeypatch.setattr(differentiable_convolution, "is_compiled", lambda *_: True)
    module = make(NORMS[norm](), activation=activation).eval()
    for side, by_winograd in ((4, False), (26, True), (4, False), (26, True)):
        x = torch.randn(1, 6, side, side)
        calls.clear()
        torch.testing.assert_close(convolve(module, x), module(x))
        assert bool(calls) == by_winograd or not onednn.has_operators()
        torch.testing.assert_close(convolve(module, x, "relu"), module(x).relu())
        module.weight.mul_(1.5)


@torch.no_grad()
def test_folded_weights_are_kept_for_few_pixels_only():
    for side in (5, 30):
        module, x = make(FrozenBatchNorm2d(8), kernel_size=1), torch.randn(1, 6, side, side)
        torch.testing.assert_close(convolve(module, x), module(x))
        assert (module in convolution._CACHE) == (side == 5) or not onednn.has_operators()


def test_gradients_flow_into_everything():
    module = make(nn.BatchNorm2d(8))
    x = torch.randn(2, 6, 9, 11, requires_grad=True)
    added = torch.randn(2, 8, 9, 11, requires_grad=True)
    tensors = (x, added, *module.parameters())
    expected = torch.autograd.grad((module(x) + added).relu().square().sum(), tensors)
    actual = convolve(module, x, "relu", added, overwrite_added=True).square().sum()
    actual = torch.autograd.grad(actual, tensors)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    "change",
    [
        lambda module: module.weight.mul_(2),
        lambda module: module.norm.running_mean.add_(1),
        lambda module: setattr(module, "norm", FrozenBatchNorm2d(8)),
    ],
)
def test_a_changed_tensor_counts(change):
    module, x = make(FrozenBatchNorm2d(8)), torch.randn(1, 6, 9, 11)
    convolve(module, x)
    change(module)
    torch.testing.assert_close(convolve(module, x), module(x))


@torch.no_grad()
def test_hooks_are_called():
    module, calls = make(None), []
    module.register_forward_hook(lambda *arguments: calls.append(1))
    convolve(module, torch.randn(1, 6, 9, 11))
    assert calls


@pytest.mark.parametrize("norm", ["none", "frozen", "group"])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}, {"dilation": 2}])
@pytest.mark.parametrize("residual", ["none", "kept", "overwritten"])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
def test_gradients_in_training(norm, kernel_size, options, residual, activation):
    module = make(NORMS[norm](), kernel_size, **options)
    x = torch.randn(2, 6, 9, 11, requires_grad=True)
    expected = module(x)
    added = torch.randn_like(expected, requires_grad=True)
    tensors = [x, *module.parameters()]
    if residual != "none":
        expected = expected + added
        tensors.append(added)
    expected = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}[activation](expected)
    summand = None if residual == "none" else added * 1
    actual = convolve(module, x, activation, summand, overwrite_added=residual == "overwritten")
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, tensors, grad),
        torch.autograd.grad(expected, tensors, grad),
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.parametrize("shape", [(1, 6, 3, 5), (0, 6, 4, 4)])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_gradients_of_small_maps(shape, kernel_size):
    module = make(FrozenBatchNorm2d(8), kernel_size)
    x = torch.randn(shape, requires_grad=True)
    tensors = (x, module.weight)
    actual, expected = convolve(module, x, "relu"), module(x).relu()
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual.sum(), tensors),
        torch.autograd.grad(expected.sum(), tensors),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_frozen_convolution_needs_no_gradient():
    module = make(FrozenBatchNorm2d(8)).requires_grad_(False)
    x = torch.randn(2, 6, 9, 11)
    output = convolve(module, x, "relu")
    assert not output.requires_grad
    torch.testing.assert_close(output, module(x).relu())
