"""Whether a network is compiled to one graph for images of every size."""

import os
from collections.abc import Sequence

import pytest
import torch
from torch.fx import GraphModule

import segcore
from segcore.meta_arch import SegmentationModel

# Tracing takes 5 to 20 seconds a model: the suite traces Mask2Former alone.
on_request = pytest.mark.skipif(
    "SEGCORE_TEST_COMPILE" not in os.environ, reason="SEGCORE_TEST_COMPILE is not set"
)


class CountedGraphs(list):
    """A backend of ``torch.compile`` that runs graphs as they are, and keeps them."""

    def __call__(self, graph: GraphModule, example_inputs: Sequence) -> GraphModule:
        self.append(graph)
        return graph


@torch.no_grad()
def assert_compiles(model: SegmentationModel, sizes: Sequence[tuple[int, int]]) -> None:
    """Compile a model's network, which has no graph break or it fails, and compare it with eager
    mode; all sizes have one graph."""
    torch.manual_seed(0)
    dtype = model.eval().dtype
    images = [torch.randn(1, 3, *size, dtype=dtype) for size in sizes]
    expected = [model.network(x) for x in images]
    names = list(model.state_dict())
    graphs = CountedGraphs()
    segcore.compile(model, backend=graphs)
    for x, outputs in zip(images, expected, strict=True):
        # A compiled network multiplies with another library, which sums in another order.
        torch.testing.assert_close(model.network(x), outputs, rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1
    assert list(model.state_dict()) == names
