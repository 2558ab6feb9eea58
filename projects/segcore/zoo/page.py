"""The tables of docs/model_zoo.md: ``python -m segcore.zoo.page docs/model_zoo.md``."""

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from segcore.files import write_bytes
from segcore.zoo.models import PublishedModel, published_models

MARKER = "<!-- The rest is written by python -m segcore.zoo.page -->\n"
HEADER = ("name", "task", "backbone", "trained for", "published", "configuration")


def with_tables(page: str) -> str:
    """Return a Markdown page with the tables of today after the marker."""
    return page.partition(MARKER)[0] + MARKER + tables()


def tables() -> str:
    """Return a section with a table for each system, as Markdown."""
    parts = []
    for system, group in groupby(published_models().values(), lambda model: model.system):
        models = list(group)
        parts += [f"## {system}", f"Licence of the weights: {models[0].licence}.", _table(models)]
        parts += [f"`{m.name}` cannot be loaded: {m.refusal}." for m in models if m.refusal]
    return "".join(f"\n{part}\n" for part in parts)


def _table(models: Sequence[PublishedModel]) -> str:
    rows = [HEADER, ["---"] * len(HEADER), *map(_cells, models)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _cells(model: PublishedModel) -> tuple[str, ...]:
    return (
        f"[`{model.name}`]({model.url})",
        model.task,
        model.backbone,
        model.schedule,
        ", ".join(f"{metric} {value}" for metric, value in model.figures.items()),
        f"`{model.config}`",
    )


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write_bytes(with_tables(path.read_text(encoding="utf-8")).encode(), path)
