"""Matching and losses of Mask2Former at the official sizes: ours beside the plain formulation.

    python -m benchmarks.criterion [--device cpu|cuda] [--targets 20] [--repeats 3]

100 queries, 133 classes, 10 predictions with masks of 256x256, targets of 1024x1024, 12,544 points.
"Plain" takes one prediction and image at a time: floating-point target masks, binary cross entropy
for ones and for zeros in the matching cost, a copy to the host for every cost matrix. Both run in
turns in one process; times are medians, memory is the extra peak of a separate process.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from benchmarks.common import median_seconds, peak_mebibytes
from scipy.optimize import linear_sum_assignment
from tabulate import tabulate
from torch import Tensor

from mask2former.criterion import SetCriterion
from segcore.losses import dice_loss, point_sample, uncertain_points
from segcore.matching import HungarianMatcher

QUERIES, CLASSES, PREDICTIONS, POINTS = 100, 133, 10, 12544
MASK_SIZE, TARGET_SIZE = 256, 1024
CLASS_WEIGHT, MASK_WEIGHT, DICE_WEIGHT = 2.0, 5.0, 5.0


def official_criterion() -> SetCriterion:
    matcher = HungarianMatcher(
        class_weight=CLASS_WEIGHT,
        mask_weight=MASK_WEIGHT,
        dice_weight=DICE_WEIGHT,
        num_points=POINTS,
    )
    return SetCriterion(
        num_classes=CLASSES,
        matcher=matcher,
        weight_dict={},
        no_object_weight=0.1,
        num_points=POINTS,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
    )


def plain_cost(logits: Tensor, masks: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return the matching cost (Q, n) of one prediction and image."""
    points = torch.rand(1, POINTS, 2, device=masks.device)
    masks = point_sample(masks[None], points)[0]
    targets = point_sample(targets[None].float(), points)[0]
    one = F.binary_cross_entropy_with_logits(masks, torch.ones_like(masks), reduction="none")
    zero = F.binary_cross_entropy_with_logits(masks, torch.zeros_like(masks), reduction="none")
    cross_entropy = (one @ targets.T + zero @ (1 - targets).T) / POINTS
    probability = masks.sigmoid()
    area = probability.sum(-1)[:, None] + targets.sum(-1)[None]
    dice = 1 - (2 * probability @ targets.T + 1) / (area + 1)
    class_cost = -logits.softmax(-1)[:, labels]
    return MASK_WEIGHT * cross_entropy + CLASS_WEIGHT * class_cost + DICE_WEIGHT * dice


def plain_match(predictions: list[dict], targets: list[dict]) -> list[list[tuple]]:
    with torch.no_grad():
        return [
            [
                linear_sum_assignment(plain_cost(logits, masks, *target.values()).cpu())
                for logits, masks, target in zip(*prediction.values(), targets, strict=True)
            ]
            for prediction in predictions
        ]


def plain_losses(predictions: list[dict], targets: list[dict]) -> Tensor:
    """Return the sum of all losses."""
    total = 0.0
    weight = torch.ones(CLASSES + 1, device=predictions[0]["pred_masks"].device)
    weight[-1] = 0.1
    num_masks = sum(len(target["labels"]) for target in targets)
    for prediction, pairs in zip(predictions, plain_match(predictions, targets), strict=True):
        classes = torch.full(prediction["pred_logits"].shape[:2], CLASSES, device=weight.device)
        for image, (query, index) in enumerate(pairs):
            classes[image, query] = targets[image]["labels"][index]
        total += F.cross_entropy(prediction["pred_logits"].transpose(1, 2), classes, weight)
        masks = torch.cat(
            [m[query] for m, (query, _) in zip(prediction["pred_masks"], pairs, strict=True)]
        )
        true = torch.cat(
            [t["masks"][index] for t, (_, index) in zip(targets, pairs, strict=True)]
        ).float()
        points = uncertain_points(masks.detach(), POINTS)
        masks = point_sample(masks[:, None], points)[:, 0]
        true = point_sample(true[:, None], points)[:, 0]
        cross_entropy = F.binary_cross_entropy_with_logits(masks, true, reduction="none")
        total += (cross_entropy.mean(1).sum() + dice_loss(masks, true).sum()) / num_masks
    return total


def make_batch(batch: int, num_targets: int, device: str) -> tuple[list[dict], list[dict]]:
    torch.manual_seed(0)
    predictions = [
        {
            "pred_logits": torch.randn(batch, QUERIES, CLASSES + 1, device=device),
            "pred_masks": torch.randn(batch, QUERIES, MASK_SIZE, MASK_SIZE, device=device),
        }
        for _ in range(PREDICTIONS)
    ]
    for prediction in predictions:
        for tensor in prediction.values():
            tensor.requires_grad_()
    size = (num_targets, TARGET_SIZE, TARGET_SIZE)
    targets = [
        {
            "labels": torch.randint(CLASSES, (num_targets,), device=device),
            "masks": torch.rand(size, device=device) > 0.5,
        }
        for _ in range(batch)
    ]
    return predictions, targets


def variants(batch: int, num_targets: int, device: str) -> dict[str, dict[str, Callable]]:
    """Return the functions to measure, by step and implementation."""
    predictions, targets = make_batch(batch, num_targets, device)
    criterion = official_criterion().to(device)
    outputs = {**predictions[0], "aux_outputs": predictions[1:]}

    def backward(loss: Tensor) -> None:
        for prediction in predictions:
            for tensor in prediction.values():
                tensor.grad = None
        loss.backward()

    return {
        "matching": {
            "plain": lambda: plain_match(predictions, targets),
            "ours": lambda: criterion.matcher(predictions, targets),
        },
        "matching, losses, backward": {
            "plain": lambda: backward(plain_losses(predictions, targets)),
            "ours": lambda: backward(sum(criterion.unweighted(outputs, targets).values())),
        },
    }


def make_run(name: str, what: str, *sizes) -> Callable[[], object]:
    return variants(*sizes)[what][name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--targets", type=int, default=20, help="masks an image")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    rows = []
    for batch in (1, 2):
        sizes = (batch, arguments.targets, arguments.device)
        for what, functions in variants(*sizes).items():
            seconds = median_seconds(functions, arguments.repeats, arguments.device)
            memory = [
                peak_mebibytes(make_run, name, what, *sizes, device=arguments.device)
                for name in functions
            ]
            ratio = seconds["plain"] / seconds["ours"]
            rows.append([batch, what, *seconds.values(), ratio, *memory])
    print(f"{arguments.device}, {torch.get_num_threads()} threads, {arguments.targets} targets")
    headers = ["images", "what", "plain s", "ours s", "faster", "plain MiB", "ours MiB"]
    print(tabulate(rows, headers, floatfmt=("d", "", ".3f", ".3f", ".1f", ".0f", ".0f")))


if __name__ == "__main__":
    main()
