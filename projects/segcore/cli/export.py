"""Arguments of ``segcore export``."""

import argparse
import re
from pathlib import Path

FORMATS = ("onnx", "torch_export", "aoti")
EXAMPLES = """\
examples:
  photos of every size, with normalization and results inside
    %(prog)s --weights output/model_final.pth --format onnx \\
        --size 480x640 --dynamic --check 480x640 500x333 --output model.onnx
  the network alone, for images of one size
    %(prog)s --config-file NAME.yaml --weights model.pkl --format aoti \\
        --size 640x960 --normalized --outputs network --output model.pt2
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write a model as a program that runs without Detectron2.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="needed for weights that carry no config")
    add("--weights", metavar="FILE", help="file, name or folder; default: MODEL.WEIGHTS")
    add("--format", required=True, choices=FORMATS)
    add("--size", required=True, type=size, metavar="HxW", help="of the images, such as 480x640")
    add("--dynamic", action="store_true", help="take images of every size; --size is the example")
    add("--batch", type=int, default=1, metavar="N", help="images at a time; default %(default)s")
    add(
        "--normalized",
        action="store_true",
        help="take normalized and padded images, not pixels from 0 to 255",
    )
    add(
        "--outputs",
        choices=("results", "network"),
        default="results",
        help="maps at the size of the image (default), or what the network returns",
    )
    add(
        "--standard-operators",
        action="store_true",
        help="use no operator of ours, so that PyTorch alone runs the program, more slowly (ONNX "
        "never has them)",
    )
    add(
        "--check",
        nargs="+",
        type=size,
        default=[],
        metavar="HxW",
        help="compare the file with the model on noise of these sizes",
    )
    add("--output", required=True, type=Path, metavar="FILE", help="a .onnx or .pt2 file")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE", help="settings of the config")
    return parser


def size(text: str) -> tuple[int, int]:
    """Parse height and width, such as 480x640."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected HxW such as 480x640, got {text!r}")
    return int(match[1]), int(match[2])
