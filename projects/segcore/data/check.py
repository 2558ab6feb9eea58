"""A scan of a panoptic data set before it is trained on: every problem, its file, what to do."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
from PIL import ExifTags, Image
from tabulate import tabulate
from tqdm import tqdm

from segcore.data.panoptic_format import (
    IMAGE_ERRORS,
    MAX_SEGMENT_ID,
    UNLABELLED,
    Annotation,
    Category,
    DataError,
    PanopticJson,
    Photo,
    Segment,
    locate_segments,
    read_panoptic_json,
    read_panoptic_png,
)

EXAMPLES_SHOWN = 5
MAX_WORKERS = 16
TURNING_ORIENTATIONS = {5, 6, 7, 8}  # EXIF orientations that swap height and width


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the data. ``kind`` names its sort, the same for all of that sort."""

    kind: str
    file: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.file}: {self.message}"


@dataclass
class ClassCount:
    name: str
    is_thing: bool
    segments: int = 0
    crowds: int = 0


@dataclass
class Report:
    """What :func:`check_panoptic_dataset` found."""

    json: str
    problems: list[Problem] = field(default_factory=list)
    classes: list[ClassCount] = field(default_factory=list)
    num_photos: int = 0
    num_annotations: int = 0

    @property
    def errors(self) -> list[Problem]:
        """Problems that training or evaluation would fail on, or be wrong with."""
        return [problem for problem in self.problems if problem.is_error]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if not problem.is_error]

    @property
    def ok(self) -> bool:
        return not self.errors

    def raise_if_failed(self) -> None:
        """Raise a DataError that lists the errors, if there are any."""
        if not self.ok:
            raise DataError(
                f"{self.json}: the data cannot be used\n{_listing('error', self.errors)}"
            )

    def summary(self) -> str:
        """Counts, a table of the classes, and the problems: for people."""
        things = sum(count.is_thing for count in self.classes)
        rows = [
            (count.name, "thing" if count.is_thing else "stuff", count.segments, count.crowds)
            for count in self.classes
        ]
        parts = [
            self.json,
            f"{self.num_photos} photos, {self.num_annotations} annotated; "
            f"{sum(count.segments for count in self.classes)} segments of {len(self.classes)} "
            f"classes ({things} things, {len(self.classes) - things} stuff)",
        ]
        if rows:
            parts.append(tabulate(rows, headers=("class", "kind", "segments", "of them crowd")))
        parts += [
            _listing(severity, problems)
            for severity, problems in (("error", self.errors), ("warning", self.warnings))
            if problems
        ]
        if not self.problems:
            parts.append("No problems found.")
        return "\n\n".join(parts)


