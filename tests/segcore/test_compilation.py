"""``segcore.compile``: when the compiled network runs, copies, weights, refusals."""

import copy

import pytest
import torch
from torch import nn

import segcore
from compile_checks import CountedGraphs
from segcore.errors import ConfigError
from segcore.meta_arch import SegmentationModel
from segcore.precision import in_precision


class Convolution(SegmentationModel):
    """A network of one convolution, whose outputs are the predictions."""

    def __init__(self):
        super().__init__(pixel_mean=[0] * 3, pixel_std=[1] * 3, size_divisibility=32)
        self.convolution = nn.Conv2d(3, 4, 3, stride=4)

    def network(self, images):
        return (self.convolution(images),)

    def mask_prediction(self, logits, *sizes):
        return logits


@pytest.fixture
def graphs():
    return CountedGraphs()


@pytest.fixture
def model(graphs):
    torch.manual_seed(0)
    return segcore.compile(Convolution().eval(), backend=graphs)


@torch.no_grad()
def test_photos_of_every_size_have_one_graph(model, graphs):
    for size in ((90, 120), (160, 64), (130, 100)):
        photo = {"image": torch.rand(3, *size)}
        (logits,) = model.predict_masks([photo])
        torch.testing.assert_close(
            logits, model.convolution(model.preprocess_images([photo]).tensor)[0]
        )
    assert len(graphs) == 1
    assert model.network(torch.rand(1, 3, 32, 64))[0].shape == (1, 4, 8, 16)
    assert len(graphs) == 2  # a side of one block


def test_training_and_gradients_are_eager(model, graphs):
    images = torch.rand(1, 3, 96, 128)
    model.network(images)[0].sum().backward()
    assert model.convolution.weight.grad is not None
    with torch.no_grad():
        model.train().network(images)
    assert not graphs


@torch.no_grad()
def test_copies_are_compiled_anew(model, graphs):
    images = torch.rand(1, 3, 96, 128)
    (expected,) = model.network(images)
    half = in_precision(model, "bfloat16")
    (actual,) = half.network(images.bfloat16())
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.05)
    other = copy.deepcopy(model)
    other.convolution.weight.zero_()
    assert not torch.equal(other.network(images)[0], expected)
    assert torch.equal(model.network(images)[0], expected)
    assert len(graphs) == 3


@torch.no_grad()
def test_weights_are_read_at_each_call(model, graphs):
    images = torch.rand(1, 3, 96, 128)
    model.network(images)
    model.load_state_dict({name: torch.ones_like(x) for name, x in model.state_dict().items()})
    torch.testing.assert_close(model.network(images)[0], model.convolution(images))
    assert len(graphs) == 1


def test_compiled_twice(model, graphs):
    other = CountedGraphs()
    segcore.compile(model, backend=other)
    with torch.no_grad():
        model.network(torch.rand(1, 3, 96, 128))
    assert len(other) == 1 and not graphs


def test_models_that_do_not_segment_images_are_refused():
    with pytest.raises(ConfigError, match=r"model: expected .* segments images, got Linear"):
        segcore.compile(nn.Linear(1, 1))
