"""From the masks that a network predicts for an image to the results that are wanted."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segcore.inference import compact
from segcore.inference.merging import PanopticMerging
from segcore.inference.prediction import MaskPrediction


@dataclass(frozen=True)
class ResultMaker:
    """Makes semantic, instance and panoptic results of any system.

    Args:
        merging: of masks to the panoptic map.
        thing_ids: contiguous ids whose segments are instances.
        topk_per_image: number of instances.
        semantic_on, instance_on, panoptic_on: the results wanted.
    """

    merging: PanopticMerging
    thing_ids: Collection[int]
    topk_per_image: int = 100
    semantic_on: bool = True
    instance_on: bool = True
    panoptic_on: bool = True

    @torch.no_grad()
    def compact(self, prediction: MaskPrediction) -> dict[str, Any]:
        """Results at the output size on the CPU, of memory that does not grow with pixels x masks.

        Returns:
            Those wanted of "semantic_map": (H, W) class of each pixel, uint8, or int16 or int32
            with more classes; "panoptic_seg": int32 (H, W) segment ids and segments_info, with
            "score" where it is known: the merged score of mask-wise merging, or else with
            ``semantic_on`` the segment's mean semantic score of its class, at most 1; "instances":
            :class:`Instances` with scores, pred_classes, pred_boxes and pred_masks_rle, a list of
            COCO's compressed run lengths.
        """
        results = {}
        if self.semantic_on:
            results["semantic_map"] = compact.class_map(prediction)
        if self.panoptic_on:
            results["panoptic_seg"] = self._compact_panoptic(prediction)
        if self.instance_on:
            masks, sources = prediction.instances.masks.unique(return_inverse=True)
            statistics = compact.measure_masks(prediction, masks, prediction.instances.rating)
            results["instances"] = compact.compact_instances(
                prediction, statistics, sources, self.topk_per_image
            )
        return results

    def _compact_panoptic(self, prediction: MaskPrediction):
        candidates = self._candidates(prediction)
        if self.merging.strategy != "mask_wise":
            return compact.merge_pixel_wise(
                prediction, candidates, self.merging, self.thing_ids, with_scores=self.semantic_on
            )
        masks = prediction.panoptic.masks[candidates]
        statistics = compact.measure_masks(
            prediction, masks, compact.mask_wise_rating(self.merging)
        )
        return compact.merge_mask_wise(
            prediction, candidates, statistics, self.merging, self.thing_ids
        )

    def _candidates(self, prediction: MaskPrediction) -> Tensor:
        """Indices of the panoptic candidates that can be in the result."""
        panoptic = prediction.panoptic
        if len(panoptic.masks) == 0:
            return panoptic.masks
        # Interpolation does not exceed the largest value.
        peaks = prediction.activation(prediction.masks.amax(dim=(1, 2)))[panoptic.masks]
        candidates = self.merging.candidates(
            panoptic.scores, panoptic.labels, self.thing_ids, peaks
        )
        return candidates.nonzero()[:, 0]
