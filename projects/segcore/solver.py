"""Optimizer and learning-rate schedule from ``cfg.SOLVER``."""

import logging
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.solver.lr_scheduler import WarmupParamScheduler
from detectron2.utils import comm
from fvcore.common.param_scheduler import CosineParamScheduler, ParamScheduler
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim.lr_scheduler import LRScheduler

from segcore.registry import NamedRegistry

logger = logging.getLogger(__name__)

OPTIMIZERS = {"ADAMW": torch.optim.AdamW, "SGD": torch.optim.SGD}

NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
# Position parameters other than nn.Embedding (Swin Transformer, appendix A2).
POSITIONS = ("relative_position_bias_table", "absolute_pos_embed")

BuildScheduler = Callable[[CfgNode, torch.optim.Optimizer], LRScheduler]
# Schedules of systems, beside those of :func:`build_lr_scheduler`.
LR_SCHEDULERS: NamedRegistry[BuildScheduler] = NamedRegistry("SOLVER.LR_SCHEDULER_NAME")


def register_lr_scheduler(name: str) -> Callable[[BuildScheduler], BuildScheduler]:
    """Decorate a function that builds a schedule, for ``SOLVER.LR_SCHEDULER_NAME``."""

    def register(build: BuildScheduler) -> BuildScheduler:
        LR_SCHEDULERS.register(name, build)
        return build

    return register


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build AdamW or SGD over the trainable parameters, with gradient clipping inside ``step``.

    ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` "full_model" bounds the L2 norm over all parameters; other
    types are Detectron2's, parameter by parameter. Under float16 autocast the gradient scaler has
    un-scaled the gradients when they are clipped. With ``SOLVER.SHARDED_OPTIMIZER`` each process of
    a job has the state of its share of the parameters (ZeRO, Rajbhandari et al., 2020, stage 1).
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in OPTIMIZERS:
        raise ValueError(
            f"SOLVER.OPTIMIZER: expected one of {', '.join(OPTIMIZERS)}, got {solver.OPTIMIZER!r}"
        )
    groups = parameter_groups(cfg, model)
    if not groups:
        raise ValueError("the model has no trainable parameter")
    # Fused is twice as fast on a CPU. On a GPU a gradient scaler would leave the un-scaling to it,
    # after the clipping; torch's default there is fast as well.
    on_cpu = all(p.device.type == "cpu" for group in groups for p in group["params"])
    arguments = {"lr": solver.BASE_LR, "fused": on_cpu or None}
    if solver.OPTIMIZER == "SGD":
        arguments |= {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}

    clip, optimizer_class = solver.CLIP_GRADIENTS, OPTIMIZERS[solver.OPTIMIZER]
    if clip.CLIP_TYPE != "full_model":
        optimizer_class = maybe_add_gradient_clipping(cfg, optimizer_class)
    if solver.SHARDED_OPTIMIZER and comm.get_world_size() > 1:
        optimizer = ZeroRedundancyOptimizer(groups, optimizer_class, **arguments)
    else:
        optimizer = optimizer_class(groups, **arguments)
    if clip.CLIP_TYPE == "full_model" and clip.ENABLED and clip.CLIP_VALUE > 0:
        clip_full_model(optimizer, clip.CLIP_VALUE)
    return optimizer


def clip_full_model(optimizer: torch.optim.Optimizer, max_norm: float) -> None:
    """Bound the L2 norm of all gradients of the optimizer together before each ``step``."""

    def clip(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        nn.utils.clip_grad_norm_(parameters, max_norm)

    optimizer.register_step_pre_hook(clip)


def parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    """Group the trainable parameters, each once, by learning rate and weight decay.

    * ``BACKBONE_MULTIPLIER`` scales the learning rate if the module's path has "backbone".
    * ``LR_MULTIPLIERS``, pairs of a part of a parameter's name and a factor, takes precedence; the
      first part that the name has counts.
    * ``WEIGHT_DECAY_NORM`` and ``WEIGHT_DECAY_EMBED`` are for the parameters of norms and of
      nn.Embedding, ``WEIGHT_DECAY_POSITION`` for position biases of the backbone,
      ``WEIGHT_DECAY`` for all others, biases too.
    * ``WEIGHT_DECAY_1D``, unless None, takes precedence for parameters of one dimension.
    * A model may offer ``parameter_options(cfg)``, {full parameter name: options of its group}:
      "lr_factor" comes in the place of ``BACKBONE_MULTIPLIER``; others stay in the group, where a
      schedule finds them.
    """
    solver = cfg.SOLVER
    offered = getattr(model, "parameter_options", None)
    options = offered(cfg) if offered else {}
    multipliers = _checked_multipliers(solver.LR_MULTIPLIERS)
    groups, seen = {}, set()
    for path, module in model.named_modules():
        default = solver.BACKBONE_MULTIPLIER if "backbone" in path else 1.0
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            full_name = f"{path}.{name}"
            factors = (factor for part, factor in multipliers if part in full_name)
            group = dict(options.get(full_name, {}))
            default_factor = group.pop("lr_factor", default)
            lr = solver.BASE_LR * next(factors, default_factor)
            if solver.WEIGHT_DECAY_1D is not None and parameter.dim() <= 1:
                weight_decay = solver.WEIGHT_DECAY_1D
            elif isinstance(module, nn.Embedding):
                weight_decay = solver.WEIGHT_DECAY_EMBED
            elif isinstance(module, NORMS):
                weight_decay = solver.WEIGHT_DECAY_NORM
            elif name in POSITIONS:
                weight_decay = solver.WEIGHT_DECAY_POSITION
            else:
                weight_decay = solver.WEIGHT_DECAY
            group |= {"lr": lr, "weight_decay": weight_decay}
            key = tuple(sorted(group.items()))
            groups.setdefault(key, {"params": [], **group})["params"].append(parameter)
    return list(groups.values())


def _checked_multipliers(multipliers: Sequence[Sequence]) -> list[tuple[str, float]]:
    for pair in multipliers:
        match pair:
            case [str(), float() | int()]:
                continue
        raise ValueError(
            "SOLVER.LR_MULTIPLIERS: expected pairs [part of a parameter's name, factor], "
            f"got {pair!r}"
        )
    return [(part, float(factor)) for part, factor in multipliers]


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Build the schedule ``SOLVER.LR_SCHEDULER_NAME``: "WarmupPolyLR", one that a system has
    registered, or one of Detectron2's.

    "WarmupCosineLR" goes down to ``SOLVER.BASE_LR_END``, which Detectron2 v0.6 does not know.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME in LR_SCHEDULERS:
        return LR_SCHEDULERS[solver.LR_SCHEDULER_NAME](cfg, optimizer)
    if solver.WARMUP_ITERS > solver.MAX_ITER:
        logger.warning(
            "SOLVER.WARMUP_ITERS %d is more than SOLVER.MAX_ITER %d: the learning rate never "
            "reaches SOLVER.BASE_LR",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
        )
    warmup_length = solver.WARMUP_ITERS / solver.MAX_ITER
    warmup = {"warmup_factor": solver.WARMUP_FACTOR, "warmup_method": solver.WARMUP_METHOD}
    if solver.LR_SCHEDULER_NAME == "WarmupPolyLR":
        schedule = WarmupPoly(
            power=solver.POLY_LR_POWER,
            constant_ending=solver.POLY_LR_CONSTANT_ENDING,
            warmup_length=warmup_length,
            **warmup,
        )
    elif solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        cosine = CosineParamScheduler(1, solver.BASE_LR_END / solver.BASE_LR)
        schedule = WarmupParamScheduler(cosine, warmup_length=min(warmup_length, 1.0), **warmup)
    else:
        return build_detectron2_lr_scheduler(cfg, optimizer)
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=solver.MAX_ITER)


class WarmupPoly(ParamScheduler):
    """Warm-up factor times ``(1 - where) ** power``, ``where`` in [0, 1] through the training.

    Args:
        constant_ending: the factor never falls below it once the warm-up is over.
        warmup_factor: factor of the warm-up at its start ("linear") or all through ("constant").
        warmup_length: share of the training.
    """

    def __init__(
        self,
        *,
        power: float,
        constant_ending: float,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str,
    ) -> None:
        if warmup_method not in ("linear", "constant"):
            raise ValueError(
                f"SOLVER.WARMUP_METHOD: expected 'linear' or 'constant', got {warmup_method!r}"
            )
        self.power = power
        self.constant_ending = constant_ending
        self.warmup_factor = warmup_factor
        self.warmup_length = warmup_length
        self.warmup_method = warmup_method

    def __call__(self, where: float) -> float:
        # Beyond the end, where a resumed training may look, the factor is that of the end.
        poly = max(1 - where, 0.0) ** self.power
        if where >= self.warmup_length:
            return max(poly, self.constant_ending)
        if self.warmup_method == "constant":
            return self.warmup_factor * poly
        progress = where / self.warmup_length
        return (self.warmup_factor * (1 - progress) + progress) * poly
