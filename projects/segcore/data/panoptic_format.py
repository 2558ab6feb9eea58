"""COCO panoptic format: one JSON, and one PNG per photo whose colors are segment ids.

The format is that of the COCO panoptic task (Kirillov et al., Panoptic Segmentation, section 5):
``images``, ``annotations`` with ``segments_info``, ``categories`` with ``isthing``; in the PNG
id = R + 256 G + 256^2 B, and 0 is unlabeled. Semantic maps and COCO instance annotations follow
from it; the conversions here do what COCO's ``panoptic2semantic_segmentation`` (a crowd region
counts as its class) and ``panoptic2detection_coco_format`` (things only) do.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
import pycocotools.mask as mask_util
import scipy
from panopticapi.utils import rgb2id
from typing_extensions import NotRequired

from segcore.data.images import MAX_PIXELS, read_ids
from segcore.data.json_file import read_json
from segcore.data.other_formats import recognize
from segcore.errors import DataError, ImageError
from segcore.text import printable

UNLABELED = 0
MAX_SEGMENT_ID = 256**3 - 1
PIXELS_OF_A_STRIP = 2**21
MAX_WORKERS = 16
# Photo, PNG, ids, index, mask; of the largest photo of each thread, 4 GiB in all.
BYTES_OF_A_PIXEL, BYTES_OF_ALL_THREADS = 20, 2**32
TOP_LEVEL_KEYS = ("images", "annotations", "categories")


class Category(TypedDict):
    id: int
    name: str
    isthing: int
    color: NotRequired[list[int]]


class Photo(TypedDict):
    id: int | str
    file_name: str
    height: int
    width: int


class Segment(TypedDict):
    id: int
    category_id: int
    iscrowd: NotRequired[int]
    area: NotRequired[int]
    bbox: NotRequired[list[int]]


class Annotation(TypedDict):
    image_id: int | str
    file_name: str
    segments_info: list[Segment]


class PanopticJson(TypedDict):
    images: list[Photo]
    annotations: list[Annotation]
    categories: list[Category]


def read_panoptic_json(path: str | Path) -> PanopticJson:
    """Read the JSON and make sure of its outermost structure only (check.py looks at the rest).

    Raises:
        DataError: there is no such file, it is no JSON within the bounds of :func:`read_json`, one
            of the three lists is missing, or it is of another format.
    """
    data = read_json(path)
    missing = [
        key for key in TOP_LEVEL_KEYS if not isinstance(data, dict) or not _is_records(data, key)
    ]
    if other_format := recognize(data):
        raise DataError(f"{printable(path)}: expected COCO panoptic format, got {other_format}")
    if missing:
        raise DataError(
            f"{printable(path)}: not in COCO panoptic format: expected an object with the lists "
            f"{', '.join(TOP_LEVEL_KEYS)} of objects; missing or of another type: "
            f"{', '.join(missing)}"
        )
    return data


def _is_records(data: dict, key: str) -> bool:
    records = data.get(key)
    return isinstance(records, list) and all(isinstance(record, dict) for record in records)


def read_panoptic_png(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Segment ids of a panoptic PNG: (H, W) int32, 0 is unlabeled; errors of `read_id_colors`."""
    return rgb2id(read_id_colors(path, max_pixels))


