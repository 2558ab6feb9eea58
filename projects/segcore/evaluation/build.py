"""Evaluators of a data set."""

import os
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
)
from detectron2.utils import comm

from segcore.data.datasets.catalog import make_missing_file, missing_file_message
from segcore.errors import ConfigError, DataError, RequirementError
from segcore.evaluation.boundary_ap import BoundaryAPEvaluator
from segcore.evaluation.instance import InstanceSegEvaluator, has_fast_coco_evaluation
from segcore.evaluation.panoptic import PanopticEvaluator
from segcore.evaluation.panopticapi_evaluator import PanopticapiEvaluator
from segcore.evaluation.semantic import SemanticEvaluator
from segcore.meta_arch import result_switches
from segcore.report.evaluator import ReportedEvaluators
from segcore.requirements import require_panopticapi

TASKS = ("semantic", "instance", "panoptic")

# evaluator_type of the metadata -> task that the model performs -> kind of evaluator
_PANOPTIC_DATA = {"semantic": "semantic", "instance": "instance", "panoptic": "panoptic"}
KINDS_BY_TASK = {
    "coco_panoptic_seg": _PANOPTIC_DATA,
    "ade20k_panoptic_seg": _PANOPTIC_DATA,
    "mapillary_vistas_panoptic_seg": _PANOPTIC_DATA,
    "cityscapes_panoptic_seg": {
        "semantic": "cityscapes_semantic",
        "instance": "cityscapes_instance",
        "panoptic": "panoptic",
    },
}
# evaluator_type of data for one task -> kind of evaluator
SINGLE_KINDS = {
    "sem_seg": "semantic",
    "coco": "coco",
    "lvis": "lvis",
    "cityscapes_sem_seg": "cityscapes_semantic",
    "cityscapes_instance": "cityscapes_instance",
}

# Besides "panoptic", which takes keys of the config.
EVALUATORS: dict[str, Callable[[str, str], DatasetEvaluator]] = {
    "semantic": lambda name, folder: SemanticEvaluator(name, output_dir=folder),
    "instance": lambda name, folder: InstanceSegEvaluator(name, output_dir=folder),
    "coco": lambda name, folder: COCOEvaluator(
        name, output_dir=folder, use_fast_impl=has_fast_coco_evaluation()
    ),
    "lvis": lambda name, folder: LVISEvaluator(name, output_dir=folder),
    "cityscapes_semantic": lambda name, _: CityscapesSemSegEvaluator(name),
    "cityscapes_instance": lambda name, _: CityscapesInstanceEvaluator(name),
}
# Metadata that names the files of the ground truth.
GROUND_TRUTH = {
    "semantic": ("sem_seg_root",),
    "instance": ("json_file",),
    "panoptic": ("panoptic_json", "panoptic_root"),
    "coco": ("json_file",),
    "lvis": ("json_file",),
    "cityscapes_semantic": ("gt_dir",),
    "cityscapes_instance": ("gt_dir",),
}
# kind -> package that it imports, and how to get it
PACKAGES = {
    "cityscapes_semantic": ("cityscapesscripts", "pip install 'panoptic-toolkit[cityscapes]'"),
    "cityscapes_instance": ("cityscapesscripts", "pip install 'panoptic-toolkit[cityscapes]'"),
    "lvis": ("lvis", "pip install lvis"),
}


def register_evaluator(
    evaluator_type: str,
    build: Callable[[str, str], DatasetEvaluator],
    ground_truth: Collection[str] = (),
) -> None:
    """Add the evaluator of data whose metadata have this ``evaluator_type``.

    Args:
        build: function of the name of the data set and the folder for predictions.
        ground_truth: keys of the metadata that name files which it reads.

    Raises:
        ValueError: the type is known already.
    """
    if evaluator_type in SINGLE_KINDS or evaluator_type in KINDS_BY_TASK:
        raise ValueError(f"evaluator_type {evaluator_type!r} is registered already")
    SINGLE_KINDS[evaluator_type] = evaluator_type
    EVALUATORS[evaluator_type] = build
    GROUND_TRUTH[evaluator_type] = tuple(ground_truth)


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """Build one evaluator for a data set and all tasks that the config's model performs.

    Args:
        output_folder: folder for predictions; by default ``OUTPUT_DIR/inference``.

    Raises:
        ConfigError: the data set's metadata name no known ``evaluator_type``, the model performs no
            task that the data have ground truth for, or Cityscapes is asked for on several
            machines.
        DataError: files of ground truth that the metadata name are missing.
        RequirementError: a package of the evaluator is not installed.
    """
    require_ground_truth(cfg, dataset_name)
    for key in _ground_truth_keys(cfg, dataset_name):
        make_missing_file(dataset_name, MetadataCatalog.get(dataset_name).get(key))
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    evaluators = [
        _evaluator(cfg, kind, dataset_name, folder) for kind in evaluator_kinds(cfg, dataset_name)
    ]
    if cfg.TEST.REPORT:
        page = Path(output_folder or cfg.OUTPUT_DIR, _page_name(cfg, dataset_name))
        return ReportedEvaluators(evaluators, cfg, dataset_name, page)
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _evaluator(cfg: CfgNode, kind: str, dataset_name: str, folder: str) -> DatasetEvaluator:
    if kind == "panoptic":
        return _panoptic_evaluator(cfg, dataset_name, folder)
    evaluator = EVALUATORS[kind](dataset_name, folder)
    if cfg.TEST.BOUNDARY_AP and isinstance(evaluator, COCOEvaluator):
        return BoundaryAPEvaluator(evaluator, folder)
    return evaluator


