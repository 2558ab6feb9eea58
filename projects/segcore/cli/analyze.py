"""Arguments of ``segcore analyze``."""

import argparse
import re

from segcore.cli.values import positive

MAX_SIDE = 65_536  # pixels


def image_size(text: str) -> tuple[int, int]:
    """Parse HxW."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = tuple(map(int, match.groups())) if match else (0, 0)
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH, such as 800x1088, got {text!r}")
    return size


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        usage="%(prog)s --config-file FILE [OPTIONS] [KEY VALUE ...]",
        description="Print parameters, multiply-adds and activations of a configuration by part, "
        "without computing anything; with --time, time and memory as well.",
        epilog="The page is docs/analysis.md.",
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="a configuration, or its name"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        default=(800, 1088),
        metavar="HxW",
        help="height and width of the image; padded as the model pads (default: 800x1088, a photo "
        "of 640x480 at the size of COCO's evaluation)",
    )
    parser.add_argument(
        "--depth", type=positive, default=2, metavar="N", help="of the parts (default: 2)"
    )
    parser.add_argument(
        "--time", action="store_true", help="run the network, on MODEL.DEVICE, with random weights"
    )
    parser.add_argument(
        "--repeats", type=positive, default=3, metavar="N", help="runs to time (default: 3)"
    )
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", help="of the configuration")
    return parser
