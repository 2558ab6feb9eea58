"""COCO panoptic format: one JSON, and one PNG per photo whose colours are segment ids.

The format is that of the COCO panoptic task (Kirillov et al., Panoptic Segmentation, section 5):
``images``, ``annotations`` with ``segments_info``, ``categories`` with ``isthing``; in the PNG
id = R + 256 G + 256^2 B, and 0 is unlabelled. Semantic maps and COCO instance annotations follow
from it; the conversions here do what COCO's ``panoptic2semantic_segmentation`` (a crowd region
counts as its class) and ``panoptic2detection_coco_format`` (things only) do.
"""

import json
from pathlib import Path
from typing import TypedDict

import numpy as np
import pycocotools.mask as mask_util
from panopticapi.utils import rgb2id
from PIL import Image
from typing_extensions import NotRequired

from segcore.errors import DataError
from segcore.files import relative_to

UNLABELLED = 0
MAX_SEGMENT_ID = 256**3 - 1
# What Pillow raises on opening or decoding broken files (SyntaxError: broken PNG chunks).
IMAGE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
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
        DataError: there is no such file, it is not JSON, or one of the three lists is missing.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(
            f"{path}: cannot read the panoptic JSON: {error.strerror}{relative_to(path)}"
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
    missing = [
        key for key in TOP_LEVEL_KEYS if not isinstance(data, dict) or not _is_records(data, key)
    ]
    if missing:
        raise DataError(
            f"{path}: not in COCO panoptic format: expected an object with the lists "
            f"{', '.join(TOP_LEVEL_KEYS)} of objects; missing or of another type: "
            f"{', '.join(missing)}"
        )
    return data


def _is_records(data: dict, key: str) -> bool:
    records = data.get(key)
    return isinstance(records, list) and all(isinstance(record, dict) for record in records)


def read_panoptic_png(path: str | Path) -> np.ndarray:
    """Segment ids of a panoptic PNG: (H, W) int32, 0 is unlabelled.

    Raises:
        DataError: the file is missing, broken, or has no RGB colours (a palette, grey values).
    """
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except IMAGE_ERRORS as error:
        raise DataError(f"{path}: cannot read the panoptic PNG ({error})") from error
    if mode not in ("RGB", "RGBA"):
        raise DataError(
            f"{path}: expected an RGB image whose colours are segment ids (R + 256 G + 65536 B), "
            f"got mode {mode!r}: convert it to RGB"
        )
    return rgb2id(pixels)


def locate_segments(ids: np.ndarray, segments: list[Segment]) -> np.ndarray:
    """Index of every pixel's segment in ``segments``, or their count where it is none of them.

    Args:
        ids: (H, W) int32 segment ids.
        segments: S of them with distinct ids, in any order.

    Returns:
        (H, W) int64, values in [0, S]; S marks pixels of no segment.
    """
    count = len(segments)
    if count == 0:
        return np.zeros(ids.shape, dtype=np.int64)
    known = np.array([segment["id"] for segment in segments], dtype=np.int32)
    order = np.argsort(known)
    position = np.searchsorted(known, ids, sorter=order)
    index = order[np.minimum(position, count - 1)]
    index[known[index] != ids] = count
    return index


def ignore_label(num_classes: int) -> int:
    """Semantic label of unlabelled pixels: 255, or 65535 where classes reach that far."""
    if num_classes > 65535:
        raise DataError(f"at most 65535 classes fit a 16-bit semantic map, got {num_classes}")
    return 255 if num_classes <= 255 else 65535


def contiguous_ids(categories: list[Category]) -> dict[int, int]:
    """Category id -> contiguous id, which is the position in the JSON's list."""
    return {category["id"]: index for index, category in enumerate(categories)}


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
    areas = np.bincount(index.ravel(), minlength=len(segments) + 1)
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
