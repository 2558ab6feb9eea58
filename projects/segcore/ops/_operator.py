"""Definition of operators: public function, PyTorch twin, fake kernels and autograd, all from one
tuple of prepared arguments."""

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec

import torch
from torch import Tensor

from ._library import NAMESPACE, add_operator, has_kernel, is_registered

P = ParamSpec("P")

_references: dict[str, Callable[..., Any]] = {}  # operator -> twin with the schema's arguments


def operator(
    arguments: type,
    *,
    reference: Callable[[Any], Any],
    fake: Callable[[Any], Any],
    fallback: tuple[str, Callable[[Any], Any]] | None = None,
    differentiable: Sequence[str] = (),
    atomics: bool = False,
    cpu_only: bool = False,
    for_inference: bool = False,
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Define an operator by a function that checks and prepares its arguments.

    The decorated function has the name, the parameters and the docstring of the public function,
    and returns ``arguments``. The public function passes these to the kernel, compiled or in
    Triton, where there is one for the device of the first, otherwise to ``fallback``. Its
    attribute ``reference`` is the twin: the same function with ``reference`` on every device.

    Args:
        arguments: NamedTuple with the arguments of the operator's schema in ``csrc/ops.cpp``
        reference: results of ``arguments`` in plain PyTorch
        fake: empty results of ``arguments``, for ``torch.compile`` and meta tensors
        fallback: another operator, which may have a kernel where this one has none, and results of
            ``arguments`` by it; ``reference`` unless given
        differentiable: arguments that have a gradient, in the order in which ``<name>_backward``
            returns these; its arguments are the gradient of the output and ``arguments``
        atomics: whether a device may sum gradients by atomics, in changing order; the last argument
            of ``<name>_backward`` says whether :func:`torch.use_deterministic_algorithms` is on,
            which forbids it
        cpu_only: there is no kernel for CUDA
        for_inference: the kernel has no gradient: where one is needed, ``reference`` is used
    """

    def define(prepare: Callable[P, Any]) -> Callable[P, Any]:
        name = prepare.__name__
        other, without_kernel = fallback or (None, reference)

        @wraps(prepare)
        def public(*args: P.args, **kwargs: P.kwargs) -> Any:
            prepared = prepare(*args, **kwargs)
            if for_inference and _needs_gradient(prepared):
                return reference(prepared)
            if has_kernel(name, prepared[0].device.type):
                return getattr(getattr(torch.ops, NAMESPACE), name)(*prepared)
            return without_kernel(prepared)

        @wraps(prepare)
        def twin(*args: P.args, **kwargs: P.kwargs) -> Any:
            return reference(prepare(*args, **kwargs))

        twin.__name__ = twin.__qualname__ = f"{name.rstrip('_')}_reference"
        twin.__doc__ = f"Plain PyTorch twin of :func:`{name}`: the specification of its kernels."
        for function in (public, twin):
            # One code object each: torch.compile limits the recompilations of a code object, and
            # tracebacks show its name.
            function.__code__ = function.__code__.replace(co_name=function.__name__)
            # Help shows the type of the results, not that of the prepared arguments.
            function.__signature__ = signature(prepare).replace(
                return_annotation=signature(reference).return_annotation
            )
        public.reference = twin
        _references[name] = lambda *a: reference(arguments(*a))
        if add_operator(name, other, cpu_only=cpu_only):
            torch.library.register_fake(f"{NAMESPACE}::{name}", lambda *a: fake(arguments(*a)))
        if differentiable and add_operator(f"{name}_backward", other and f"{other}_backward"):
            _register_autograd(name, arguments, tuple(differentiable), atomics)
        return public

    return define


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Any]]:
    """Return the twin of each operator, as :meth:`torch.export.ExportedProgram.run_decompositions`
    takes it: the program then has PyTorch's operators only, and needs no library of ours."""
    return {
        getattr(getattr(torch.ops, NAMESPACE), name).default: reference
        for name, reference in _references.items()
        if is_registered(name)
    }


def _needs_gradient(prepared: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(argument, Tensor) and argument.requires_grad for argument in prepared
    )


def _register_autograd(
    name: str, arguments: type, differentiable: tuple[str, ...], atomics: bool
) -> None:
    def save_arguments(ctx, inputs, output) -> None:
        by_name = arguments(*inputs)._asdict()
        ctx.constants = {
            field: value
            for field, value in by_name.items()
            if value is not None and not isinstance(value, Tensor)
        }
        ctx.save_for_backward(*(by_name[field] for field in by_name if field not in ctx.constants))

    def backward(ctx, grad_output: Tensor):
        fields = (field for field in arguments._fields if field not in ctx.constants)
        tensors = dict(zip(fields, ctx.saved_tensors, strict=True))
        inputs = arguments(**tensors, **ctx.constants)
        mode = (torch.are_deterministic_algorithms_enabled(),) if atomics else ()
        kernel = getattr(getattr(torch.ops, NAMESPACE), f"{name}_backward")
        grads = kernel(grad_output, *inputs, *mode)
        by_name = dict(zip(differentiable, grads, strict=True))
        return tuple(
            by_name.get(field) if value is not None else None
            for field, value in inputs._asdict().items()
        )

    def fake_backward(grad_output: Tensor, *inputs) -> tuple[Tensor, ...]:
        by_name = arguments(*inputs[: len(arguments._fields)])
        tensors = (getattr(by_name, field) for field in differentiable)
        return tuple(
            grad_output.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
            for tensor in tensors
        )

    def refuse_second_derivative(ctx, *grad_outputs):
        raise NotImplementedError(
            f"{name} can be differentiated once; for second derivatives use"
            f" {NAMESPACE}.ops.{name}_reference"
        )

    qualified = f"{NAMESPACE}::{name}"
    torch.library.register_autograd(qualified, backward, setup_context=save_arguments)
    torch.library.register_fake(f"{qualified}_backward", fake_backward)
    torch.library.register_autograd(f"{qualified}_backward", refuse_second_derivative)
