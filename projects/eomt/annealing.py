"""Mask annealing (EoMT, section 3.3): masked attention is taken away block by block in training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from eomt.network import EncoderOnlyMaskTransformer


class MaskAnnealing(NamedTuple):
    """Schedule of the probabilities that a query keeps its mask.

    Attributes:
        start_steps, end_steps: for each of the last blocks, the iterations between which its
            probability falls from 1 to 0.
        power: exponent of the fall.
    """

    start_steps: Sequence[int]
    end_steps: Sequence[int]
    power: float = 0.9

    def probabilities(self, iteration: int) -> list[float]:
        """Return the probability of each block in an iteration, computed in float32."""
        return [
            _probability(iteration, start, end, self.power)
            for start, end in zip(self.start_steps, self.end_steps, strict=True)
        ]


def build_annealing(cfg: CfgNode) -> MaskAnnealing | None:
    """Build the annealing of ``MODEL.EOMT.ANNEALING``; None if it is off.

    Without steps, the blocks are annealed one after the other, each for a sixth of the training,
    from 1/6 to 5/6 of it, as in the published configurations.
    """
    eomt = cfg.MODEL.EOMT
    keys = eomt.ANNEALING
    if not (keys.ENABLED and eomt.MASKED_ATTENTION):
        return None
    starts, ends = keys.START_STEPS, keys.END_STEPS
    if not starts:
        sixth = cfg.SOLVER.MAX_ITER / 6
        first = np.linspace(sixth, 4 * sixth, eomt.NUM_BLOCKS)
        starts, ends = ([int(step + 0.5) for step in steps] for steps in (first, first + sixth))
        ends = [max(start + 1, end) for start, end in zip(starts, ends, strict=True)]
    return MaskAnnealing(tuple(starts), tuple(ends), keys.POWER)


class MaskAnnealingHook(HookBase):
    """Sets the probabilities before each step from its iteration, so that they need no state."""

    def __init__(self, annealing: MaskAnnealing, network: EncoderOnlyMaskTransformer):
        self.annealing = annealing
        self.network = network

    def before_step(self) -> None:
        self.network.set_mask_probabilities(self.annealing.probabilities(self.trainer.iter))


def _probability(iteration: int, start: int, end: int, power: float) -> float:
    if iteration < start:
        return 1.0
    if iteration >= end:
        return 0.0
    share = np.float32(iteration - start) / np.float32(end - start)
    return float((np.float32(1) - share) ** np.float32(power))
