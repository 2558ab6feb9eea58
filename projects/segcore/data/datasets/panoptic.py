"""Registered data sets in COCO panoptic format, with semantic maps beside the panoptic PNGs."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePath

from detectron2.utils.file_io import PathManager

from segcore.data.datasets.catalog import Derivation, register
from segcore.data.derived import PanopticSource, derive_semantic_maps
from segcore.data.panoptic_dataset import (
    panoptic_metadata,
    panoptic_records,
    require_sound_annotations,
)
from segcore.data.panoptic_format import Category, contiguous_ids, read_panoptic_json
from segcore.errors import DataError
from segcore.text import printable


def register_panoptic(
    name: str,
    categories: list[Category],
    *,
    image_root: str,
    panoptic_json: str,
    panoptic_root: str,
    sem_seg_root: str,
    evaluator_type: str,
    ignore_label: int = 255,
    instances_json: str | None = None,
    derivations: Mapping[str, Derivation] | None = None,
) -> None:
    """Register data of which every photo has a panoptic PNG and a semantic PNG.

    Args:
        categories: dicts with id, name, isthing and color, in the order of contiguous ids.
        instances_json: ground truth of COCO's instance evaluation.
        derivations: path -> how it is made where it is missing.
    """
    source = PanopticSource(Path(image_root), Path(panoptic_json), Path(panoptic_root))
    files = {
        "image_root": image_root,
        "panoptic_json": panoptic_json,
        "panoptic_root": panoptic_root,
        "sem_seg_root": sem_seg_root,
    }
    register(
        name,
        partial(load_registered_panoptic, source, sem_seg_root, categories),
        needs={
            image_root: "photos",
            panoptic_json: "panoptic annotation in COCO's format",
            panoptic_root: "panoptic PNGs",
            sem_seg_root: f"semantic PNGs of contiguous class ids, {ignore_label} where unlabeled",
        },
        derivations=derivations,
        evaluator_type=evaluator_type,
        ignore_label=ignore_label,
        **files,
        **({} if instances_json is None else {"json_file": instances_json}),
        **panoptic_metadata(categories),
    )


def semantic_maps_of_panoptic(
    categories: list[Category], panoptic_json: str, panoptic_root: str, sem_seg_root: str
) -> Derivation:
    """Return how the semantic maps of a data set follow from its panoptic PNGs."""

    def make() -> None:
        data = read_panoptic_json(panoptic_json)
        source = PanopticSource(Path(), Path(panoptic_json), Path(panoptic_root))
        require_sound_annotations(source, data, categories)
        derive_semantic_maps(data, source.pngs, contiguous_ids(categories), Path(sem_seg_root))

    return Derivation({panoptic_json: "panoptic annotation", panoptic_root: "panoptic PNGs"}, make)


def load_registered_panoptic(
    source: PanopticSource, sem_seg_root: str, categories: list[Category]
) -> list[dict]:
    """Return Detectron2's records, one an annotation, with the boxes that are annotated.

    The photo and the semantic map have the stem of the panoptic PNG.

    Raises:
        DataError: the JSON is not in COCO panoptic format, an annotation is faulty, or a file of
            the first photo is missing.
    """
    data = read_panoptic_json(source.json)
    records = panoptic_records(source, data, categories, photo_suffix=".jpg", with_boxes=True)
    for record in records:
        stem = PurePath(record["pan_seg_file_name"]).stem
        record["sem_seg_file_name"] = f"{sem_seg_root}/{stem}.png"
    for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name"):
        for path in (record[key] for record in records[:1]):
            if not PathManager.isfile(path):
                raise DataError(
                    f"{printable(path)} does not exist ({key} of the first photo of {source.json})"
                )
    return records
