"""Problems that a panoptic JSON shows by itself, without a look at the files that it names."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePath

from segcore.data.category_rules import MAX_CATEGORIES
from segcore.data.panoptic_format import Annotation, Category, PanopticJson, Photo
from segcore.data.record_rules import (
    MAX_FILE_NAME_LENGTH,
    annotation_faults,
    category_faults,
    photo_faults,
    segment_faults,
    sound_segments,
)
from segcore.data.report import Problem
from segcore.text import printable, short_repr

# Each is a mask of the whole photo in training.
MAX_SEGMENTS_OF_A_PHOTO = 4096


def too_many_categories(json: str, data: PanopticJson) -> Problem | None:
    count = len(data["categories"])
    if count <= MAX_CATEGORIES:
        return None
    return Problem(
        "too many categories",
        json,
        f"'categories' lists {count} classes, at most {MAX_CATEGORIES} can be trained and "
        "evaluated: leave out those that no segment has",
    )


def json_problems(json: str, data: PanopticJson, evaluation: bool) -> Iterator[Problem]:
    """Problems that the JSON shows by itself.

    Args:
        evaluation: look also for what only evaluation cannot do.
    """
    categories = list(_sound_records(data["categories"], category_faults))
    photos = list(_sound_records(data["images"], photo_faults))
    annotations = list(_sound_records(data["annotations"], annotation_faults))

    yield from _record_problems(json, "category", data["categories"], category_faults)
    yield from _record_problems(json, "image", data["images"], photo_faults)
    yield from _record_problems(json, "annotation", data["annotations"], annotation_faults)
    for kind, noun, key, records in (
        ("category", "category", "id", categories),
        ("class name", "category", "name", categories),
        ("image", "image", "id", photos),
        ("annotation", "annotation", "image_id", annotations),
    ):
        for value, count in Counter(record[key] for record in records).items():
            if count > 1:
                message = (
                    f"{count} {noun} records have {key} {short_repr(value)}: keep one, or give "
                    f"each another {key}"
                )
                yield Problem(f"duplicate {kind}", json, message)
    yield from _count_problems(json, data)
    yield from _link_problems(json, _ids(data["images"]), photos, annotations)
    yield from _photo_name_problems(json, photos, evaluation)
    if evaluation and len({type(photo["id"]) for photo in photos}) > 1:
        yield Problem(
            "mixed image ids",
            json,
            "some ids of images are integers and others are strings, which COCO's evaluation "
            "cannot sort: make all of them integers or all strings",
        )
    known = _ids(data["categories"])
    classes = {category["id"]: category for category in categories}
    for annotation in annotations:
        yield from _segment_problems(annotation, known, classes, evaluation)


def _ids(records: list[dict]) -> set[int | str]:
    """The ids of records, faulty ones included, which are reported as such."""
    return {record["id"] for record in records if isinstance(record.get("id"), int | str)}


def _sound_records(records: list[dict], faults: Callable[[dict], list[str]]) -> Iterator[dict]:
    return (record for record in records if not faults(record))


def _record_problems(
    json: str, name: str, records: list[dict], faults: Callable[[dict], list[str]]
) -> Iterator[Problem]:
    """Faults of single records."""
    for position, record in enumerate(records):
        for fault in faults(record):
            yield Problem("broken record", json, f"{name} number {position + 1}: {fault}")


def _count_problems(json: str, data: PanopticJson) -> Iterator[Problem]:
    """Lists without a record, nothing to learn."""
    if not data["categories"]:
        yield Problem("no categories", json, "'categories' is empty: list the classes")
    if not data["annotations"]:
        yield Problem("no annotations", json, "'annotations' is empty: nothing to learn or measure")
    elif all(
        segment.get("iscrowd", 0)
        for annotation in data["annotations"]
        for segment in sound_segments(annotation)
    ):
        yield Problem(
            "nothing to learn",
            json,
            "no photo has a segment that is not a crowd: nothing to learn or measure",
        )


def _link_problems(
    json: str, known: set[int | str], photos: list[Photo], annotations: list[Annotation]
) -> Iterator[Problem]:
    """Annotations without their photo, photos without an annotation, a PNG for two photos.

    Args:
        known: ids of images.
    """
    annotated = {annotation["image_id"] for annotation in annotations}
    for annotation in annotations:
        if annotation["image_id"] not in known:
            yield Problem(
                "annotation without image",
                json,
                f"the annotation of '{printable(annotation['file_name'])}' has image_id "
                f"{short_repr(annotation['image_id'])}, which no record in 'images' has "
                "(an integer and a string differ): add the image or remove the annotation",
            )
    for photo in photos:
        if photo["id"] not in annotated:
            yield Problem(
                "image without annotation",
                json,
                f"'{printable(photo['file_name'])}' has no annotation and is left out",
                is_error=False,
            )
    pngs = Counter(os.path.normpath(annotation["file_name"]) for annotation in annotations)
    for name, count in pngs.items():
        if count > 1:
            yield Problem(
                "same panoptic PNG",
                json,
                f"{count} annotations name the panoptic PNG '{printable(name)}'",
                is_error=False,
            )


def _photo_name_problems(json: str, photos: list[Photo], evaluation: bool) -> Iterator[Problem]:
    """Photos that appear twice, and names that the evaluators cannot tell apart."""
    names = [os.path.normpath(photo["file_name"]) for photo in photos]
    for name, count in Counter(names).items():
        if count > 1:
            yield Problem(
                "same photo",
                json,
                f"{count} images have the file name '{printable(name)}': keep one",
                is_error=evaluation,
            )
    if not evaluation:
        return
    # COCOPanopticEvaluator names its files by the stem of the photo, in one folder.
    stems: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(PurePath(name).name)[0]
        other = stems.setdefault(stem, name)
        if other != name:
            yield Problem(
                "same file name",
                json,
                f"'{printable(other)}' and '{printable(name)}' have the same name but for folder "
                "and extension, and evaluation would mix them up: rename one",
            )
        if len(os.fsencode(f"{stem}.png")) > MAX_FILE_NAME_LENGTH:
            yield Problem(
                "long file name",
                json,
                f"'{printable(name)}': evaluation writes a file of this name and '.png', which is "
                f"longer than {MAX_FILE_NAME_LENGTH} bytes: rename the photo",
            )


def _segment_problems(
    annotation: Annotation,
    known: set[int | str],
    classes: dict[int, Category],
    evaluation: bool,
) -> Iterator[Problem]:
    """Problems of an annotation's list of segments.

    Args:
        known: ids of categories.
        classes: the sound ones of the categories, by id.
    """
    file, segments = printable(annotation["file_name"]), annotation["segments_info"]
    if not segments:
        yield Problem("no segments", file, "its 'segments_info' is empty", is_error=False)
    if len(segments) > MAX_SEGMENTS_OF_A_PHOTO:
        yield Problem(
            "too many segments",
            file,
            f"'segments_info' lists {len(segments)} segments, training takes at most "
            f"{MAX_SEGMENTS_OF_A_PHOTO} of a photo: cut the photo in parts",
        )
    sound = []
    for segment in segments:
        name = f"segment {short_repr(segment.get('id'))}"
        faults = segment_faults(segment)
        for fault in faults:
            yield Problem("broken segment", file, f"{name}: {fault}")
        if faults:
            continue
        sound.append(segment)
        if segment["category_id"] not in known:
            yield Problem(
                "unknown category",
                file,
                f"{name} has category_id {segment['category_id']}, which 'categories' does not "
                "list: add the category or correct the id",
            )
    yield from _counted_problems(file, sound, classes, evaluation)


def _counted_problems(
    file: str, segments: list[dict], classes: dict[int, Category], evaluation: bool
) -> Iterator[Problem]:
    for identity, count in Counter(segment["id"] for segment in segments).items():
        if count > 1:
            yield Problem(
                "duplicate segment",
                file,
                f"{count} segments have id {identity}: merge them or give each another id",
            )
    stuff_counts = Counter(
        segment["category_id"]
        for segment in segments
        if _is_stuff(classes.get(segment["category_id"])) and not segment.get("iscrowd", 0)
    )
    for category_id, count in stuff_counts.items():
        if count > 1:
            yield Problem(
                "several segments of a stuff class",
                file,
                f"{count} segments are '{printable(classes[category_id]['name'])}', which is "
                "stuff and has one segment a photo: give their pixels one id, or make it a thing",
                is_error=evaluation,
            )


def _is_stuff(category: Category | None) -> bool:
    return category is not None and not category["isthing"]
