"""What a check of panoptic data found, for people and for programs."""

from dataclasses import dataclass, field

from tabulate import tabulate

from segcore.errors import DataError

EXAMPLES_SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the data. ``kind`` names its sort, the same for all of that sort."""

    kind: str
    file: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass
class ClassCount:
    name: str
    is_thing: bool
    segments: int = 0
    crowds: int = 0


@dataclass
class Report:
    """What :func:`check_panoptic_dataset` found."""

    json: str
    problems: list[Problem] = field(default_factory=list)
    classes: list[ClassCount] = field(default_factory=list)
    num_photos: int = 0
    num_annotations: int = 0

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

    def raise_if_failed(self) -> None:
        """Raise a DataError that lists the errors, if there are any."""
        if not self.ok:
            raise DataError(
                f"{self.json}: the data cannot be used\n{_listing('error', self.errors)}"
            )

    def summary(self) -> str:
        """Counts, a table of the classes, and the problems: for people."""
        things = sum(count.is_thing for count in self.classes)
        rows = [
            (count.name, "thing" if count.is_thing else "stuff", count.segments, count.crowds)
            for count in self.classes
        ]
        parts = [self.json]
        if rows:
            parts += [
                f"{self.num_photos} photos, {self.num_annotations} annotated; "
                f"{sum(count.segments for count in self.classes)} segments of {len(rows)} classes "
                f"({things} things, {len(rows) - things} stuff)",
                tabulate(rows, headers=("class", "kind", "segments", "of them crowd")),
            ]
        parts += [
            _listing(severity, problems)
            for severity, problems in (("error", self.errors), ("warning", self.warnings))
            if problems
        ]
        if not self.problems:
            parts.append("No problems found.")
        return "\n\n".join(parts)


def _listing(severity: str, problems: list[Problem]) -> str:
    """The problems by kind, with a few examples of each."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    lines = [f"{len(problems)} {severity}{'s' * (len(problems) > 1)}"]
    for kind, group in by_kind.items():
        lines.append(f"  {kind} ({len(group)})")
        lines += [f"    {problem}" for problem in group[:EXAMPLES_SHOWN]]
        if len(group) > EXAMPLES_SHOWN:
            lines.append(f"    ... and {len(group) - EXAMPLES_SHOWN} more")
    return "\n".join(lines)
