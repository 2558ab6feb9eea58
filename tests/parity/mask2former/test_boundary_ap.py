"""Boundaries of masks, IoU of boundaries, and boundary AP."""

import io
from contextlib import redirect_stdout

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO

from parity.golden import Case, Comparison, parametrize_cases
from segcore.evaluation.boundary import mask_boundary
from segcore.evaluation.boundary_ap import BoundaryCOCOeval, boundary_ap


@parametrize_cases("mask2former_more", "boundary_ap")
def test_boundary_ap(case: Case, comparison: Comparison):
    ratio = case.config["dilation_ratio"]
    truth = COCO()
    truth.dataset = case.info["ground_truth"]
    for index, annotation in enumerate(truth.dataset["annotations"]):
        name = f"boundary_{index}_packed"
        if name in case.arrays:
            mask = mask_util.decode(annotation["segmentation"]).view(bool)
            comparison.equal(
                name,
                mask_boundary(mask, ratio),
                case.unpacked(name, annotation["segmentation"]["size"]),
            )
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
        without_boxes = [
            {key: value for key, value in result.items() if key != "bbox"}
            for result in case.info["results"]
        ]
        evaluation = BoundaryCOCOeval(truth, truth.loadRes(without_boxes), ratio)
        evaluation.evaluate()
    for pair in case.info["ious"]:
        image, category = pair["image_id"], pair["category_id"]
        name = f"iou of class {category} in image {image}"
        comparison.close(name, evaluation.ious[image, category], np.array(pair["iou"]), 1e-9)
    stats = boundary_ap(truth, case.info["results"], dilation_ratio=ratio)
    for name, value in case.info["stats"].items():
        comparison.close(name, -1.0 if np.isnan(stats[name]) else stats[name], value, 1e-9)
    comparison.check()
