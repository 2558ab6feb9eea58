"""One-to-one assignment of predictions to targets (DETR, Carion et al., 2020, section 3.1)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from segcore.losses import (
    DrawPoints,
    MaskSampler,
    at_least_float32,
    pairwise_mask_losses,
    point_sample,
    uniform_points,
)


class Assignment(NamedTuple):
    """The matched pairs of L prediction levels, M a level; each (L, M), int64, ordered by image."""

    image: Tensor
    query: Tensor
    target: Tensor
    """Index into the targets of all images, concatenated."""


def assign(costs: Sequence[Sequence[Tensor]]) -> Assignment:
    """Solve the assignment of every level and image; the costs are brought to the host in one copy.

    Args:
        costs: of level l and image b, ``costs[l][b]`` is (Q, n_b): min(Q, n_b) pairs. Finite.

    Raises:
        NonFiniteCostError: at the first level and image with a cost that is NaN or infinite.
    """
    device = costs[0][0].device
    flat = torch.cat([cost.flatten() for level in costs for cost in level]).cpu().numpy()
    ends = np.cumsum([cost.numel() for level in costs for cost in level])
    pieces = iter(np.split(flat, ends[:-1]))
    return Assignment(
        *torch.from_numpy(
            np.stack([_assign_level(index, level, pieces) for index, level in enumerate(costs)], 1)
        ).to(device, non_blocking=True)
    )


def _assign_level(index: int, level: Sequence[Tensor], pieces) -> np.ndarray:
    """(3, M): image, query and target of each pair of one level."""
    pairs, num_targets = [], 0
    for image, cost in enumerate(level):
        matrix = next(pieces).reshape(cost.shape)
        if not np.isfinite(matrix).all():
            raise NonFiniteCostError(index, image)
        query, target = linear_sum_assignment(matrix)
        pairs.append(np.stack([np.full_like(query, image), query, target + num_targets]))
        num_targets += matrix.shape[1]
    return np.concatenate(pairs, axis=1)


class NonFiniteCostError(FloatingPointError):
    """A matching cost of ``level`` and ``image`` is NaN or infinite."""

    def __init__(self, level: int, image: int) -> None:
        super().__init__(f"non-finite matching cost: prediction level {level}, image {image}")
        self.level = level
        self.image = image


class HungarianMatcher:
    """Matches predictions to targets by class, and cross entropy and dice of masks at points.

    Mask2Former (Cheng et al., 2022), section 3.3. No gradient. Costs are float32, or float64 where
    the predictions are.

    Args:
        num_points: random points, drawn afresh for every image and prediction level, shared by all
            masks of the image.
        draw_points: where they come from.
    """

    def __init__(
        self,
        *,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        num_points: int,
        draw_points: DrawPoints = uniform_points,
    ) -> None:
        if num_points < 1:
            raise ValueError(f"num_points: expected at least 1, got {num_points}")
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.draw_points = draw_points

    def __call__(
        self, levels: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
    ) -> Assignment:
        """
        Args:
            levels: the final prediction, then the auxiliary ones: "pred_logits" (B, Q, K+1), no
                object last, and "pred_masks" (B, Q, h, w).
            targets: of each image "labels" (n,) int64 in [0, K) and "masks" (n, H, W).

        Raises:
            ValueError: a label lies outside [0, K).
            FloatingPointError: a cost is not finite; says which, of which level and image.
        """
        costs = self.costs(levels, targets)
        try:
            return assign([[sum(parts.values()) for parts in level] for level in costs])
        except NonFiniteCostError as error:
            logits = levels[error.level]["pred_logits"]
            _check_labels(targets[error.image]["labels"], logits.shape[-1] - 1, error.image)
            raise _explained(error, costs[error.level][error.image]) from None

    @torch.no_grad()
    def costs(
        self, levels: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
    ) -> list[list[dict[str, Tensor]]]:
        """Of each level and image the weighted costs "class", "mask" and "dice", each (Q, n)."""
        _check_shapes(levels, targets)
        samplers = [MaskSampler(target["masks"]) for target in targets]
        with torch.autocast(levels[0]["pred_masks"].device.type, enabled=False):
            return [
                [
                    self._costs(
                        level["pred_logits"][image], level["pred_masks"][image], labels, sampler
                    )
                    for image, (labels, sampler) in enumerate(
                        zip((target["labels"] for target in targets), samplers, strict=True)
                    )
                ]
                for level in levels
            ]

    def _costs(
        self, logits: Tensor, masks: Tensor, labels: Tensor, sampler: MaskSampler
    ) -> dict[str, Tensor]:
        """Of one level and image. A label that is no class costs NaN, which the host will find."""
        logits, masks = at_least_float32(logits), at_least_float32(masks)
        num_classes = logits.shape[-1] - 1
        probability = logits.softmax(-1)[:, labels.clamp(0, num_classes - 1)]
        unknown = (labels < 0) | (labels >= num_classes)

        points = self.draw_points(1, self.num_points, dtype=masks.dtype, device=masks.device)
        # Queries as batch, not as channels: parallel and faster on a CPU.
        predicted = point_sample(masks.unsqueeze(1), points).squeeze(1)
        true = sampler(torch.arange(len(labels), device=masks.device), points)
        cross_entropy, dice = pairwise_mask_losses(predicted, true)
        return {
            "class": -self.class_weight * probability.masked_fill(unknown, torch.nan),
            "mask": self.mask_weight * cross_entropy,
            "dice": self.dice_weight * dice,
        }


def _check_shapes(
    levels: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
) -> None:
    batch = len(levels[0]["pred_masks"])
    if len(targets) != batch:
        raise ValueError(f"targets: expected one of each of {batch} images, got {len(targets)}")
    for image, target in enumerate(targets):
        if len(target["labels"]) != len(target["masks"]):
            raise ValueError(
                f"targets of image {image} of the batch: expected as many labels as masks,"
                f" got {len(target['labels'])} and {len(target['masks'])}"
            )


def _check_labels(labels: Tensor, num_classes: int, image: int) -> None:
    unknown = sorted({label for label in labels.tolist() if not 0 <= label < num_classes})
    if unknown:
        raise ValueError(
            f"labels of image {image} of the batch: expected 0 to {num_classes - 1}"
            f" ({num_classes} classes), got {', '.join(map(str, unknown))}"
        )


def _explained(error: NonFiniteCostError, parts: Mapping[str, Tensor]) -> FloatingPointError:
    level = "the final prediction" if error.level == 0 else f"aux_outputs[{error.level - 1}]"
    bad = {name: int((~part.isfinite()).sum()) for name, part in parts.items()}
    bad = ", ".join(
        f"{name} cost {count} of {parts[name].numel()}" for name, count in bad.items() if count
    )
    return FloatingPointError(
        f"non-finite matching costs in {level}, image {error.image} of the batch: {bad}. The"
        " prediction holds NaN, infinite or huge values, most often because training diverged:"
        " lower the learning rate, check gradient clipping, or use bfloat16 instead of float16."
    )
