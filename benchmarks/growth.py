"""Growth of time and memory with side, queries, objects and batch: table and plots.

    python -m benchmarks.growth [--measurements growth.jsonl] [--plots docs/images]
        [--systems mask2former ...] [--axes side ...] [--repeats 2]

The quickstart's small models with initial weights and COCO's classes, EoMT on patches of 16, one
thread. Inference gives panoptic results, with 20 certain queries where the model classifies masks;
"results" are panoptic and instance results of drawn masks, without a network. Each point is the
least of the repeats, in CPU seconds and MiB of additional peak. Measured points are lines of the
file, and are not measured again.

Arithmetic is what `segcore analyze` counts of the network in inference; else the number of images
or objects. "Growth" in the table is 1 where a cost grows as its arithmetic in the last step of an
axis, and more where it grows faster: in inference the factor of the cost over that of the
arithmetic, else the cost of another image or object as a share of that in the steps before.
"""

import argparse
import ctypes
import json
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks.before_and_after import build_for_benchmark
from benchmarks.models import photo
from benchmarks.result_memory import draw_prediction
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from segcore.analysis.counting import count
from segcore.analysis.measuring import measure_mebibytes
from segcore.inference import PanopticMerging, ResultMaker

CONFIGS = Path(__file__).resolve().parents[1] / "configs/quickstart"
CPU = torch.device("cpu")
NUM_CLASSES, NUM_THINGS = 133, 80
CERTAIN = 20
MEGAPIXELS = 1.0


class System(NamedTuple):
    """Config of the quickstart, section and key of the number of queries, and other options."""

    name: str
    config: str
    section: str
    queries: str
    options: dict[str, Any]


class Axis(NamedTuple):
    """What a point varies, and what it runs."""

    title: str
    step: str
    values: tuple[int, ...]


class Point(NamedTuple):
    """A system (or strategy of merging) at a value of an axis, and what it cost."""

    system: str
    axis: str
    value: int
    arithmetic: float
    seconds: float
    mebibytes: float


POINTS = {"TRAIN_NUM_POINTS": 12544}
LEVELS = ["res3", "res4", "res5"]
SYSTEMS = {
    "mask2former": System(
        "Mask2Former", "mask2former_R18.yaml", "MODEL.MASK_FORMER", "NUM_OBJECT_QUERIES", POINTS
    ),
    "panoptic_segformer": System(
        "Panoptic SegFormer",
        "panoptic_segformer_R18.yaml",
        "MODEL.PANOPTIC_SEGFORMER",
        "NUM_THING_QUERIES",
        {"IN_FEATURES": LEVELS},
    ),
    "autofocusformer": System(
        "AutoFocusFormer",
        "autofocusformer_demo.yaml",
        "MODEL.MASK_FORMER",
        "NUM_OBJECT_QUERIES",
        POINTS,
    ),
    "eomt": System(
        "EoMT",
        "eomt_tiny.yaml",
        "MODEL.EOMT",
        "NUM_OBJECT_QUERIES",
        POINTS | {"VIT.PATCH_SIZE": 16, "ANNEALING.ENABLED": False},
    ),
}
MERGINGS = {"mask2former": "pixel-wise merging", "mask_wise": "mask-wise merging"}
AXES = {
    "side": Axis("image side, inference", "inference", (256, 512, 1024, 2048)),
    "queries": Axis("queries, inference at 512", "inference", (50, 100, 200, 400)),
    "batch": Axis("images of 128, training step", "training", (1, 2, 4, 8)),
    "objects": Axis("objects at 512, training step", "training", (1, 50, 100, 200)),
    "results": Axis("objects, results of 1 megapixel", "results", (1, 50, 100, 200)),
}
PLOTS = {"network": ("side", "queries", "batch"), "objects": ("objects", "results")}
# What an axis does not vary.
DEFAULTS = {"side": 512, "queries": 100, "batch": 1, "objects": CERTAIN}
DEFAULTS_OF_AXES = {"batch": {"side": 128}, "objects": {"queries": 200}}
INSTANCES_AS_MANY_AS_QUERIES = 200


@cache
def build(name: str, side: int, queries: int, certain: int | None) -> torch.nn.Module:
    system = SYSTEMS[name]
    options = {
        "DATASETS.TRAIN": ("coco_2017_train_panoptic",),
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": NUM_CLASSES,
        "MODEL.RESNETS.OUT_FEATURES": ["res2", *LEVELS],
        "INPUT.IMAGE_SIZE": side,
        **{f"{system.section}.{key}": value for key, value in system.options.items()},
        f"{system.section}.{system.queries}": queries,
    }
    pairs = [part for pair in options.items() for part in pair]
    return build_for_benchmark(CONFIGS / system.config, ["panoptic"], certain, pairs)


def prepare(system: str, axis: str, value: int) -> tuple[Callable[[], Any], float]:
    """Return what runs a point once, and its arithmetic."""
    setting = DEFAULTS | DEFAULTS_OF_AXES.get(axis, {}) | {axis: value}
    side = setting["side"]
    trains = AXES[axis].step == "training"
    model = build(system, side, setting["queries"], None if trains else CERTAIN)
    batch = [photo((side, side), setting["objects"])] * setting["batch"]
    if trains:

        def train() -> None:
            model.zero_grad()
            sum(model.train()(batch).values()).backward()

        return train, value
    model.eval()
    arithmetic = sum(count(model, model.network, (side, side)).multiply_adds.values())
    return torch.inference_mode()(lambda: model(batch)), arithmetic


