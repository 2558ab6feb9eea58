"""Comparison of a written program with the model that it was made of."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segcore.export.model import ExportedModel
from segcore.requirements import require_onnxruntime

Run = Callable[[Tensor], Sequence[Tensor]]


class Difference(NamedTuple):
    """Difference of one output.

    Attributes:
        output: its name.
        largest: largest absolute difference of floats; None for integers and masks.
        share: share of the elements that differ, of integers and masks; None for floats.
    """

    output: str
    largest: float | None
    share: float | None


@torch.no_grad()
def compare(
    path: Path, format: str, model: ExportedModel, shape: tuple[int, int, int, int]
) -> list[Difference]:
    """Run a program and its model on noise of a shape.

    Args:
        path, format: as :func:`write_program` has written it.
        shape: (B, 3, H, W).
    """
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    images = (noise * 255).round() if model.normalize else noise * 4 - 2
    expected, got = model(images), load_program(path, format)(images)
    return [
        _difference(name, *pair) for name, *pair in zip(model.fields, expected, got, strict=True)
    ]


def load_program(path: Path, format: str) -> Run:
    """Return a written program as a function of images (B, 3, H, W).

    Raises:
        RequirementError: onnxruntime is not installed, and the format is ONNX.
    """
    if format == "onnx":
        return _onnx_session(path)
    if format == "aoti":
        return torch._inductor.aoti_load_package(str(path))
    return torch.export.load(path).module()


def _onnx_session(path: Path) -> Run:
    require_onnxruntime()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: [
        torch.from_numpy(output) for output in session.run(None, {name: images.numpy()})
    ]


def _difference(name: str, expected: Tensor, got: Tensor) -> Difference:
    if expected.is_floating_point():
        return Difference(name, float((expected - got).abs().max()), None)
    return Difference(name, None, float((expected != got).float().mean()))
