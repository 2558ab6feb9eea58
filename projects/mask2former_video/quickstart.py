"""Quickstart: draw videos, and show what a model makes of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tabulate import tabulate

from segcore.quickstart import OtherData

DATA = Path("datasets/quickstart_videos")
NUM_VIDEOS = 6  # in the film of predictions
RATE = 6  # frames a second
SCALE = 3.0  # of the drawings: the frames are small
THRESHOLD = 0.5


def draw_data() -> None:
    """Draw the videos of the quickstart, unless they are there."""
    from mask2former_video.drawn_videos import generate

    generate(DATA)


def show(cfg: CfgNode, weights: Path, results: Mapping[str, Any]) -> None:
    """Draw the tracks of the first test videos to ``predictions.mp4``; print AP and AR."""
    from segcore.data.images import read_image
    from segcore.demo.videos import draw_tracks, predict_frames
    from segcore.predictor import Predictor
    from segcore.video import VideoWriter

    predictor = Predictor(cfg, str(weights))
    film = Path(cfg.OUTPUT_DIR, "predictions.mp4")
    print(f"==> Drawing the tracks of {NUM_VIDEOS} videos to {film}")
    with VideoWriter(film, RATE) as writer:
        for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])[:NUM_VIDEOS]:
            frames = [read_image(file, "RGB") for file in record["file_names"]]
            result = predict_frames(predictor, frames)
            for drawing in draw_tracks(frames, result, predictor.categories, THRESHOLD, SCALE):
                writer.write(drawing)
    shown = {name: results["segm"][name] for name in ("AP", "AP50", "AP75", "AR1", "AR10")}
    print(f"\n{tabulate([shown.values()], headers=shown.keys(), floatfmt='.1f')}\n")
    print(f"Tracks over the videos: {film}")


QUICKSTART_DATA = OtherData(draw_data, show)
