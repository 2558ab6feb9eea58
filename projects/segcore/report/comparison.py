"""The reports of two evaluations in one page: ``segcore compare A B``."""

import json
import re
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from segcore.errors import DataError, UserError
from segcore.report.charts import curves_svg
from segcore.report.page import DATA_TAG, write_page
from segcore.text import printable

VERSION = 1  # of the reports that are understood
MAX_BYTES = 2**28
MAX_SETTINGS = 200  # that differ
QUALITIES = ("pq", "sq", "rq", "boundary_pq")  # the last one in some reports


def main(args: Namespace) -> int:
    """Write the page that the arguments of :mod:`segcore.cli.compare` ask for."""
    compare(args.a, args.b, args.output)
    print(f"Written: {args.output}")
    return 0


def compare(a: str | Path, b: str | Path, output: str | Path) -> None:
    """Write two reports as one page.

    Args:
        a, b: see :func:`read_report`.
        output: path of the page.

    Raises:
        DataError: a report cannot be read.
        OutputError: the page cannot be written.
    """
    first, second = read_report(a), read_report(b)
    try:
        content = comparison_content(first, second, _labels(a, b))
        curves = dict(zip(content["runs"], (first["curves"], second["curves"]), strict=True))
        write_page(output, "comparison.html", data=content, curves=curves_svg(curves))
    except UserError:
        raise
    except Exception as error:  # what a changed report holds instead can fail anywhere
        raise DataError(
            f"{printable(a)} or {printable(b)}: expected reports as an evaluation writes them, got "
            f"others ({type(error).__name__}: {printable(error)})"
        ) from error


def read_report(path: str | Path) -> dict[str, Any]:
    """Read the numbers and pictures of a report.

    Args:
        path: the page, or the folder of its ``report.html``.

    Raises:
        DataError: there is no such file, or it is no report of an evaluation.
    """
    path = Path(path, "report.html") if Path(path).is_dir() else Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{printable(path)}: expected a report of at most {MAX_BYTES} bytes")
        page = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    found = re.search(re.escape(DATA_TAG) + "(.*?)</script>", page, re.DOTALL)
    try:
        content = json.loads(found[1]) if found else None
    except (ValueError, RecursionError):
        content = None
    kind = content.get("kind") if isinstance(content, dict) else None
    if kind != "evaluation" or content.get("version") != VERSION:
        raise DataError(
            f"{printable(path)}: expected the report of an evaluation, version {VERSION}, got "
            f"{'another page' if kind is None else printable(kind, 40)}"
        )
    return content


def comparison_content(
    first: Mapping[str, Any], second: Mapping[str, Any], runs: Sequence[str]
) -> dict[str, Any]:
    """Return what the page shows of two reports; classes and photos are matched by name and id.

    Args:
        runs: a name of each report.
    """
    content = {
        "kind": "comparison",
        "title": f"{runs[0]} and {runs[1]}",
        "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "runs": list(runs),
        "reports": [[report["title"], report["date"]] for report in (first, second)],
        "tasks": list(_tasks(first, second)),
        "settings": _different_settings(first["config"], second["config"]),
        "panoptic": None,
        "categories": first["categories"],
        "photos": [],
    }
    if first["panoptic"] and second["panoptic"]:
        names = [category["name"] for category in first["categories"]]
        positions = {name: index for index, name in enumerate(names)}
        classes = [positions.get(category["name"], -1) for category in second["categories"]]
        content["panoptic"] = _panoptic(first["panoptic"], second["panoptic"], classes)
        content["photos"] = list(_photos(first["photos"], second["photos"], classes))
    return content


def _labels(*paths: str | Path) -> list[str]:
    """Return the names of folders, or of files, with numbers where they are the same."""
    resolved = [Path(path).resolve() for path in paths]
    names = [p.parent.name if p.name == "report.html" else p.stem for p in resolved]
    if len(set(names)) < len(names):
        names = [f"{name} ({letter})" for name, letter in zip(names, "AB", strict=True)]
    return [printable(name, 40) for name in names]


def _pair(first: float | None, second: float | None) -> dict[str, float | None]:
    known = first is not None and second is not None
    return {"a": first, "b": second, "difference": second - first if known else None}


def _pairs(
    first: Sequence[Mapping], second: Sequence[Mapping], key: Callable[[Mapping], Any]
) -> Iterator[tuple[Mapping, Mapping]]:
    """Yield the rows of both that have the same key."""
    others = {key(row): row for row in second}
    return ((row, others[key(row)]) for row in first if key(row) in others)


def _qualities(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, dict]:
    return {
        name: _pair(first[name], second[name])
        for name in QUALITIES
        if name in first and name in second
    }


def _panoptic(
    first: Mapping[str, Any], second: Mapping[str, Any], classes: Sequence[int]
) -> dict[str, Any]:
    rows = [
        {"name": a["name"], **_qualities(a, b)}
        for part in ("groups", "sizes")
        for a, b in _pairs(first[part], second[part], lambda row: row["name"])
    ]
    costs_of_all = (dict(report["costs"][0]["parts"]) for report in (first, second))
    one, other = costs_of_all
    by_class = {index: row for index, row in zip(classes, second["classes"], strict=True)}
    return {
        "rows": rows,
        "costs": [{"name": name, **_pair(cost, other.get(name))} for name, cost in one.items()],
        "classes": [
            _qualities(row, by_class[index]) if index in by_class else None
            for index, row in enumerate(first["classes"])
        ],
    }


def _photos(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], classes: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for a, b in _pairs(first, second, lambda photo: (photo["id"], photo["file"])):
        segments = [
            {**segment, "class": classes[segment["class"]] if segment["class"] >= 0 else -1}
            | ({"found": classes[segment["found"]]} if "found" in segment else {})
            for segment in b["prediction"]["segments"]
        ]
        yield {
            **{key: a[key] for key in ("file", "id", "picture", "truth")},
            "quality_a": a["quality"],
            "quality_b": b["quality"],
            "difference": b["quality"] - a["quality"],
            "a": a["prediction"],
            "b": {**b["prediction"], "segments": segments},
        }


def _tasks(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for a, b in _pairs(first["tasks"], second["tasks"], lambda task: task["name"]):
        others = dict(b["overall"])
        rows = [
            {"name": name, **_pair(value, others[name])}
            for name, value in a["overall"]
            if name in others
        ]
        yield {"name": a["name"], "title": a["title"], "rows": rows}


def _different_settings(first: str, second: str) -> list[list[str]]:
    """Return [key, value, value] of the keys whose values differ."""
    one, other = (dict(_flat(yaml.safe_load(config))) for config in (first, second))
    rows = [
        [printable(key), *(printable(values.get(key, "not there")) for values in (one, other))]
        for key in sorted({*one, *other})
        if one.get(key) != other.get(key)
    ]
    return rows[:MAX_SETTINGS]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
