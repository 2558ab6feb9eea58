"""JSON files from anywhere, read within bounds."""

import json
import math
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any

from segcore.errors import DataError
from segcore.files import relative_to
from segcore.text import printable, short_repr

MAX_BYTES = 1024**3  # the largest JSON of COCO has 0.45 GB
MAX_DEPTH = 32
GZIP_MAGIC = b"\x1f\x8b"
_TOO_DEEP = f"lists and objects are nested more than {MAX_DEPTH} deep"


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32.

    Refused besides what is no JSON: numbers that are not finite or have thousands of digits, keys
    that an object has twice, nesting beyond ``MAX_DEPTH``, and files of more than ``MAX_BYTES``.

    Raises:
        DataError: the file cannot be read, or is refused; names the file and says why.
    """
    content = _read_file(path)
    try:
        data = json.loads(
            content,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            object_pairs_hook=_object_of_unique_keys,
        )
    except DataError as error:
        raise DataError(f"{printable(path)}: {error}") from error
    except UnicodeDecodeError as error:
        hint = ": it is compressed with gzip, unpack it" * content.startswith(GZIP_MAGIC)
        raise DataError(f"{printable(path)}: not a JSON file (no UTF-8 text{hint})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{printable(path)}: not a JSON file ({error})") from error
    except ValueError as error:  # of int()
        raise DataError(f"{printable(path)}: has an integer of thousands of digits") from error
    except RecursionError as error:
        raise DataError(f"{printable(path)}: {_TOO_DEEP}") from error
    except MemoryError as error:
        raise DataError(
            f"{printable(path)}: the memory is too small for its {len(content):,} bytes"
        ) from error
    if _is_deeper_than(data, MAX_DEPTH):
        raise DataError(f"{printable(path)}: {_TOO_DEEP}")
    return data


def _read_file(path: str | Path) -> bytes:
    """Return the bytes of a regular file; a pipe or a device would be waited for."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{printable(path)}: cannot be read: {reason}{relative_to(path)}"
        ) from error
    except MemoryError as error:
        raise DataError(f"{printable(path)}: the memory is too small for it") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
        raise DataError(f"{printable(path)}: expected a JSON file, got {kind}{relative_to(path)}")
    if len(content) > MAX_BYTES:
        raise DataError(
            f"{printable(path)}: has more than {MAX_BYTES / 1024**3:.0f} GiB: split the data set"
        )
    return content


def _refuse_constant(name: str) -> None:
    raise DataError(f"has the number {name}, which JSON does not know")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DataError(f"has the number {printable(text, 40)}, which is beyond 64-bit floats")
    return value


def _object_of_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        (key, count), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise DataError(f"an object has the key {short_repr(key)} {count} times")
    return record


def _is_deeper_than(data: Any, depth: int) -> bool:
    containers = [[data]]
    for _ in range(depth + 1):
        containers = [
            value
            for container in containers
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, dict | list)
        ]
    return bool(containers)
