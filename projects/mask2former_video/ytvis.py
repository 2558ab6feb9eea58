"""YouTubeVIS 2019 and 2021: records of videos, registered with Detectron2.

``ytvis_{2019,2021}_{train,val,test}`` lie in ``ytvis_{2019,2021}/{train,valid,test}.json`` and
``.../{train,valid,test}/JPEGImages`` below the folder that ``DETECTRON2_DATASETS`` names.
"""

import json
import logging
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from mask2former_video.ytvis_format import Record, frame_segmentation, read_ytvis_json
from segcore.data.datasets.catalog import datasets_root, register
from segcore.errors import DataError
from segcore.text import printable

logger = logging.getLogger(__name__)

EVALUATOR_TYPE = "ytvis"
YEARS = (2019, 2021)
FOLDERS = {"train": "train", "val": "valid", "test": "test"}


def register_ytvis(root: str) -> None:
    """Register both years below ``root``; names that are taken already are left alone."""
    for year in YEARS:
        text = (files(__package__) / "categories" / f"ytvis_{year}.json").read_text("utf-8")
        categories = json.loads(text)
        for split, folder in FOLDERS.items():
            annotations = f"{root}/ytvis_{year}/{folder}.json"
            frames = f"{root}/ytvis_{year}/{folder}/JPEGImages"
            register(
                f"ytvis_{year}_{split}",
                partial(load_ytvis, annotations, frames, categories),
                needs={annotations: f"the annotations of YouTubeVIS {year}"},
                image_root=frames,
                json_file=annotations,
                **class_metadata(categories),
            )


def class_metadata(categories: list[Record]) -> dict[str, Any]:
    """Return the metadata of a data set with these classes, all of them things."""
    metadata = {
        "thing_classes": [category["name"] for category in categories],
        "thing_dataset_id_to_contiguous_id": {c["id"]: i for i, c in enumerate(categories)},
        "evaluator_type": EVALUATOR_TYPE,
    }
    if all("color" in category for category in categories):
        metadata["thing_colors"] = [tuple(category["color"]) for category in categories]
    return metadata


def load_ytvis(
    json_file: str | Path, frames: str | Path, categories: list[Record] | None = None
) -> list[Record]:
    """Return a record for each video, by id.

    A record has "file_names", "height", "width", "length", "video_id" and "annotations": of each
    frame the tracks seen there, with "id" of the track, contiguous "category_id", "iscrowd",
    "bbox" with "bbox_mode" and "segmentation", polygons or compressed run lengths.

    Args:
        frames: folder of the frames, to which the names in the file are relative.
        categories: the classes that the file must have.

    Raises:
        DataError: the file cannot be read, is not of the format, or has other classes.
    """
    data = read_ytvis_json(json_file)
    if categories is not None:
        found, expected = (
            [(c["id"], c["name"]) for c in classes] for classes in (data["categories"], categories)
        )
        if found != expected:
            raise DataError(
                f"{printable(json_file)}: expected the {len(expected)} classes of YouTubeVIS, "
                f"such as {expected[0]}, got {len(found)} with {found[0]}; for other videos set "
                "DATASETS.VIDEO"
            )
    contiguous = {category["id"]: i for i, category in enumerate(data["categories"])}
    annotations: dict[int, list[Record]] = {video["id"]: [] for video in data["videos"]}
    for annotation in data["annotations"]:
        annotations[annotation["video_id"]].append(annotation)
    records, num_empty = [], 0
    for video in data["videos"]:
        tracks, empty = _frame_annotations(json_file, video, annotations[video["id"]], contiguous)
        num_empty += empty
        records.append(
            {
                "file_names": [str(Path(frames, name)) for name in video["file_names"]],
                "height": video["height"],
                "width": video["width"],
                "length": len(video["file_names"]),
                "video_id": video["id"],
                "annotations": tracks,
            }
        )
    if num_empty:
        logger.warning(
            "%s: %d segmentations have no polygon of three points, and are left out",
            printable(json_file),
            num_empty,
        )
    return records


def _frame_annotations(
    json_file: str | Path, video: Record, annotations: list[Record], contiguous: dict[int, int]
) -> tuple[list[list[Record]], int]:
    """Return the tracks of each frame, and the number of segmentations that have no polygon."""
    frames: list[list[Record]] = [[] for _ in video["file_names"]]
    size, num_empty = (video["height"], video["width"]), 0
    for annotation in annotations:
        pairs = zip(annotation["bboxes"], annotation["segmentations"], strict=True)
        for frame, (box, segmentation) in enumerate(pairs):
            if not (box and segmentation):
                continue
            try:
                segmentation = frame_segmentation(segmentation, size)
            except DataError as error:
                raise DataError(
                    f"{printable(json_file)}: annotation {annotation['id']}, frame {frame}: {error}"
                ) from error
            if segmentation is None:
                num_empty += 1
                continue
            frames[frame].append(
                {
                    "id": annotation["id"],
                    "category_id": contiguous[annotation["category_id"]],
                    "iscrowd": annotation.get("iscrowd", 0),
                    "bbox": box,
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "segmentation": segmentation,
                }
            )
    return frames, num_empty


register_ytvis(datasets_root())
