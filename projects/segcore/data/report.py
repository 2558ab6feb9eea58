"""Results of a check of data, for people and for programs."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from segcore.errors import DataError
from segcore.text import printable

EXAMPLES_SHOWN = 5  # of each kind of problem
CLASSES_SHOWN = 200
WIDTH = 100  # columns
NAME_WIDTH = 40


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the data. ``kind`` names its sort, the same for all of that sort."""

    kind: str
    file: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{printable(self.file)}: {self.message}"


@dataclass
class ClassCount:
    name: str
    is_thing: bool
    segments: int = 0
    crowds: int = 0


@dataclass
class Report:
    """Result of the check of one split.

    Attributes:
        source: the panoptic JSON, or the image folder.
        split: "TRAIN", "TEST", or "" where it is not known.
    """

    source: str
    problems: list[Problem] = field(default_factory=list)
    classes: list[ClassCount] = field(default_factory=list)
    num_photos: int = 0
    num_annotations: int = 0
    split: str = ""

    @property
    def errors(self) -> list[Problem]:
        """Problems that training or evaluation would fail on, or be wrong with."""
        return [problem for problem in self.problems if problem.is_error]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if not problem.is_error]

    @property
    def ok(self) -> bool:
        return not self.errors

    @property
    def title(self) -> str:
        return f"{self.split}: {printable(self.source)}" if self.split else printable(self.source)

    def raise_if_failed(self) -> None:
        """Raise a DataError that lists the errors, if there are any."""
        if not self.ok:
            raise DataError(
                f"{self.title}: the data cannot be used\n{list_problems('error', self.errors)}"
            )

    def summary(self) -> str:
        """Counts, a table of the classes, and the problems: for people."""
        return summarize([self])


def summarize(reports: Sequence[Report]) -> str:
    """Return the reports on the splits as one text, for people, that says nothing twice."""
    parts = ["\n".join(line for report in reports for line in _head(report))]
    names = [[(count.name, count.is_thing) for count in report.classes] for report in reports]
    if all(classes == names[0] for classes in names):
        parts.append(_class_table(reports))
    else:
        parts += [_class_table([report]) for report in reports]
    parts += _listings(reports)
    if not any(report.problems for report in reports):
        parts.append("No problems found.")
    return "\n\n".join(part for part in parts if part)


def _head(report: Report) -> list[str]:
    if not report.classes:
        return [report.title]
    segments = sum(count.segments for count in report.classes)
    num_things = sum(count.is_thing for count in report.classes)
    return [
        report.title,
        f"  {report.num_photos} photos, {report.num_annotations} annotated; {segments} segments of "
        f"{len(report.classes)} classes ({num_things} things, "
        f"{len(report.classes) - num_things} stuff)",
    ]


def _class_table(reports: Sequence[Report]) -> str:
    """Segments of each class, with two columns a report; the reports have the same classes."""
    classes = reports[0].classes
    if not classes:
        return ""
    headers = ["class", "kind"]
    for report in reports:
        split = f"{report.split} " * (len(reports) > 1)
        headers += [f"{split}segments", "of them crowd"]
    rows = []
    for counts in zip(*(report.classes for report in reports), strict=True):
        columns = [column for count in counts for column in (count.segments, count.crowds)]
        kind = "thing" if counts[0].is_thing else "stuff"
        rows.append((printable(counts[0].name, NAME_WIDTH), kind, *columns))
    # Class names stay text, also those that look like numbers.
    table = tabulate(rows[:CLASSES_SHOWN], headers=headers, disable_numparse=[0])
    if len(rows) > CLASSES_SHOWN:
        table += f"\n... and {len(rows) - CLASSES_SHOWN} more classes"
    return table


def _listings(reports: Sequence[Report]) -> list[str]:
    """The errors, then the warnings, each of some splits; a problem of several is said once."""
    splits: dict[tuple[str, str, str], set[str]] = {}
    problems: dict[tuple[str, str, str], Problem] = {}
    for report in reports:
        for problem in report.problems:
            key = (problem.kind, problem.file, problem.message)
            splits.setdefault(key, set()).add(report.split)
            if problem.is_error or key not in problems:
                problems[key] = problem
    listings = []
    for is_error, severity in ((True, "error"), (False, "warning")):
        groups: dict[tuple[str, ...], list[Problem]] = {}
        for key, problem in problems.items():
            if problem.is_error == is_error:
                owners = tuple(r.split for r in reports if r.split in splits[key])
                groups.setdefault(owners, []).append(problem)
        for owners, group in groups.items():
            where = f" in {' and '.join(owners)}" * (len(reports) > 1)
            listings.append(list_problems(severity, group, where))
    return listings


def list_problems(severity: str, problems: list[Problem], where: str = "") -> str:
    """Return the problems by kind, with a few examples of each: for people."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    lines = [f"{len(problems)} {severity}{'s' * (len(problems) > 1)}{where}"]
    for kind, group in by_kind.items():
        lines.append(f"  {kind} ({len(group)})")
        for problem in group[:EXAMPLES_SHOWN]:
            lines += textwrap.wrap(
                str(problem),
                WIDTH,
                initial_indent="    ",
                subsequent_indent="      ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        if len(group) > EXAMPLES_SHOWN:
            lines.append(f"    ... and {len(group) - EXAMPLES_SHOWN} more")
    return "\n".join(lines)
