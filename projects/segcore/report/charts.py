"""Curves and histograms as SVG for a page: text takes the page's font and color."""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segcore.text import printable

# Colors that tell lines apart on light and on dark ground, for people of any color vision.
LINE_COLORS = ("#3f7fd6", "#d9822b", "#2f9e77", "#c25b9b", "#8a6fd1", "#a58a1f")
INK = "#123456"  # a color that no line has, replaced by the page's
# File of an output folder -> panels: title, whether its axis is logarithmic, names of scalars.
PANELS = (
    ("Loss", True, r"total_loss|validation_loss"),
    ("Learning rate", False, r"lr"),
    ("Results", False, r"panoptic_seg/PQ(_th|_st)?|sem_seg/mIoU|segm/AP|bbox/AP|.*/top1"),
)

Points = Sequence[tuple[float, float]]


def read_curves(metrics_file: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Read the scalars of ``metrics.json``, a JSON object a line, that the panels show.

    Returns:
        name -> (iteration, value), in the file's order. Broken lines, as after a kill, are left
        out; without a file there are no curves.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    try:
        lines = Path(metrics_file).read_text(errors="replace").splitlines()
    except OSError:
        return curves
    names = re.compile("|".join(names for _, _, names in PANELS))
    for line in lines:
        try:
            scalars = dict(json.loads(line))
            iteration = int(scalars["iteration"])
        except (ValueError, TypeError, KeyError):
            continue
        for name, value in scalars.items():
            if names.fullmatch(name) and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(name, []).append((iteration, value))
    return curves


def curves_svg(runs: Mapping[str, Mapping[str, Points]]) -> list[str]:
    """Draw curves of runs, a panel for losses, learning rate and results each.

    Args:
        runs: name of the run -> curves of :func:`read_curves`. Runs differ by the style of lines.
    """
    styles = dict(zip(runs, ("-", "--", ":", "-."), strict=False))
    drawings = []
    for title, logarithmic, pattern in PANELS:
        lines = [
            (name if len(runs) == 1 else f"{name} · {run}", name, styles.get(run, "-"), points)
            for run, curves in runs.items()
            for name, points in curves.items()
            if re.fullmatch(pattern, name)
        ]
        if not lines:
            continue
        figure, axes = _figure(4.2, 2.7)
        scalars = list(dict.fromkeys(name for _, name, _, _ in lines))
        for label, name, style, points in lines:
            color = LINE_COLORS[scalars.index(name) % len(LINE_COLORS)]
            marker = "o" if len(points) < 12 else ""
            axes.plot(
                *zip(*points, strict=True), style, color=color, marker=marker, markersize=3, lw=1.6
            ).pop().set_label(printable(label, 60))
        if logarithmic and all(value > 0 for *_, points in lines for _, value in points):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("iteration")
        if len(lines) > 1:
            _legend(figure)
        drawings.append(_svg(figure))
    return drawings


def histogram_svg(groups: Mapping[str, Sequence[float]], label: str, marks: Sequence[float]) -> str:
    """Draw how many values there are of each size, on a logarithmic axis.

    Args:
        groups: name -> positive values.
        label: of the axis.
        marks: values at which a line is drawn.
    """
    import numpy as np

    figure, axes = _figure(6.4, 2.5)
    values = [np.asarray(part, float) for part in groups.values()]
    largest = max((part.max(initial=1) for part in values), default=1)
    edges = np.geomspace(1, largest * 1.01 + 1, 41)
    colors = LINE_COLORS[: len(groups)]
    axes.hist(values, edges, stacked=True, label=list(groups), color=colors)
    axes.set_xscale("log")
    for mark in marks:
        axes.axvline(mark, color=INK, lw=0.8, ls=":")
    axes.set_xlabel(label)
    axes.set_ylabel("segments")
    _legend(figure)
    return _svg(figure)


def _figure(width: float, height: float):
    """Return a figure of this size in inches, and its axes in the page's colors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(which="both", colors=INK, labelsize=8)
    axes.xaxis.label.set(color=INK, fontsize=8)
    axes.yaxis.label.set(color=INK, fontsize=8)
    axes.grid(color=INK, alpha=0.12, lw=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure) -> None:
    """Name the lines below the axes."""
    legend = figure.legend(
        loc="outside lower left", ncols=2, frameon=False, fontsize=8, labelcolor=INK
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _svg(figure) -> str:
    """Return the ``<svg>`` element, as wide as its place on the page."""
    import matplotlib

    settings = {"svg.fonttype": "none", "svg.hashsalt": "segcore", "font.family": "sans-serif"}
    drawing = io.StringIO()
    with matplotlib.rc_context(settings):
        figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    svg = drawing.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', svg, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
