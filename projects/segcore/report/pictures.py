"""Photos and segment maps as text for a page: small, and exact where segments are pointed at."""

import base64
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcore.data.images import encode_image, read_image
from segcore.opencv import cv2
from segcore.visualization.segment_map import SegmentMap

LONGEST_SIDE = 400  # pixels
WEBP_QUALITY = 60


class SmallMap(NamedTuple):
    """A segment map of thumbnail size.

    Attributes:
        size: (width, height).
        data: zlib stream of the indices, uint8 or little-endian uint16, row by row; index i + 1
            stands for segment i, 0 for none.
        bytes_per_pixel: 1 or 2.
    """

    size: tuple[int, int]
    data: bytes
    bytes_per_pixel: int

    def as_json(self) -> dict:
        return {
            "size": list(self.size),
            "data": base64.b64encode(self.data).decode(),
            "bytes": self.bytes_per_pixel,
        }


def thumbnail_size(height: int, width: int, longest_side: int = LONGEST_SIDE) -> tuple[int, int]:
    """Return (width, height) of which the longer side has at most ``longest_side`` pixels."""
    scale = min(1.0, longest_side / max(height, width, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def small_map(
    ids: np.ndarray, segment_ids: Sequence[int], longest_side: int = LONGEST_SIDE
) -> SmallMap:
    """Reduce segment ids (H, W) to thumbnail size, by nearest neighbors."""
    width, height = thumbnail_size(*ids.shape, longest_side)
    rows, columns = (
        ((np.arange(small) + 0.5) * (full / small)).astype(np.intp)
        for small, full in ((height, ids.shape[0]), (width, ids.shape[1]))
    )
    indices = SegmentMap.from_ids(ids[rows[:, None], columns], segment_ids).indices
    stream = zlib.compress(indices.astype(indices.dtype.newbyteorder("<")).tobytes())
    return SmallMap((width, height), stream, indices.itemsize)


def photo_uri(path: str | Path) -> str:
    """Read a photo and return a thumbnail of it as a data URI.

    Raises:
        ImageError: the file cannot be read.
    """
    return thumbnail_uri(read_image(path))


def thumbnail_uri(photo: np.ndarray, longest_side: int = LONGEST_SIDE) -> str:
    """Return a thumbnail of a photo (H, W, 3) uint8, RGB, as a data URI."""
    size = thumbnail_size(*photo.shape[:2], longest_side)
    if size != photo.shape[1::-1]:
        photo = cv2.resize(np.ascontiguousarray(photo), size, interpolation=cv2.INTER_AREA)
    encoded = encode_image(photo, "WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(encoded).decode()}"
