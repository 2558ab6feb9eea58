"""Photos that files and folders of the command line name."""

import glob
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from segcore.data.images import is_image_name


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """Return the named files, and from every folder the files that look like images, by name.

    A name that is not there is a pattern, with ``*``, ``?``, ``[...]`` and ``**`` for any folders:
    the files and folders that match, by name. A named file is returned with any suffix, even if it
    does not exist, and so is a folder that cannot be listed: reading them raises the error.
    """
    photos: list[Path] = []
    for path in map(Path, itertools.chain.from_iterable(map(_matching, paths))):
        photos += _images_in(path) if os.path.isdir(path) else [path]
    return list(dict.fromkeys(photos))


def _matching(path: str | Path) -> list[str | Path]:
    """Return what a pattern matches; the path itself if it is there, or nothing matches."""
    if os.path.lexists(path):
        return [path]
    return sorted(glob.glob(os.fspath(path), recursive=True)) or [path]


def _images_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if is_image_name(e.name) and not _is_folder(e)]
    except OSError:
        return [folder]
    return [folder / name for name in sorted(names)]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False
