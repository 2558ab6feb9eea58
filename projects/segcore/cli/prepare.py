"""Arguments of ``segcore prepare``."""

import argparse
from pathlib import Path

DATA_SETS = ("coco", "ade20k", "cityscapes", "mapillary")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Make what the configurations of a published data set need besides its "
        "downloads.",
        epilog="The page is docs/datasets.md.",
    )
    parser.add_argument("dataset", choices=DATA_SETS)
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="folder of all data sets; without it, that of the variable DETECTRON2_DATASETS",
    )
    parser.add_argument(
        "--splits", nargs="+", default=["train", "val"], choices=["train", "val"], metavar="SPLIT"
    )
    parser.add_argument(
        "--official",
        action="store_true",
        help="areas, boxes and covered segments of ADE20K as in the official files, by which "
        "published figures were measured; without it they are measured on the panoptic PNGs",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be made")
    return parser
