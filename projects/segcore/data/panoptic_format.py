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
from typing_extensions import NotRequired

from segcore.data.images import MAX_PIXELS, read_ids
from segcore.errors import DataError, ImageError
from segcore.files import relative_to
from segcore.text import printable

UNLABELLED = 0
MAX_SEGMENT_ID = 256**3 - 1
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


def read_panoptic_png(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Segment ids of a panoptic PNG: (H, W) int32, 0 is unlabelled; errors of `read_id_colors`."""
    return rgb2id(read_id_colors(path, max_pixels))


def read_id_colors(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Colours of a panoptic PNG: (H, W, 3) uint8, id = R + 256 G + 65536 B.

    Raises:
        ImageError: the file is missing, broken or refused, or has no RGB colours (a palette, grey
            values).
    """
    pixels, mode = read_ids(path, max_pixels)
    if mode not in ("RGB", "RGBA"):
        advice = _PALETTE_ADVICE if mode == "P" else _GREY_ADVICE
        raise ImageError(
            f"{printable(path)}: expected an RGB image whose colours are segment ids "
            f"(R + 256 G + 65536 B), got mode {mode!r}: {advice}"
        )
    return pixels[:, :, :3]


# Converted to RGB, grey 7 is id 7 + 256 * 7 + 65536 * 7.
_GREY_ADVICE = (
    "write the grey values with panopticapi's id2rgb if they are the ids; converted to RGB they "
    "would be other ids, grey 7 for example 460551"
)
_PALETTE_ADVICE = (
    "convert it to RGB if the colours are the ids, as after an optimizer of PNG files; write the "
    "palette's indices with panopticapi's id2rgb if those are the ids"
)


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
