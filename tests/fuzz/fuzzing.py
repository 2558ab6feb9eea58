"""Seeded fuzzing: damaged variants of a file, and a runner that bounds each case.

``FUZZ_CASES`` is the number of cases of each test (default ``CASES``); with ``FUZZ_SECONDS``, each
test runs for so long instead. Case ``i`` of a test is the same in every run, so a failure is
repeated by its number: ``FUZZ_FIRST=i FUZZ_CASES=1``.
"""

import copy
import faulthandler
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

CASES = 1000
HANG_SECONDS = 60  # a case takes milliseconds; then the process is ended with a traceback
MAX_MUTATIONS = 4

# What JSON, YAML and pickles can put where something else is expected.
HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**24,
    2**63,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "a" * 100_000,
    "../../outside",
    "/etc/passwd",
    "name\x00with\x1b[2Jcontrol\ud800",
    "‮reversed",
    [],
    {},
    [[]],
    {"id": []},
    [0] * 1000,
)


def case_numbers() -> Iterator[int]:
    """Number the cases of one test: so many, or for so long, as the environment says."""
    first = int(os.environ.get("FUZZ_FIRST", "0"))
    seconds = float(os.environ.get("FUZZ_SECONDS", "0"))
    count = int(os.environ.get("FUZZ_CASES", CASES))
    end = time.monotonic() + seconds
    number = first
    while time.monotonic() < end if seconds else number < first + count:
        yield number
        number += 1


def run_cases(
    door: str,
    make: Callable[[Random], Any],
    use: Callable[[Any], Any],
    allowed: type[Exception],
) -> int:
    """Use what ``make`` makes from a seed, case by case.

    Returns:
        the number of cases that ended without an error.

    Raises:
        AssertionError: a case ended in an exception that is not ``allowed``, or whose message is
            longer than three lines or has unprintable characters.
    """
    accepted = 0
    for number in case_numbers():
        case = make(Random(zlib.crc32(f"{door} {number}".encode())))
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            use(case)
            accepted += 1
        except allowed as error:
            message = str(error)
            assert message.count("\n") < 3, f"{door}, case {number}: a long message: {message}"
            assert message.replace("\n", "").isprintable(), f"{door}, case {number}: {message!r}"
        except Exception as error:
            pytest.fail(f"{door}, case {number}: {type(error).__name__}: {error}\n{case!r:.500}")
        finally:
            faulthandler.cancel_dump_traceback_later()
    return accepted


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Flip bits, overwrite, insert, repeat, delete or cut off bytes at random places."""
    data = bytearray(content)
    for _ in range(random.randint(1, MAX_MUTATIONS)):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((1, 2, 4, 8, 64, 1024)))
        match random.randrange(6):
            case 0 if start < len(data):
                data[start] ^= 1 << random.randrange(8)
            case 1:
                data[start:end] = random.randbytes(end - start)
            case 2:
                data[start:start] = random.randbytes(random.choice((1, 4, 16)))
            case 3:
                data[start:start] = data[start:end] * random.randint(1, 3)
            case 4:
                del data[start:end]
            case 5:
                del data[start:]
    return bytes(data)


def mutated_document(document: Any, random: Random) -> Any:
    """Replace, remove, repeat or wrap random parts of nested lists and dictionaries."""
    document = copy.deepcopy(document)
    for _ in range(random.randint(1, MAX_MUTATIONS)):
        parents = [node for node in _containers(document) if node]
        if not parents:
            break
        parent = random.choice(parents)
        key = random.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        match random.randrange(5):
            case 0 | 1:
                parent[key] = copy.deepcopy(random.choice(HOSTILE_VALUES))
            case 2:
                del parent[key]
            case 3 if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            case _:
                parent[key] = [parent[key]]
    return document


def _containers(node: Any) -> Iterator[Any]:
    if isinstance(node, dict | list):
        yield node
        for child in node.values() if isinstance(node, dict) else node:
            yield from _containers(child)


def write_json(document: Any, path: Path) -> None:
    """Write JSON as it is, lone surrogates and NaN included."""
    path.write_bytes(json.dumps(document).encode("utf-8", "surrogatepass"))


def tree(folder: Path) -> set[str]:
    """Return the relative paths of everything below ``folder``."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
