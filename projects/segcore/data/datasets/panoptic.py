"""Data sets in COCO panoptic format with semantic maps beside the panoptic PNGs."""

from functools import partial
from pathlib import Path, PurePath

from detectron2.utils.file_io import PathManager

from segcore.data.datasets.catalog import register
from segcore.data.datasets.categories import panoptic_metadata
from segcore.data.derived import derive_semantic_maps
from segcore.data.panoptic_format import PanopticJson, read_panoptic_json
from segcore.data.record_rules import annotation_faults, photo_faults, segment_faults
from segcore.errors import DataError, OutputError
from segcore.text import printable, short_repr


def register_panoptic(
    name: str,
    categories: list[dict],
    *,
    image_root: str,
    panoptic_json: str,
    panoptic_root: str,
    sem_seg_root: str,
    evaluator_type: str,
    ignore_label: int = 255,
    instances_json: str | None = None,
    derives_semantic_maps: bool = False,
    preparation: dict[str, str] | None = None,
) -> None:
    """Register data of which every photo has a panoptic PNG and a semantic PNG.

    Args:
        categories: dicts with id, name, isthing and color, in the order of contiguous ids.
        instances_json: ground truth of COCO's instance evaluation.
        derives_semantic_maps: where ``sem_seg_root`` is missing, make it of the panoptic PNGs when
            the data set is first loaded.
        preparation: path -> how it is made of the download.
    """
    metadata = panoptic_metadata(categories)
    folders = {
        "image_root": image_root,
        "panoptic_root": panoptic_root,
        "sem_seg_root": sem_seg_root,
    }
    files = {"panoptic_json": panoptic_json}
    if instances_json is not None:
        files["json_file"] = instances_json
    needs = {
        image_root: "photos",
        panoptic_json: "panoptic annotation in COCO's format",
        panoptic_root: "panoptic PNGs",
        sem_seg_root: f"semantic PNGs of contiguous class ids, {ignore_label} where unlabelled",
    }
    for path, way in (preparation or {}).items():
        needs[path] += f"; {way}"
    if derives_semantic_maps:
        del needs[sem_seg_root]
    register(
        name,
        partial(
            load_panoptic,
            panoptic_json,
            **folders,
            metadata=metadata,
            derives_semantic_maps=derives_semantic_maps,
        ),
        needs=needs,
        evaluator_type=evaluator_type,
        ignore_label=ignore_label,
        derived_keys=("sem_seg_root",) if derives_semantic_maps else (),
        preparation=preparation or {},
        **folders,
        **files,
        **metadata,
    )


def load_panoptic(
    panoptic_json: str,
    *,
    image_root: str,
    panoptic_root: str,
    sem_seg_root: str,
    metadata: dict,
    derives_semantic_maps: bool = False,
) -> list[dict]:
    """Detectron2's dataset dicts, one an annotation, with contiguous category ids.

    The photo has the stem of the annotation's file name and the suffix ".jpg". ``image_id`` is that
    of the JSON: an integer for COCO, a string for ADE20K and Mapillary Vistas. ``height`` and
    ``width`` are those that the JSON states.

    Args:
        derives_semantic_maps: make the folder ``sem_seg_root``, unless it is there.

    Raises:
        OutputError: ``sem_seg_root`` cannot be made.
        DataError: the JSON is not in COCO panoptic format, a category of a segment is unknown, or
            a file of the first photo is missing.
    """
    data = read_panoptic_json(panoptic_json)
    sizes = {
        photo["id"]: {"height": photo["height"], "width": photo["width"]}
        for photo in data["images"]
        if not photo_faults(photo)
    }
    dataset_dicts = []
    for position, annotation in enumerate(data["annotations"]):
        for fault in annotation_faults(annotation):
            raise DataError(f"{panoptic_json}: annotation number {position + 1}: {fault}")
        file_name = annotation["file_name"]
        stem = PurePath(file_name).stem
        dataset_dicts.append(
            {
                "file_name": f"{image_root}/{stem}.jpg",
                "image_id": annotation["image_id"],
                **sizes.get(annotation["image_id"], {}),
                "pan_seg_file_name": f"{panoptic_root}/{file_name}",
                "sem_seg_file_name": f"{sem_seg_root}/{stem}.png",
                "segments_info": _contiguous(annotation, metadata, panoptic_json),
            }
        )
    if derives_semantic_maps and not PathManager.exists(sem_seg_root):
        _derive_semantic_maps(data, panoptic_root, sem_seg_root, metadata)
    for key in ("file_name", "pan_seg_file_name", "sem_seg_file_name"):
        for path in (record[key] for record in dataset_dicts[:1]):
            if not PathManager.isfile(path):
                raise DataError(
                    f"{printable(path)} does not exist ({key} of the first photo of "
                    f"{panoptic_json})"
                )
    return dataset_dicts


def _derive_semantic_maps(
    data: PanopticJson, panoptic_root: str, sem_seg_root: str, metadata: dict
) -> None:
    contiguous = metadata["stuff_dataset_id_to_contiguous_id"]
    try:
        derive_semantic_maps(data, Path(panoptic_root), contiguous, Path(sem_seg_root))
    except OutputError as error:
        raise OutputError(
            f"{sem_seg_root}: the semantic maps are missing, and cannot be made of the panoptic "
            f"PNGs {panoptic_root}: {error.__cause__ or error}\n"
            "make the folder writable for the first run"
        ) from error


def _contiguous(annotation: dict, metadata: dict, panoptic_json: str) -> list[dict]:
    things = metadata["thing_dataset_id_to_contiguous_id"]
    contiguous = metadata["stuff_dataset_id_to_contiguous_id"]
    segments = annotation["segments_info"]
    for segment in segments:
        name = f"segment {short_repr(segment.get('id'))} of {printable(annotation['file_name'])}"
        for fault in segment_faults(segment):
            raise DataError(f"{panoptic_json}: {name}: {fault}")
        if segment["category_id"] not in contiguous:
            raise DataError(
                f"{panoptic_json}: {name} has the category id {segment['category_id']}, which is "
                "none of the data set's"
            )
    return [
        {
            **segment,
            "category_id": contiguous[segment["category_id"]],
            "isthing": segment["category_id"] in things,
        }
        for segment in segments
    ]
