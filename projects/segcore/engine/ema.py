"""Exponential moving average of the weights (``SOLVER.EMA``)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's parameters and floating-point buffers.

    After n updates the decay is ``min(decay, (1 + n) / (warmup + n))``, so that the first steps of
    a training are soon forgotten (as in TensorFlow's ``ExponentialMovingAverage``, with warmup 10).

    The checkpoint of a run has the average as its weights; the state of this object is what
    resuming needs beside it, the weights in training.

    Args:
        model: the model in training, not wrapped for several processes.
        decay: in [0, 1).
        warmup: at least 1, which is none.
    """

    def __init__(self, model: nn.Module, *, decay: float, warmup: float):
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self._average = AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
        self._average.requires_grad_(False).eval()

    @property
    def averaged(self) -> nn.Module:
        """A model with the averaged weights, in evaluation mode."""
        return self._average.module

    def update(self) -> None:
        """Take the weights after a step in."""
        self._average.update_parameters(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": int(self._average.n_averaged), "weights": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a run whose model has just been given the average, as a checkpoint has it."""
        self.averaged.load_state_dict(self.model.state_dict())
        self._average.n_averaged.fill_(state["updates"])
        self.model.load_state_dict(state["weights"])

    def _blend(
        self, averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor | int
    ) -> None:
        """Update tensors of one type in place; integers, such as counters, are copied."""
        if averages[0].is_floating_point():
            number = int(self._average.n_averaged)  # on the CPU, unlike ``updates``
            decay = min(self.decay, (1 + number) / (self.warmup + number))
            get_ema_multi_avg_fn(decay)(averages, values, updates)
        else:
            for average, value in zip(averages, values, strict=True):
                average.copy_(value)
