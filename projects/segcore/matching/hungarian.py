"""Bipartite matching by class, and by masks at random points (Mask2Former)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from segcore.functional import at_least_float32
from segcore.layers import grid_reference_points
from segcore.losses import (
    DrawPoints,
    MaskSampler,
    pairwise_mask_losses,
    point_sample,
    uniform_points,
)
from segcore.matching.assignment import Assignment, assign_by_parts


class HungarianMatcher:
    """Matcher of predictions to targets by class, and cross entropy and dice of masks at points.

    Mask2Former (Cheng et al., 2022), section 3.3. No gradient. Costs are float32, or float64 where
    the predictions are. Masks of clips have T frames: the points are the same in all of them, and
    cross entropy and dice are those of all frames together.

    Args:
        num_points: random points, drawn afresh for every image and prediction, shared by all
            masks of the image; None: all pixels of the prediction.
        draw_points: source of the points.
    """

    def __init__(
        self,
        *,
        class_weight: float,
        mask_weight: float,
        dice_weight: float,
        num_points: int | None,
        draw_points: DrawPoints = uniform_points,
    ) -> None:
        if num_points is not None and num_points < 1:
            raise ValueError(f"num_points: expected at least 1, got {num_points}")
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.num_points = num_points
        self.draw_points = draw_points

    def __call__(
        self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
    ) -> Assignment:
        """
        Args:
            predictions: the final one, then the auxiliary ones: "pred_logits" (B, Q, K+1), "no
                object" last, and "pred_masks" (B, Q, h, w), of clips (B, Q, T, h, w).
            targets: for each image "labels" (n,) int64 in [0, K) and "masks" (n, H, W), of clips
                (n, T, H, W).

        Raises:
            ValueError: a label lies outside [0, K).
            FloatingPointError: a cost is not finite; names the cost, the prediction and the image.
        """
        return assign_by_parts(
            self.costs(predictions, targets),
            names=[
                "the final prediction",
                *(f"aux_outputs[{i}]" for i in range(len(predictions) - 1)),
            ],
            labels=[target["labels"] for target in targets],
            num_classes=predictions[0]["pred_logits"].shape[-1] - 1,
        )

    @torch.no_grad()
    def costs(
        self, predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
    ) -> list[list[dict[str, Tensor]]]:
        """Return weighted costs (Q, n) "class", "mask" and "dice" of each prediction and image."""
        _check_shapes(predictions, targets)
        sources = [self._target_source(target["masks"]) for target in targets]
        return [
            self._prediction_costs(
                prediction["pred_logits"], prediction["pred_masks"], targets, sources
            )
            for prediction in predictions
        ]

    def _prediction_costs(
        self, logits: Tensor, masks: Tensor, targets: Sequence[Mapping[str, Tensor]], sources
    ) -> list[dict[str, Tensor]]:
        """Return the costs of one prediction and each image."""
        with torch.autocast(masks.device.type, enabled=False):
            return [
                self._costs(logits[image], masks[image], target["labels"], source)
                for image, (target, source) in enumerate(zip(targets, sources, strict=True))
            ]

    def _costs(
        self, logits: Tensor, masks: Tensor, labels: Tensor, source: MaskSampler
    ) -> dict[str, Tensor]:
        """Return the costs of one prediction and image; NaN for labels outside [0, K)."""
        logits, masks = at_least_float32(logits), at_least_float32(masks)
        num_classes = logits.shape[-1] - 1
        probability = logits.softmax(-1)[:, labels.clamp(0, num_classes - 1)]
        unknown = (labels < 0) | (labels >= num_classes)
        mask_cost, dice = self._mask_costs(masks, source, len(labels))
        return {
            "class": -self.class_weight * probability.masked_fill(unknown, torch.nan),
            "mask": self.mask_weight * mask_cost,
            "dice": self.dice_weight * dice,
        }

    def _target_source(self, masks: Tensor) -> MaskSampler:
        """Return what :meth:`_mask_costs` takes of the target masks (n, ..., H, W) of an image."""
        return MaskSampler(masks.flatten(0, -3))

    def _mask_costs(
        self, masks: Tensor, source: MaskSampler, num_targets: int
    ) -> tuple[Tensor, Tensor]:
        """Return cross entropy and dice (Q, n) of predicted masks (Q, ..., h, w) and targets."""
        masks_of_frames, num_frames = masks.flatten(0, -3), masks.shape[1:-2].numel()
        if self.num_points is None:
            points = grid_reference_points([masks.shape[-2:]], masks.device, masks.dtype)[None]
            predicted = masks_of_frames
        else:
            points = self.draw_points(1, self.num_points, dtype=masks.dtype, device=masks.device)
            # Queries as batch, not as channels: parallel and faster on a CPU.
            predicted = point_sample(masks_of_frames.unsqueeze(1), points)
        true = source(torch.arange(num_targets * num_frames, device=masks.device), points)
        num_values = num_frames * points.shape[1]
        return pairwise_mask_losses(
            predicted.reshape(len(masks), num_values), true.view(num_targets, num_values)
        )


def _check_shapes(
    predictions: Sequence[Mapping[str, Tensor]], targets: Sequence[Mapping[str, Tensor]]
) -> None:
    batch = len(predictions[0]["pred_masks"])
    if len(targets) != batch:
        raise ValueError(f"targets: expected one of each of {batch} images, got {len(targets)}")
    for image, target in enumerate(targets):
        if len(target["labels"]) != len(target["masks"]):
            raise ValueError(
                f"targets of image {image} of the batch: expected as many labels as masks,"
                f" got {len(target['labels'])} and {len(target['masks'])}"
            )
