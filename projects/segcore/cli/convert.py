"""Arguments of ``segcore convert``."""

import argparse
from pathlib import Path

from segcore.data.convert.formats import FORMATS


def build_parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<12}{item.description}" for name, item in FORMATS.items())
    parser = argparse.ArgumentParser(
        description="Convert annotations of another format into COCO panoptic format.",
        epilog=f"formats and their sources:\n{listed}\n\nThe page is docs/convert.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", nargs="+", metavar="SOURCE", help="file or folder; val=SOURCE names its split")
    add("--from", dest="format", required=True, choices=list(FORMATS), metavar="FORMAT")
    add("--images", type=Path, metavar="DIR", help="folder of the photos, which stay there")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--split", nargs="+", default=[], metavar="NAME=SHARE", help="val=0.2: the rest is train")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--things", nargs="+", metavar="NAME", help="classes; all others are stuff")
    kinds.add_argument("--stuff", nargs="+", metavar="NAME", help="classes; all others are things")
    add("--classes", type=Path, metavar="FILE", help="class names, one a line (semantic)")
    add(
        "--components",
        action="store_true",
        help="connected components of a thing class are things, where a map does not part them",
    )
    add("--max-pixels", type=int, metavar="N", help="of a photo")
    return parser
