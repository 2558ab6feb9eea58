#!/usr/bin/env python3
"""Segment photos: ``python demo.py --config-file X --weights W photo.jpg folder/ --output DIR``.

Writes overlay pictures, COCO panoptic PNGs with one JSON (and instances where the model gives
them), and prints a table of segments for every photo. With --show-focus it also draws where the
tokens are, with --show-attention what the queries of the mask decoder look at.
"""

import argparse
import sys
from collections.abc import Sequence

from segcore.requirements import require_detectron2

require_detectron2()

from detectron2.utils.logger import setup_logger
from tqdm import tqdm

import segcore.data  # noqa: F401, registers the data sets
from segcore.demo import PhotoPredictor, ResultWriter, find_photos, read_photo
from segcore.engine import setup_config
from segcore.errors import UserError
from segcore.visualization import format_rows


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", nargs="+", help="photos, or folders of photos")
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", default="", help="file or URL; default: MODEL.WEIGHTS")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument(
        "--score-threshold", type=float, default=0.5, help="of instances; default %(default)s"
    )
    parser.add_argument(
        "--show-focus",
        action="store_true",
        help="draw where the tokens stay (AutoFocusFormer)",
    )
    parser.add_argument(
        "--show-attention",
        nargs="*",
        type=int,
        metavar="QUERY",
        help="draw what these queries, or those of the best segments, look at (Panoptic SegFormer)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: MODEL.DEVICE, or the CPU")
    parser.add_argument(
        "--opts", nargs="*", default=[], metavar="KEY VALUE", help="settings of the config"
    )
    return parser.parse_args(arguments)


def main(args: argparse.Namespace) -> int:
    """Predict all photos; the exit code is 1 if none could be read."""
    for name in ("fvcore", "segcore"):
        setup_logger(name=name)
    device = ["MODEL.DEVICE", args.device] if args.device else []
    predictor = PhotoPredictor(setup_config(args.config_file, [*args.opts, *device]), args.weights)
    if args.show_focus:
        predictor.require_focus()
    if args.show_attention is not None:
        predictor.require_attention(args.show_attention)
    writer = ResultWriter(args.output, predictor.categories, args.score_threshold)
    photos, skipped = find_photos(args.photos), []
    for path in tqdm(photos, desc="photos", unit="photo"):
        try:
            photo = read_photo(path)
        except ValueError as error:
            skipped.append(str(error))
            continue
        focus = attention = None
        if args.show_focus:
            focus = predictor.focus(photo)
        if args.show_attention is not None:
            attention = predictor.attention(photo, args.show_attention)
        rows = writer.add(path, photo, predictor(photo), focus, attention)
        tqdm.write(f"\n{path}\n{format_rows(rows)}")
    writer.finish()
    print(f"\n{len(photos) - len(skipped)} of {len(photos)} photos done, results in {args.output}")
    for reason in skipped:
        print(f"skipped: {reason}")
    return 0 if len(skipped) < len(photos) else 1


def run(argv: Sequence[str] | None = None) -> int:
    """The whole program on these arguments; what the user can mend is said plainly."""
    args = parse_arguments(argv)
    try:
        return main(args)
    except (UserError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)


if __name__ == "__main__":
    sys.exit(run())
