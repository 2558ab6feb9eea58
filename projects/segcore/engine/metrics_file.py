"""``metrics.json`` of a run that may be killed and resumed."""

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage

from segcore.errors import OutputError
from segcore.files import write_bytes

PERIOD = 20  # iterations; also the window of the medians
WINDOW = 20


class MetricsFile(HookBase):
    """Writer of the lines of Detectron2's ``JSONWriter``, with the smoothing window as its state.

    A line is written every 20 iterations, after each evaluation, and after the last iteration; a
    run that fails writes none. A resumed run removes the lines of iterations that it repeats.

    Args:
        path: the file on the main process; None writes nothing.
        eval_period: ``TEST.EVAL_PERIOD``.
    """

    def __init__(self, path: Path | None, eval_period: int = 0):
        self.path = path
        self.eval_period = eval_period
        self.last_written = -1
        self._scalars: dict[str, dict[str, Any]] = {}

    def is_complete(self, iteration: int) -> bool:
        """Return whether the line of this iteration is written, or none is due."""
        return not self._is_due(iteration) or self.last_written >= iteration

    def restore(self, storage: EventStorage, start_iter: int) -> None:
        """Restore the scalars of a resumed run from the checkpoint, and the lines of its file."""
        if self.path is None:
            return
        for name, scalar in self._scalars.items():
            for value, iteration in scalar["values"]:
                storage.iter = iteration
                storage.put_scalar(name, value, smoothing_hint=scalar["smoothing"])
        storage.iter = start_iter
        self.last_written = _remove_lines_from(self.path, start_iter)

    def after_step(self) -> None:
        if self._is_due(self.trainer.iter):
            self._write()

    def after_train(self) -> None:
        # Results of the last evaluation; after a failure there is nothing to add.
        if self.trainer.iter >= self.trainer.max_iter:
            self._write()

    def state_dict(self) -> dict[str, Any]:
        storage = getattr(self.trainer, "storage", None)
        if storage is None:  # before training
            return {"scalars": self._scalars}
        hints = storage.smoothing_hints()
        return {
            "scalars": {
                name: {
                    "smoothing": hints[name],
                    "values": [[float(value), int(i)] for value, i in history.values()[-WINDOW:]],
                }
                for name, history in storage.histories().items()
            }
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._scalars = {
            name: {
                "smoothing": bool(scalar["smoothing"]),
                "values": [(float(value), int(iteration)) for value, iteration in scalar["values"]],
            }
            for name, scalar in state_dict["scalars"].items()
        }

    def _is_due(self, iteration: int) -> bool:
        following = iteration + 1
        return (
            following % PERIOD == 0
            or following == self.trainer.max_iter
            or (self.eval_period > 0 and following % self.eval_period == 0)
        )

    def _write(self) -> None:
        if self.path is None:
            return
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, i) in self.trainer.storage.latest_with_smoothing_hint(WINDOW).items():
            if i > self.last_written:
                lines[i][name] = value
        text = "".join(_line({**lines[i], "iteration": i}) for i in sorted(lines))
        try:
            with open(self.path, "a") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror}") from error
        self.last_written = max(lines, default=self.last_written)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the lines of a ``metrics.json``; broken ones, as after a kill, are left out.

    Returns:
        {name: number} of each line, "iteration" among the names.
    """
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [values for values in map(_parse, lines) if values is not None]


def _remove_lines_from(path: Path, start_iter: int) -> int:
    """Remove lines of ``start_iter`` and later, and broken ones; return the last iteration left."""
    if not path.exists():
        return -1
    lines = [line for line in read_metrics(path) if line["iteration"] < start_iter]
    write_bytes("".join(map(_line, lines)).encode(), path)
    return max((line["iteration"] for line in lines), default=-1)


def _line(values: dict[str, float]) -> str:
    return json.dumps(values, sort_keys=True) + "\n"


def _parse(line: str) -> dict[str, float] | None:
    """Return the numbers of a line; None if it has no iteration."""
    try:
        values = json.loads(line)
        return {**values, "iteration": int(values["iteration"])}
    except (ValueError, KeyError, TypeError):
        return None
