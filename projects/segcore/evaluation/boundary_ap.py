"""Boundary AP: COCO's average precision by the IoU of boundaries (Boundary IoU, Cheng et al., CVPR
2021, section 5)."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segcore.data.convert.masks import run_lengths_to_rle
from segcore.data.json_file import read_json
from segcore.errors import DataError
from segcore.evaluation.boundary import mask_boundary
from segcore.text import short_repr

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
# Detectron2's file of instances, in the folder of an evaluator.
RESULTS_FILE = "coco_instances_results.json"


class BoundaryCOCOeval(COCOeval):
    """``COCOeval`` in which the IoU of a pair is the smaller one of its masks and boundaries.

    Crowds keep COCO's IoU of masks.

    Args:
        dilation_ratio: width of boundaries as a share of the image's diagonal.
    """

    def __init__(self, ground_truth: COCO, results: COCO, dilation_ratio: float = 0.02):
        super().__init__(ground_truth, results, "segm")
        self.dilation_ratio = dilation_ratio

    def _prepare(self) -> None:
        super()._prepare()
        for annotations in (*self._gts.values(), *self._dts.values()):
            for annotation in annotations:
                mask = mask_util.decode(annotation["segmentation"]).view(bool)
                boundary = mask_boundary(mask, self.dilation_ratio)
                annotation["boundary"] = mask_util.encode(np.asfortranarray(boundary, np.uint8))

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
        mask_iou = super().computeIoU(imgId, catId)
        if len(mask_iou) == 0:
            return mask_iou
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        order = np.argsort([-result["score"] for result in found], kind="mergesort")
        boundaries = [found[index]["boundary"] for index in order[: self.params.maxDets[-1]]]
        crowd = np.array([bool(annotation["iscrowd"]) for annotation in truth])
        boundary_iou = mask_util.iou(
            boundaries, [annotation["boundary"] for annotation in truth], np.zeros(len(truth))
        )
        return np.where(crowd, mask_iou, np.minimum(mask_iou, boundary_iou))


def boundary_ap(
    ground_truth: COCO, results: Sequence[Mapping[str, Any]], *, dilation_ratio: float = 0.02
) -> dict[str, float]:
    """Return AP and AR by boundaries, over classes, IoU from 0.5 to 0.95, and sizes of masks.

    Args:
        ground_truth: COCO's index of instances.
        results: dicts with "image_id", "category_id", "score" and "segmentation", run lengths; a
            "bbox" is not looked at, so that sizes are those of masks.
        dilation_ratio: see :class:`BoundaryCOCOeval`.

    Returns:
        {name of :data:`METRICS`: value in [0, 1], or NaN where there is no truth}.

    Raises:
        DataError: a result is of no image, or its run lengths are damaged.
    """
    checked = [_checked(result, ground_truth) for result in results]
    if not checked:
        return dict.fromkeys(METRICS, float("nan"))
    with redirect_stdout(io.StringIO()):
        evaluation = BoundaryCOCOeval(ground_truth, ground_truth.loadRes(checked), dilation_ratio)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = evaluation.stats.tolist()
    return {
        name: value if value > -1 else float("nan")
        for name, value in zip(METRICS, stats, strict=True)
    }


def read_ground_truth(path: str | Path) -> COCO:
    """Return COCO's index of a JSON file of instances."""
    ground_truth = COCO()
    ground_truth.dataset = read_json(path)
    with redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
    return ground_truth


class BoundaryAPEvaluator(DatasetEvaluator):
    """A COCO evaluator, and "boundary" beside its "segm": AP of boundaries, in percent.

    Args:
        evaluator: writes its results to ``output_dir``.
    """

    def __init__(self, evaluator: COCOEvaluator, output_dir: str):
        self.evaluator = evaluator
        self.results = Path(output_dir, RESULTS_FILE)

    def reset(self) -> None:
        self.evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self.evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        results = self.evaluator.evaluate()
        if not results:  # not the main process
            return results
        values = boundary_ap(self.evaluator._coco_api, read_json(self.results))
        ap = {name: 100 * value for name, value in values.items() if name.startswith("AP")}
        return {**results, "boundary": ap}


def _checked(result: Mapping[str, Any], ground_truth: COCO) -> dict[str, Any]:
    """Return a result with sound run lengths, and without box."""
    types = {"image_id": int, "category_id": int, "score": int | float, "segmentation": Mapping}
    is_result = isinstance(result, Mapping)
    if not is_result or not all(isinstance(result.get(key), t) for key, t in types.items()):
        raise DataError(
            "results: expected dicts with image_id, category_id, score and a segmentation of run "
            f"lengths, got {short_repr(result)}"
        )
    image = ground_truth.imgs.get(result["image_id"])
    if image is None:
        raise DataError(
            f"results: expected the image_id of one of the {len(ground_truth.imgs)} images of the "
            f"ground truth, got {result['image_id']}"
        )
    rle = run_lengths_to_rle(result["segmentation"], (image["height"], image["width"]))
    return {
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "score": result["score"],
        "segmentation": rle,
    }
