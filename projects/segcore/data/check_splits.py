"""Problems of data that are sound by themselves: of the splits with each other and the config."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from segcore.data.panoptic_format import PanopticJson, Photo, thing_category_ids
from segcore.data.report import Problem
from segcore.text import printable, short_repr

CATEGORY_KEYS = ("id", "name", "isthing")
SHARED_PHOTOS = "photos in both splits"  # kind of problem


def split_problems(
    jsons: Mapping[str, Path],
    data: Mapping[str, PanopticJson],
    *,
    explicit_num_classes: int | None = None,
    instance_mapper: str | None = None,
    max_ratios: Mapping[str, float] | None = None,
) -> Iterator[Problem]:
    """Compare the splits with each other and with what the config asks for.

    Args:
        jsons, data: by split, "TRAIN" and "TEST" or one of them; the data passed the check.
        explicit_num_classes: the class count that the user asked for, if any.
        instance_mapper: name of the training mapper, if it reads instances.
        max_ratios: by split, the ratio of the sides of a photo from which on resizing leaves
            nothing of the shorter one.
    """
    if len(data) > 1:
        yield from _different_categories(jsons["TEST"], data["TRAIN"], data["TEST"])
    split, content = next(iter(data.items()))
    num_classes = len(content["categories"])
    if explicit_num_classes not in (None, num_classes):
        yield Problem(
            "class count",
            str(jsons[split]),
            f"has {num_classes} categories, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is set to "
            f"{explicit_num_classes}: leave it out, or correct the categories",
        )
    if instance_mapper is not None and "TRAIN" in data and not _has_things(data["TRAIN"]):
        yield Problem(
            "no things",
            str(jsons["TRAIN"]),
            f"no photo has a thing that is not a crowd, but {instance_mapper} "
            "(INPUT.DATASET_MAPPER_NAME) trains on things alone",
        )
    for split, content in data.items():
        yield from _narrow_photos(jsons[split], content, (max_ratios or {}).get(split, math.inf))


def shared_photo_problems(
    json: Path, images: Mapping[str, Path], data: Mapping[str, PanopticJson]
) -> Iterator[Problem]:
    """Find photos that stand in both splits, equal by content whatever their names.

    Args:
        json: of the test split.
        images, data: folders of photos and contents of the JSONs, by split; they passed the check.
    """
    pairs = shared_photos(images, data) if len(data) > 1 else []
    if pairs:
        test, train = (printable(path.name) for path in pairs[0])
        yield Problem(
            SHARED_PHOTOS,
            str(json),
            f"{len(pairs)} photos of TEST are in TRAIN too, equal by content, such as '{test}' "
            f"and '{train}': results say less about new photos; remove them from one",
            is_error=False,
        )


def shared_photos(
    images: Mapping[str, Path], data: Mapping[str, PanopticJson]
) -> list[tuple[Path, Path]]:
    """Return pairs of photos, of TEST and of TRAIN, that are equal by content.

    Args:
        images, data: folders of photos and contents of the JSONs of both splits.
    """
    paths = {
        split: [images[split] / photo["file_name"] for photo in _annotated_photos(content)]
        for split, content in data.items()
    }
    sizes = {path.stat().st_size for path in paths["TRAIN"]}
    candidates = [path for path in paths["TEST"] if path.stat().st_size in sizes]
    sizes = {path.stat().st_size for path in candidates}
    seen = {_digest(path): path for path in paths["TRAIN"] if path.stat().st_size in sizes}
    return [(path, seen[digest]) for path in candidates if (digest := _digest(path)) in seen]


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _annotated_photos(data: PanopticJson) -> list[Photo]:
    annotated = {annotation["image_id"] for annotation in data["annotations"]}
    return [photo for photo in data["images"] if photo["id"] in annotated]


def _narrow_photos(json: Path, data: PanopticJson, max_ratio: float) -> Iterator[Problem]:
    for photo in _annotated_photos(data):
        sides = photo["height"], photo["width"]
        if max(sides) >= max_ratio * min(sides):
            yield Problem(
                "narrow photo",
                str(json),
                f"'{printable(photo['file_name'])}' is {sides[1]} x {sides[0]}, of which resizing "
                f"(INPUT) leaves no pixel of the shorter side: cut it in parts, or remove it",
            )


def _different_categories(
    test_json: Path, train: PanopticJson, test: PanopticJson
) -> Iterator[Problem]:
    """The first category that is not the same in both splits."""
    pairs = zip_longest(train["categories"], test["categories"], fillvalue={})
    for position, pair in enumerate(pairs):
        first, second = ({key: record.get(key) for key in CATEGORY_KEYS} for record in pair)
        if first != second:
            yield Problem(
                "different categories",
                str(test_json),
                "the categories of the splits must be the same in the same order, but number "
                f"{position + 1} is {short_repr(first)} in TRAIN and {short_repr(second)} in TEST",
            )
            return


def _has_things(data: PanopticJson) -> bool:
    """Does a photo have a thing that is not a crowd?"""
    thing_ids = thing_category_ids(data["categories"])
    return any(
        segment["category_id"] in thing_ids and not segment.get("iscrowd", 0)
        for annotation in data["annotations"]
        for segment in annotation["segments_info"]
    )
