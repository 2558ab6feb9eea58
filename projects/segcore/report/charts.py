"""Curves and histograms as SVG for a page: text takes the page's font and color."""

import io
import re
from collections.abc import Mapping, Sequence

from segcore.text import printable

# Colors that tell lines apart on light and on dark ground, for people of any color vision.
LINE_COLORS = ("#3f7fd6", "#d9822b", "#2f9e77", "#c25b9b", "#8a6fd1", "#a58a1f")
INK = "#123456"  # a color that no line has, replaced by the page's
MAX_LINES = 6  # of a run in a panel
STYLES = ("-", "--", ":", "-.")

# Title of a panel -> name of a curve -> (iteration, value).
Panels = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]


def curves_svg(runs: Mapping[str, Panels]) -> list[str]:
    """Draw the curves of runs, a drawing for each panel.

    Args:
        runs: name of a run -> its curves. Runs differ by the style of lines.
    """
    drawings = []
    for title in dict.fromkeys(title for panels in runs.values() for title in panels):
        figure, axes = _figure(4.2, 2.9)
        names = dict.fromkeys(name for panels in runs.values() for name in panels.get(title, ()))
        colors = dict(zip(list(names)[:MAX_LINES], LINE_COLORS, strict=False))
        for (run, panels), style in zip(runs.items(), STYLES, strict=False):
            for name, points in panels.get(title, {}).items():
                if name in colors and points:
                    iterations, values = zip(*points, strict=True)
                    marker = "o" if len(points) < 12 else ""
                    axes.plot(
                        iterations,
                        values,
                        style,
                        color=colors[name],
                        marker=marker,
                        markersize=3,
                        linewidth=1.6,
                        label=printable(f"{name} · {run}" if len(runs) > 1 else name, 60),
                    )
        axes.set_title(printable(title, 60), loc="left", fontsize=10, color=INK, parse_math=False)
        axes.set_xlabel("iteration")
        if len(axes.lines) > 1:
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
