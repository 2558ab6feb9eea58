"""What a part yields: checks, tables of measurements, and the output of programs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

Outcome = Literal["passed", "failed", "skipped"]


class Unavailable(Exception):
    """Something that a check or a whole part needs is missing; the message is the reason."""


class Check(NamedTuple):
    """One claim about this machine; ``detail``: measurement, error or reason of the skip."""

    name: str
    outcome: Outcome
    detail: str = ""


class Table(NamedTuple):
    """Measurements; the first column names what was measured."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


class Listing(NamedTuple):
    """Output of a program, shown as it is."""

    text: str


Result = Check | Table | Listing


class PartResult(NamedTuple):
    """All that a part yielded, in ``seconds``."""

    name: str
    description: str
    results: Sequence[Result]
    seconds: float

    def count(self, outcome: Outcome) -> int:
        """Return the number of checks with an outcome."""
        return sum(isinstance(r, Check) and r.outcome == outcome for r in self.results)


def check(name: str, function: Callable[[], str]) -> Check:
    """Call a function that returns a detail; Unavailable means skipped, an error failed."""
    try:
        return Check(name, "passed", function())
    except (Unavailable, ImportError) as reason:
        return Check(name, "skipped", str(reason))
    except Exception as error:  # every one is a result
        return Check(name, "failed", f"{type(error).__name__}: {error}")


def checks(functions: Iterable[tuple[str, Callable[[], str]]]) -> Iterator[Check]:
    """:func:`check` functions by name, one after the other."""
    return (check(name, function) for name, function in functions)
