"""Compiled networks: ``torch.compile`` of what a model computes from tensor to tensors."""

import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor

from segcore.errors import ConfigError
from segcore.meta_arch import SegmentationModel, require_segmentation_model

Model = TypeVar("Model", bound=SegmentationModel)

# Sides of images are multiples of it where a model pads to multiples of it.
BLOCK = 32


def compile(
    model: Model, *, freeze: bool = False, backend: str | Callable[..., Any] = "inductor"
) -> Model:
    """Compile the network of a model by ``torch.compile``, in place, at its first image.

    ::

        predictor = segcore.Predictor("output")
        segcore.compile(predictor.model, freeze=True)

    The network is one graph for images of every size, without graph breaks. Training, gradients,
    batches with sizes of their images and everything after the network stay as they are, and so do
    the names of the weights. A copy of the model is compiled anew.

    Args:
        model: in the precision in which it is to run.
        freeze: take the weights for constants: batch norms are folded, weights kept a second time
            in the order in which they are read. After a change of the weights, compile again.
        backend: of ``torch.compile``.

    Returns:
        The model.

    Raises:
        ConfigError: the model cannot be compiled; says why. The compiler's own errors come with
            the first image.
    """
    require_segmentation_model(model)
    if reason := model.why_not_compiled():
        raise ConfigError(f"{type(model).__name__} cannot be compiled: {reason}")
    vars(model).pop("network", None)
    model.network = CompiledNetwork(model.network, freeze=freeze, backend=backend)
    return model


class CompiledNetwork:
    """The network of a model, compiled for evaluation.

    Args:
        network: method ``network`` of a model.
        freeze, backend: see :func:`compile`.
    """

    def __init__(self, network: Callable[..., Any], *, freeze: bool, backend: Any):
        self.network = network
        self.options = {"freeze": freeze, "backend": backend}
        # Not an option that is False: only Inductor has it.
        options = {"freezing": True} if freeze else None
        self._compiled = torch.compile(
            _with_own_code(self._of_blocks), fullgraph=True, backend=backend, options=options
        )

    def __call__(self, images: Tensor, *others: Any) -> Any:
        """Run the network, see :meth:`SegmentationModel.network`."""
        model = self.network.__self__
        if model.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.network(images, *others)
        if any(other is not None for other in others):
            return self.network(images, *others)
        return self._compiled(_in_blocks(images, model.size_divisibility))

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledNetwork":
        return CompiledNetwork(copy.deepcopy(self.network, memo), **self.options)

    def _of_blocks(self, blocks: Tensor) -> Any:
        return self.network(blocks.flatten(4, 5).flatten(2, 3))


def _in_blocks(images: Tensor, divisor: int) -> Tensor:
    """Divide images (B, C, H, W) into blocks (B, C, H / b, b, W / b, b), whose number is dynamic.

    The compiler then knows that sides are multiples of b, which is 1 where they need not be.

    Args:
        divisor: of the sides of the model's images; 0: they are of one size, which is not dynamic.
    """
    block = BLOCK if divisor and divisor % BLOCK == 0 else 1
    blocks = images.unflatten(3, (-1, block)).unflatten(2, (-1, block))
    if divisor:
        # A side of one block is another graph.
        torch._dynamo.mark_dynamic(blocks, [dim for dim in (2, 4) if blocks.shape[dim] > 1])
    return blocks


def _with_own_code(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a bound method that shares no code object with those of other models.

    Graphs are kept, and limited in number, by code object.
    """
    function = method.__func__
    code = function.__code__.replace()
    own = FunctionType(code, function.__globals__, function.__name__)
    return own.__get__(method.__self__)
