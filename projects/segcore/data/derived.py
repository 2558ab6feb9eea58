"""Files that follow from a panoptic data set: semantic PNGs, a COCO instance JSON, a panoptic JSON.

They lie in a folder of their own, named after the state of the files that they come from, so that
changed annotations are derived anew. The folder appears when it is complete, and processes that
want it at the same time wait for the first.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from iopath.common.file_io import file_lock
from PIL import Image
from tqdm import tqdm

from segcore.data.images import MAX_PIXELS
from segcore.data.panoptic_format import (
    Annotation,
    PanopticJson,
    contiguous_ids,
    locate_segments,
    read_panoptic_json,
    read_panoptic_png,
    to_instances,
    to_semantic,
)
from segcore.files import atomic_folder

FORMAT_VERSION = 1  # part of the folder's name: to be changed with the content of the files
MAX_WORKERS = 16
FAST_COMPRESSION = 1


@dataclass(frozen=True)
class PanopticSource:
    """A data set of COCO panoptic format: photo folder, JSON, PNG folder.

    Images with more than ``max_pixels`` are refused.
    """

    images: Path
    json: Path
    pngs: Path
    max_pixels: int = MAX_PIXELS

    def fingerprint(self, data: PanopticJson) -> str:
        """16 hex digits that change when a file (path, size, time of change) or the bound does.

        Args:
            data: the content of ``json``; records without a file name are passed over.
        """
        photos = (self.images / str(photo.get("file_name", "")) for photo in data["images"])
        pngs = (self.pngs / str(record.get("file_name", "")) for record in data["annotations"])
        digest = hashlib.sha256(repr((FORMAT_VERSION, self.max_pixels)).encode())
        for path in (self.json, *photos, *pngs):
            try:
                stat = path.stat()
                state = (stat.st_size, stat.st_mtime_ns)
            except OSError:
                state = None
            digest.update(repr((os.path.abspath(path), state)).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class DerivedFiles:
    folder: Path

    @property
    def instances(self) -> Path:
        """COCO instance JSON of the things. ``categories`` are all of the panoptic JSON."""
        return self.folder / "instances.json"

    @property
    def panoptic(self) -> Path:
        """The panoptic JSON, every segment with ``iscrowd`` and its ``area`` as measured."""
        return self.folder / "panoptic.json"

    def semantic(self, position: int, annotation: Annotation) -> Path:
        """PNG of contiguous class ids, for the annotation at a position of the JSON's list."""
        return self.folder / "semantic" / f"{Path(annotation['file_name']).stem}_{position}.png"


def derive(source: PanopticSource, folder: Path) -> DerivedFiles:
    """Make the derived files of a data set that passed the check, unless the folder is there."""
    files = DerivedFiles(folder)
    with file_lock(str(folder)):
        if not folder.exists():
            with atomic_folder(folder) as unfinished:
                _write(source, DerivedFiles(unfinished))
    return files


def _write(source: PanopticSource, files: DerivedFiles) -> None:
    data = read_panoptic_json(source.json)
    contiguous = contiguous_ids(data["categories"])
    thing_ids = {category["id"] for category in data["categories"] if category["isthing"]}
    Path(files.folder, "semantic").mkdir(parents=True)

    def convert(task: tuple[int, Annotation]) -> tuple[Annotation, list[dict]]:
        position, annotation = task
        segments = annotation["segments_info"]
        ids = read_panoptic_png(source.pngs / annotation["file_name"], source.max_pixels)
        index = locate_segments(ids, segments)
        Image.fromarray(to_semantic(index, segments, contiguous)).save(
            files.semantic(position, annotation), compress_level=FAST_COMPRESSION
        )
        areas = np.bincount(index.ravel(), minlength=len(segments) + 1).tolist()
        measured = [
            {"iscrowd": 0, **segment, "area": area}
            for segment, area in zip(segments, areas, strict=False)
        ]
        instances = to_instances(index, segments, thing_ids)
        for instance in instances:
            instance["image_id"] = annotation["image_id"]
        return {**annotation, "segments_info": measured}, instances

    tasks = list(enumerate(data["annotations"]))
    annotations, instances = [], []
    with ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        for annotation, found in tqdm(
            pool.map(convert, tasks), f"Deriving from {source.json}", len(tasks), delay=1
        ):
            annotations.append(annotation)
            instances += found
    # From 1: COCOeval takes id 0 for "no match".
    for number, instance in enumerate(instances, start=1):
        instance["id"] = number
    files.panoptic.write_text(json.dumps({**data, "annotations": annotations}))
    files.instances.write_text(
        json.dumps(
            {
                "info": {},
                "images": data["images"],
                "annotations": instances,
                "categories": data["categories"],
            }
        )
    )
