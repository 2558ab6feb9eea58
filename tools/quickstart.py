#!/usr/bin/env python3
"""From nothing to a trained model: draw a data set, train, evaluate, show the predictions.

``make demo`` runs this. An interrupted run goes on where it stopped; a finished one is evaluated
and drawn again. Remove the output folder that it names to train anew.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from segcore.requirements import require_detectron2

require_detectron2()

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tabulate import tabulate

from segcore.config import load_projects
from segcore.data.custom_data import setup_custom_data
from segcore.data.images import encode_image, read_image
from segcore.data.panoptic_format import read_panoptic_png
from segcore.data.quickstart import generate
from segcore.demo.predictor import PhotoPredictor
from segcore.engine import Trainer, output_folder, run_log, setup_config
from segcore.files import write_bytes
from segcore.program import run_program
from segcore.quickstart import QUICKSTARTS, OtherData, default_system
from segcore.visualization import draw_panoptic, sheet

ROOT = Path(__file__).resolve().parents[1]
DATA = Path("datasets/quickstart")
PICTURES_ON_SHEET = 8
SCALE = 3.0  # of the drawings: the photos are small


def argument_parser() -> argparse.ArgumentParser:
    load_projects()  # they name their configs
    default = default_system()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--system", choices=sorted(QUICKSTARTS), default=default, required=default is None
    )
    return parser


def main(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    os.chdir(ROOT)  # the paths of the configs start there
    quickstart = QUICKSTARTS.find(args.system)
    data = quickstart.data or OtherData(partial(generate, DATA), show_panoptic)
    data.draw()
    cfg = setup_config(str(quickstart.config_file))
    with output_folder(cfg.OUTPUT_DIR, trains_anew=False) as folder, run_log(folder):
        setup_custom_data(cfg)
        cfg.freeze()
        train_and_show(cfg, args.system, data.show)
    print(f"Time in all: {time.perf_counter() - start:.0f} s")


def train_and_show(cfg: CfgNode, system: str, show: Callable[..., None]) -> None:
    weights = Path(cfg.OUTPUT_DIR, "model_final.pth")
    if weights.exists():
        print(f"==> {weights} is there from an earlier run; remove {weights.parent} to train anew")
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    if trainer.start_iter < trainer.max_iter:
        print(f"==> Training {system} for {trainer.max_iter - trainer.start_iter} iterations")
        trainer.train()

    print("==> Evaluating on data that the training never saw")
    show(cfg, weights, Trainer.test(cfg, trainer.evaluated_model))
    print(f"Model: {weights}")


def show_panoptic(cfg: CfgNode, weights: Path, results: Mapping[str, Any]) -> None:
    """Draw pictures beside their predictions, and print the panoptic quality."""
    picture = Path(cfg.OUTPUT_DIR, "predictions.png")
    print(f"==> Drawing {PICTURES_ON_SHEET} of them to {picture}")
    write_bytes(encode_image(prediction_sheet(cfg, weights), "PNG"), picture)
    print(f"\n{quality_table(results['panoptic_seg'])}\n")
    print(f"Predictions beside the truth: {picture}")


def quality_table(panoptic_results: dict[str, float]) -> str:
    """PQ, SQ and RQ in percent, of all classes, of things and of stuff."""
    rows = [
        [name, *(panoptic_results[measure + suffix] for measure in ("PQ", "SQ", "RQ"))]
        for name, suffix in (("all", ""), ("things", "_th"), ("stuff", "_st"))
    ]
    return tabulate(rows, headers=["", "PQ", "SQ", "RQ"], floatfmt=".1f")


def prediction_sheet(cfg: CfgNode, weights: Path) -> np.ndarray:
    """Photo, predicted segments and true ones of the first pictures of the test split."""
    predictor = PhotoPredictor(cfg, str(weights))
    rows = []
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])[:PICTURES_ON_SHEET]:
        photo = read_image(record["file_name"], "BGR")
        rgb = np.ascontiguousarray(photo[:, :, ::-1])
        truth = read_panoptic_png(record["pan_seg_file_name"]), record["segments_info"]
        drawings = (
            draw_panoptic(rgb, *segments, predictor.categories, SCALE)
            for segments in (predictor(photo)["panoptic_seg"], truth)
        )
        rows.append([rgb, *drawings])
    return sheet(rows, titles=["photo", "prediction", "truth"])


if __name__ == "__main__":
    sys.exit(run_program(main, argument_parser()))
