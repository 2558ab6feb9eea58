#!/usr/bin/env python3
"""Segment photos: ``python demo.py --config-file X --weights W photo.jpg folder/ --output DIR``.

Writes overlay pictures, COCO panoptic PNGs with one JSON (and instances, if the model predicts
them), and prints a table of segments for every photo. With --show-focus it also draws the tokens,
with --show-attention the attention of the mask decoder's queries.

An error of one photo is a line on standard error, and the next photo follows. The exit code is
0 if all photos are done, 1 if one failed, 2 for wrong arguments or configurations.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from segcore.requirements import require_detectron2

require_detectron2()

import segcore.data  # noqa: F401, registers the data sets
from segcore.data.images import read_image
from segcore.demo import (
    PhotoPredictor,
    ResultWriter,
    check_output,
    collect_photos,
    exit_on_termination,
    has_results,
    predict_photos,
    predict_videos,
)
from segcore.engine import output_folder, run_log
from segcore.program import run_program
from segcore.text import printable
from segcore.visualization import format_rows

# A section and a key; photos are not called so, and those that are can be written ./NAME.
CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")
NUMBER = re.compile(r"-?\d+")


class DemoParser(argparse.ArgumentParser):
    """Parser of the arguments; photos may stand before, between and after all options."""

    def __init__(self):
        super().__init__(description=__doc__.partition("\n")[0], allow_abbrev=False)
        self.add_argument(
            "photos",
            nargs="*",
            help="photos, or folders of photos; for a model of videos: "
            "video files, or a folder of frames for each video",
        )
        self.add_argument(
            "--config-file",
            metavar="FILE",
            help="needed for weights that train_net.py has not written, which carry theirs",
        )
        self.add_argument(
            "--weights", help="file, URL, or folder of a training; default: MODEL.WEIGHTS"
        )
        self.add_argument("--output", required=True, metavar="DIR")
        self.add_argument(
            "--score-threshold", type=share, default=0.5, help="of instances; default %(default)s"
        )
        self.add_argument(
            "--show-focus",
            action="store_true",
            help="draw where the tokens stay (backbones that choose tokens)",
        )
        self.add_argument(
            "--show-attention",
            nargs="*",
            action="append",
            metavar="QUERY",
            help="draw what these queries, or those of the best segments, look at "
            "(models that show the attention of their mask decoders)",
        )
        self.add_argument("--device", help="cpu, cuda, cuda:1; default: MODEL.DEVICE, or the CPU")
        self.add_argument(
            "--opts",
            nargs="*",
            action="append",
            default=[],
            metavar="KEY VALUE",
            help="settings of the config; what follows the last pair is photos",
        )

    def parse_args(self, args=None, namespace=None) -> argparse.Namespace:
        """Parse; take what follows the values of ``--opts`` and ``--show-attention`` for photos."""
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        parsed = self.parse_intermixed_args(args[:end], namespace)
        parsed.photos += args[end + 1 :]
        settings = []
        for values in parsed.opts:
            end = 0
            while end < len(values) and is_config_key(values[end]):
                end += 2
            if end > len(values):
                self.error(f"--opts: the value of {printable(values[-1])} is missing")
            settings += values[:end]
            parsed.photos += values[end:]
        parsed.opts = settings
        if parsed.show_attention is not None:
            queries = []
            for values in parsed.show_attention:
                indices = list(takewhile(NUMBER.fullmatch, values))
                queries += map(int, indices)
                parsed.photos += values[len(indices) :]
            parsed.show_attention = queries
        if not parsed.output:
            self.error("--output: expected a folder, got ''")
        if not all(parsed.photos):
            self.error("photos: expected names, got ''")
        if not parsed.photos:
            self.error("photos: expected at least one photo or folder")
        return parsed


def share(text: str) -> float:
    """Parse a number in [0, 1]."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise argparse.ArgumentTypeError(f"expected a number in [0, 1], got {printable(text)}")


def is_config_key(text: str) -> bool:
    return CONFIG_KEY.fullmatch(text) is not None and not Path(text).exists()


def main(args: argparse.Namespace) -> int:
    """Predict all photos; return the exit code."""
    photos, empty = collect_photos(args.photos)
    check_output(args.output, photos)
    with run_log(None):
        predictor = PhotoPredictor(
            args.config_file, args.weights, device=args.device, options=args.opts
        )
    if hasattr(predictor.model, "predict_video"):
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
    writer = ResultWriter(args.output, predictor.categories, args.score_threshold)

    def predict(path: Path) -> str:
        photo = read_image(path, "BGR", predictor.cfg.INPUT.MAX_PIXELS)
        focus = attention = None
        if args.show_focus:
            focus = predictor.focus(photo)
        if args.show_attention is not None:
            attention = predictor.attention(photo, args.show_attention)
        result = predictor.predict_compact(photo)
        return format_rows(writer.add(path, photo, result, focus, attention))

    try:
        return predict_photos(photos, predict, debug=args.debug)
    finally:
        print(f"\n{writer.done} of {len(photos)} photos done, results in {printable(args.output)}")
        writer.finish()


def run(argv: Sequence[str] | None = None) -> int:
    """Run the program on these arguments; return the exit code."""
    return run_program(main, DemoParser(), argv)


if __name__ == "__main__":
    sys.exit(run())
