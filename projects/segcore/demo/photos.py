"""Photos from the command line: files and folders in, pixels or a reason out."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from segcore.data.images import MAX_PIXELS, is_image_name, read_image


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """The files named, and of every folder the files that look like images, by name.

    A file that is named is kept whatever its suffix, or whether it exists, and so is a folder that
    cannot be listed: reading it tells.
    """
    photos: list[Path] = []
    for path in map(Path, paths):
        photos += _images_in(path) if os.path.isdir(path) else [path]
    return list(dict.fromkeys(photos))


def read_photo(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A photo turned as its EXIF orientation says: (H, W, 3) uint8, BGR.

    Raises:
        ImageError: the file is missing, broken or refused; says why.
    """
    return read_image(path, "BGR", max_pixels)


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
