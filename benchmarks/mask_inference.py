"""Time of the results of an image from its masks, with the compiled operator and without it.

    python -m benchmarks.mask_inference [--size 800 1333] [--queries 100] [--repeats 5]

CPU time of one thread, in turns, the least of the repeats.
"""

import argparse
import time
from unittest import mock

import torch
from tabulate import tabulate
from torch import Tensor

from mask2former.postprocess import mask_prediction
from segcore.functional import round_up
from segcore.inference import MaskPrediction, PanopticMerging, ResultMaker

CLASSES, THINGS, SEGMENTS = 133, frozenset(range(80)), 20
RESULTS = ("panoptic", "semantic", "instance")


def smooth_masks(queries: int, size: tuple[int, int]) -> Tensor:
    """Logits (Q, h, w) of blobs."""
    coarse = 4 * torch.randn(1, queries, 1 + size[0] // 8, 1 + size[1] // 8)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0]


def make_prediction(queries: int, size: tuple[int, int]) -> MaskPrediction:
    """Prediction for an image, with the first queries certain of a class."""
    padded_size = tuple(round_up(side, 32) for side in size)
    class_logits = torch.randn(queries, CLASSES + 1)
    certain = torch.arange(min(SEGMENTS, queries))
    class_logits[certain, certain * 5 % CLASSES] = 15
    class_logits[len(certain) :, -1] = 15
    masks = smooth_masks(queries, tuple(side // 4 for side in padded_size))
    return mask_prediction(class_logits, masks, (padded_size, size, size), topk=100)


def cpu_time(maker: ResultMaker, prediction: MaskPrediction) -> float:
    start = time.process_time()
    maker(prediction)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1333], help="height, width")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prediction = make_prediction(arguments.queries, tuple(arguments.size))
    merging = PanopticMerging("mask2former", score_threshold=0.8)
    rows = []
    for wanted in [*((result,) for result in RESULTS), RESULTS]:
        maker = ResultMaker(merging, THINGS, **{f"{name}_on": name in wanted for name in RESULTS})
        by_windows, ours = [], []
        with torch.inference_mode():
            for _ in range(arguments.repeats):
                with mock.patch("segcore.inference.one_pass.is_served", return_value=False):
                    by_windows.append(cpu_time(maker, prediction))
                ours.append(cpu_time(maker, prediction))
        before, after = 1e3 * min(by_windows), 1e3 * min(ours)
        rows.append([", ".join(wanted), before, after, before / after])
    print(tabulate(rows, ["results", "by windows ms", "ours ms", "faster"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