def _listing(severity: str, problems: list[Problem]) -> str:
    """The problems by kind, with a few examples of each."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in problems:
        by_kind.setdefault(problem.kind, []).append(problem)
    lines = [f"{len(problems)} {severity}{'s' * (len(problems) > 1)}"]
    for kind, group in by_kind.items():
        lines.append(f"  {kind} ({len(group)})")
        lines += [f"    {problem}" for problem in group[:EXAMPLES_SHOWN]]
        if len(group) > EXAMPLES_SHOWN:
            lines.append(f"    ... and {len(group) - EXAMPLES_SHOWN} more")
    return "\n".join(lines)


def check_panoptic_dataset(
    images: str | Path,
    json: str | Path,
    pngs: str | Path,
    *,
    evaluation: bool = False,
    quick: bool = False,
    progress: bool = True,
) -> Report:
    """Look for everything in a data set of COCO panoptic format that would disturb training.

    Args:
        images: folder of the photos; the JSON's ``images`` have file names relative to it.
        json: the panoptic JSON.
        pngs: folder of the panoptic PNGs; the JSON's ``annotations`` name them.
        evaluation: ask for what only evaluation needs, too (distinct file names of the photos).
        quick: read the JSON and the headers of the files, no pixels.
        progress: show a progress bar.
    """
    report = Report(str(json))
    for folder, name in ((images, "image folder"), (pngs, "folder of panoptic PNGs")):
        if not Path(folder).is_dir():
            report.problems.append(
                Problem("wrong path", str(folder), f"the {name} does not exist: correct the path")
            )
    try:
        data = read_panoptic_json(json)
    except DataError as error:
        message = str(error).removeprefix(f"{json}: ")
        report.problems.append(Problem("wrong path or format", str(json), message))
    if report.problems:
        return report

    report.num_photos, report.num_annotations = len(data["images"]), len(data["annotations"])
    report.problems += _json_problems(str(json), data, evaluation)
    report.classes = _count_classes(data)
    # Broken records have been reported; what is left of them has no file to look at.
    photos = {photo["id"]: photo for photo in data["images"] if not _photo_faults(photo)}
    tasks = [
        (Path(images), photos[annotation["image_id"]], Path(pngs), annotation)
        for annotation in data["annotations"]
        if not _annotation_faults(annotation) and annotation["image_id"] in photos
    ]
    check = _header_problems if quick else _pixel_problems
    with ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda task: list(check(*task)), tasks)
        for problems in tqdm(
            found, "Checking data", len(tasks), unit="photo", disable=not progress, delay=1
        ):
            report.problems += problems
    return report


def _count_classes(data: PanopticJson) -> list[ClassCount]:
    categories = [category for category in data["categories"] if not _category_faults(category)]
    counts = {
        category["id"]: ClassCount(category["name"], bool(category["isthing"]))
        for category in categories
    }
    for annotation in data["annotations"]:
        for segment in _sound_segments(annotation):
            if segment["category_id"] in counts:
                count = counts[segment["category_id"]]
                count.segments += 1
                count.crowds += segment.get("iscrowd", 0)
    return list(counts.values())


# Records of the JSON: `_*_faults` says what is wrong with one record by itself.


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_id(value: object) -> bool:
    return _is_int(value) or isinstance(value, str)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_flag(value: object) -> bool:
    return isinstance(value, int) and value in (0, 1)


def _is_size(value: object) -> bool:
    return _is_int(value) and value > 0


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(_is_int(channel) and 0 <= channel <= 255 for channel in value)
    )


def _faults(
    record: dict, required: dict[str, tuple[Callable, str]], optional: dict | None = None
) -> list[str]:
    """What is missing from a record or of the wrong type."""
    faults = []
    for key, (is_valid, expected) in {**required, **(optional or {})}.items():
        if key in record and not is_valid(record[key]):
            faults.append(f"{key!r} must be {expected}, got {record[key]!r}")
        elif key in required and key not in record:
            faults.append(f"{key!r} ({expected}) is missing: add it")
    return faults


def _category_faults(category: Category) -> list[str]:
    return _faults(
        category,
        {
            "id": (_is_int, "an integer"),
            "name": (_is_name, "a non-empty string"),
            "isthing": (_is_flag, "1 for things and 0 for stuff"),
        },
        {"color": (_is_color, "three integers from 0 to 255")},
    )


def _photo_faults(photo: Photo) -> list[str]:
    return _faults(
        photo,
        {
            "id": (_is_id, "an integer or a string"),
            "file_name": (_is_name, "a non-empty string"),
            "height": (_is_size, "a positive integer"),
            "width": (_is_size, "a positive integer"),
        },
    )


def _annotation_faults(annotation: Annotation) -> list[str]:
    return _faults(
        annotation,
        {
            "image_id": (_is_id, "an integer or a string"),
            "file_name": (_is_name, "a non-empty string"),
            "segments_info": (
                lambda value: isinstance(value, list) and all(isinstance(s, dict) for s in value),
                "a list of objects",
            ),
        },
    )


def _segment_faults(segment: Segment) -> list[str]:
    return _faults(
        segment,
        {
            "id": (
                lambda value: _is_int(value) and UNLABELLED < value <= MAX_SEGMENT_ID,
                f"an integer from 1 to {MAX_SEGMENT_ID} (0 is unlabelled)",
            ),
            "category_id": (_is_int, "an integer"),
        },
        {"iscrowd": (_is_flag, "0 or 1"), "area": (_is_int, "an integer")},
    )


def _sound_segments(annotation: Annotation) -> list[Segment]:
    if _annotation_faults(annotation):
        return []
    return [segment for segment in annotation["segments_info"] if not _segment_faults(segment)]


def _json_problems(json: str, data: PanopticJson, evaluation: bool) -> Iterator[Problem]:
    """Problems that the JSON shows by itself."""
    yield from _record_problems(json, "category", data["categories"], _category_faults, "id")
    yield from _record_problems(json, "image", data["images"], _photo_faults, "id")
    yield from _record_problems(
        json, "annotation", data["annotations"], _annotation_faults, "image_id"
    )
    if not data["categories"]:
        yield Problem("no categories", json, "'categories' is empty: list the classes")
    if not data["annotations"]:
        yield Problem("no annotations", json, "'annotations' is empty: nothing to learn or measure")
    yield from _link_problems(json, data)
    if evaluation:
        yield from _stem_problems(json, data)
    known = {category.get("id") for category in data["categories"]}
    for annotation in data["annotations"]:
        yield from _segment_problems(annotation, known)


def _record_problems(
    json: str, name: str, records: list[dict], faults: Callable[[dict], list[str]], key: str
) -> Iterator[Problem]:
    """Faults of single records, and two records with one id."""
    for position, record in enumerate(records):
        for fault in faults(record):
            yield Problem(f"broken {name}", json, f"{name} number {position + 1}: {fault}")
    ids = Counter(record[key] for record in records if _is_id(record.get(key)))
    for identity, count in ids.items():
        if count > 1:
            yield Problem(
                f"duplicate {name}",
                json,
                f"{count} {name} records have {key} {identity!r}: keep one, or number them anew",
            )


def _link_problems(json: str, data: PanopticJson) -> Iterator[Problem]:
    """Annotations without their photo, photos without an annotation."""
    photos = {photo["id"]: photo for photo in data["images"] if not _photo_faults(photo)}
    annotated = set()
    for annotation in data["annotations"]:
        if _annotation_faults(annotation):
            continue
        annotated.add(annotation["image_id"])
        if annotation["image_id"] not in photos:
            yield Problem(
                "annotation without image",
                json,
                f"the annotation of {annotation['file_name']!r} has image_id "
                f"{annotation['image_id']!r}, which no record in 'images' has "
                "(an integer and a string differ): add the image or remove the annotation",
            )
    for identity in photos.keys() - annotated:
        yield Problem(
            "image without annotation",
            json,
            f"{photos[identity]['file_name']!r} has no annotation and is left out",
            is_error=False,
        )


def _stem_problems(json: str, data: PanopticJson) -> Iterator[Problem]:
    """COCOPanopticEvaluator names its files by the stem of the photo, in one folder."""
    names: dict[str, str] = {}
    for photo in data["images"]:
        if not _is_name(photo.get("file_name")):
            continue
        stem = PurePath(photo["file_name"]).stem
        other = names.setdefault(stem, photo["file_name"])
        if other != photo["file_name"]:
            yield Problem(
                "same file name",
                json,
                f"{other!r} and {photo['file_name']!r} have the same name but for folder and "
                "extension, and evaluation would mix them up: rename one",
            )


def _segment_problems(annotation: Annotation, known: set[int]) -> Iterator[Problem]:
    """Problems of an annotation's list of segments; ``known`` are the category ids."""
    if _annotation_faults(annotation):
        return
    file, segments = annotation["file_name"], annotation["segments_info"]
    if not segments:
        yield Problem("no segments", file, "its 'segments_info' is empty", is_error=False)
    for segment in segments:
        name = f"segment {segment.get('id')!r}"
        for fault in _segment_faults(segment):
            yield Problem("broken segment", file, f"{name}: {fault}")
        if _is_int(segment.get("category_id")) and segment["category_id"] not in known:
            yield Problem(
                "unknown category",
                file,
                f"{name} has category_id {segment['category_id']}, which 'categories' does not "
                "list: add the category or correct the id",
            )
    ids = Counter(segment["id"] for segment in segments if _is_int(segment.get("id")))
    for identity, count in ids.items():
        if count > 1:
            yield Problem(
                "duplicate segment",
                file,
                f"{count} segments have id {identity}: merge them or give each an id of its own",
            )


