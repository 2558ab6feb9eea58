#!/usr/bin/env python3
"""Evaluate files of predictions that Detectron2's evaluators have written.

    python tools/evaluate_predictions.py boundary-ap instances.json coco_instances_results.json
    python tools/evaluate_predictions.py semantic-pq ade20k_sem_seg_val sem_seg_predictions.json

boundary-ap prints AP and AR by the IoU of boundaries, semantic-pq panoptic quality with every class
as one segment of an image, and mean IoU, of the images that occur in the predictions.
"""

import argparse
import math
import sys
from collections.abc import Sequence

import numpy as np

from segcore.requirements import require_detectron2

require_detectron2()

from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

import segcore.data  # noqa: F401, registers the data sets
from segcore.data.images import read_ids
from segcore.data.json_file import read_json
from segcore.errors import DataError
from segcore.evaluation.boundary_ap import boundary_ap, read_ground_truth
from segcore.evaluation.semantic_pq import prediction_maps, semantic_quality
from segcore.program import run_program
from segcore.text import did_you_mean, printable, short_repr


def evaluate_boundaries(args: argparse.Namespace) -> None:
    values = boundary_ap(
        read_ground_truth(args.ground_truth),
        _read_list(args.predictions),
        dilation_ratio=args.dilation_ratio,
    )
    rows = [(name, "-" if math.isnan(v) else f"{100 * v:.2f}") for name, v in values.items()]
    print(tabulate(rows, ("", "boundary"), tablefmt="pipe"))


def evaluate_semantic(args: argparse.Namespace) -> None:
    if args.dataset not in DatasetCatalog:
        hint = did_you_mean(args.dataset, DatasetCatalog.list(), most=2)
        raise DataError(f"dataset: there is none called {short_repr(args.dataset)}{hint}")
    metadata = MetadataCatalog.get(args.dataset)
    names = metadata.stuff_classes
    contiguous = metadata.get("stuff_dataset_id_to_contiguous_id") or dict(
        enumerate(range(len(names)))
    )
    truth_files = {
        record["file_name"]: record["sem_seg_file_name"]
        for record in DatasetCatalog.get(args.dataset)
    }

    def read_truth(file_name: str) -> np.ndarray:
        if file_name not in truth_files:
            raise DataError(
                f"{printable(args.predictions)}: file_name: expected a photo of {args.dataset}, "
                f"such as {short_repr(next(iter(truth_files), None))}, got {short_repr(file_name)}"
            )
        return read_ids(truth_files[file_name])[0]

    maps = prediction_maps(_read_list(args.predictions), read_truth, contiguous)
    quality = semantic_quality(maps, names, ignore_label=metadata.ignore_label)
    mean = quality.panoptic.mean()
    values = (mean.pq, mean.sq, mean.rq, quality.mean_iou)
    row = [*(f"{100 * value:.1f}" for value in values), mean.num_classes]
    print(tabulate([row], ("PQ", "SQ", "RQ", "mIoU", "classes"), tablefmt="pipe"))


def _read_list(path: str) -> list:
    data = read_json(path)
    if not isinstance(data, list):
        raise DataError(f"{printable(path)}: expected a list, got {short_repr(data)}")
    return data


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    metrics = parser.add_subparsers(dest="metric", required=True)
    boundaries = metrics.add_parser("boundary-ap")
    boundaries.add_argument("ground_truth", help="JSON of instances in COCO's format")
    boundaries.add_argument("--dilation-ratio", type=float, default=0.02)
    boundaries.set_defaults(evaluate=evaluate_boundaries)
    semantic = metrics.add_parser("semantic-pq")
    semantic.add_argument("dataset", help="registered data set with semantic maps")
    semantic.set_defaults(evaluate=evaluate_semantic)
    for metric in (boundaries, semantic):
        metric.add_argument("predictions", help="JSON that the evaluator has written")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool on these arguments; return the exit code."""
    return run_program(lambda args: args.evaluate(args), argument_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
