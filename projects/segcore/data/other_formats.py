"""Annotation formats that are mistaken for COCO panoptic, recognized by the keys of their JSON."""

from typing import Any

INSTANCES = (
    "COCO instance annotation (annotations with 'bbox' or 'segmentation', no 'segments_info'), "
    "which python -m segcore.data.convert --from coco converts: see docs/convert.md"
)
# Keys of the top-level object, or of the first entry of a top-level list -> format
FORMATS_OF_OBJECTS = {
    ("shapes", "imagePath"): "the annotation of one image by LabelMe: see docs/convert.md",
    ("_via_img_metadata",): "a project of VIA",
    ("objects", "imgHeight"): "the polygons of one image of Cityscapes: see docs/convert.md",
    ("items", "categories", "info"): "Datumaro's own format: let it export COCO panoptic",
    ("type", "features"): "GeoJSON",
}
FORMATS_OF_LISTS = {
    ("segments_info", "image_id"): "a list of panoptic predictions, not the ground truth",
    ("score", "image_id"): "a list of detections (COCO results), not the ground truth",
    ("data", "annotations"): "an export of Label Studio: see docs/convert.md",
}


def recognize(data: Any) -> str | None:
    """Return what some JSON seems to be instead of COCO panoptic, as a phrase, or None."""
    if isinstance(data, list):
        return _by_keys(data[0], FORMATS_OF_LISTS) if data else None
    if not isinstance(data, dict):
        return None
    annotations = data.get("annotations")
    if isinstance(annotations, list) and annotations and isinstance(annotations[0], dict):
        if not any("segments_info" in record for record in annotations if isinstance(record, dict)):
            return _kind_of_coco(annotations[0])
        if "categories" not in data and "images" not in data:
            return "panoptic predictions without 'images' and 'categories', not the ground truth"
    return _by_keys(data, FORMATS_OF_OBJECTS)


def _kind_of_coco(annotation: dict) -> str | None:
    if "keypoints" in annotation:
        return "COCO keypoint annotation"
    if "bbox" in annotation or "segmentation" in annotation:
        return INSTANCES
    if "caption" in annotation:
        return "COCO caption annotation"
    return None


def _by_keys(record: Any, formats: dict[tuple[str, ...], str]) -> str | None:
    if not isinstance(record, dict):
        return None
    return next((name for keys, name in formats.items() if set(keys) <= set(record)), None)
