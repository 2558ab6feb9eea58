"""The work of ``segcore predict`` and ``demo.py``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from segcore.cli.predict import WHOLE
from segcore.data.images import read_image
from segcore.demo.batch import collect_photos, exit_on_termination, predict_photos
from segcore.demo.output import check_output, has_results
from segcore.demo.predictor import DemoError, PhotoPredictor
from segcore.demo.results import ResultWriter
from segcore.demo.videos import predict_videos
from segcore.engine import output_folder, run_log
from segcore.text import printable
from segcore.visualization import format_rows


def main(args: argparse.Namespace) -> int:
    """Predict all photos; return the exit code.

    An error of one photo is a line on standard error, and the next photo follows.

    Args:
        args: of :class:`segcore.cli.predict.PredictionParser`.
    """
    photos, empty = collect_photos(args.photos)
    number, count = args.shard
    photos = photos[number - 1 :: count]
    check_output(args.output, photos)
    with run_log(None):
        predictor = PhotoPredictor(
            args.config_file, args.weights, device=args.device, options=args.opts
        )
    if hasattr(predictor.model, "predict_video"):
        if args.tile is not None:
            raise DemoError("--tile: expected a model of photos, got one of videos")
        if args.shard != WHOLE:
            raise DemoError("--shard: expected a model of photos, got one of videos")
        return predict_all_videos(predictor, args)
    if args.show_focus:
        predictor.require_focus()
    if args.show_attention is not None:
        predictor.require_attention(args.show_attention)
    with output_folder(args.output, trains_anew=False), exit_on_termination():
        failed = predict_all(photos, predictor, args)
    for folder in empty:
        print(f"failed: {printable(folder)}: no photos in this folder", file=sys.stderr)
    return 1 if failed or empty else 0


def predict_all_videos(predictor: PhotoPredictor, args: argparse.Namespace) -> int:
    """Write the results of video files and folders of frames; return the exit code."""
    videos = list(map(Path, args.photos))
    with output_folder(args.output, trains_anew=False), exit_on_termination():
        return min(1, predict_videos(predictor, videos, Path(args.output), args.score_threshold))


def predict_all(photos: Sequence[Path], predictor: PhotoPredictor, args: argparse.Namespace) -> int:
    """Write the results of all photos and return how many failed."""
    if has_results(args.output):
        print(
            f"{printable(args.output)} has results of an earlier run: files of the same name are "
            "replaced, others stay; the JSON files list the photos of this run"
        )
    writer = ResultWriter(args.output, predictor.categories, args.score_threshold, args.shard)

    def predict(path: Path) -> str:
        photo = read_image(path, "BGR", predictor.cfg.INPUT.MAX_PIXELS)
        focus = attention = None
        if args.show_focus:
            focus = predictor.focus(photo)
        if args.show_attention is not None:
            attention = predictor.attention(photo, args.show_attention)
        if args.tile is None:
            result = predictor.predict_compact(photo)
        else:
            result = predictor.predict_tiles(photo, args.tile, args.overlap)
        return format_rows(writer.add(path, photo, result, focus, attention))

    try:
        return predict_photos(photos, predict, debug=args.debug)
    finally:
        print(f"\n{writer.done} of {len(photos)} photos done, results in {printable(args.output)}")
        writer.finish()
