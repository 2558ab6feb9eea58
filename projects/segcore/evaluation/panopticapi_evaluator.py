"""Panoptic quality counted by panopticapi: the reference, ``TEST.PANOPTIC_EVALUATOR``."""

import contextlib
import io
import itertools
import os
import tempfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tqdm import tqdm

from segcore.data.panoptic_format import Annotation, Category, read_panoptic_json
from segcore.evaluation.panoptic_result import ClassCounts
from segcore.evaluation.panoptic_table import panoptic_results
from segcore.files import write_json

MAX_THREADS = 16


class PngFolderEvaluator(COCOPanopticEvaluator):
    """``COCOPanopticEvaluator`` with a folder for PNGs of the predictions.

    Args:
        dataset_name: its metadata name ``panoptic_json`` and ``panoptic_root``.
        output_dir: folder of predictions.json; None to write nothing.
        save_png: also keep the PNGs of predictions.json, in the folder "predictions" beside it:
            together the form of submissions to COCO.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None, *, save_png: bool = False):
        super().__init__(dataset_name, output_dir)
        self._png_folder = Path(output_dir, "predictions") if output_dir and save_png else None

    def reset(self) -> None:
        super().reset()
        if self._png_folder:
            self._png_folder.mkdir(parents=True, exist_ok=True)


class PanopticapiEvaluator(PngFolderEvaluator):
    """``COCOPanopticEvaluator`` that also evaluates data without things, or without stuff.

    Results and arguments are those of :class:`PanopticEvaluator`.
    """

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Gather the predictions of all processes and compare; the result is the main process's.

        Raises:
            ValueError: an image of the ground truth has no prediction.
        """
        comm.synchronize()
        predictions = list(itertools.chain(*comm.gather(self._predictions)))
        if not comm.is_main_process():
            return None
        ground_truth = read_panoptic_json(PathManager.get_local_path(self._metadata.panoptic_json))
        by_image = {prediction["image_id"]: prediction for prediction in predictions}
        require_predictions(ground_truth["annotations"], by_image)
        pairs = [(truth, by_image[truth["image_id"]]) for truth in ground_truth["annotations"]]
        with self._folder() as folder:
            for prediction in predictions:
                Path(folder, prediction["file_name"]).write_bytes(prediction.pop("png_string"))
            if self._output_dir:
                path = Path(self._output_dir, "predictions.json")
                write_json({**ground_truth, "annotations": predictions}, path)
            truth_folder = PathManager.get_local_path(self._metadata.panoptic_root)
            counts = _count(pairs, truth_folder, folder, ground_truth["categories"])
        return panoptic_results(counts, ground_truth["categories"])

    def _folder(self) -> contextlib.AbstractContextManager[str | Path]:
        if self._png_folder:
            return contextlib.nullcontext(self._png_folder)
        return tempfile.TemporaryDirectory(prefix="panoptic_eval")


def require_predictions(annotations: list[Annotation], image_ids: object) -> None:
    """Raise a ValueError unless all annotated images are in ``image_ids``."""
    missing = [a["image_id"] for a in annotations if a["image_id"] not in image_ids]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(annotations)} annotated images have no prediction, "
            f"the first of them image {missing[0]!r}"
        )


def _count(
    pairs: list[tuple[Annotation, dict]],
    truth_folder: str,
    folder: str | Path,
    categories: list[Category],
) -> ClassCounts:
    """Matched, missed and wrong segments a class, counted by panopticapi's code in threads.

    Its own pool would import PyTorch once a core where this process was not forked itself.
    """
    # Here, as panopticapi is not a package requirement.
    from panopticapi.evaluation import PQStat, pq_compute_single_core

    by_id = {category["id"]: category for category in categories}
    counts = PQStat()
    with (
        ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool,
        contextlib.redirect_stdout(io.StringIO()),  # it reports every image by print
    ):
        counts_of_images = pool.map(
            lambda pair: pq_compute_single_core(0, [pair], truth_folder, folder, by_id), pairs
        )
        # Only on a terminal: a file of messages would get a line for each step of the bar.
        bar = tqdm(counts_of_images, "Panoptic quality", len(pairs), delay=1, disable=None)
        for counts_of_image in bar:
            counts += counts_of_image
    rows = [counts[id_] for id_ in by_id]
    return ClassCounts(
        *(np.array([getattr(row, name) for row in rows], np.int64) for name in ("tp", "fp", "fn")),
        np.array([row.iou for row in rows], np.float64),
    )