def read_id_colors(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Colors of a panoptic PNG: (H, W, 3) uint8, id = R + 256 G + 65536 B.

    Raises:
        ImageError: the file is missing, broken or refused, or has no RGB colors (a palette, grey
            values).
    """
    pixels, mode = read_ids(path, max_pixels)
    if mode not in ("RGB", "RGBA"):
        advice = _PALETTE_ADVICE if mode == "P" else _GREY_ADVICE
        raise ImageError(
            f"{printable(path)}: expected an RGB image whose colors are segment ids "
            f"(R + 256 G + 65536 B), got mode {mode!r}: {advice}"
        )
    return pixels[:, :, :3]


# Converted to RGB, grey 7 is id 7 + 256 * 7 + 65536 * 7.
_GREY_ADVICE = (
    "write the grey values with panopticapi's id2rgb if they are the ids; converted to RGB they "
    "would be other ids, grey 7 for example 460551"
)
_PALETTE_ADVICE = (
    "convert it to RGB if the colors are the ids, as after an optimizer of PNG files; write the "
    "palette's indices with panopticapi's id2rgb if those are the ids"
)


def num_workers(photos: Iterable[Photo]) -> int:
    """Return the number of threads that read files: one a core, fewer for large photos."""
    pixels = max((photo["height"] * photo["width"] for photo in photos), default=1)
    at_once = BYTES_OF_ALL_THREADS // (BYTES_OF_A_PIXEL * pixels)
    return max(1, min(MAX_WORKERS, os.cpu_count() or 1, at_once))


def locate_segments(ids: np.ndarray, segments: list[Segment]) -> np.ndarray:
    """Index of every pixel's segment in ``segments``, or their count where it is none of them.

    Args:
        ids: (H, W) int32 segment ids.
        segments: S of them with distinct ids, in any order.

    Returns:
        (H, W) int32, values in [0, S]; S marks pixels of no segment.
    """
    count = len(segments)
    index = np.zeros(ids.shape, dtype=np.int32)
    if count == 0:
        return index
    known = np.array([segment["id"] for segment in segments], dtype=np.int32)
    order = np.argsort(known).astype(np.int32)
    for rows in _strips(ids.shape):
        position = np.searchsorted(known, ids[rows], sorter=order)
        nearest = order[np.minimum(position, count - 1)]
        index[rows] = np.where(known[nearest] == ids[rows], nearest, count)
    return index


def count_pixels(index: np.ndarray, count: int) -> np.ndarray:
    """Return how many pixels of ``index`` (H, W) have each value in [0, count): (count,) int64."""
    counts = np.zeros(count, dtype=np.int64)
    for rows in _strips(index.shape):
        counts += np.bincount(index[rows].ravel(), minlength=count)
    return counts


def bounding_boxes(index: np.ndarray, count: int) -> list[tuple[int, int, int, int] | None]:
    """Return boxes (x, y, width, height) of the values in [0, count); None where there is none.

    Args:
        index: (H, W) integers in [0, count].
    """
    # Labels of find_objects start at 1.
    slices = scipy.ndimage.find_objects(index + 1, max_label=count)
    return [None if corners is None else _box(*corners) for corners in slices]


def _box(rows: slice, columns: slice) -> tuple[int, int, int, int]:
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


def _strips(size: tuple[int, int]) -> Iterator[slice]:
    """Rows of a map (H, W) in parts whose 64-bit intermediate results take 16 MiB each."""
    height, width = size
    step = max(PIXELS_OF_A_STRIP // width, 1)
    return (slice(top, top + step) for top in range(0, height, step))


def ignore_label(num_classes: int) -> int:
    """Semantic label of unlabeled pixels: 255, or 65535 where classes reach that far."""
    if num_classes > 65535:
        raise DataError(f"at most 65535 classes fit a 16-bit semantic map, got {num_classes}")
    return 255 if num_classes <= 255 else 65535


def contiguous_ids(categories: list[Category]) -> dict[int, int]:
    """Category id -> contiguous id, which is the position in the JSON's list."""
    return {category["id"]: index for index, category in enumerate(categories)}


def thing_category_ids(categories: list[Category]) -> set[int]:
    """Return the ids of the categories that are things."""
    return {category["id"] for category in categories if category["isthing"]}


def to_semantic(
    index: np.ndarray, segments: list[Segment], contiguous: dict[int, int]
) -> np.ndarray:
    """Semantic map of an image.

    Args:
        index: (H, W), :func:`locate_segments` of the image.
        contiguous: category id -> contiguous id.

    Returns:
        (H, W) contiguous ids, uint8, or uint16 beyond 255 classes; :func:`ignore_label` elsewhere.
    """
    ignore = ignore_label(len(contiguous))
    classes = [contiguous[segment["category_id"]] for segment in segments]
    return np.array([*classes, ignore], dtype=np.uint8 if ignore == 255 else np.uint16)[index]


def to_instances(index: np.ndarray, segments: list[Segment], thing_ids: set[int]) -> list[dict]:
    """Things of an image as COCO instance annotations, without ``id`` and ``image_id``.

    Args:
        index: (H, W), :func:`locate_segments` of the image.
        thing_ids: category ids that are things.

    Returns:
        dicts with category_id, iscrowd, area, bbox (x, y, w, h) and segmentation, a compressed
        RLE with a ``str`` as JSON needs it. Segments without a pixel are left out.
    """
    areas = count_pixels(index, len(segments) + 1)
    instances = []
    for position, segment in enumerate(segments):
        if segment["category_id"] not in thing_ids or areas[position] == 0:
            continue
        rle = mask_util.encode(np.asfortranarray(index == position, dtype=np.uint8))
        instances.append(
            {
                "category_id": segment["category_id"],
                "iscrowd": segment.get("iscrowd", 0),
                "area": int(areas[position]),
                "bbox": mask_util.toBbox(rle).tolist(),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
        )
    return instances
