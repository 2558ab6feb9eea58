"""The Markdown file of a run."""

from collections.abc import Iterable, Iterator, Sequence

from tools.gpu_check.results import Check, Listing, Outcome, PartResult, Table

HEADER = """# On a GPU

`make gpu-check` wrote this page: on a machine with a GPU, in at most 8 minutes, without network.
Where there is no clone of the repository, no compiler or no network, `make bundle PYTHON=3.12` on
another machine packs what is needed beside PyTorch into one file for that version of Python, and
there `python3 panoptic-toolkit-cp312.pyz` unpacks it and does the same. What a part needs and the
machine does not have is the reason why it is skipped."""
OUTCOMES: tuple[Outcome, ...] = ("passed", "failed", "skipped")


def render(machine: str, parts: Sequence[PartResult]) -> str:
    """Return the file.

    Args:
        machine: a line that says where and when
        parts: results in the order of their sections
    """
    summary = [
        (part.name, *(str(part.count(outcome)) for outcome in OUTCOMES), f"{part.seconds:.0f}")
        for part in parts
    ]
    blocks = [
        HEADER,
        machine,
        _table(("part", *OUTCOMES, "seconds"), summary),
        *(block for part in parts for block in _section(part)),
    ]
    return "\n\n".join(blocks) + "\n"


def _section(part: PartResult) -> Iterator[str]:
    yield f"## {part.name.replace('_', ' ').capitalize()}"
    if part.description:
        yield part.description.strip()
    checks = [result for result in part.results if isinstance(result, Check)]
    if checks:
        yield _table(("check", "outcome", "detail"), checks)
    for result in part.results:
        if isinstance(result, Table):
            yield f"### {result.title}"
            yield _table(result.headers, result.rows)
        elif isinstance(result, Listing):
            yield f"```\n{result.text.strip()}\n```"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    """Return text on one line, with nothing in it that ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")
