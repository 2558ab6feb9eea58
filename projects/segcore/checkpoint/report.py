"""Report on every entry of a checkpoint and of the model, as one table."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tabulate import tabulate

from segcore.text import printable

MAX_ROWS_PER_KIND = 10


@dataclass
class LoadReport:
    """Names of the model's entries, and of the file's entries that were not used or renamed."""

    source: str
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)  # name in the file -> in the model
    other_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    parameters_loaded: int = 0
    parameters_total: int = 0

    def fresh(self) -> list[str]:
        """Return names of the model's entries that keep their initial values."""
        return [*self.other_shape, *self.missing]

    def summary(self) -> str:
        entries = len(self.loaded) + len(self.fresh())
        share = self.parameters_loaded / self.parameters_total if self.parameters_total else 1.0
        return (
            f"{printable(self.source)}: {len(self.loaded)} of the model's {entries} entries "
            f"loaded, {self.parameters_loaded:,} of {self.parameters_total:,} parameters "
            f"({share:.1%})"
        )

    def table(self) -> str:
        """Return the summary, and a row for every group of entries with the same fate."""
        return f"{self.summary()}\n" + tabulate(
            [
                *(("loaded", count, name, "") for name, count in group_names(self.loaded)),
                *_renamed_rows(self.renamed),
                *_other_shape_rows(self.other_shape),
                *_rows("missing", self.missing, "not in the file: keeps its initial values"),
                *_rows("left over", self.left_over, "only in the file: not used"),
                *_rows("dropped", self.dropped, "known to be of no use"),
            ],
            headers=["", "entries", "names", ""],
            tablefmt="simple",
        )


def group_names(names: Iterable[str], max_groups: int = MAX_ROWS_PER_KIND) -> list[tuple[str, int]]:
    """Shorten names to as many leading parts as give at most ``max_groups`` groups.

    Returns:
        (name, or prefix followed by ``.*``; number of names) in order of first appearance; groups
        beyond ``max_groups``, where even the first parts differ, become one last line.
    """
    names = list(names)
    deepest = max((name.count(".") + 1 for name in names), default=1)
    # The deeper, the more groups.
    fitting = bisect_right(
        range(1, deepest + 1), max_groups, key=lambda depth: len(_group_at(names, depth))
    )
    groups = _group_at(names, max(fitting, 1))
    if len(groups) > max_groups:
        rest = groups[max_groups - 1 :]
        others = f"... and {len(rest)} more groups"
        groups = [*groups[: max_groups - 1], (others, sum(count for _, count in rest))]
    return groups


def _group_at(names: list[str], depth: int) -> list[tuple[str, int]]:
    def shorten(name: str) -> str:
        parts = name.split(".")
        return printable(name if len(parts) <= depth else ".".join(parts[:depth]) + ".*")

    return list(Counter(map(shorten, names)).items())


def _rows(kind: str, names: list[str], note: str) -> list[tuple]:
    return [(kind, count, name, note) for name, count in group_names(names)]


def _renamed_rows(renamed: dict[str, str]) -> list[tuple]:
    changes = Counter(_change(old, new) for old, new in renamed.items())
    shown = changes.most_common(MAX_ROWS_PER_KIND)
    rows = [("renamed", count, old, f"to {new}") for (old, new), count in shown]
    if len(changes) > len(shown):
        rest = sum(changes.values()) - sum(count for _, count in shown)
        rows.append(("renamed", rest, f"... and {len(changes) - len(shown)} more patterns", ""))
    return rows


def _change(old: str, new: str) -> tuple[str, str]:
    """Return both names with the parts at the end that they share replaced by ``*``."""
    old_parts, new_parts = old.split("."), new.split(".")
    shared = 0
    for a, b in zip(reversed(old_parts), reversed(new_parts), strict=False):
        if a != b:
            break
        shared += 1
    if shared:
        old, new = (".".join([*parts[:-shared], "*"]) for parts in (old_parts, new_parts))
    return printable(old), printable(new)


def _other_shape_rows(shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple]:
    by_shape: dict[tuple, list[str]] = defaultdict(list)
    for name, pair in shapes.items():
        by_shape[pair].append(name)
    return [
        ("other shape", count, name, f"{old} in the file, {new} in the model: starts fresh")
        for (old, new), names in by_shape.items()
        for name, count in group_names(names)
    ]
