"""Rules of single records of a panoptic JSON. ``*_faults`` return phrases for error messages."""

import os
from collections.abc import Callable

from segcore.data.category_rules import color_fault, name_fault
from segcore.data.panoptic_format import (
    MAX_SEGMENT_ID,
    UNLABELED,
    Annotation,
    Category,
    Photo,
    Segment,
)
from segcore.text import short_repr

MAX_CATEGORY_ID = 2**31 - 1
MAX_IMAGE_ID = 2**63 - 1  # NumPy's integers; COCO's evaluation sorts ids by NumPy
MAX_IMAGE_ID_LENGTH = 200
MAX_SIDE = 1_000_000  # pixels of a photo; what a photo may have in all is INPUT.MAX_PIXELS
MAX_PATH_LENGTH, MAX_FILE_NAME_LENGTH = 1000, 255  # bytes, that file systems take

Rule = Callable[[object], str | None]


def category_faults(category: Category) -> list[str]:
    return record_faults(category, CATEGORY_RULES, OPTIONAL_CATEGORY_RULES)


def photo_faults(photo: Photo) -> list[str]:
    return record_faults(photo, PHOTO_RULES)


def annotation_faults(annotation: Annotation) -> list[str]:
    return record_faults(annotation, ANNOTATION_RULES)


def segment_faults(segment: Segment) -> list[str]:
    return record_faults(segment, SEGMENT_RULES, OPTIONAL_SEGMENT_RULES)


def sound_segments(annotation: Annotation) -> list[Segment]:
    """Return the segments of an annotation without those that are faulty."""
    if annotation_faults(annotation):
        return []
    return [segment for segment in annotation["segments_info"] if not segment_faults(segment)]


def record_faults(
    record: dict, required: dict[str, Rule], optional: dict[str, Rule] | None = None
) -> list[str]:
    """Return what is missing from a record or cannot be used."""
    faults = []
    for key, rule in {**required, **(optional or {})}.items():
        if key in record:
            fault = rule(record[key])
            if fault is not None:
                faults.append(f"{key!r}: {fault}")
        elif key in required:
            faults.append(f"{key!r} is missing: add it")
    return faults


def _rule(is_valid: Callable[[object], bool], expected: str) -> Rule:
    return lambda value: (
        None if is_valid(value) else f"expected {expected}, got {short_repr(value)}"
    )


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer_rule(first: int, last: int) -> Rule:
    return _rule(
        lambda value: _is_int(value) and first <= value <= last,
        f"an integer from {first} to {last}",
    )


def _is_image_id(value: object) -> bool:
    if isinstance(value, str):
        return 1 <= len(value) <= MAX_IMAGE_ID_LENGTH and "\0" not in value and _is_unicode(value)
    return _is_int(value) and 0 <= value <= MAX_IMAGE_ID


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_box(value: object) -> bool:
    if not (isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))):
        return False
    return all(abs(number) <= MAX_SIDE for number in value) and min(value[2:]) >= 0


def file_name_fault(name: object) -> str | None:
    """Check the name of a file relative to a folder, which it must not leave."""
    if not isinstance(name, str) or not name or name.endswith("/"):
        return f"expected a file name, got {short_repr(name)}"
    if "\0" in name or not _is_unicode(name):
        return f"expected a file name in Unicode without NUL, got {short_repr(name)}"
    encoded = os.fsencode(name)
    if len(encoded) > MAX_PATH_LENGTH or max(map(len, encoded.split(b"/"))) > MAX_FILE_NAME_LENGTH:
        return f"expected a file name, got {len(encoded)} bytes, which no file system takes"
    if os.path.isabs(name) or ".." in name.split("/"):
        return (
            "expected a file name relative to the folder that the config names, and inside of it, "
            f"got {short_repr(name)}"
        )
    return None


_image_id_rule = _rule(
    _is_image_id,
    f"an integer from 0 to 2^63 - 1 or a text of 1 to {MAX_IMAGE_ID_LENGTH} characters",
)
flag_rule = _rule(lambda value: isinstance(value, int) and value in (0, 1), "0 or 1")
side_rule = integer_rule(1, MAX_SIDE)
category_id_rule = integer_rule(0, MAX_CATEGORY_ID)

CATEGORY_RULES = {
    "id": category_id_rule,
    "name": name_fault,
    "isthing": _rule(
        lambda value: isinstance(value, int) and value in (0, 1), "1 for things and 0 for stuff"
    ),
}
OPTIONAL_CATEGORY_RULES = {"color": color_fault}
PHOTO_RULES = {
    "id": _image_id_rule,
    "file_name": file_name_fault,
    "height": side_rule,
    "width": side_rule,
}
ANNOTATION_RULES = {
    "image_id": _image_id_rule,
    "file_name": file_name_fault,
    "segments_info": _rule(
        lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
        "a list of objects",
    ),
}
SEGMENT_RULES = {
    "id": _rule(
        lambda value: _is_int(value) and UNLABELED < value <= MAX_SEGMENT_ID,
        f"an integer from 1 to {MAX_SEGMENT_ID} (0 is unlabeled)",
    ),
    "category_id": category_id_rule,
}
OPTIONAL_SEGMENT_RULES = {
    "iscrowd": flag_rule,
    "area": _rule(lambda value: _is_number(value) and value >= 0, "a number of pixels"),
    "bbox": _rule(_is_box, "four numbers of pixels x, y, width, height"),
}
