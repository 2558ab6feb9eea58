"""A linear layer that takes the fastest way of the processor that it runs on."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcore.layers import onednn
from segcore.layers.onednn import Activation

# Fewer multiply-adds are not worth the call.
MIN_MULTIPLY_ADDS = 1 << 22
# Fewer rows take as long with the weight as it is, and save the memory of a second one.
MIN_ROWS_REORDERED = 512


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
) -> Tensor:
    """Apply a linear layer and an activation, as ``F.linear``.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (..., out_features).
    """
    if not _is_fast(x, weight, bias):
        return activate(F.linear(x, weight, bias), activation)
    needs_gradient = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (x, weight, bias)
    )
    if not needs_gradient:
        return onednn.linear(x, weight, bias, activation)
    if activation == "gelu":  # whose gradient needs its input
        return F.gelu(_Linear.apply(x, weight, bias, "none"))
    return _Linear.apply(x, weight, bias, activation)


class Linear(nn.Linear):
    """``nn.Linear`` with an optional activation behind it, by :func:`linear`.

    Parameters, their names and their initial values are those of ``nn.Linear``. In evaluation the
    weight is kept a second time in the order in which oneDNN reads it, until the layer is trained,
    moved or loaded, or the weight is written in place.

    Args:
        activation: "none", "relu" or "gelu".
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: Activation = "none",
    ):
        super().__init__(in_features, out_features, bias)
        self.activation = activation
        self._reordered: tuple[object, Tensor] | None = None

    @classmethod
    def replace(cls, layer: nn.Linear, activation: Activation = "none") -> "Linear":
        """Return a layer with the parameters of another one."""
        with torch.device("meta"):
            result = cls(
                layer.in_features, layer.out_features, layer.bias is not None, activation=activation
            )
        result.weight, result.bias = layer.weight, layer.bias
        return result.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if (
            not self.training
            and not torch.is_grad_enabled()
            and _is_fast(x, weight, self.bias)
            and not weight.is_inference()
        ):
            rows = x.numel() // x.shape[-1]
            if rows >= MIN_ROWS_REORDERED:
                weight = self._reordered_weight(rows)
            return onednn.linear(x, weight, self.bias, self.activation)
        return linear(x, weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        activation = "" if self.activation == "none" else f", activation={self.activation}"
        return super().extra_repr() + activation

    def train(self, mode: bool = True) -> "Linear":
        self._reordered = None
        return super().train(mode)

    def _apply(self, *args, **kwargs) -> "Linear":
        self._reordered = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict:
        # Opaque tensors can be neither copied nor pickled.
        return {**super().__getstate__(), "_reordered": None}

    def _reordered_weight(self, rows: int) -> Tensor:
        weight = self.weight
        state = (weight.data_ptr(), weight._version)
        if self._reordered is None or self._reordered[0] != state:
            self._reordered = (state, onednn.reordered(weight.detach(), rows))
        return self._reordered[1]


class _Linear(torch.autograd.Function):
    """oneDNN's linear layer with its gradient; that of the weight is a product with MKL."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
        return onednn.linear(x, weight, bias, activation)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, _, activation = inputs
        ctx.save_for_backward(x, weight, output if activation == "relu" else None)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, output = ctx.saved_tensors
        if output is not None:
            # In one pass: on a CPU torch.where takes three to seven times as long.
            grad = torch.ops.aten.threshold_backward(grad, output, 0)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        return (
            linear(grad, weight.t()) if needs_x else None,
            rows.t() @ x.flatten(0, -2) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
            None,
        )


def _is_fast(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN can compute the layer, and takes less time."""
    return (
        onednn.is_usable(x, weight, bias)
        and x.dtype == weight.dtype
        and x.dim() > 1
        and x.numel() * len(weight) >= MIN_MULTIPLY_ADDS
    )


def activate(x: Tensor, activation: Activation) -> Tensor:
    match activation:
        case "relu":
            return F.relu(x)
        case "gelu":
            return F.gelu(x)
        case _:
            return x
