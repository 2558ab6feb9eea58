"""The last checkpoint of a training output folder."""

from pathlib import Path

from segcore.checkpoint.reading import reading
from segcore.errors import CheckpointError
from segcore.files import atomic_file
from segcore.text import printable

LAST_CHECKPOINT = "last_checkpoint"
MAX_FILE_NAME = 255


def last_checkpoint(folder: str | Path) -> Path | None:
    """Return the file that ``last_checkpoint`` in a training output folder names, if there is one.

    Raises:
        CheckpointError: it names no file of the folder.
    """
    pointer = Path(folder, LAST_CHECKPOINT)
    if not pointer.is_file():
        return None
    with reading(pointer), open(pointer, "rb") as file:
        name = file.read(MAX_FILE_NAME + 1).decode().strip()
    if not name or name in (".", "..") or Path(name).name != name or "\0" in name:
        raise CheckpointError(
            f"{printable(pointer)}: expected the name of a file in the same folder, "
            f"got '{printable(name, 80)}'"
        )
    return Path(folder, name)


def tag_last_checkpoint(folder: str | Path, name: str) -> None:
    """Record the file ``name`` of a training output folder as its last checkpoint, atomically."""
    with atomic_file(Path(folder, LAST_CHECKPOINT)) as file:
        file.write(name.encode())
