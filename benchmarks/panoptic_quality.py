"""Panoptic quality of one image: ours beside panopticapi and, where installed, torchmetrics.

    python -m benchmarks.panoptic_quality [--size 480 640] [--segments 20] [--repeats 20]

"Compare" takes decoded maps: pixels of colors for panopticapi, ids for ours, (class, instance)
tensors for torchmetrics. "Whole" begins at the predicted map and at the PNG of the truth: ours
decodes the latter; panopticapi reads the predictions from PNGs too, which have to be written.
CPU time of one thread, in turns in one process, the smallest of all repeats. "Threads" is the time
for 64 images with one and with two threads.
"""

import argparse
import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from panopticapi import evaluation as panopticapi
from panopticapi.utils import id2rgb
from PIL import Image
from tabulate import tabulate

from segcore.data.panoptic_format import read_panoptic_png
from segcore.evaluation import PanopticQuality

IMAGES_FOR_THREADS = 64


class Sample(NamedTuple):
    prediction: np.ndarray
    prediction_segments: list[dict]
    truth: np.ndarray
    truth_segments: list[dict]
    categories: list[dict]


def make_sample(height: int, width: int, count: int) -> Sample:
    """Cells around random points; the prediction is the truth moved by 5 pixels."""
    rng = np.random.default_rng(0)
    points = rng.integers(0, [height, width], (count, 2))
    rows, columns = np.mgrid[:height, :width]
    cells = ((rows - points[:, :1, None]) ** 2 + (columns - points[:, 1:, None]) ** 2).argmin(0)
    truth_ids = 1 + rng.choice(2**24 - 1, count, replace=False).astype(np.int32)
    truth, prediction = truth_ids[cells], np.roll(cells, 5, 1).astype(np.int32) + 1
    truth_segments = [
        {"id": int(id_), "category_id": i, "iscrowd": 0, "area": int((truth == id_).sum())}
        for i, id_ in enumerate(truth_ids)
        if (truth == id_).any()
    ]
    segments = [{"id": int(i), "category_id": int(i) - 1} for i in np.unique(prediction)]
    categories = [{"id": i, "name": str(i), "isthing": 1} for i in range(count)]
    return Sample(prediction, segments, truth, truth_segments, categories)


def count_by_panopticapi(sample: Sample, folder: Path) -> panopticapi.PQStat:
    pair = (
        {"image_id": 0, "file_name": "truth.png", "segments_info": sample.truth_segments},
        {
            "file_name": "prediction.png",
            "segments_info": [dict(segment) for segment in sample.prediction_segments],
        },
    )
    categories = {category["id"]: category for category in sample.categories}
    with contextlib.redirect_stdout(io.StringIO()):
        return panopticapi.pq_compute_single_core(0, [pair], folder, folder, categories)


def panopticapi_functions(sample: Sample, folder: Path) -> dict[str, Callable[[], object]]:
    decoded = {
        str(folder / "truth.png"): id2rgb(sample.truth),
        str(folder / "prediction.png"): id2rgb(sample.prediction),
    }

    def compare() -> object:
        opened = panopticapi.Image
        panopticapi.Image = argparse.Namespace(open=lambda path: decoded[str(path)])
        try:
            return count_by_panopticapi(sample, folder)
        finally:
            panopticapi.Image = opened

    def whole() -> object:
        Image.fromarray(id2rgb(sample.prediction)).save(folder / "prediction.png")
        return count_by_panopticapi(sample, folder)

    return {"compare": compare, "whole": whole}


def our_functions(sample: Sample, folder: Path) -> dict[str, Callable[[], object]]:
    quality = PanopticQuality(sample.categories)
    boundary = PanopticQuality(sample.categories, boundary=True)

    def whole() -> object:
        truth = read_panoptic_png(folder / "truth.png")
        return quality.outcomes(*sample[:2], truth, sample.truth_segments)

    return {
        "compare": lambda: quality.outcomes(*sample[:4]),
        "whole": whole,
        "boundary": lambda: boundary.outcomes(*sample[:4]),
    }


def torchmetrics_functions(sample: Sample) -> dict[str, Callable[[], object]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchmetrics.detection import PanopticQuality as Metric
    except ImportError:
        return {}

    def pairs(ids: np.ndarray, segments: list[dict]) -> torch.Tensor:
        classes = np.array([segment["category_id"] for segment in segments])
        known = np.array([segment["id"] for segment in segments])
        order = np.argsort(known)
        categories = classes[order][np.searchsorted(known[order], ids)]
        return torch.from_numpy(np.stack((categories, ids), -1).astype(np.int64))[None]

    prediction = pairs(sample.prediction, sample.prediction_segments)
    truth = pairs(sample.truth, sample.truth_segments)
    metric = Metric(things={c["id"] for c in sample.categories}, stuffs=set())
    return {"compare": lambda: metric.update(prediction, truth)}


def cpu_milliseconds(functions: dict, repeats: int) -> dict:
    """Smallest CPU time of each function, which run in turns, each three times for warm caches."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            for _ in range(3):
                start = time.process_time()
                function()
                best[name] = min(best[name], 1e3 * (time.process_time() - start))
    return best


def wall_milliseconds(function: Callable[[], object], threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: function(), range(IMAGES_FOR_THREADS)))
        return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    parser.add_argument("--segments", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sample = make_sample(*arguments.size, arguments.segments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, ids in (("truth", sample.truth), ("prediction", sample.prediction)):
            Image.fromarray(id2rgb(ids)).save(folder / f"{file}.png")
        libraries = {
            "segcore": our_functions(sample, folder),
            "panopticapi": panopticapi_functions(sample, folder),
            "torchmetrics": torchmetrics_functions(sample),
        }
        functions = {
            (library, name): function
            for library, by_name in libraries.items()
            for name, function in by_name.items()
        }
        times = cpu_milliseconds(functions, arguments.repeats)
        rows = [
            (library, name, milliseconds, milliseconds / times["segcore", name])
            for (library, name), milliseconds in times.items()
        ]
        print(tabulate(rows, ("library", "part", "CPU ms", "ratio"), floatfmt=".2f"))
        compare = libraries["segcore"]["compare"]
        seconds = [wall_milliseconds(compare, threads) for threads in (1, 2)]
        print(
            f"\n{IMAGES_FOR_THREADS} images: {seconds[0]:.0f} ms, two threads {seconds[1]:.0f} ms"
        )


if __name__ == "__main__":
    main()
