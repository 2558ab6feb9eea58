"""Files of Cityscapes that follow from gtFine, with the content of the official scripts' files.

``*_labelIds.png`` hold classes of the data set, ``*_instanceIds.png`` those too, or 1000 * class +
number where a thing is told apart. Of the classes, 19 are evaluated.
"""

from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from panopticapi.utils import id2rgb

from segcore.data.derived import both_exist, encode_png, locked
from segcore.data.images import read_ids
from segcore.data.listing import for_each, list_files
from segcore.data.panoptic_format import Segment, bounding_boxes, count_pixels
from segcore.errors import DataError
from segcore.files import atomic_folder, write_bytes, write_json
from segcore.text import printable

INSTANCE_FACTOR = 1000
IGNORED = 255
INSTANCE_IDS, LABEL_IDS = "_instanceIds.png", "_labelIds.png"


def make_train_ids(folder: Path) -> None:
    """Write ``*_labelTrainIds.png`` beside each ``*_labelIds.png``: 0 to 18, 255 elsewhere.

    Files that are there stay, so that a run that was stopped goes on.

    Args:
        folder: of a split, such as gtFine/train.

    Raises:
        DataError: a file is no PNG of classes.
        OutputError: a file cannot be written.
    """
    table = np.full(256, IGNORED, dtype=np.uint8)
    for category in CITYSCAPES_CATEGORIES:
        table[category["id"]] = category["trainId"]

    def convert(path: Path) -> None:
        target = Path(str(path).removesuffix(LABEL_IDS) + "_labelTrainIds.png")
        if not target.exists():
            pixels, mode = read_ids(path)
            if pixels.ndim != 2 or pixels.dtype != np.uint8:
                raise DataError(f"{printable(path)}: expected 8-bit class ids, got mode {mode!r}")
            write_bytes(encode_png(table[pixels]), target)

    for_each(
        convert, list_files(folder, f"*/*{LABEL_IDS}"), f"Making *_labelTrainIds.png: {folder}"
    )


def make_panoptic(folder: Path, pngs: Path, target: Path) -> None:
    """Make panoptic PNGs and their JSON, with the values of ``*_instanceIds.png`` as ids.

    Args:
        folder: of a split, such as gtFine/train.

    Raises:
        DataError: a file is no PNG of instances, or one of folder and JSON is there.
        OutputError: the folder or the JSON cannot be written.
    """

    def convert(path: Path) -> tuple[dict, dict]:
        stem = path.name.removesuffix(INSTANCE_IDS)
        values, mode = read_ids(path)
        if values.ndim != 2:
            raise DataError(f"{printable(path)}: expected instance ids, got mode {mode!r}")
        ids, segments = panoptic_map(values.astype(np.int32))
        name = f"{stem}_panoptic.png"
        (unfinished / name).write_bytes(encode_png(id2rgb(ids)))
        height, width = ids.shape
        photo = {"id": stem.removesuffix("_gtFine"), "width": width, "height": height}
        photo["file_name"] = f"{stem}_leftImg8bit.png"
        return photo, {"image_id": photo["id"], "file_name": name, "segments_info": segments}

    with locked(pngs):
        if both_exist(pngs, target):
            return
        paths = list_files(folder, f"*/*{INSTANCE_IDS}")
        with atomic_folder(pngs) as unfinished:
            results = for_each(convert, paths, f"Making {pngs}")
        keys = ("id", "name", "color", "isthing")
        content = {
            "images": [photo for photo, _ in results],
            "annotations": [annotation for _, annotation in results],
            "categories": [{key: c[key] for key in keys} for c in CITYSCAPES_CATEGORIES],
        }
        write_json(content, target)


def panoptic_map(values: np.ndarray) -> tuple[np.ndarray, list[Segment]]:
    """Return ids, 0 where a class is not evaluated, and segments in the order of their ids.

    A thing region without a number is a crowd.

    Args:
        values: (H, W) int32, of ``*_instanceIds.png``.
    """
    is_thing = {category["id"]: category["isthing"] for category in CITYSCAPES_CATEGORIES}
    present, index = np.unique(values, return_inverse=True)
    index = index.reshape(values.shape).astype(np.int32)
    areas, boxes = count_pixels(index, len(present)), bounding_boxes(index, len(present))
    segments: list[Segment] = []
    for id_, area, box in zip(present.tolist(), areas.tolist(), boxes, strict=True):
        category_id = id_ // INSTANCE_FACTOR if id_ >= INSTANCE_FACTOR else id_
        if category_id in is_thing:
            is_crowd = int(bool(is_thing[category_id]) and id_ < INSTANCE_FACTOR)
            segment: Segment = {"id": id_, "category_id": category_id, "area": area}
            segments.append({**segment, "bbox": list(box), "iscrowd": is_crowd})
    evaluated = np.isin(present, [segment["id"] for segment in segments])
    return (present * evaluated)[index], segments