# Files


def _header_problems(
    images: Path, photo: Photo, pngs: Path, annotation: Annotation
) -> Iterator[Problem]:
    """Missing files and sizes that disagree, from the headers of the photo and its PNG."""
    expected = (photo["width"], photo["height"])
    photo_path = images / photo["file_name"]
    for path in (photo_path, pngs / annotation["file_name"]):
        if not path.is_file():
            yield Problem(
                "missing file",
                str(path),
                "does not exist: correct the folder's path, or 'file_name' in the JSON",
            )
            continue
        try:
            with Image.open(path) as image:
                size = image.size
                # Asking a PNG for EXIF decodes it, and id PNGs are not turned anyway.
                exif = image.getexif() if path == photo_path else {}
                orientation = exif.get(ExifTags.Base.Orientation, 1)
        except IMAGE_ERRORS as error:
            yield _broken(path, error)
            continue
        yield from _size_problems(path, size, orientation, expected)


def _broken(path: Path, error: Exception) -> Problem:
    return Problem("broken image", str(path), f"cannot be read ({error}): save it anew")


def _size_problems(
    path: Path, size: tuple[int, int], orientation: int, expected: tuple[int, int]
) -> Iterator[Problem]:
    """Compare (width, height) as stored, and as Detectron2 turns it for EXIF, with the JSON's."""
    turned = size[::-1] if orientation in TURNING_ORIENTATIONS else size
    is_turned = orientation in range(2, 9)
    if turned != expected and size == expected:
        yield Problem(
            "EXIF orientation",
            str(path),
            f"is {size[0]} x {size[1]} as the JSON says, but its EXIF orientation {orientation} "
            f"turns it to {turned[0]} x {turned[1]}: remove the EXIF tag if the annotation is of "
            "the photo as stored, else annotate the turned photo",
        )
    elif turned != expected:
        yield Problem(
            "different sizes",
            str(path),
            f"is {turned[0]} x {turned[1]} (width x height), but the JSON says "
            f"{expected[0]} x {expected[1]}: correct the JSON, or replace the file",
        )
    elif is_turned:
        yield Problem(
            "EXIF orientation",
            str(path),
            f"will be turned by its EXIF orientation {orientation}: make sure that the annotation "
            "is of the turned photo, or remove the tag",
            is_error=False,
        )


