"""Text files from anywhere, read within bounds."""

import stat
from pathlib import Path

from segcore.errors import DataError
from segcore.files import relative_to
from segcore.text import printable

MAX_BYTES = 2**24


def read_text(path: Path, what: str, max_bytes: int = MAX_BYTES) -> str:
    """Return the content of a regular file of UTF-8 text.

    Args:
        what: the kind of file, for the error.
        max_bytes: refuse larger files.

    Raises:
        DataError: it cannot be read, or is too large or no text.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{printable(path)}: expected {what}, got a folder, pipe or device")
        with open(path, "rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise DataError(f"{printable(path)}: has more than {max_bytes >> 20} MiB")
        return content.decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{printable(path)}: cannot be read: {reason}{relative_to(path)}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(path)}: expected {what} in UTF-8, got other bytes") from error
