"""The work of ``segcore predict`` and ``demo.py``."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segcore.cli.predict import WHOLE
from segcore.data.images import read_image
from segcore.demo.batch import collect_photos, exit_on_termination, predict_photos
from segcore.demo.batched import predict_batches
from segcore.demo.output import check_output, has_results
from segcore.demo.predictor import DemoError, PhotoPredictor
from segcore.demo.result_files import PHOTOS_FILE, Run
from segcore.demo.results import ResultWriter
from segcore.demo.resume import earlier_results, photos_to_do
from segcore.demo.tracked_videos import TrackingOptions, VideoTracking, is_video
from segcore.demo.videos import predict_videos
from segcore.engine import output_folder, run_log
from segcore.host_memory import LARGE_BYTES, keep_freed_memory
from segcore.text import printable
from segcore.visualization import format_rows

# Options and their values where they do not matter.
PHOTO_OPTIONS = {"--tile": None, "--shard": WHOLE, "--resume": False, "--batch": 1}
TRACKING_OPTIONS = {"--every": 1, "--save-png": False}
DRAWING_OPTIONS = {"--show-focus": False, "--show-attention": None, "--batch": 1}
# Arguments that the results of a frame, and of a photo, depend on.
MODEL_SETTINGS = ("config_file", "weights", "opts", "tile", "overlap")
PHOTO_SETTINGS = (*MODEL_SETTINGS, "score_threshold", "show_focus", "show_attention", "batch")


def main(args: argparse.Namespace) -> int:
    """Predict all photos and videos; return the exit code.

    An error of one is a line on standard error, and the next follows.

    Args:
        args: of :class:`segcore.cli.predict.PredictionParser`.
    """
    paths, empty = collect_photos(args.photos)
    listed = [path for path in paths if not is_video(path)]
    number, count = args.shard
    photos = listed[number - 1 :: count]
    videos = [path for path in paths if is_video(path)][number - 1 :: count]
    if videos:
        _refuse(args, DRAWING_OPTIONS, "photos, got videos")
    else:
        _refuse(args, TRACKING_OPTIONS, "videos, got photos")
    check_output(args.output, [*photos, *videos])
    with run_log(None):
        options = [*args.opts, "TEST.IMS_PER_BATCH", str(args.batch)]
        predictor = PhotoPredictor(
            args.config_file, args.weights, device=args.device, options=options
        )
    if predictor.model.device.type == "cpu":
        keep_freed_memory(LARGE_BYTES)
    if hasattr(predictor.model, "predict_video"):
        _refuse(args, PHOTO_OPTIONS | TRACKING_OPTIONS, "a model of photos, got one of videos")
        return predict_all_videos(predictor, args)
    if args.show_focus:
        predictor.require_focus()
    if args.show_attention is not None:
        predictor.require_attention(args.show_attention)
    with output_folder(args.output, trains_anew=False), exit_on_termination():
        failed = 0
        if listed or not videos:
            failed += predict_all(photos, len(listed), predictor, args)
        failed += track_all(videos, predictor, args) if videos else 0
    for folder in empty:
        print(f"failed: {printable(folder)}: no photos in this folder", file=sys.stderr)
    return 1 if failed or empty else 0


def _refuse(args: argparse.Namespace, options: Mapping[str, Any], expected: str) -> None:
    """Raise DemoError for an option that has another value than in ``options``."""
    for option, default in options.items():
        if getattr(args, option.removeprefix("--").replace("-", "_")) != default:
            raise DemoError(f"{option}: expected {expected}")


def predict_all_videos(predictor: PhotoPredictor, args: argparse.Namespace) -> int:
    """Write the results of video files and folders of frames; return the exit code."""
    videos = list(map(Path, args.photos))
    with output_folder(args.output, trains_anew=False), exit_on_termination():
        return min(1, predict_videos(predictor, videos, Path(args.output), args.score_threshold))


def predict_all(
    photos: Sequence[Path], listed: int, predictor: PhotoPredictor, args: argparse.Namespace
) -> int:
    """Write the results of all photos and return how many failed.

    Args:
        listed: number of photos of all shards.
    """
    run = Run(args.shard, listed, {name: getattr(args, name) for name in PHOTO_SETTINGS})
    earlier = None
    if args.resume:
        earlier = earlier_results(args.output, run, predictor.categories)
        photos = photos_to_do(photos, earlier)
    elif has_results(args.output):
        print(
            f"{printable(args.output)} has results of an earlier run: files of the same name are "
            "replaced, others stay; the JSON files list the photos of this run"
        )
        Path(args.output, PHOTOS_FILE).unlink(missing_ok=True)  # they are done no more
    writer = ResultWriter(args.output, predictor.categories, args.score_threshold, run, earlier)
    before = writer.done
    outcomes = predict_batches(
        photos,
        lambda path: read_image(path, "BGR", predictor.cfg.INPUT.MAX_PIXELS),
        _batch_prediction(predictor, args),
        args.batch,
    )

    def predict(path: Path) -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        photo, result = outcome
        focus = attention = None
        if args.show_focus:
            focus = predictor.focus(photo)
        if args.show_attention is not None:
            attention = predictor.attention(photo, args.show_attention)
        return format_rows(writer.add(path, photo, result, focus, attention))

    finished = False
    try:
        failed = predict_photos(photos, predict, debug=args.debug)
        finished = True
    finally:
        done = f"{writer.done - before} of {len(photos)} photos done"
        done += f", {before} before" if before else ""
        print(f"\n{done}, results in {printable(args.output)}")
        writer.finish(finished=finished)
    return failed


def track_all(videos: Sequence[Path], predictor: PhotoPredictor, args: argparse.Namespace) -> int:
    """Write the results of all videos and return how many failed."""
    options = TrackingOptions(
        every=args.every,
        score_threshold=args.score_threshold,
        save_png=args.save_png,
        resume=args.resume,
        settings={name: getattr(args, name) for name in MODEL_SETTINGS},
    )
    tracking = VideoTracking(
        Path(args.output),
        _prediction(predictor, args),
        predictor.categories,
        predictor.cfg.INPUT.MAX_PIXELS,
        options,
    )
    return tracking.run(videos)


def _batch_prediction(
    predictor: PhotoPredictor, args: argparse.Namespace
) -> Callable[[list[np.ndarray]], list[dict[str, Any]]]:
    """Return the function of photos (H, W, 3) uint8 BGR that gives their compact results."""
    if args.tile is None:
        return predictor.predict_compact
    predict = _prediction(predictor, args)
    return lambda photos: list(map(predict, photos))


def _prediction(
    predictor: PhotoPredictor, args: argparse.Namespace
) -> Callable[[np.ndarray], dict[str, Any]]:
    """Return the function of a photo (H, W, 3) uint8 BGR that gives the compact result."""
    if args.tile is None:
        return predictor.predict_compact
    return partial(predictor.predict_tiles, tile=args.tile, overlap=args.overlap)
