"""Files that follow from a panoptic data set: semantic PNGs, a COCO instance JSON, a panoptic JSON.

They lie in a folder of their own, named after the state of the files that they come from, so that
changed annotations are derived anew. The folder appears when it is complete, and processes that
want it at the same time wait for the first.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from iopath.common.file_io import file_lock
from tqdm import tqdm

from segcore.data.images import MAX_PIXELS, encode_image
from segcore.data.panoptic_format import (
    Annotation,
    PanopticJson,
    Segment,
    contiguous_ids,
    count_pixels,
    locate_segments,
    num_workers,
    read_panoptic_json,
    read_panoptic_png,
    thing_category_ids,
    to_instances,
    to_semantic,
)
from segcore.data.record_rules import photo_faults
from segcore.errors import DataError, OutputError
from segcore.files import atomic_folder
from segcore.text import printable

FORMAT_VERSION = 3  # part of the folder's name: to be changed with the content of the files
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
            except (OSError, ValueError):  # ValueError: no name that a file can have
                state = None
            digest.update(repr((os.path.abspath(path), state)).encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class DerivedFiles:
    folder: Path

    @property
    def instances(self) -> Path:
        """COCO instance JSON of the things."""
        return self.folder / "instances.json"

    @property
    def panoptic(self) -> Path:
        """The panoptic JSON, every segment with ``iscrowd`` and its ``area`` as measured."""
        return self.folder / "panoptic.json"

    def semantic(self, position: int) -> Path:
        """PNG of contiguous class ids, for the annotation at a position of the JSON's list."""
        return self.folder / "semantic" / f"{position:06d}.png"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file of ``path``, for which processes wait that want to make the same.

    Raises:
        OutputError: the lock file cannot be written.
    """
    lock = file_lock(str(path))
    try:
        lock.acquire()
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path.parent}: cannot be written (OUTPUT_DIR): {reason}") from error
    try:
        yield
    finally:
        lock.release()


def derive(source: PanopticSource, folder: Path) -> DerivedFiles:
    """Make the derived files of a data set that passed the check, unless the folder is there.

    Raises:
        OutputError: the files cannot be written.
        DataError: a file of the data set cannot be read any more.
    """
    files = DerivedFiles(folder)
    with locked(folder):
        if not folder.exists():
            with atomic_folder(folder) as unfinished:
                _write(source, DerivedFiles(unfinished))
    return files


def both_exist(first: Path, second: Path) -> bool:
    """Return whether two paths that are made together exist.

    Raises:
        DataError: one of them does.
    """
    present = [path for path in (first, second) if path.exists()]
    if len(present) == 1:
        absent = second if present == [first] else first
        raise DataError(
            f"{printable(absent)}: does not exist, but {printable(present[0])} does, and one is "
            f"made with the other: remove {printable(present[0])} to have both made"
        )
    return bool(present)


def derive_semantic_maps(
    data: PanopticJson, pngs: Path, contiguous: dict[int, int], folder: Path
) -> None:
    """Make the folder of semantic PNGs of a registered panoptic data set, unless it is there.

    A PNG has the name of the panoptic one, and contiguous class ids, 255 where unlabeled.

    Args:
        data: whose annotations are without faults.
        contiguous: category id -> contiguous id.

    Raises:
        OutputError: the folder cannot be written.
        DataError: a PNG cannot be read.
    """

    def convert(annotation: Annotation) -> None:
        segments = annotation["segments_info"]
        index = locate_segments(read_panoptic_png(pngs / annotation["file_name"]), segments)
        path = unfinished / PurePath(annotation["file_name"]).name
        path.write_bytes(_semantic_png(index, segments, contiguous))

    tasks, photos = data["annotations"], [p for p in data["images"] if not photo_faults(p)]
    with locked(folder):
        if folder.exists():
            return
        with atomic_folder(folder) as unfinished, ThreadPoolExecutor(num_workers(photos)) as pool:
            for _ in tqdm(pool.map(convert, tasks), f"Making {folder}", len(tasks), delay=1):
                pass


def _semantic_png(index: np.ndarray, segments: list[Segment], contiguous: dict[int, int]) -> bytes:
    semantic = to_semantic(index, segments, contiguous)
    return encode_png(semantic)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode ids, fast rather than small."""
    return encode_image(pixels, "PNG", compress_level=FAST_COMPRESSION)


def _write(source: PanopticSource, files: DerivedFiles) -> None:
    data = read_panoptic_json(source.json)
    contiguous = contiguous_ids(data["categories"])
    thing_ids = thing_category_ids(data["categories"])
    Path(files.folder, "semantic").mkdir(parents=True)

    def convert(task: tuple[int, Annotation]) -> tuple[Annotation, list[dict]]:
        position, annotation = task
        segments = annotation["segments_info"]
        ids = read_panoptic_png(source.pngs / annotation["file_name"], source.max_pixels)
        index = locate_segments(ids, segments)
        files.semantic(position).write_bytes(_semantic_png(index, segments, contiguous))
        areas = count_pixels(index, len(segments) + 1).tolist()
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
    description = f"Deriving from {printable(source.json)}"
    with ThreadPoolExecutor(num_workers(data["images"])) as pool:
        for annotation, photo_instances in tqdm(
            pool.map(convert, tasks), description, len(tasks), delay=1
        ):
            annotations.append(annotation)
            instances += photo_instances
    # From 1: COCOeval takes id 0 for "no match".
    for number, instance in enumerate(instances, start=1):
        instance["id"] = number
    panoptic = {**data, "annotations": annotations}
    coco = {
        "info": {},
        "images": data["images"],
        "annotations": instances,
        "categories": [c for c in data["categories"] if c["id"] in thing_ids],
    }
    for path, content in ((files.panoptic, panoptic), (files.instances, coco)):
        path.write_bytes(json.dumps(content).encode())
