"""Results of an image from the masks that a network predicts."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor

from segcore.inference import compact
from segcore.inference.compact import EncodedMasks
from segcore.inference.instance import sorted_instances
from segcore.inference.mask_wise import RatedMasks
from segcore.inference.merging import PanopticMerging
from segcore.inference.one_pass import has_large_scores, infer_masks
from segcore.inference.prediction import MaskPrediction, PanopticPrediction
from segcore.inference.segments import PanopticResult


@dataclass(frozen=True)
class ResultMaker:
    """Maker of the semantic, instance and panoptic results of an image, for every system.

    Args:
        merging: makes the panoptic map of the masks.
        thing_ids: contiguous ids whose segments are instances.
        topk_per_image: largest number of instances; None for all candidates.
        semantic_on, instance_on, panoptic_on: switches of the results.
    """

    merging: PanopticMerging
    thing_ids: Collection[int]
    topk_per_image: int | None = None
    semantic_on: bool = True
    instance_on: bool = True
    panoptic_on: bool = True

    @torch.no_grad()
    def __call__(self, prediction: MaskPrediction) -> dict[str, Any]:
        """Make results in Detectron2's format, at the output size.

        Returns:
            The results switched on: "sem_seg", (K, H, W) scores in the type of the masks;
            "panoptic_seg", see :class:`PanopticMerging`; "instances" by falling score, with
            scores (n,), pred_classes (n,) int64, pred_masks (n, H, W) bool and pred_boxes.
        """
        if prediction.resize_scores:
            _, image_size, output_size = prediction.sizes
            padded = replace(prediction, sizes=prediction.sizes[:1], resize_scores=False)
            scores = infer_masks(padded, semantic=True).class_scores
            if image_size == output_size:  # nothing to resize
                return {"sem_seg": scores[:, : image_size[0], : image_size[1]].contiguous()}
            return {"sem_seg": sem_seg_postprocess(scores, image_size, *output_size)}
        if self.semantic_on and self.instance_on and has_large_scores(prediction):
            # Sorting holds the instances' masks twice: before there are scores.
            instances_alone = replace(self, semantic_on=False, panoptic_on=False)
            return instances_alone(prediction) | replace(self, instance_on=False)(prediction)
        prediction = self._relevant(prediction)
        panoptic, instances, merging = prediction.panoptic, prediction.instances, self.merging
        mask_wise = self.panoptic_on and merging.strategy == "mask_wise"
        measured = panoptic_rows = None
        if self.instance_on:
            measured, instance_rows, panoptic_rows = self._measured(prediction)
        elif mask_wise:
            measured, panoptic_rows = panoptic.masks, slice(None)
        inferred = infer_masks(
            prediction,
            semantic=self.semantic_on,
            candidates=panoptic if self.panoptic_on and not mask_wise else None,
            mask_threshold=merging.mask_threshold,
            measured=measured,
            rating=instances.rating if self.instance_on else merging.rating,
        )
        results = {}
        if self.semantic_on:
            results["sem_seg"] = inferred.class_scores
        if self.instance_on:
            rows, rating, boxes = instance_rows, instances.rating, instances.boxes
            results["instances"] = sorted_instances(
                rating.scores(instances.scores, inferred.sums[rows], inferred.areas[rows]),
                instances.labels,
                inferred.binary,
                inferred.boxes[rows] if boxes is None else boxes,
                rows,
                topk=self.topk_per_image,
            )
        if mask_wise:
            rows = panoptic_rows
            if rows is None:  # measured by another rule than instances
                inferred = infer_masks(prediction, measured=panoptic.masks, rating=merging.rating)
                rows = slice(None)
            binary, areas = inferred.binary[rows], inferred.areas[rows]
            scores = merging.rating.scores(panoptic.scores, inferred.sums[rows], areas)
            results["panoptic_seg"] = merging.mask_wise(
                RatedMasks(scores, binary, areas), panoptic.labels, self.thing_ids
            )
        elif self.panoptic_on:
            results["panoptic_seg"] = merging.pixel_wise(
                inferred.best, inferred.won, panoptic.labels, self.thing_ids
            )
        return results

    @torch.no_grad()
    def compact(self, prediction: MaskPrediction) -> dict[str, Any]:
        """Make results at the output size on the CPU, in memory independent of masks x pixels.

        Returns:
            The results switched on. "semantic_map": (H, W) class of each pixel, uint8, or int16 or
            int32 with more classes. "panoptic_seg": see :meth:`__call__`; segments have "score" if
            it is known: the merged score of mask-wise merging, otherwise with ``semantic_on`` the
            segment's mean semantic score of its class, at most 1. "instances": with scores,
            pred_classes, pred_boxes and pred_masks_rle, a list of COCO's compressed run lengths.
        """
        prediction = self._relevant(prediction)
        results, shared = {}, None
        if self.semantic_on:
            results["semantic_map"] = compact.class_map(prediction)
        if self.instance_on:
            indices, rows, panoptic_rows = self._measured(prediction)
            measured = compact.encode_masks(prediction, indices, prediction.instances.rating)
            results["instances"] = compact.compact_instances(
                prediction, measured.select(rows), self.topk_per_image
            )
            if panoptic_rows is not None:
                shared = measured.select(panoptic_rows)
        if self.panoptic_on:
            results["panoptic_seg"] = self._compact_panoptic(prediction, shared)
        return results

    @torch.no_grad()
    def compact_panoptic(self, prediction: MaskPrediction) -> PanopticResult:
        """Make "panoptic_seg" of :meth:`compact` alone; segments always have "score"."""
        maker = replace(self, semantic_on=True, instance_on=False, panoptic_on=True)
        return maker._compact_panoptic(maker._relevant(prediction))

    def _compact_panoptic(
        self, prediction: MaskPrediction, encoded: EncodedMasks | None = None
    ) -> PanopticResult:
        """Merge candidates, whose masks are ``encoded`` if they were measured before."""
        merging = self.merging
        if merging.strategy == "mask_wise":
            encoded = encoded or compact.encode_masks(
                prediction, prediction.panoptic.masks, merging.rating
            )
            return compact.merge_mask_wise(prediction, encoded, merging, self.thing_ids)
        return compact.merge_pixel_wise(
            prediction, merging, self.thing_ids, with_scores=self.semantic_on
        )

    def _measured(self, prediction: MaskPrediction) -> tuple[Tensor, Tensor, Tensor | None]:
        """Choose the masks to measure for instances.

        Returns:
            Indices (m,) of the masks, each once, and the row of each instance among them. If
            mask-wise merging measures in the same way, the masks of panoptic candidates are
            included, and their rows are the third item; else it is None.
        """
        masks = prediction.instances.masks
        shared = (
            self.panoptic_on
            and self.merging.strategy == "mask_wise"
            and self.merging.rating == prediction.instances.rating
        )
        if not shared:
            return *masks.unique(return_inverse=True), None
        indices, rows = torch.cat((masks, prediction.panoptic.masks)).unique(return_inverse=True)
        return indices, rows[: len(masks)], rows[len(masks) :]

    def _relevant(self, prediction: MaskPrediction) -> MaskPrediction:
        """Remove panoptic candidates that cannot be in the result, and masks without use."""
        masks, panoptic, instances = prediction.masks, prediction.panoptic, prediction.instances
        needed = torch.full((len(masks),), self.semantic_on, device=masks.device)
        if self.panoptic_on and len(masks):
            # Interpolation does not exceed the largest value.
            peaks = prediction.activation(masks.amax(dim=(1, 2)))[panoptic.masks]
            candidates = self.merging.candidates(
                panoptic.scores, panoptic.labels, self.thing_ids, peaks
            )
            panoptic = PanopticPrediction(*(part[candidates] for part in panoptic))
            needed[panoptic.masks] = True
        if self.instance_on:
            needed[instances.masks] = True
        row = needed.cumsum(0) - 1
        return replace(
            prediction,
            masks=masks[needed],
            class_weights=prediction.class_weights[:, needed],
            panoptic=panoptic._replace(masks=row[panoptic.masks]),
            instances=instances._replace(masks=row[instances.masks]),
        )
