"""Curves of a training as one picture: losses, learning rate and results of evaluations."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

from detectron2.engine import HookBase

from segcore.engine.metrics_file import read_metrics
from segcore.files import write_bytes

PICTURE = "curves.png"
COLUMNS = 2
PANEL_INCHES = (5.0, 2.8)
# Number of the auxiliary prediction that a loss belongs to, before or after its name.
PREDICTION_NUMBER = re.compile(r"^d\d+\.|_\d+$")

Curve = list[tuple[int, float]]
Panels = dict[str, dict[str, Curve]]


class CurvesPicture(HookBase):
    """Draw ``curves.png`` beside ``metrics.json`` after each evaluation and at the end.

    Belongs after ``MetricsFile``.

    Args:
        metrics_file: ``metrics.json``.
        eval_period: ``TEST.EVAL_PERIOD``.
    """

    def __init__(self, metrics_file: Path, eval_period: int):
        self.metrics_file = metrics_file
        self.eval_period = eval_period

    def after_step(self) -> None:
        if self.eval_period and (self.trainer.iter + 1) % self.eval_period == 0:
            self._draw()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._draw()

    def _draw(self) -> None:
        picture = draw_curves(read_metrics(self.metrics_file))
        write_bytes(picture, self.metrics_file.with_name(PICTURE))


def draw_curves(lines: Iterable[Mapping[str, float]]) -> bytes:
    """Draw the lines of a ``metrics.json`` as a PNG, one panel for each kind of number."""
    from matplotlib.figure import Figure

    panels = curves_by_panel(lines)
    rows = -(-len(panels) // COLUMNS)
    width, height = PANEL_INCHES
    figure = Figure((COLUMNS * width, max(rows, 1) * height), layout="constrained")
    for number, (title, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, COLUMNS, number, title=title, xlabel="iteration")
        for name, curve in curves.items():
            axes.plot(*zip(*curve, strict=True), label=name, marker="." if len(curve) < 50 else "")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def curves_by_panel(lines: Iterable[Mapping[str, float]]) -> Panels:
    """Sort numbers into panels: {title: {name: [(iteration, value), ...]}}.

    The losses of a kind are summed over the auxiliary predictions of a decoder. Results of single
    classes, which have a "-" in their name, are left out.
    """
    panels: Panels = defaultdict(lambda: defaultdict(list))
    for line in lines:
        losses: dict[str, float] = defaultdict(float)
        for name, value in line.items():
            task, slash, metric = name.rpartition("/")
            if slash and "-" not in metric:
                panels[task][metric].append((line["iteration"], value))
            elif "loss" in name:
                losses[PREDICTION_NUMBER.sub("", name)] += value
            elif name == "lr":
                panels["learning rate"]["lr"].append((line["iteration"], value))
        for name, value in losses.items():
            panels["losses"][name].append((line["iteration"], value))
    first = {"losses": 0, "learning rate": 1}
    order = sorted(panels, key=lambda title: (first.get(title, 2), title))
    return {title: dict(panels[title]) for title in order}
