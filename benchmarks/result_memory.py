"""Memory and CPU time of results of large photos, compact and as tensors.

    python -m benchmarks.result_memory [--megapixels 4 12 24 64] [--queries 25 100] [--tensors]

Masks are blobs at the size that Mask2Former gives for a photo of 3 to 2 (200 x 300 cells), one
thread, panoptic and instance results and the score of each segment. "few" has 20 certain queries,
the others are "no object"; in "all" every query is certain. Memory is the peak of the process
beyond what it held before, the results included. Tensors are measured up to 4 megapixels.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from benchmarks.common import peak_mebibytes
from tabulate import tabulate

from mask2former.postprocess import mask_prediction
from segcore.inference import MaskPrediction, PanopticMerging, ResultMaker

NUM_CLASSES, NUM_THINGS = 133, 80
INPUT_SIZE = 800, 1200
CERTAIN = 20
TENSOR_MEGAPIXELS = 4


def draw_prediction(queries: int, megapixels: float, certain: int) -> MaskPrediction:
    """Draw elliptic blobs, ``segments`` of which have a class that is certain."""
    generator = torch.Generator().manual_seed(0)
    height, width = (size // 4 for size in INPUT_SIZE)
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(0, 1, width)
    center, radius = torch.rand(2, queries, 2, 1, 1, generator=generator).unbind(0)
    radius = 0.05 + 0.25 * radius
    distance = ((rows - center[:, 0]) / radius[:, 0]) ** 2 + (
        (columns - center[:, 1]) / radius[:, 1]
    ) ** 2
    wave = 0.3 * torch.sin(40 * (rows + center[:, 1])) * torch.sin(40 * (columns + center[:, 0]))
    mask_logits = (12 * (1 - distance + wave)).clamp(min=-15)
    class_logits = torch.zeros(queries, NUM_CLASSES + 1)
    class_logits[:, -1] = 9
    labels = torch.randint(NUM_CLASSES, (certain,), generator=generator)
    class_logits[torch.arange(certain), labels] = 12.0
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    return mask_prediction(
        class_logits,
        mask_logits,
        (INPUT_SIZE, INPUT_SIZE, (height, round(1.5 * height))),
        topk=100,
        thing_ids=range(NUM_THINGS),
    )


def result_maker() -> ResultMaker:
    merging = PanopticMerging("mask2former", score_threshold=0.8, min_visible_share=0.8)
    return ResultMaker(merging, frozenset(range(NUM_THINGS)))


def prepare(compact: bool, *arguments) -> Callable[[], object]:
    """Return a function that makes the results, in a process that has made small ones before."""
    torch.set_num_threads(1)
    maker = result_maker()
    make = maker.compact if compact else maker
    make(draw_prediction(4, 0.1, 4))
    return partial(make, draw_prediction(*arguments))


def seconds(compact: bool, *arguments) -> float:
    make = prepare(compact, *arguments)
    start = time.process_time()
    make()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", nargs="+", type=float, default=[4, 12, 24, 64])
    parser.add_argument("--queries", nargs="+", type=int, default=[25, 100])
    parser.add_argument("--tensors", action="store_true", help="measure tensors, too")
    arguments = parser.parse_args()
    rows = []
    for megapixels in arguments.megapixels:
        for queries in arguments.queries:
            for winners, certain in (("few", min(CERTAIN, queries)), ("all", queries)):
                case = queries, megapixels, certain
                row = [megapixels, queries, winners]
                for compact in (True, False):
                    measured = compact or (arguments.tensors and megapixels <= TENSOR_MEGAPIXELS)
                    row += (
                        [
                            peak_mebibytes(prepare, compact, *case, device="cpu"),
                            seconds(compact, *case),
                        ]
                        if measured
                        else [None, None]
                    )
                rows.append(row)
    headers = ["megapixels", "queries", "winners", "MiB", "CPU s", "tensors MiB", "tensors CPU s"]
    print(tabulate(rows, headers, floatfmt=".1f"))


if __name__ == "__main__":  # the benchmark starts processes
    main()
