"""Custom videos: a folder of frames and annotations in the format of YouTubeVIS for each split.

``DATASETS.VIDEO.{TRAIN,TEST}.{FRAMES,JSON}`` name them. :func:`setup_videos` checks and registers
them with Detectron2.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from mask2former_video.ytvis import class_metadata, load_ytvis
from mask2former_video.ytvis_format import Record, read_ytvis_json
from segcore.data.check_files import unreadable_image
from segcore.data.images import MAX_PIXELS, load_image
from segcore.data.report import ClassCount, Problem, Report
from segcore.errors import DataError, ImageError
from segcore.text import printable

DATASET_NAMES = {"TRAIN": "custom_videos_train", "TEST": "custom_videos_test"}
MAX_WORKERS = 16


class VideoSource(NamedTuple):
    frames: Path
    json: Path


def are_videos_set(cfg: CfgNode) -> bool:
    """Return whether the config names custom videos."""
    return any(path for split in cfg.DATASETS.VIDEO.values() for path in split.values())


def configured_videos(cfg: CfgNode) -> dict[str, VideoSource]:
    """Return the sources that the config names, by split.

    Raises:
        DataError: one of the two paths of a split is not set.
    """
    sources = {}
    for split in DATASET_NAMES:
        paths = cfg.DATASETS.VIDEO[split]
        unset = [key for key in ("FRAMES", "JSON") if not paths[key]]
        if len(unset) == 1:
            raise DataError(f"custom videos need DATASETS.VIDEO.{split}.{unset[0]}: it is not set")
        if not unset:
            sources[split] = VideoSource(*(Path(paths[k]).expanduser() for k in ("FRAMES", "JSON")))
    return sources


def setup_videos(cfg: CfgNode) -> None:
    """Where ``DATASETS.VIDEO`` is set: register the videos, adapt the config in place.

    Sets ``DATASETS.TRAIN`` and ``TEST`` and ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``. A ``TEST`` that is
    not set is left empty, and a ``TRAIN`` has class names but no videos.

    Raises:
        DataError: the annotations are faulty, or the splits have other classes.
    """
    sources = configured_videos(cfg)
    classes = {split: read_ytvis_json(s.json)["categories"] for split, s in sources.items()}
    _require_same_classes(sources, classes)
    categories = next(iter(classes.values()))
    for split, name in DATASET_NAMES.items():
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)
        metadata = MetadataCatalog.get(name)
        metadata.set(**class_metadata(categories))
        if source := sources.get(split):
            metadata.set(image_root=str(source.frames), json_file=str(source.json))
            DatasetCatalog.register(name, functools.partial(load_ytvis, source.json, source.frames))
    cfg.DATASETS.TRAIN = (DATASET_NAMES["TRAIN"],)
    cfg.DATASETS.TEST = (DATASET_NAMES["TEST"],) if "TEST" in sources else ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(categories)


def check_videos(cfg: CfgNode) -> list[Report]:
    """Read the annotations and every frame of every split; a report for each."""
    sources = configured_videos(cfg)
    reports = [_check(split, s, cfg.INPUT.MAX_PIXELS) for split, s in sources.items()]
    if all(report.ok for report in reports):
        try:
            setup_videos(cfg.clone())
        except DataError as error:
            problem = Problem("different classes", str(sources["TEST"].json), str(error))
            reports[-1].problems.append(problem)
    return reports


def _require_same_classes(
    sources: dict[str, VideoSource], classes: dict[str, list[Record]]
) -> None:
    pairs = {split: [(c["id"], c["name"]) for c in records] for split, records in classes.items()}
    if len(pairs) == len(DATASET_NAMES) and pairs["TRAIN"] != pairs["TEST"]:
        id_, name = min(set(pairs["TRAIN"]) ^ set(pairs["TEST"]))
        files = " and ".join(printable(source.json) for source in sources.values())
        raise DataError(
            f"the splits must have the same classes, but category {id_}, '{printable(name)}', is "
            f"in only one of {files}"
        )


def _check(split: str, source: VideoSource, max_pixels: int) -> Report:
    report = Report(str(source.json), split=split)
    try:
        records = load_ytvis(source.json, source.frames)
        categories = read_ytvis_json(source.json)["categories"]
    except DataError as error:
        message = str(error).removeprefix(f"{printable(source.json)}: ")
        report.problems.append(Problem("faulty annotations", str(source.json), message))
        return report
    report.num_photos = sum(record["length"] for record in records)
    report.num_annotations = sum(map(len, (f for r in records for f in r["annotations"])))
    report.classes = [ClassCount(category["name"], is_thing=True) for category in categories]
    for record in records:
        tracks = {t["id"]: t for frame in record["annotations"] for t in frame}
        for track in tracks.values():
            report.classes[track["category_id"]].segments += 1
            report.classes[track["category_id"]].crowds += track["iscrowd"]
    frames = [
        (path, record["height"], record["width"])
        for record in records
        for path in record["file_names"]
    ]
    with ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = pool.map(functools.partial(_frame_problems, max_pixels=max_pixels), frames)
        for problems in tqdm(found, "Checking frames", len(frames), unit="frame", disable=None):
            report.problems += problems
    return report


def _frame_problems(frame: tuple[str, int, int], max_pixels: int = MAX_PIXELS) -> list[Problem]:
    path, height, width = frame
    try:
        size = load_image(path, max_pixels).size
    except ImageError as error:
        return [unreadable_image(path, error, "frame")]
    if size != (width, height):
        message = f"is {size[0]} x {size[1]} (width x height), but the JSON says {width} x {height}"
        return [Problem("different sizes", path, message)]
    return []
