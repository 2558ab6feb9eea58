"""Mask2Former as a Detectron2 model: photos to losses, or to segmentation results."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList
from detectron2.utils.memory import retry_if_cuda_oom
from torch import Tensor, nn

from mask2former.checkpoint_names import rename_official
from mask2former.criterion import build_criterion
from segcore.checkpoint import rename_on_load
from segcore.inference import (
    InstancePrediction,
    MaskPrediction,
    MaskRating,
    PanopticMerging,
    PanopticPrediction,
    ResultMaker,
    instance_inference,
    is_thing,
    panoptic_inference,
    resize_mask_logits,
    semantic_inference,
)
from segcore.layers import pad_to
from segcore.meta_arch import SegmentationModel, checked_target, thing_ids_of

Size = tuple[int, int]

# An instance's score is its class probability times the mean probability inside its mask.
RATING = MaskRating(0.0, of_logits=True, area_offset=1e-6)
# With the thresholds of the published panoptic configurations.
OWN_MERGING = PanopticMerging("mask2former", score_threshold=0.8, min_visible_share=0.8)


@META_ARCH_REGISTRY.register()
class MaskFormer(SegmentationModel):
    """Mask classification: every segment is a query's class and mask (MaskFormer; Mask2Former)."""

    config_section = "MASK_FORMER"

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        criterion: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 32,
        semantic_on: bool = True,
        instance_on: bool = False,
        panoptic_on: bool = False,
        thing_ids: Collection[int] = (),
        panoptic_merging: PanopticMerging = OWN_MERGING,
        topk_per_image: int = 100,
        resize_before_inference: bool = False,
    ):
        """
        Args:
            backbone: image batch -> {feature name: map}.
            sem_seg_head: features -> {"pred_logits", "pred_masks", "aux_outputs"}.
            criterion: predictions and targets -> unweighted losses; has ``weight_dict``.
            pixel_mean, pixel_std: of each channel, in the range of the input image.
            size_divisibility: batches are padded to a multiple; negative: the backbone's own.
            semantic_on, instance_on, panoptic_on: the results wanted.
            thing_ids: classes in [0, K) whose segments are instances, for panoptic results.
            panoptic_merging: of queries with their most probable class, by class probability.
            topk_per_image: number of instances.
            resize_before_inference: resize masks, not class scores, to the output size, even if
                only semantic results are wanted (else it is always so).
        """
        if size_divisibility < 0:
            size_divisibility = backbone.size_divisibility
        super().__init__(
            pixel_mean=pixel_mean, pixel_std=pixel_std, size_divisibility=size_divisibility
        )
        if not (semantic_on or instance_on or panoptic_on):
            raise ValueError(
                "semantic_on, instance_on, panoptic_on: expected at least one, got none "
                "(MODEL.MASK_FORMER.TEST)"
            )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.semantic_on = semantic_on
        self.instance_on = instance_on
        self.panoptic_on = panoptic_on
        self.thing_ids = frozenset(thing_ids)
        self.panoptic_merging = panoptic_merging
        self.topk_per_image = topk_per_image
        self.result_maker = ResultMaker(
            panoptic_merging,
            self.thing_ids,
            topk_per_image=None,  # chosen before the masks are rated
            semantic_on=semantic_on,
            instance_on=instance_on,
            panoptic_on=panoptic_on,
        )
        self.resize_before_inference = resize_before_inference or instance_on or panoptic_on
        rename_on_load(self, rename_official)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        backbone = build_backbone(cfg)
        test = cfg.MODEL.MASK_FORMER.TEST
        return {
            "backbone": backbone,
            "sem_seg_head": build_sem_seg_head(cfg, backbone.output_shape()),
            "criterion": build_criterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            "semantic_on": test.SEMANTIC_ON,
            "instance_on": test.INSTANCE_ON,
            "panoptic_on": test.PANOPTIC_ON,
            "thing_ids": thing_ids_of(cfg.DATASETS.TRAIN, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES),
            "panoptic_merging": PanopticMerging.from_config(
                cfg,
                OWN_MERGING.strategy,
                score_threshold=test.OBJECT_MASK_THRESHOLD,
                min_visible_share=test.OVERLAP_THRESHOLD,
            ),
            "topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "resize_before_inference": test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
        }

    # Asked by SafeCheckpointer, which compares shapes and reports names before the model renames.
    checkpoint_renames = staticmethod(rename_official)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: one dict an image in Detectron2's format: "image" (C, H, W), uint8 or
                float, in the channel order of the means; "height", "width" of the output (default:
                the image's own); in training "instances" with gt_classes and gt_masks.

        Returns:
            In training {loss name: weighted scalar}. Else one dict an image, with those wanted of
            "sem_seg" (K, H, W), "panoptic_seg" (see :func:`panoptic_inference`) and "instances"
            (see :func:`instance_inference`), at the output size.
        """
        if self.training:
            # Before the network runs, so that a bad annotation is found by its name.
            num_classes = self.sem_seg_head.num_classes
            targets = [
                checked_target(inputs, num_classes, self.device) for inputs in batched_inputs
            ]
        images = self.preprocess_images(batched_inputs)
        outputs = self.sem_seg_head(self.backbone(images.tensor))

        if self.training:
            padded_size = tuple(images.tensor.shape[-2:])
            for target in targets:
                target["masks"] = pad_to(target["masks"], padded_size)
            losses = self.criterion(outputs, targets)
            weights = self.criterion.weight_dict
            return {name: loss * weights[name] for name, loss in losses.items() if name in weights}

        predictions = self._predictions(outputs, images, batched_inputs)
        del images, outputs  # the masks at output size need the memory
        return [self._results(*prediction) for prediction in predictions]

    @torch.no_grad()
    def predict_compact(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Results of bounded memory, see :meth:`ResultMaker.compact`; in evaluation mode.

        Args:
            batched_inputs: as :meth:`forward` takes them.
        """
        images = self.preprocess_images(batched_inputs)
        outputs = self.sem_seg_head(self.backbone(images.tensor))
        predictions = self._predictions(outputs, images, batched_inputs)
        del images, outputs  # the results need the memory
        return [
            self.result_maker.compact(self.mask_prediction(*prediction))
            for prediction in predictions
        ]

    def _predictions(
        self,
        outputs: dict[str, Any],
        images: ImageList,
        batched_inputs: list[dict[str, Any]],
    ) -> list[tuple[Tensor, Tensor, Size, Size, Size]]:
        """Class logits, mask logits, and padded, image and output size of each image."""
        padded_size = tuple(images.tensor.shape[-2:])
        return [
            (
                class_logits,
                mask_logits,
                padded_size,
                tuple(image_size),
                (inputs.get("height", image_size[0]), inputs.get("width", image_size[1])),
            )
            for inputs, image_size, class_logits, mask_logits in zip(
                batched_inputs,
                images.image_sizes,
                outputs["pred_logits"],
                outputs["pred_masks"],
                strict=True,
            )
        ]

    def mask_prediction(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        padded_size: Size,
        image_size: Size,
        output_size: Size,
    ) -> MaskPrediction:
        """What the network predicts for one image, with class logits (Q, K+1) and mask logits
        (Q, h, w), as the result maker takes it."""
        probabilities = class_logits.to(mask_logits.dtype).softmax(dim=-1)
        scores, labels = probabilities.max(dim=-1)
        probabilities = probabilities[:, :-1]
        num_classes = probabilities.shape[1]
        queries = (labels != num_classes).nonzero()[:, 0]
        pair_scores, pairs = probabilities.flatten().topk(
            min(self.topk_per_image, probabilities.numel())
        )
        classes = pairs % num_classes
        if self.panoptic_on:
            things = is_thing(classes, self.thing_ids)
            pair_scores, pairs, classes = pair_scores[things], pairs[things], classes[things]
        return MaskPrediction(
            mask_logits,
            Tensor.sigmoid,
            (padded_size, image_size, output_size),
            probabilities.T,
            PanopticPrediction(queries, labels[queries], scores[queries]),
            InstancePrediction(pairs // num_classes, classes, pair_scores, RATING),
            resize_scores=not self.resize_before_inference,
        )

    @torch.no_grad()
    def _results(
        self,
        class_logits: Tensor,
        mask_logits: Tensor,
        padded_size: tuple[int, int],
        image_size: tuple[int, int],
        output_size: tuple[int, int],
    ) -> dict[str, Any]:
        """The results of one image, of class logits (Q, K+1) and mask logits (Q, h, w)."""
        if not self.resize_before_inference:
            mask_logits = retry_if_cuda_oom(resize_mask_logits)(mask_logits, padded_size)
            class_logits = class_logits.to(mask_logits.device)
            scores = retry_if_cuda_oom(semantic_inference)(class_logits, mask_logits)
            return {
                "sem_seg": retry_if_cuda_oom(sem_seg_postprocess)(scores, image_size, *output_size)
            }

        mask_logits = retry_if_cuda_oom(resize_mask_logits)(
            mask_logits, padded_size, image_size, output_size
        )
        class_logits = class_logits.to(mask_logits.device)
        results = {}
        if self.semantic_on:
            results["sem_seg"] = retry_if_cuda_oom(semantic_inference)(class_logits, mask_logits)
        if self.panoptic_on:
            results["panoptic_seg"] = retry_if_cuda_oom(panoptic_inference)(
                class_logits,
                mask_logits,
                thing_ids=self.thing_ids,
                merging=self.panoptic_merging,
            )
        if self.instance_on:
            results["instances"] = retry_if_cuda_oom(instance_inference)(
                class_logits,
                mask_logits,
                topk=self.topk_per_image,
                thing_ids=self.thing_ids if self.panoptic_on else None,
            )
        return results
