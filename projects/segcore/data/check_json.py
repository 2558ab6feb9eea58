"""Problems that a panoptic JSON shows by itself. ``*_faults`` look at one record alone."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePath

from segcore.data.panoptic_format import (
    MAX_SEGMENT_ID,
    UNLABELLED,
    Annotation,
    Category,
    PanopticJson,
    Photo,
    Segment,
)
from segcore.data.report import Problem


def json_problems(json: str, data: PanopticJson, evaluation: bool) -> Iterator[Problem]:
    """Problems that the JSON shows by itself."""
    yield from _record_problems(json, "category", data["categories"], category_faults, "id")
    yield from _record_problems(json, "image", data["images"], photo_faults, "id")
    yield from _record_problems(
        json, "annotation", data["annotations"], annotation_faults, "image_id"
    )
    if not data["categories"]:
        yield Problem("no categories", json, "'categories' is empty: list the classes")
    if not data["annotations"]:
        yield Problem("no annotations", json, "'annotations' is empty: nothing to learn or measure")
    yield from _link_problems(json, data)
    if evaluation:
        yield from _stem_problems(json, data)
    known = {category["id"] for category in data["categories"] if _is_int(category.get("id"))}
    for annotation in data["annotations"]:
        yield from _segment_problems(annotation, known)


def _record_problems(
    json: str, name: str, records: list[dict], faults: Callable[[dict], list[str]], key: str
) -> Iterator[Problem]:
    """Faults of single records, and two records with one id."""
    for position, record in enumerate(records):
        for fault in faults(record):
            yield Problem("broken record", json, f"{name} number {position + 1}: {fault}")
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
    photos = {photo["id"]: photo for photo in data["images"] if not photo_faults(photo)}
    annotated = set()
    for annotation in data["annotations"]:
        if annotation_faults(annotation):
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
    for identity, photo in photos.items():
        if identity not in annotated:
            yield Problem(
                "image without annotation",
                json,
                f"{photo['file_name']!r} has no annotation and is left out",
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
    if annotation_faults(annotation):
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


def category_faults(category: Category) -> list[str]:
    return _faults(
        category,
        {
            "id": (_is_int, "an integer"),
            "name": (_is_name, "a non-empty string"),
            "isthing": (_is_flag, "1 for things and 0 for stuff"),
        },
        {"color": (_is_color, "three integers from 0 to 255")},
    )


def photo_faults(photo: Photo) -> list[str]:
    return _faults(
        photo,
        {
            "id": (_is_id, "an integer or a string"),
            "file_name": (_is_name, "a non-empty string"),
            "height": (_is_size, "a positive integer"),
            "width": (_is_size, "a positive integer"),
        },
    )


def annotation_faults(annotation: Annotation) -> list[str]:
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


def sound_segments(annotation: Annotation) -> list[Segment]:
    if annotation_faults(annotation):
        return []
    return [segment for segment in annotation["segments_info"] if not _segment_faults(segment)]