def prepare_results(strategy: str, objects: int) -> tuple[Callable[[], Any], float]:
    """Return what makes the results of as many drawn masks, and their number."""
    merging = PanopticMerging(strategy, score_threshold=0.5)
    maker = ResultMaker(merging, frozenset(range(NUM_THINGS)), semantic_on=False)
    prediction = draw_prediction(INSTANCES_AS_MANY_AS_QUERIES, MEGAPIXELS, objects)
    return lambda: maker(prediction), objects


def measure(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the least CPU seconds and MiB of additional peak of some runs, after another one."""
    run()
    seconds, mebibytes = [], []
    for _ in range(repeats):
        ctypes.CDLL(None).malloc_trim(0)  # freed memory would not count a second time
        start = time.process_time()
        mebibytes.append(measure_mebibytes(run, CPU))
        seconds.append(time.process_time() - start)
    return min(seconds), min(mebibytes)


def measure_all(
    file: Path, systems: Sequence[str], axes: Sequence[str], repeats: int
) -> list[Point]:
    """Return the points of a file after measuring those that it does not have."""
    lines = file.read_text().splitlines() if file.exists() else []
    points = [Point(*json.loads(line)) for line in lines]
    known = {point[:3] for point in points}
    for axis in axes:
        for system, value in product(MERGINGS if axis == "results" else systems, AXES[axis].values):
            if (system, axis, value) in known:
                continue
            if axis == "results":
                run, arithmetic = prepare_results(system, value)
            else:
                run, arithmetic = prepare(system, axis, value)
            points.append(Point(system, axis, value, arithmetic, *measure(run, repeats)))
            build.cache_clear()
            with file.open("a") as output:
                output.write(json.dumps(points[-1]) + "\n")
    return points


def curve(points: Sequence[Point], system: str, axis: str) -> list[Point]:
    of_curve = (p for p in points if (p.system, p.axis) == (system, axis))
    return sorted(of_curve, key=lambda point: point.value)


def growth(points: Sequence[Point], costs: Sequence[float]) -> float:
    """Return the growth of a cost in the last step of an axis, as a share of the arithmetic's."""
    units = [point.arithmetic for point in points]
    if AXES[points[0].axis].step == "inference":
        return (costs[-1] / costs[-2]) / (units[-1] / units[-2])
    slope = (costs[-1] - costs[-2]) / (units[-1] - units[-2])
    return slope * (units[-2] - units[0]) / (costs[-2] - costs[0])


def label(system: str, axis: str) -> str:
    return MERGINGS[system] if axis == "results" else SYSTEMS[system].name


def table(points: Sequence[Point]) -> str:
    rows = []
    for axis, system in dict.fromkeys((point.axis, point.system) for point in points):
        of_curve = curve(points, system, axis)
        row = [AXES[axis].title, label(system, axis)]
        for cost, digits in (("seconds", 2), ("mebibytes", 0)):
            costs = [getattr(point, cost) for point in of_curve]
            row += ["  ".join(f"{value:.{digits}f}" for value in costs), growth(of_curve, costs)]
        rows.append(row)
    headers = ["axis", "", "CPU s", "growth", "MiB", "growth"]
    return tabulate(rows, headers, floatfmt=("", "", "", ".2f", "", ".2f"))


def plot(points: Sequence[Point], axes: Sequence[str]) -> Figure:
    """Draw time and memory over each axis; counted multiply-adds are dotted, from the first point.

    Both axes are logarithmic for the side, which quadruples the arithmetic, and linear from 0 else.
    """
    figure = Figure(figsize=(3.2 * len(axes), 5.2), layout="constrained")
    grid = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in zip(grid.T, axes, strict=True):
        column[0].set_title(AXES[axis].title, fontsize=10)
        systems = [*dict.fromkeys(point.system for point in points if point.axis == axis)]
        for system in systems:
            of_curve = curve(points, system, axis)
            for plot_of_cost, cost in zip(column, ("seconds", "mebibytes"), strict=True):
                _draw_curve(plot_of_cost, of_curve, cost, label(system, axis))
        column[0].legend(fontsize=7)
        for plot_of_cost in column:
            _style(plot_of_cost, axis)
    grid[0, 0].set_ylabel("CPU seconds, one thread")
    grid[1, 0].set_ylabel("MiB beyond the model")
    return figure


def _draw_curve(axes: Axes, points: Sequence[Point], cost: str, name: str) -> None:
    values = [point.value for point in points]
    costs = [getattr(point, cost) for point in points]
    (line,) = axes.plot(values, costs, marker="o", markersize=4, label=name)
    if AXES[points[0].axis].step == "inference" and cost == "seconds":
        arithmetic = [point.arithmetic / points[0].arithmetic * costs[0] for point in points]
        axes.plot(values, arithmetic, ":", color=line.get_color(), linewidth=1)


def _style(axes: Axes, axis: str) -> None:
    if axis == "side":
        axes.set(xscale="log", yscale="log")
    else:
        axes.set_ylim(bottom=0)
    values = AXES[axis].values
    axes.set_xticks(values, [str(value) for value in values])
    axes.tick_params(labelsize=8)
    axes.minorticks_off()
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measurements", type=Path, default=Path("growth.jsonl"))
    parser.add_argument("--plots", type=Path, help="folder for growth_*.png")
    parser.add_argument("--systems", nargs="+", default=[*SYSTEMS], choices=SYSTEMS)
    parser.add_argument("--axes", nargs="+", default=[*AXES], choices=AXES)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    points = measure_all(
        arguments.measurements, arguments.systems, arguments.axes, arguments.repeats
    )
    print(table(points))
    if arguments.plots:
        for name, axes in PLOTS.items():
            plot(points, axes).savefig(arguments.plots / f"growth_{name}.png", dpi=90)


if __name__ == "__main__":
    main()
