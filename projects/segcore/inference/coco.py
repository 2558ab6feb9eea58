"""Instances as records of COCO's result format."""

from collections.abc import Sequence
from typing import Any

from detectron2.structures import Instances

from segcore.data.panoptic_format import Category


def coco_records(
    instances: Instances, categories: Sequence[Category], image_id: int
) -> list[dict[str, Any]]:
    """Return a record for each instance with ``pred_masks_rle``: box (x, y, w, h), score, mask."""
    boxes = instances.pred_boxes.tensor.double()
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {
            "image_id": image_id,
            "category_id": categories[label]["id"],
            "bbox": box,
            "score": score,
            "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
        }
        for label, box, score, mask in zip(
            instances.pred_classes.tolist(),
            boxes.tolist(),
            instances.scores.tolist(),
            instances.pred_masks_rle,
            strict=True,
        )
    ]


def at_least(instances: Instances, score: float) -> Instances:
    """Return the instances with at least this score; they have ``pred_masks_rle``."""
    chosen = (instances.scores >= score).nonzero()[:, 0]
    return Instances(
        instances.image_size,
        scores=instances.scores[chosen],
        pred_classes=instances.pred_classes[chosen],
        pred_boxes=instances.pred_boxes[chosen],
        pred_masks_rle=[instances.pred_masks_rle[index] for index in chosen.tolist()],
    )
