"""One training step: autocast, loss scaling, gradient accumulation, a stop at non-finite values."""

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from segcore.engine.randomness import seed_random_generators
from segcore.errors import TrainingDivergedError

# Keeps the random streams of training steps and of samples apart.
STEP_STREAM = 1

AUTOCAST_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def autocast_dtype(cfg: CfgNode, device_type: str) -> torch.dtype | None:
    """Return the type of autocast on this kind of device by ``SOLVER.AMP``; None for no autocast.

    Raises:
        ValueError: ``SOLVER.AMP.DTYPE`` is neither "float16" nor "bfloat16".
    """
    amp = cfg.SOLVER.AMP
    if amp.DTYPE not in AUTOCAST_DTYPES:
        raise ValueError(
            f"SOLVER.AMP.DTYPE is {amp.DTYPE!r}, expected one of {sorted(AUTOCAST_DTYPES)}"
        )
    if not amp.ENABLED:
        return None
    if device_type == "cpu":
        return torch.bfloat16 if amp.CPU_BFLOAT16 else None
    return AUTOCAST_DTYPES[amp.DTYPE]


class TrainLoop(TrainerBase):
    """Forward, backward and optimizer step on the next batch, on any device, in any precision.

    The random numbers of a step depend on the seed, the iteration and the rank alone, so that a
    resumed run needs no generator states. A loss or, without loss scaling, a gradient that is not
    finite stops all processes before the weights are touched.

    Args:
        model: returns a dict of scalar losses; plain or wrapped in DistributedDataParallel.
        data_loader: batches, lists of dicts; it may be given later, before the first step.
        dtype: type of the autocast, or None; float16 brings loss scaling with it.
        seed: not negative.
        accumulate: gradient accumulation: number of micro-batches of equal size that a batch is
            split into; a loss is the mean over them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        data_loader: Iterable[list[dict]] | None = None,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        accumulate: int = 1,
    ):
        super().__init__()
        if accumulate < 1:
            raise ValueError(f"SOLVER.ACCUMULATE: expected at least 1, got {accumulate}")
        model.train()
        self.model = model
        self.optimizer = optimizer
        self.data_loader = data_loader
        self.seed = seed
        self.accumulate = accumulate
        self.dtype = dtype
        self.device_type = next(model.parameters()).device.type
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=dtype is torch.float16)
        self._batches = None

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = self._next_batch()
        data_time = time.perf_counter() - start

        seed_random_generators(self.seed, STEP_STREAM, self.iter, comm.get_rank())
        self.optimizer.zero_grad()
        losses = self._accumulate(batch)
        self.grad_scaler.unscale_(self.optimizer)

        metrics = self._checked_metrics(losses, batch)
        if comm.is_main_process():
            get_event_storage().put_scalars(data_time=data_time, **metrics)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the state; every process has to call this where the optimizer is sharded."""
        state = super().state_dict()
        state["seed"] = self.seed
        state["optimizer"] = _optimizer_state(self.optimizer)
        state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.seed = state_dict["seed"]
        _load_optimizer_state(self.optimizer, state_dict["optimizer"])
        # Without loss scaling the state is empty, also that of a run which had it before.
        if self.grad_scaler.is_enabled() and state_dict["grad_scaler"]:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    def _accumulate(self, batch: list[dict]) -> dict[str, Tensor]:
        """Accumulate the gradients of the micro-batches; return the mean losses."""
        size = len(batch) // self.accumulate
        if size * self.accumulate != len(batch):
            raise ValueError(
                f"SOLVER.ACCUMULATE: {len(batch)} images a process (SOLVER.IMS_PER_BATCH) cannot "
                f"be split into {self.accumulate} micro-batches of equal size"
            )
        micro_batches = [batch[start : start + size] for start in range(0, len(batch), size)]
        means: dict[str, Tensor] = {}
        for number, micro_batch in enumerate(micro_batches, start=1):
            with self._gradient_sync(number == len(micro_batches)):
                losses = self._backward(micro_batch)
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss
        return means

    def _backward(self, micro_batch: list[dict]) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch; return its share of the mean losses."""
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not None):
            losses = {
                name: loss / self.accumulate for name, loss in self.model(micro_batch).items()
            }
            total_loss = sum(losses.values())
        self.grad_scaler.scale(total_loss).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _gradient_sync(self, enabled: bool) -> AbstractContextManager:
        """Enable or disable the all-reduce of gradients in a backward pass of several processes."""
        if enabled or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _next_batch(self) -> list[dict]:
        if self._batches is None:
            self._batches = iter(self.data_loader)
        return next(self._batches)

    def _checked_metrics(self, losses: Mapping[str, Tensor], batch: list[dict]) -> dict[str, float]:
        """Return losses averaged over processes, their sum and the gradient's norm, all finite."""
        local_losses = torch.stack([loss.detach().float() for loss in losses.values()])
        mean = local_losses.clone()
        if comm.get_world_size() > 1:
            # Every process learns of a bad loss in one of them, and stops at the same step.
            dist.all_reduce(mean)
            mean /= comm.get_world_size()
        grad_norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.model.parameters() if p.grad is not None]
        ).float()
        # One copy to the host for all of them.
        *values, norm = torch.cat([mean, grad_norm.reshape(1)]).tolist()
        metrics = dict(zip(losses, values, strict=True))
        metrics["total_loss"] = sum(values)
        finite_loss, finite_norm = _is_finite(metrics["total_loss"]), _is_finite(norm)
        # A scaled gradient may overflow: the scaler then skips the step and lowers the scale.
        if not finite_loss or not (finite_norm or self.grad_scaler.is_enabled()):
            self._stop(dict(zip(losses, local_losses.tolist(), strict=True)), norm, batch)
        if finite_norm:
            metrics["grad_norm"] = norm
        return metrics

    def _stop(self, losses: dict[str, float], grad_norm: float, batch: list[dict]) -> None:
        images = [str(record.get("file_name", "image without file name")) for record in batch]
        reports = comm.all_gather((images, losses))
        bad = [r for r in reports if not all(map(_is_finite, r[1].values()))]
        rates = sorted({group["lr"] for group in self.optimizer.param_groups})
        lines = [
            f"training stopped at iteration {self.iter}: "
            + ("the loss is not finite" if bad else "the loss is finite, its gradient is not"),
            *(
                f"  images {', '.join(images)}: "
                + ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                for images, losses in bad or reports
            ),
            f"  learning rates {', '.join(f'{rate:.3g}' for rate in rates)}, "
            f"gradient norm {grad_norm:.4g}",
            "  the weights were not changed by this step; look at these images and their "
            "annotations, or lower SOLVER.BASE_LR",
        ]
        raise TrainingDivergedError("\n".join(lines))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of all parameters; empty on further processes of a sharded optimizer."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict()
        if not comm.is_main_process():
            return {}
    return optimizer.state_dict()


def _load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of all parameters, whichever processes had them when it was saved.

    Raises:
        ValueError: a tensor lacks its parameter's shape.
    """
    optimizer.load_state_dict(state)
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.state.clear()  # a second copy of what the optimizer of this process has now
        optimizer = optimizer.optim
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"{name} of the optimizer has shape {tuple(value.shape)}, its parameter "
                    f"{tuple(parameter.shape)}"
                )


def _is_finite(value: float) -> bool:
    return value - value == 0.0