def _panoptic_evaluator(cfg: CfgNode, dataset_name: str, folder: str) -> DatasetEvaluator:
    save_png = cfg.TEST.SAVE_PANOPTIC
    if cfg.TEST.PANOPTIC_EVALUATOR == "panopticapi":
        return PanopticapiEvaluator(dataset_name, folder, save_png=save_png)
    return PanopticEvaluator(
        dataset_name,
        folder,
        save_png=save_png,
        keep_photos=cfg.TEST.REPORT,
        boundary=cfg.TEST.BOUNDARY_PQ,
    )


def _page_name(cfg: CfgNode, dataset_name: str) -> str:
    return f"report_{dataset_name}.html" if len(cfg.DATASETS.TEST) > 1 else "report.html"


def require_ground_truth(cfg: CfgNode, dataset_name: str) -> None:
    """Raise the errors of ``build_evaluator`` that follow from metadata alone."""
    for kind in evaluator_kinds(cfg, dataset_name):
        _require_package(kind, dataset_name)
        if kind.startswith("cityscapes") and comm.get_local_size() != comm.get_world_size():
            raise ConfigError(
                f"the Cityscapes evaluator of {dataset_name} works on one machine only; evaluate "
                "there, with --eval-only, and train with DATASETS.TEST '()'"
            )
    for key in _ground_truth_keys(cfg, dataset_name):
        if message := missing_file_message(dataset_name, key, "TEST"):
            raise DataError(message)


def _ground_truth_keys(cfg: CfgNode, dataset_name: str) -> list[str]:
    """Return the keys of the metadata that name files of the ground truth."""
    kinds = evaluator_kinds(cfg, dataset_name)
    return list(dict.fromkeys(key for kind in kinds for key in GROUND_TRUTH[kind]))


def _require_package(kind: str, dataset_name: str) -> None:
    if kind == "panoptic":
        require_panopticapi()
    if kind in PACKAGES:
        package, command = PACKAGES[kind]
        if find_spec(package) is None:
            raise RequirementError(f"evaluation on {dataset_name} needs {package}: {command}")


def evaluator_kinds(cfg: CfgNode, dataset_name: str) -> list[str]:
    """Return the kinds of evaluators of a data set, keys of ``EVALUATORS``."""
    metadata = MetadataCatalog.get(dataset_name)
    evaluator_type = metadata.get("evaluator_type")
    if evaluator_type in SINGLE_KINDS:
        return [SINGLE_KINDS[evaluator_type]]
    if evaluator_type not in KINDS_BY_TASK:
        raise ConfigError(
            f"the metadata of data set {dataset_name} has evaluator_type {evaluator_type!r}, "
            f"expected one of {sorted({*SINGLE_KINDS, *KINDS_BY_TASK})}"
        )
    switches = result_switches(cfg)
    kinds = [
        KINDS_BY_TASK[evaluator_type][task] for task in TASKS if switches[f"{task.upper()}_ON"]
    ]
    if not metadata.get("thing_dataset_id_to_contiguous_id"):
        kinds = [kind for kind in kinds if not kind.endswith("instance")]
    if not kinds:
        raise ConfigError(
            f"there is nothing to evaluate on {dataset_name}: switch on one of "
            "SEMANTIC_ON, INSTANCE_ON (needs things) and PANOPTIC_ON of "
            f"{cfg.MODEL.META_ARCHITECTURE}"
        )
    return kinds
