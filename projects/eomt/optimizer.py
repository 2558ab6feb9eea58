"""Learning rates of EoMT: layer-wise decay in the ViT, and a warm-up in two stages."""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from eomt.config import SCHEDULE
from segcore.solver import register_lr_scheduler

# Marks the groups of the pre-trained ViT, which the schedule holds back in its first stage.
PRETRAINED = "pretrained"


def vit_options(
    names: Iterable[str], *, depth: int, num_blocks: int, decay: float, decay_last_blocks: bool
) -> dict[str, dict[str, Any]]:
    """Return the options of the optimizer's groups for the parameters of a ViT.

    Block j of n has ``decay ** (n - 1 - j)`` of the base rate, what comes before the blocks as much
    as block 0, and the final norm all of it.

    Args:
        names: of the parameters, as in the ViT of timm.
        depth: n.
        num_blocks, decay_last_blocks: whether the decay holds for the last blocks, which see the
            queries; else they have the base rate.
    """

    def factor(name: str) -> float:
        block = re.match(r"blocks\.(\d+)\.", name)
        if name.startswith("norm."):
            return 1.0
        index = int(block[1]) if block else 0
        if block and index >= depth - num_blocks and not decay_last_blocks:
            return 1.0
        return decay ** (depth - 1 - index)

    return {name: {"lr_factor": factor(name), PRETRAINED: True} for name in names}


def warmup_poly(step: int, *, start: int, warmup: int, max_iter: int, power: float) -> float:
    """Return the factor of a base rate: 0 before ``start``, a linear rise, a polynomial fall.

    Args:
        step: optimizer steps done before this one.
        start, warmup: steps before the rise, and of the rise.
        max_iter: step at which the factor is 0 again, as it is beyond.
    """
    if step < start:
        return 0.0
    if step < start + warmup:
        return (step - start) / warmup
    rest = max_iter - start - warmup
    return max(0.0, 1 - (step - start - warmup) / max(1, rest)) ** power


@register_lr_scheduler(SCHEDULE)
def build_two_stage_schedule(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Build a polynomial decay with a warm-up in the two stages of ``SOLVER.WARMUP_STAGES``.

    In the first stage all but the pre-trained ViT warms up, in the second the ViT.
    """
    solver = cfg.SOLVER
    first, second = solver.WARMUP_STAGES
    factor = partial(warmup_poly, max_iter=solver.MAX_ITER, power=solver.POLY_LR_POWER)
    pretrained = partial(factor, start=first, warmup=second)
    others = partial(factor, start=0, warmup=first)
    return LambdaLR(
        optimizer,
        [pretrained if group.get(PRETRAINED) else others for group in optimizer.param_groups],
    )
