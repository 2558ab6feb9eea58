"""Accuracy of image classification."""

from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from segcore.evaluation import register_evaluator

RANKS = (1, 5)


class AccuracyEvaluator(DatasetEvaluator):
    """Percentage of images whose class is the model's first choice, or among its first five.

    Inputs have "class_id", outputs have "class_logits" (K,). With fewer than five classes, top-5
    counts all of them.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.num_images = 0
        self.num_correct = dict.fromkeys(RANKS, 0)

    def process(self, inputs: list[dict], outputs: list[dict[str, Any]]) -> None:
        logits = torch.stack([output["class_logits"] for output in outputs])
        labels = torch.tensor([record["class_id"] for record in inputs], device=logits.device)
        choices = logits.topk(min(max(RANKS), logits.shape[1])).indices
        hits = (choices == labels[:, None]).sum(0).cumsum(0).tolist()
        for rank in RANKS:
            self.num_correct[rank] += hits[min(rank, len(hits)) - 1]
        self.num_images += len(inputs)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"classification": {"top1": ..., "top5": ...}}``, on the main process, of all."""
        counts = comm.gather((self.num_images, self.num_correct))
        if not comm.is_main_process():
            return None
        total = sum(images for images, _ in counts)
        return {
            "classification": {
                f"top{rank}": 100 * sum(correct[rank] for _, correct in counts) / total
                for rank in RANKS
            }
        }


register_evaluator("image_classification", lambda *_: AccuracyEvaluator())
