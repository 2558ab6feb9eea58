"""The weights with the best result so far, and the end of a training that no longer improves."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm

from segcore.engine.metrics_file import read_metrics
from segcore.errors import ConfigError
from segcore.text import did_you_mean

logger = logging.getLogger(__name__)

BEST_NAME = "model_best"


class EarlyStop(BaseException):
    """The end of a training before its last iteration: no error, so no ``Exception``."""


class BestCheckpoint(HookBase):
    """Save the weights whenever an evaluation gives a better result than all before.

    Belongs after ``EvalHook``. A resumed run has the results of before from ``metrics.json``.

    Args:
        save: writes the weights under a name; called on all processes.
        metrics_file: ``metrics.json``; None on processes other than the main one.
        metric: name of a result, such as "panoptic_seg/PQ".
        mode: "max" or "min".
        eval_period: that of ``EvalHook``.
    """

    def __init__(
        self,
        save: Callable[[str], object],
        metrics_file: Path | None,
        *,
        metric: str,
        mode: str,
        eval_period: int,
    ):
        self.save = save
        self.metrics_file = metrics_file
        self.metric = metric
        self.sign = {"max": 1, "min": -1}[mode]
        self.eval_period = eval_period
        self.results: list[float] = []

    @property
    def num_without_better(self) -> int:
        """Number of evaluations since the best one, or of all if none gave a number."""
        return len(self.results) - 1 - self._best_index()

    def before_train(self) -> None:
        earlier = []
        if self.metrics_file is not None:
            lines = read_metrics(self.metrics_file)
            earlier = [
                line[self.metric]
                for line in lines
                if self.metric in line and line["iteration"] < self.trainer.start_iter
            ]
        self.results = comm.all_gather(earlier)[0]

    def after_step(self) -> None:
        following = self.trainer.iter + 1
        if following % self.eval_period == 0 and following != self.trainer.max_iter:
            self._judge()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._judge()

    def _judge(self) -> None:
        scalars = self.trainer.storage.latest() if comm.is_main_process() else {}
        # The other processes have no results; all of them get the same number, or error.
        found, names = comm.all_gather((scalars.get(self.metric), _result_names(scalars)))[0]
        if found is None:
            raise ConfigError(
                f"TEST.BEST_CHECKPOINT.METRIC: expected a result of the evaluation, one of "
                f"{', '.join(names)}, got {self.metric!r}{did_you_mean(self.metric, names)}"
            )
        value, _ = found
        self.results.append(value)
        if self._best_index() == len(self.results) - 1:
            logger.info("%s %.3f is the best so far: %s.pth", self.metric, value, BEST_NAME)
            self.save(BEST_NAME)

    def _best_index(self) -> int:
        """Index of the first of the best results; -1 if there is none."""
        numbers = [
            (self.sign * value, -index)
            for index, value in enumerate(self.results)
            if math.isfinite(value)
        ]
        return -max(numbers)[1] if numbers else -1


class StopWithoutBetter(HookBase):
    """End the training after ``patience`` evaluations without a better result.

    Belongs after all other hooks.

    Args:
        save: writes a checkpoint under a name; called on all processes.
    """

    def __init__(self, best: BestCheckpoint, patience: int, save: Callable[[str], object]):
        self.best = best
        self.patience = patience
        self.save = save

    def before_step(self) -> None:
        if self.best.num_without_better >= self.patience:  # a resumed run that had ended
            self._stop()

    def after_step(self) -> None:
        if self.best.num_without_better >= self.patience:
            self.save("model_final")
            self._stop()

    def _stop(self) -> None:
        logger.info(
            "The training ends early: no better %s in the last %d evaluations "
            "(TEST.BEST_CHECKPOINT.PATIENCE)",
            self.best.metric,
            self.best.num_without_better,
        )
        raise EarlyStop


def _result_names(scalars: Mapping[str, object]) -> list[str]:
    """Names of results, "task/metric", without those of single classes."""
    return sorted(name for name in scalars if "/" in name and "-" not in name)
