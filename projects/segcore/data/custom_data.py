"""Custom data without Python: three paths a split in the config, COCO panoptic format in the files.

``DATASETS.PANOPTIC.{TRAIN,TEST}.{IMAGES,JSON,PNGS}`` name the photo folder, the panoptic JSON and
the folder of panoptic PNGs. :func:`setup_custom_data` checks them and registers them with
Detectron2; what the mappers and evaluators need besides is derived.

Contiguous class ids are one space over all classes, in the order of the JSON's ``categories``.
"""

import functools
import json
import logging
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from segcore.data.check import check_panoptic_dataset
from segcore.data.check_splits import shared_photo_problems, split_problems
from segcore.data.datasets.catalog import Derivation
from segcore.data.derived import DerivedFiles, PanopticSource, derive, locked
from segcore.data.kinds import configured_kind
from segcore.data.mappers import MAPPERS
from segcore.data.mappers.augmentation import max_ratio_in_tests, max_ratio_in_training
from segcore.data.panoptic_dataset import panoptic_metadata, panoptic_records
from segcore.data.panoptic_format import (
    Category,
    PanopticJson,
    contiguous_ids,
    ignore_label,
    read_panoptic_json,
)
from segcore.data.report import Problem, Report
from segcore.errors import DataError
from segcore.files import write_bytes

logger = logging.getLogger(__name__)

DATASET_NAMES = {"TRAIN": "custom_panoptic_train", "TEST": "custom_panoptic_test"}
PATH_KEYS = ("IMAGES", "JSON", "PNGS")
TEST_NEEDS = {"with_semantic": True}


def setup_custom_data(
    cfg: CfgNode, explicit_num_classes: int | None = None, *, quick: bool = False
) -> None:
    """Check the data that ``DATASETS.PANOPTIC`` names, register it, adapt the config in place.

    Sets ``DATASETS.TRAIN`` and ``TEST``, ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` and ``IGNORE_VALUE``.
    A ``TEST`` that is not set is left empty, and a ``TRAIN`` has metadata but no images. A
    passed check is remembered under ``OUTPUT_DIR/derived`` until a file changes. The derived files
    of the test split are made at once, those of the training split when it is loaded.

    Data of another kind (``segcore.data.kinds``) are set up here as well.

    Args:
        explicit_num_classes: the class count that the user asked for, if any.
        quick: look at no pixels and derive nothing: enough for class names and prediction.

    Raises:
        DataError: the data has errors, a path is not set, splits or class counts disagree.
        OutputError: ``OUTPUT_DIR`` cannot be written.
    """
    if kind := configured_kind(cfg):
        kind.set_up(cfg)
        return
    sources = configured_sources(cfg)
    if not sources:
        return
    derived, data = {}, {}
    for split, source in sources.items():
        data[split] = read_panoptic_json(source.json)
        fingerprint = source.fingerprint(data[split])
        folder = Path(cfg.OUTPUT_DIR, "derived", f"{split.lower()}-{fingerprint}")
        _require_passed_check(split, source, folder.with_suffix(".checked"), quick)
        derived[split] = DerivedFiles(folder)
    for problem in _split_problems(cfg, sources, data, explicit_num_classes):
        raise DataError(str(problem))
    classes = next(iter(data.values()))["categories"]

    needs = {"TRAIN": _training_needs(cfg.INPUT.DATASET_MAPPER_NAME), "TEST": TEST_NEEDS}
    for split in DATASET_NAMES:
        if split in sources:
            _register(split, sources[split], derived[split], classes, needs[split])
        else:
            _register_without_images(split, classes)
    cfg.DATASETS.TRAIN = (DATASET_NAMES["TRAIN"],)
    cfg.DATASETS.TEST = (DATASET_NAMES["TEST"],) if "TEST" in sources else ()
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(classes)
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = ignore_label(len(classes))
    if "TEST" in sources and not quick:
        derive(sources["TEST"], derived["TEST"].folder)


def check_custom_data(cfg: CfgNode, explicit_num_classes: int | None = None) -> list[Report]:
    """Check all custom data that the config sets in full, whatever was remembered.

    What passes it passes :func:`setup_custom_data` as well.
    """
    if kind := configured_kind(cfg):
        return kind.check(cfg)
    sources = configured_sources(cfg)
    reports = [_check(split, source) for split, source in sources.items()]
    if reports and all(report.ok for report in reports):
        data = {split: read_panoptic_json(source.json) for split, source in sources.items()}
        reports[-1].problems += _split_problems(cfg, sources, data, explicit_num_classes)
        images = {split: source.images for split, source in sources.items()}
        reports[-1].problems += shared_photo_problems(Path(reports[-1].source), images, data)
    return reports


def configured_sources(cfg: CfgNode) -> dict[str, PanopticSource]:
    """Return the data in COCO panoptic format that the config names, by split.

    Raises:
        DataError: some paths of a split are set, and others are not.
    """
    sources = {}
    for split in DATASET_NAMES:
        paths = cfg.DATASETS.PANOPTIC[split]
        unset = [f"DATASETS.PANOPTIC.{split}.{key}" for key in PATH_KEYS if not paths[key]]
        if not unset:
            folders = (Path(paths[key]).expanduser() for key in PATH_KEYS)
            sources[split] = PanopticSource(*folders, max_pixels=cfg.INPUT.MAX_PIXELS)
        elif len(unset) < len(PATH_KEYS):
            raise DataError(
                f"custom data needs the {', '.join(PATH_KEYS)} of a split, and these are not set: "
                f"{', '.join(unset)}"
            )
    return sources


