"""Checks before training of everything that evaluation needs."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from segcore.data.mappers import build_test_mapper
from segcore.data.panoptic_format import read_panoptic_json
from segcore.errors import DataError, UserError
from segcore.evaluation.build import build_evaluator, evaluator_kinds, require_ground_truth
from segcore.text import printable

MAX_THREADS = 16  # a folder on a network answers slowly
# kind of evaluator -> key of the file that it reads of each record
RECORD_FILES = {"semantic": "sem_seg_file_name", "cityscapes_semantic": "sem_seg_file_name"}


def check_evaluation(cfg: CfgNode, dataset_name: str) -> None:
    """Raise the errors that evaluation on a data set would raise later.

    The main process loads the data set, looks for every file, maps the first image and builds the
    evaluators; semantic maps that follow from others are made.

    Raises:
        DataError: the data set cannot be loaded or evaluated, is empty, or files are missing.
        ValueError, ImportError: see :func:`build_evaluator`.
    """
    require_ground_truth(cfg, dataset_name)
    if not comm.is_main_process():
        return
    name = printable(dataset_name)
    try:
        records = DatasetCatalog.get(dataset_name)
        kinds = evaluator_kinds(cfg, dataset_name)
        if not records:
            raise DataError(f"DATASETS.TEST: the data set {name} is empty")
        _require_files(name, _files(records, kinds))
        if "panoptic" in kinds:
            _require_panoptic_ground_truth(dataset_name, records)
        build_test_mapper(cfg)(deepcopy(records[0]))
        build_evaluator(cfg, dataset_name)
    except (UserError, OSError, ImportError):
        raise
    except Exception as error:  # loaders and evaluators of others fail in their own ways
        reason = f"{type(error).__name__}: {printable(error, 200)}"
        raise DataError(
            f"DATASETS.TEST: evaluation on the data set {name} is impossible: {reason}"
        ) from error


def _files(records: Sequence[dict], kinds: Sequence[str]) -> list[str]:
    keys = sorted(RECORD_FILES[kind] for kind in kinds if kind in RECORD_FILES)
    return [
        path
        for record in records
        for path in (
            *(record["file_names"] if "file_names" in record else [record["file_name"]]),
            *(record[key] for key in keys),
        )
    ]


def _require_panoptic_ground_truth(dataset_name: str, records: Sequence[dict]) -> None:
    metadata = MetadataCatalog.get(dataset_name)
    path = PathManager.get_local_path(metadata.panoptic_json)
    data = read_panoptic_json(path)
    annotations = data["annotations"]
    known = {category["id"] for category in data["categories"]}
    without = [
        segment
        for annotation in annotations
        for segment in annotation["segments_info"]
        if segment["category_id"] not in known
    ]
    if not annotations or without:
        problem = (
            f"{len(without)} segments have a category_id that 'categories' does not list"
            if annotations
            else "there are no annotations"
        )
        raise DataError(f"{printable(path)} (DATASETS.TEST, {printable(dataset_name)}): {problem}")
    images = {record["image_id"] for record in records}
    if absent := [a["image_id"] for a in annotations if a["image_id"] not in images]:
        raise DataError(
            f"{printable(path)}: {len(absent)} annotated images are none of the data set "
            f"{printable(dataset_name)} (DATASETS.TEST), the first {printable(absent[0], 80)}"
        )
    folder = PathManager.get_local_path(metadata.panoptic_root)
    pngs = [os.path.join(folder, annotation["file_name"]) for annotation in annotations]
    _require_files(printable(dataset_name), pngs)


def _require_files(name: str, paths: Sequence[str]) -> None:
    with ThreadPoolExecutor(MAX_THREADS) as pool:
        exist = list(pool.map(PathManager.isfile, paths))
    missing = [path for path, exists in zip(paths, exist, strict=True) if not exists]
    if missing:
        raise DataError(
            f"DATASETS.TEST: {len(missing)} of {len(paths)} files of the data set {name} are "
            f"missing, the first is {printable(missing[0])}"
        )
