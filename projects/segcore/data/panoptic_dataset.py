"""Detectron2's records and metadata of data in COCO panoptic format, registered or custom."""

from pathlib import PurePath

from detectron2.utils.colormap import colormap

from segcore.data.derived import PanopticSource
from segcore.data.panoptic_format import (
    Category,
    PanopticJson,
    Segment,
    contiguous_ids,
    thing_category_ids,
)
from segcore.data.record_rules import annotation_faults, photo_faults, segment_faults
from segcore.errors import DataError
from segcore.text import printable, short_repr

LABEL_DIVISOR = 1000


def panoptic_metadata(categories: list[Category]) -> dict:
    """Return the metadata of classes that share one space of contiguous ids.

    A contiguous id is the position in ``categories``. ``stuff_classes`` are all classes:
    ``SemSegEvaluator`` counts them. ``thing_classes`` are those up to the last thing:
    ``Visualizer`` and the histogram of ``get_detection_dataset_dicts`` look up things by their
    contiguous id, and ``COCOEvaluator`` demands the things alone, which is the same where they
    come first, as in COCO. A category without color gets one of Detectron2's color map.
    """
    contiguous, thing_ids = contiguous_ids(categories), thing_category_ids(categories)
    things = {id_: index for id_, index in contiguous.items() if id_ in thing_ids}
    palette = colormap(rgb=True, maximum=255).astype(int).tolist()
    names = [category["name"] for category in categories]
    colors = [
        category.get("color", palette[index % len(palette)])
        for index, category in enumerate(categories)
    ]
    end = max(things.values(), default=-1) + 1
    return {
        "thing_classes": names[:end],
        "thing_colors": colors[:end],
        "stuff_classes": names,
        "stuff_colors": colors,
        "thing_dataset_id_to_contiguous_id": things,
        "stuff_dataset_id_to_contiguous_id": contiguous,
        "label_divisor": LABEL_DIVISOR,
    }


def panoptic_records(
    source: PanopticSource,
    data: PanopticJson,
    categories: list[Category],
    *,
    photo_suffix: str | None,
    with_boxes: bool,
) -> list[dict]:
    """Return Detectron2's records, one an annotation, with contiguous category ids.

    ``image_id`` is that of the JSON, an integer or a string; ``height`` and ``width`` are those
    that it states, and absent where they are not sound.

    Args:
        data: content of ``source.json``.
        categories: in the order of contiguous ids.
        photo_suffix: suffix of a photo that is named as its panoptic PNG; None: photos are named by
            ``images`` of the JSON.
        with_boxes: keep ``area`` and ``bbox`` of the segments, else mappers measure them.

    Raises:
        DataError: an annotation or a segment is faulty, its category is unknown, or its photo has
            no sound record where that names it.
    """
    require_sound_annotations(source, data, categories)
    photos = {photo["id"]: photo for photo in data["images"] if not photo_faults(photo)}
    contiguous, thing_ids = contiguous_ids(categories), thing_category_ids(categories)
    left_out = () if with_boxes else ("area", "bbox")
    records = []
    for annotation in data["annotations"]:
        photo = photos.get(annotation["image_id"])
        if photo_suffix is not None:
            photo_name = PurePath(annotation["file_name"]).stem + photo_suffix
        elif photo is not None:
            photo_name = photo["file_name"]
        else:
            raise DataError(
                f"{printable(source.json)}: 'images' has no sound record of "
                f"{short_repr(annotation['image_id'])}, which is annotated"
            )
        records.append(
            {
                "file_name": str(source.images / photo_name),
                "image_id": annotation["image_id"],
                **({side: photo[side] for side in ("height", "width")} if photo else {}),
                "pan_seg_file_name": str(source.pngs / annotation["file_name"]),
                "segments_info": [
                    {
                        "iscrowd": 0,
                        **{key: segment[key] for key in segment if key not in left_out},
                        "category_id": contiguous[segment["category_id"]],
                        "isthing": segment["category_id"] in thing_ids,
                    }
                    for segment in annotation["segments_info"]
                ],
            }
        )
    return records


def require_sound_annotations(
    source: PanopticSource, data: PanopticJson, categories: list[Category]
) -> None:
    """Raise a DataError for the first annotation or segment that is faulty or of no category."""
    contiguous = contiguous_ids(categories)
    for number, annotation in enumerate(data["annotations"], start=1):
        for fault in annotation_faults(annotation):
            raise DataError(f"{printable(source.json)}: annotation number {number}: {fault}")
        for segment in annotation["segments_info"]:
            for fault in _segment_faults(segment, contiguous):
                raise DataError(
                    f"{printable(source.json)}: segment {short_repr(segment.get('id'))} of "
                    f"{printable(annotation['file_name'])}: {fault}"
                )


def _segment_faults(segment: Segment, contiguous: dict[int, int]) -> list[str]:
    if faults := segment_faults(segment):
        return faults
    if segment["category_id"] in contiguous:
        return []
    return [f"has the category id {segment['category_id']}, which is none of the data set's"]