def _check(split: str, source: PanopticSource, quick: bool = False) -> Report:
    return check_panoptic_dataset(
        source.images,
        source.json,
        source.pngs,
        split=split,
        evaluation=split == "TEST",
        quick=quick,
        max_pixels=source.max_pixels,
    )


def _require_passed_check(split: str, source: PanopticSource, passed: Path, quick: bool) -> None:
    """Check a split unless the file ``passed`` says that it is all right, and make that file."""
    if passed.exists():
        return
    if quick:
        _check(split, source, quick=True).raise_if_failed()
        return
    with locked(passed):
        if passed.exists():  # by another process, while this one waited
            return
        report = _check(split, source)
        report.raise_if_failed()
        if report.warnings:
            logger.warning(report.summary())
        write_bytes(report.summary().encode(errors="backslashreplace"), passed)


def _split_problems(
    cfg: CfgNode,
    sources: dict[str, PanopticSource],
    data: dict[str, PanopticJson],
    explicit_num_classes: int | None,
) -> list[Problem]:
    mapper = cfg.INPUT.DATASET_MAPPER_NAME
    reads_instances = _training_needs(mapper).get("with_instances")
    problems = split_problems(
        {split: source.json for split, source in sources.items()},
        data,
        explicit_num_classes=explicit_num_classes,
        instance_mapper=mapper if reads_instances else None,
        max_ratios={"TRAIN": max_ratio_in_training(cfg), "TEST": max_ratio_in_tests(cfg)},
    )
    return list(problems)


def _training_needs(mapper_name: str) -> dict[str, bool]:
    """Return what the mapper reads besides panoptic PNGs, as options of the loader."""
    mapper = MAPPERS.find(mapper_name).train
    return {
        "with_semantic": getattr(mapper, "reads_semantic_map", True),
        "with_instances": "annotations" in getattr(mapper, "needs", ()),
    }


def _register(
    split: str,
    source: PanopticSource,
    derived: DerivedFiles,
    categories: list[Category],
    needs: dict[str, bool],
) -> None:
    files = {
        "image_root": str(source.images),
        "panoptic_root": str(source.pngs),
        "panoptic_json": str(derived.panoptic),
        "json_file": str(derived.instances),
    }
    derivation = Derivation({}, functools.partial(derive, source, derived.folder))
    derivations = {files["panoptic_json"]: derivation, files["json_file"]: derivation}
    _replace_in_catalogs(
        DATASET_NAMES[split],
        functools.partial(load_custom_panoptic, source, derived, **needs),
        {**_class_metadata(categories), **files, "derivations": derivations},
    )


def _register_without_images(split: str, categories: list[Category]) -> None:
    """Metadata of the classes, which models ask of the training split even for evaluation."""

    def refuse() -> list[dict]:
        raise DataError(f"DATASETS.PANOPTIC.{split} is not set, so there are no images of it")

    _replace_in_catalogs(DATASET_NAMES[split], refuse, _class_metadata(categories))


def _class_metadata(categories: list[Category]) -> dict:
    return {
        **panoptic_metadata(categories),
        "ignore_label": ignore_label(len(categories)),
        "evaluator_type": "coco_panoptic_seg",
    }


def _replace_in_catalogs(name: str, loader: Callable[[], list[dict]], metadata: dict) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, loader)
    MetadataCatalog.get(name).set(**metadata)


def load_custom_panoptic(
    source: PanopticSource,
    derived: DerivedFiles,
    *,
    with_semantic: bool = False,
    with_instances: bool = False,
) -> list[dict]:
    """Return Detectron2's records of custom data, one an annotated photo, in the JSON's order.

    Args:
        with_semantic: add ``sem_seg_file_name``, a PNG of contiguous ids.
        with_instances: add ``annotations``, the things as RLE masks.

    Derives the files that these need, unless they are there.
    """
    data = read_panoptic_json(source.json)
    categories = data["categories"]
    # Boxes and areas may be wrong here.
    records = panoptic_records(source, data, categories, photo_suffix=None, with_boxes=False)
    if with_semantic or with_instances:
        derive(source, derived.folder)
    instances = _load_instances(derived, contiguous_ids(categories)) if with_instances else {}
    for position, record in enumerate(records):
        if with_semantic:
            record["sem_seg_file_name"] = str(derived.semantic(position))
        if with_instances:
            record["annotations"] = instances[record["image_id"]]
    return records


def _load_instances(derived: DerivedFiles, contiguous: dict[int, int]) -> dict:
    """Image id -> Detectron2's annotations of its things; an empty list for an image without."""
    instances = defaultdict(list)
    for instance in json.loads(derived.instances.read_bytes())["annotations"]:
        instances[instance["image_id"]].append(
            {
                "category_id": contiguous[instance["category_id"]],
                "iscrowd": instance["iscrowd"],
                "bbox": instance["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "segmentation": instance["segmentation"],
            }
        )
    return instances
