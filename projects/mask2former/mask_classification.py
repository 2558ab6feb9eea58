"""What models of mask classification share: results from class and mask logits of queries."""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor

from mask2former.postprocess import RATING, mask_prediction
from segcore.inference import MaskPrediction, PanopticMerging, ResultMaker
from segcore.inference.tensor_results import instances, panoptic_map, resized, semantic_map
from segcore.meta_arch import SegmentationModel, thing_ids_of

Size = tuple[int, int]

# With the thresholds of the published panoptic configurations.
DEFAULT_MERGING = PanopticMerging("mask2former", score_threshold=0.8, min_visible_share=0.8)


class MaskOutputs(NamedTuple):
    """Prediction of the queries.

    Attributes:
        class_logits: (B, Q, K+1), the last is "no object".
        mask_logits: (B, Q, h, w).
    """

    class_logits: Tensor
    mask_logits: Tensor


class MaskClassificationModel(SegmentationModel):
    """A model whose segments are queries with a class and a mask (MaskFormer, section 3).

    Its ``network`` returns :class:`MaskOutputs`.

    Args:
        semantic_on, instance_on, panoptic_on: the results wanted.
        thing_ids: classes in [0, K) whose segments are instances, for panoptic results.
        panoptic_merging: of queries with their most probable class, by class probability.
        topk_per_image: number of instances.
        base_options: arguments of :class:`SegmentationModel`.

    Raises:
        ValueError: no result is wanted.
    """

    rating = RATING
    # Resize masks, not class scores, to the output size.
    resize_before_inference = True

    def __init__(
        self,
        *,
        semantic_on: bool,
        instance_on: bool,
        panoptic_on: bool,
        thing_ids: Collection[int],
        panoptic_merging: PanopticMerging,
        topk_per_image: int,
        **base_options: Any,
    ):
        super().__init__(**base_options)
        if not (semantic_on or instance_on or panoptic_on):
            raise ValueError(
                "semantic_on, instance_on, panoptic_on: expected at least one, got none "
                f"(MODEL.{self.config_section}.TEST)"
            )
        self.topk_per_image = topk_per_image
        self.result_maker = ResultMaker(
            panoptic_merging,
            frozenset(thing_ids),
            semantic_on=semantic_on,
            instance_on=instance_on,
            panoptic_on=panoptic_on,
        )

    def mask_prediction(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        padded_size: Size,
        image_size: Size,
        output_size: Size,
    ) -> MaskPrediction:
        """Prediction for one image from class logits (Q, K+1) and mask logits (Q, h, w)."""
        return mask_prediction(
            class_logits,
            mask_logits,
            (padded_size, image_size, output_size),
            topk=self.topk_per_image,
            thing_ids=self.result_maker.thing_ids if self.result_maker.panoptic_on else None,
            resize_scores=not self.resize_before_inference,
        )

    def why_results_not_exported(self) -> str:
        maker = self.result_maker
        if maker.panoptic_on and maker.merging.strategy == "mask_wise":
            return "mask-wise merging takes one mask after the other, as many as an image has"
        return ""

    def exported_results(
        self, outputs: MaskOutputs, padded_size: Size, size: Size
    ) -> dict[str, Tensor]:
        maker, results = self.result_maker, {}
        probabilities, mask_logits = outputs.class_logits.softmax(-1), outputs.mask_logits
        if not self.resize_before_inference:
            scores = torch.einsum("bqk,bqhw->bkhw", probabilities[..., :-1], mask_logits.sigmoid())
            return {"semantic_map": resized(scores, padded_size, size).argmax(1)}
        mask_logits = resized(mask_logits, padded_size, size)
        values = mask_logits.sigmoid()
        if maker.semantic_on:
            results["semantic_map"] = semantic_map(probabilities, values)
        if maker.panoptic_on:
            merged = panoptic_map(probabilities, values, maker.thing_ids, maker.merging)
            results |= merged._asdict()
        if maker.instance_on:
            results |= instances(
                probabilities,
                mask_logits,
                values,
                topk=self.topk_per_image,
                rating=self.rating,
                thing_ids=maker.thing_ids if maker.panoptic_on else None,
            )._asdict()
        return results


def result_options(cfg: CfgNode, section: str) -> dict[str, Any]:
    """Return the arguments of :class:`MaskClassificationModel` that are about results, and the
    statistics of pixels, from a config with the keys of ``MODEL.<section>.TEST``."""
    test = cfg.MODEL[section].TEST
    return {
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "semantic_on": test.SEMANTIC_ON,
        "instance_on": test.INSTANCE_ON,
        "panoptic_on": test.PANOPTIC_ON,
        "thing_ids": thing_ids_of(cfg.DATASETS.TRAIN, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES),
        "panoptic_merging": PanopticMerging.from_config(
            cfg,
            DEFAULT_MERGING.strategy,
            score_threshold=test.OBJECT_MASK_THRESHOLD,
            min_visible_share=test.OVERLAP_THRESHOLD,
        ),
        "topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
