"""Whether a network can be exported for images of every size."""

from collections.abc import Iterable

import torch
from torch import nn

DIVISOR = 32


class _Network(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor):
        return getattr(self.model, "network", self.model)(images)


@torch.no_grad()
def assert_exports(
    model: nn.Module, size: tuple[int, int], other_sizes: Iterable[tuple[int, int]]
) -> None:
    """Export a model's network, or a backbone, at ``size`` with height and width multiples of 32,
    and compare it with the model at the other sizes."""
    torch.manual_seed(0)
    network = _Network(model.eval())
    sides = {2: DIVISOR * torch.export.Dim("rows"), 3: DIVISOR * torch.export.Dim("columns")}
    exported = torch.export.export(
        network, (torch.randn(2, 3, *size),), dynamic_shapes=(sides,), strict=False
    ).module()
    for other in other_sizes:
        images = torch.randn(2, 3, *other)
        # The exported program multiplies with another library, which sums in another order.
        torch.testing.assert_close(exported(images), network(images), rtol=1e-4, atol=1e-4)
