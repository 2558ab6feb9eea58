"""ONNX form of exported programs: our operators and a few of PyTorch's in standard ones."""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from segcore.errors import ConfigError
from segcore.ops import decompositions
from segcore.requirements import require_onnx

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 20


@torch.no_grad()
def to_onnx(program: ExportedProgram, output_names: tuple[str, ...]) -> "ONNXProgram":
    """Convert an exported program to ONNX with opset 20.

    Raises:
        ConfigError: an operator has no ONNX form; names it.
        RequirementError: the extra ``onnx`` is not installed.
    """
    require_onnx()
    from onnxscript import optimizer
    from torch.onnx._internal.exporter._errors import ConversionError  # PyTorch has no public name

    try:
        converted = torch.onnx.export(
            program.run_decompositions(_decompositions()),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=output_names,
            custom_translation_table=_translations(),
            optimize=False,
            verbose=False,
        )
    except ConversionError as error:
        raise ConfigError(f"the model cannot be written as ONNX: {_reason(error)}") from error
    # Not the whole optimizer: it takes constants below 1e-8, which keep divisors from 0, for 0.
    optimizer.inline(converted.model)
    optimizer.fold_constants(converted.model)
    optimizer.remove_unused_nodes(converted.model)
    return converted


def _decompositions() -> dict[Any, Callable[..., Any]]:
    table = decompositions() | {torch.ops.aten.frexp.Tensor: _frexp}
    if hasattr(torch.ops.segcore, "knn"):
        table[torch.ops.segcore.knn.default] = _knn
    return table


def _knn(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """The k nearest points; of equal ones ONNX's TopK, unlike PyTorch's, has the first."""
    dx, dy = (queries[:, :, None] - points[:, None]).unbind(-1)
    return (dx * dx + dy * dy).topk(k, largest=False).indices


def _frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissa in [0.5, 1) and exponent of positive numbers; the logarithm may be off by one."""
    exponent = x.log2().floor() + 1
    mantissa = x * torch.exp2(-exponent)
    exponent = exponent + (mantissa >= 1).to(x.dtype) - (mantissa < 0.5).to(x.dtype)
    return x * torch.exp2(-exponent), exponent.int()


def _translations() -> dict[Any, Callable[..., Any]]:
    from onnxscript import opset20 as op

    def stable_sort(self, stable: bool = True, dim: int = -1, descending: bool = False):
        # Of equal values TopK has the one with the lower index first.
        size = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        return op.TopK(self, size, axis=dim, largest=int(descending), sorted=1)

    def floor_divide(dividend, divisor):
        # Div rounds toward 0, Mod has the sign of the divisor, as in Python.
        return op.Div(op.Sub(dividend, op.Mod(dividend, divisor)), divisor)

    return {torch.ops.aten.sort.stable: stable_sort, operator.floordiv: floor_divide}


def _reason(error: BaseException) -> str:
    """Return the first cause of a conversion's failure, which names the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]
