"""The work of ``segcore prepare``."""

import argparse
from pathlib import Path

from segcore.data.datasets.catalog import datasets_root
from segcore.data.prepare.plans import PLANS
from segcore.errors import DataError
from segcore.text import printable

INCOMPLETE = 1  # exit code where a download is missing or broken


def main(args: argparse.Namespace) -> int:
    """Make what is not there; return the exit code.

    Args:
        args: of the parser in :mod:`segcore.cli.prepare`.
    """
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
