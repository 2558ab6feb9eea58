"""The output folder of ``demo.py``."""

import os
from collections.abc import Sequence
from pathlib import Path

from segcore.demo.result_files import INSTANCES_FILE, PANOPTIC_FILE, PHOTOS_FILE
from segcore.errors import ConfigError, OutputError
from segcore.text import printable

PHOTO_FOLDERS = ("overlay", "panoptic", "semantic", "focus", "attention")
PICTURE_FOLDERS = (*PHOTO_FOLDERS, "frames", "partial")
JSON_FILES = (PANOPTIC_FILE, INSTANCES_FILE, PHOTOS_FILE, "videos.json")


def check_output(folder: str | Path, photos: Sequence[Path]) -> None:
    """Check that results of ``photos`` can be written into ``folder``, which need not exist.

    Raises:
        OutputError: something else has a name that is needed, or writing is not allowed.
        ConfigError: results would replace a photo.
    """
    folder = Path(folder)
    shown = f"--output {printable(folder)}"
    existing = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir():
        raise OutputError(f"{shown}: expected a folder, but {printable(existing)} is none")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{shown}: {printable(existing)} cannot be written to")
    for name in PICTURE_FOLDERS:
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise OutputError(f"{shown}: expected that {name} is a folder, but it is a file")
    for name in JSON_FILES:
        if (folder / name).is_dir():
            raise OutputError(f"{shown}: expected that {name} is a file, but it is a folder")
    results = {os.path.realpath(folder / name) for name in PICTURE_FOLDERS}
    for photo in photos:
        if os.path.dirname(os.path.realpath(photo)) in results:
            raise ConfigError(
                f"{shown}: results could replace the photo {printable(photo)}: give another folder"
            )


def has_results(folder: str | Path) -> bool:
    """Return whether ``folder`` holds results of an earlier run."""
    return any((Path(folder) / name).exists() for name in (*PICTURE_FOLDERS, *JSON_FILES))
