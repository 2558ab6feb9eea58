"""Photos from the command line: files and folders in, pixels or a reason out."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """The files named, and of every folder the files that look like pictures, by name.

    A file that is named is kept whatever its suffix, or whether it exists: reading it tells.
    """
    photos: list[Path] = []
    for path in map(Path, paths):
        photos += sorted(filter(_is_picture, path.iterdir())) if path.is_dir() else [path]
    return list(dict.fromkeys(photos))


def read_photo(path: str | Path) -> np.ndarray:
    """A photo turned as its EXIF orientation says: (H, W, 3) uint8, BGR.

    Raises:
        ValueError: the file is missing or no picture; says why.
    """
    try:
        return read_image(str(path), format="BGR")
    # Pillow's plugins fail in many ways; SyntaxError is what a broken PNG raises.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ValueError(f"{path}: {reason}") from error


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in Image.registered_extensions()
