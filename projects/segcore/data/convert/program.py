"""The work of ``segcore convert``."""

import argparse
from pathlib import Path

from segcore.data.convert.formats import FORMATS
from segcore.data.convert.options import assign_splits, parse_splits, to_categories
from segcore.data.convert.source import Request, Source, split_name
from segcore.data.convert.writer import (
    CONFIG_NAME,
    CONFIG_SPLITS,
    PROBLEMS_NAME,
    Conversion,
    convert,
)
from segcore.data.images import MAX_PIXELS
from segcore.data.panoptic_format import Category
from segcore.data.report import list_problems
from segcore.errors import DataError
from segcore.text import printable

INCOMPLETE = 1  # exit code where something was left out


def main(args: argparse.Namespace) -> int:
    """Convert; return the exit code.

    Args:
        args: of the parser in :mod:`segcore.cli.convert`.
    """
    shares = parse_splits(args.split)
    source = FORMATS[args.format].read(_request(args))
    categories = to_categories(
        source.classes,
        things=args.things,
        stuff=args.stuff,
        things_by_default=source.things_by_default,
    )
    if not source.photos:
        raise DataError(f"no photo has an annotation\n{list_problems('error', source.problems)}")
    result = convert(
        assign_splits(source.photos, shares),
        categories,
        source.images,
        args.output,
        components=args.components,
        problems=source.problems,
        max_pixels=args.max_pixels or MAX_PIXELS,
    )
    print(summary(source, categories, result, args.output))
    return INCOMPLETE if result.problems else 0


def summary(source: Source, categories: list[Category], result: Conversion, output: Path) -> str:
    """Return the outcome of a conversion for people."""
    photos = ", ".join(f"{count} photos in {name}" for name, count in result.num_photos.items())
    num_things = sum(category["isthing"] for category in categories)
    lines = [
        f"{printable(output)}: {photos or 'no photos'} ({result.num_reused} of an earlier run); "
        f"{sum(result.num_segments.values())} segments of {len(categories)} classes "
        f"({num_things} things, {len(categories) - num_things} stuff)"
    ]
    if result.num_crowds:
        lines.append(
            f"{result.num_crowds} segments are crowds, things that are not told apart: training "
            "does not learn them (--components, --stuff)"
        )
    if result.num_decided:
        share = result.num_decided / result.num_labeled
        lines.append(
            f"{result.num_decided} pixels ({share:.2%} of the labeled ones) are of several "
            "segments: the one on top has them"
        )
    lines += [f"left out: {count} {reason}" for reason, count in result.left_out.items()]
    unused = [printable(c["name"]) for c in categories if c["id"] not in result.num_segments]
    if unused:
        lines.append(f"classes without a segment: {', '.join(unused)}")
    if result.problems:
        lines.append(f"{list_problems('file', result.problems)}\nall: {output / PROBLEMS_NAME}")
    if CONFIG_SPLITS.keys() & result.num_photos.keys():
        lines.append(
            f"next: name {printable(output / CONFIG_NAME)} last in the _BASE_ of a config; check "
            "it by segcore train --config-file CONFIG --check-data"
        )
    return "\n".join(lines)


def _request(args: argparse.Namespace) -> Request:
    sources = []
    for text in args.source:
        name, equals, path = text.partition("=")
        named = bool(equals) and name.isidentifier() and not Path(text).exists()
        sources.append((split_name(name), Path(path)) if named else ("", Path(text)))
    for _, path in sources:
        if not path.exists():
            raise DataError(f"{printable(path)}: does not exist")
    return Request(sources, args.images, args.classes)
