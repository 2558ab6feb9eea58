"""Training losses of Mask2Former (Cheng et al., 2022), section 3.3; MaskFormer's, on points."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from mask2former.mask_products import mask_logits
from segcore.functional import at_least_float32
from segcore.layers import grid_reference_points
from segcore.losses import (
    DrawPoints,
    MaskSampler,
    dice_loss,
    mean_over_workers,
    point_sample,
    sigmoid_ce_loss,
    uncertain_points,
    uniform_points,
)
from segcore.matching import Assignment, HungarianMatcher


class SetCriterion(nn.Module):
    """Classification and mask losses of matched queries, for every prediction.

    Masks of clips have T frames, each of which is a mask with points of its own; the losses are
    summed over the frames, and divided by the number of targets as for images.

    Args:
        num_classes: K, without "no object".
        weight_dict: loss name -> weight; losses that it does not name are dropped.
        no_object_weight: weight of the "no object" class in the cross entropy.
        deep_supervision: compute the losses of the auxiliary predictions too.
        num_points, oversample_ratio, importance_sample_ratio: see
            :func:`segcore.losses.uncertain_points`.
        whole_masks: compare masks at all pixels of the prediction instead of at points.
        normalize_by_matched: divide the mask losses by the number of matched pairs, not by that of
            the targets; they differ if an image has more targets than there are queries.
        draw_points: source of the random points; called for each prediction in turn for
            (M, oversample_ratio * num_points) candidates of its M pairs, then for the (M, rest).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        weight_dict: Mapping[str, float],
        no_object_weight: float,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool = True,
        whole_masks: bool = False,
        normalize_by_matched: bool = False,
        draw_points: DrawPoints = uniform_points,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = dict(weight_dict)
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.deep_supervision = deep_supervision
        self.whole_masks = whole_masks
        self.normalize_by_matched = normalize_by_matched
        self.draw_points = draw_points
        empty_weight = torch.ones(num_classes + 1)
        empty_weight[-1] = no_object_weight
        self.register_buffer("empty_weight", empty_weight)

    def forward(
        self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute the losses with a weight, times it. See :meth:`unweighted`."""
        losses = self.unweighted(outputs, targets)
        return {
            name: loss * self.weight_dict[name]
            for name, loss in losses.items()
            if name in self.weight_dict
        }

    def unweighted(
        self, outputs: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute all losses, without their weights.

        Args:
            outputs: "pred_logits" (B, Q, K+1), "pred_masks" (B, Q, h, w), of clips
                (B, Q, T, h, w), and "aux_outputs", a list of the same. If all have the factors of
                their masks, "mask_embedding" (B, Q, C) and one "mask_features" (B, C, H, W), the
                losses' gradient goes to these.
            targets: of each image "labels" (n,) int64 and "masks" (n, H, W), of clips
                (n, T, H, W), boolean, of one size.

        Returns:
            "loss_ce", "loss_mask" and "loss_dice" of the final prediction, and with suffix "_i" of
            the i-th auxiliary one: scalars, unweighted, float32 or float64.

        Raises:
            ValueError: labels outside [0, K), or shapes that disagree.
            FloatingPointError: matching costs that are not finite.
        """
        predictions = [outputs]
        if self.deep_supervision:
            predictions += outputs.get("aux_outputs", [])
        self._check(predictions, targets)
        assignment = self.matcher(predictions, targets)
        matched_masks = _matched_masks(predictions, targets, assignment)
        with torch.autocast(outputs["pred_masks"].device.type, enabled=False):
            class_losses = self._class_losses(predictions, targets, assignment)
            mask_losses, dice_losses = self._mask_losses(matched_masks, targets, assignment)
        losses = {}
        for index in range(len(predictions)):
            suffix = f"_{index - 1}" if index else ""
            losses["loss_ce" + suffix] = class_losses[index]
            losses["loss_mask" + suffix] = mask_losses[index]
            losses["loss_dice" + suffix] = dice_losses[index]
        return losses

    def _class_losses(self, predictions, targets, assignment: Assignment) -> Tensor:
        """Return mean cross entropies over all queries of the batch, weighted by class: (L,)."""
        logits = at_least_float32(
            torch.stack([prediction["pred_logits"] for prediction in predictions])
        )
        classes = torch.full(logits.shape[:3], self.num_classes, device=logits.device)
        index = torch.arange(len(predictions), device=logits.device).unsqueeze(1)
        labels = torch.cat([target["labels"] for target in targets])
        classes[index, assignment.image, assignment.query] = labels[assignment.target]
        weight = self.empty_weight.to(logits)
        loss = F.cross_entropy(logits.flatten(0, 2), classes.flatten(), weight, reduction="none")
        return loss.view(len(predictions), -1).sum(1) / weight[classes].flatten(1).sum(1)

    def _mask_losses(
        self, matched_masks: Sequence[Tensor], targets, assignment: Assignment
    ) -> tuple[Tensor, Tensor]:
        """Return cross entropy and dice of the matched masks, summed and normalized: (L,) each.

        Args:
            matched_masks: logits (M, ..., h, w) of each prediction.
        """
        target_masks = torch.cat([target["masks"] for target in targets])
        num_targets, num_frames = len(target_masks), target_masks.shape[1:-2].numel()
        sampler = MaskSampler(target_masks.flatten(0, -3))
        frames = torch.arange(num_frames, device=target_masks.device)
        predicted, true = [], []
        # One by one: the candidates of all predictions at once would need much more memory.
        for masks, target in zip(matched_masks, assignment.target, strict=True):
            masks = at_least_float32(masks.flatten(0, -3))
            rows = (target.unsqueeze(1) * num_frames + frames).flatten()
            if self.whole_masks:
                predicted.append(masks.flatten(1))
                pixels = grid_reference_points([masks.shape[-2:]], masks.device, masks.dtype)
                true.append(sampler(rows, pixels[None]))
                continue
            points = uncertain_points(
                masks.detach(),
                self.num_points,
                oversample_ratio=self.oversample_ratio,
                importance_sample_ratio=self.importance_sample_ratio,
                draw_points=self.draw_points,
            )
            predicted.append(point_sample(masks.unsqueeze(1), points).squeeze(1))
            true.append(sampler(rows, points))
        predicted, true = torch.stack(predicted), torch.stack(true)
        num_masks = assignment.query.shape[1] if self.normalize_by_matched else num_targets
        num_masks = mean_over_workers([num_masks], like=predicted)
        cross_entropy = sigmoid_ce_loss(predicted, true).sum(1) / num_masks
        return cross_entropy, dice_loss(predicted, true).sum(1) / num_masks

    def _check(self, predictions, targets) -> None:
        logits, masks = predictions[0]["pred_logits"], predictions[0]["pred_masks"]
        if logits.shape[-1] != self.num_classes + 1 or logits.shape[:2] != masks.shape[:2]:
            raise ValueError(
                f"expected pred_logits (B, Q, {self.num_classes + 1}) and pred_masks (B, Q, h, w),"
                f" got {tuple(logits.shape)} and {tuple(masks.shape)}"
            )
        sizes = {tuple(target["masks"].shape[-2:]) for target in targets}
        if len(sizes) > 1:
            raise ValueError(f"masks of all images: expected one (padded) size, got {sizes}")


def _matched_masks(
    predictions: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    assignment: Assignment,
) -> Sequence[Tensor]:
    """Return the mask logits (M, ..., h, w) of the matched queries of each prediction.

    Of products, only those of matched queries are made with a gradient, for all predictions at
    once: with 20 targets and 100 queries a fifth, and one gradient of the per-pixel embedding.
    """
    if any("mask_embedding" not in prediction for prediction in predictions):
        return [
            prediction["pred_masks"][image, query]
            for prediction, image, query in zip(
                predictions, assignment.image, assignment.query, strict=True
            )
        ]
    features, shape = predictions[0]["mask_features"], predictions[0]["pred_masks"].shape
    embeddings = torch.stack([prediction["mask_embedding"] for prediction in predictions])
    index = torch.arange(len(predictions), device=features.device).unsqueeze(1)
    matched = embeddings[index, assignment.image, assignment.query]
    pairs = [min(shape[1], len(target["labels"])) for target in targets]
    products = [
        mask_logits(rows.flatten(0, 1).unsqueeze(0), image.unsqueeze(0)).view(
            len(predictions), count, *shape[2:]
        )
        for rows, image, count in zip(matched.split(pairs, 1), features, pairs, strict=True)
    ]
    masks = products[0] if len(products) == 1 else torch.cat(products, dim=1)
    return masks.unbind()


def build_criterion(cfg: CfgNode) -> SetCriterion:
    """The criterion that ``MODEL.MASK_FORMER`` and ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` describe."""
    from mask2former.focal_criterion import FocalCriterion, FocalMatcher

    mask_former = cfg.MODEL.MASK_FORMER
    types = {"points": (SetCriterion, HungarianMatcher), "focal": (FocalCriterion, FocalMatcher)}
    # DEC_LAYERS counts predictions: the last is the final one.
    return criterion_of(
        mask_former,
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        mask_former.DEC_LAYERS - 1,
        types=types[mask_former.CRITERION],
        whole_masks=mask_former.LOSS_SAMPLING == "masks",
    )


def criterion_of(
    section: CfgNode,
    num_classes: int,
    num_aux: int,
    *,
    types: tuple[type[SetCriterion], type[HungarianMatcher]] = (SetCriterion, HungarianMatcher),
    whole_masks: bool = False,
    normalize_by_matched: bool = False,
) -> SetCriterion:
    """Build the criterion that the keys of a system's section describe.

    Args:
        section: has the keys of ``MODEL.MASK_FORMER`` that the losses depend on.
        num_aux: number of auxiliary predictions; ``DEEP_SUPERVISION`` False leaves them out.
        types: of the criterion and its matcher.
        whole_masks: in costs and losses, see :class:`SetCriterion`.
        normalize_by_matched: see :class:`SetCriterion`.
    """
    criterion_type, matcher_type = types
    weights = {
        "loss_ce": section.CLASS_WEIGHT,
        "loss_mask": section.MASK_WEIGHT,
        "loss_dice": section.DICE_WEIGHT,
    }
    suffixes = ["", *(f"_{i}" for i in range(num_aux if section.DEEP_SUPERVISION else 0))]
    return criterion_type(
        num_classes=num_classes,
        matcher=matcher_type(
            class_weight=section.CLASS_WEIGHT,
            mask_weight=section.MASK_WEIGHT,
            dice_weight=section.DICE_WEIGHT,
            num_points=None if whole_masks else section.TRAIN_NUM_POINTS,
        ),
        weight_dict={name + s: weight for s in suffixes for name, weight in weights.items()},
        no_object_weight=section.NO_OBJECT_WEIGHT,
        num_points=section.TRAIN_NUM_POINTS,
        oversample_ratio=section.OVERSAMPLE_RATIO,
        importance_sample_ratio=section.IMPORTANCE_SAMPLE_RATIO,
        deep_supervision=section.DEEP_SUPERVISION,
        whole_masks=whole_masks,
        normalize_by_matched=normalize_by_matched,
    )