def _pixel_problems(
    images: Path, photo: Photo, pngs: Path, annotation: Annotation
) -> Iterator[Problem]:
    """Header problems, photos that break off, and segments that disagree with the PNG."""
    header_problems = list(_header_problems(images, photo, pngs, annotation))
    yield from header_problems
    wrong = {problem.file for problem in header_problems if problem.is_error}
    photo_path, png_path = images / photo["file_name"], pngs / annotation["file_name"]
    if str(photo_path) not in wrong:
        try:
            with Image.open(photo_path) as image:
                # A JPEG decodes at an eighth of its size several times faster, whole as it is.
                image.draft("RGB", (max(image.width // 8, 1), max(image.height // 8, 1)))
                image.load()
        except IMAGE_ERRORS as error:
            yield _broken(photo_path, error)
    if str(png_path) in wrong:
        return
    try:
        ids = read_panoptic_png(png_path)
    except DataError as error:
        message = str(error).removeprefix(f"{png_path}: ")
        yield Problem("broken panoptic PNG", str(png_path), message)
        return
    yield from _area_problems(str(png_path), ids, annotation)


def _area_problems(file: str, ids: np.ndarray, annotation: Annotation) -> Iterator[Problem]:
    segments = _sound_segments(annotation)
    index = locate_segments(ids, segments)
    areas = np.bincount(index.ravel(), minlength=len(segments) + 1)
    for segment, area in zip(segments, areas, strict=False):
        if area == 0:
            yield Problem(
                "segment without pixels",
                file,
                f"segment {segment['id']} of the JSON has no pixel: remove it from "
                "'segments_info', or draw it",
            )
        elif segment.get("area", area) != area:
            yield Problem(
                "different areas",
                file,
                f"segment {segment['id']} has {area} pixels, but the JSON's area is "
                f"{segment['area']}; the pixels count",
                is_error=False,
            )
    listed = {segment.get("id") for segment in annotation["segments_info"]}
    unlisted, counts = np.unique(ids[index == len(segments)], return_counts=True)
    for identity, count in zip(unlisted.tolist(), counts.tolist(), strict=True):
        if identity != UNLABELLED and identity not in listed:
            color = (identity % 256, identity // 256 % 256, identity // 65536)
            yield Problem(
                "PNG id without segment",
                file,
                f"{count} pixels have id {identity} (colour {color}), which 'segments_info' does "
                "not list: list the segment, or paint them black (unlabelled)",
            )
