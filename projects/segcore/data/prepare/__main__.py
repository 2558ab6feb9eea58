"""Make what the configurations of a published data set need besides its downloads."""

import argparse
import sys
from pathlib import Path

from segcore.data.datasets.catalog import ROOT_VARIABLE, datasets_root
from segcore.data.prepare.plans import PLANS
from segcore.errors import DataError
from segcore.program import run_program
from segcore.text import printable

INCOMPLETE = 1  # exit code where a download is missing or broken


def run(args: argparse.Namespace) -> int:
    root = str(args.root or datasets_root())
    plan = PLANS[args.dataset](root, args.splits, args.official)
    missing = {path: text for path, text in plan.downloads.items() if not Path(path).exists()}
    failed: list[str] = []
    for path, derivation in plan.derivations.items():
        if Path(path).exists():
            print(f"there    {printable(path)}")
        elif sources := derivation.missing_sources():
            missing |= sources
            print(f"cannot   {printable(path)}: needs {', '.join(map(printable, sources))}")
        elif args.dry_run:
            print(f"to make  {printable(path)}")
        else:
            try:
                derivation.make()
                print(f"made     {printable(path)}", flush=True)
            except DataError as error:
                failed.append(str(error))
                print(f"cannot   {printable(path)}: {error}")
    # Panoptic PNGs make up for the archive that they came in.
    missing = {path: text for path, text in missing.items() if not Path(path).exists()}
    for path, text in missing.items():
        if path not in plan.derivations:
            print(f"missing  {printable(path)}: {text}")
    return INCOMPLETE if missing or failed else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m segcore.data.prepare",
        description=__doc__,
        epilog="The page is docs/datasets.md.",
    )
    parser.add_argument("dataset", choices=list(PLANS))
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help=f"folder of all data sets; without it, that of the variable {ROOT_VARIABLE}",
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


def main() -> int:
    return run_program(run, build_parser())


if __name__ == "__main__":
    sys.exit(main())
