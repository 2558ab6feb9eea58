"""Mask2Former as a Detectron2 model: photos to losses, or to segmentation results."""

from collections.abc import Collection, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from detectron2.structures import ImageList
from torch import Tensor, nn

from mask2former.checkpoint_names import rename_official
from mask2former.criterion import build_criterion
from mask2former.postprocess import mask_prediction
from segcore.checkpoint import rename_on_load
from segcore.inference import MaskPrediction, PanopticMerging, ResultMaker
from segcore.layers import pad_to
from segcore.meta_arch import SegmentationModel, checked_target, thing_ids_of

Size = tuple[int, int]

# With the thresholds of the published panoptic configurations.
DEFAULT_MERGING = PanopticMerging("mask2former", score_threshold=0.8, min_visible_share=0.8)


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
        panoptic_merging: PanopticMerging = DEFAULT_MERGING,
        topk_per_image: int = 100,
        resize_before_inference: bool = False,
    ):
        """
        Args:
            backbone: image batch -> {feature name: map}.
            sem_seg_head: features -> {"pred_logits", "pred_masks", "aux_outputs"}.
            criterion: predictions and targets -> unweighted losses; has ``weight_dict``.
            pixel_mean, pixel_std: of each channel, in the range of the input image.
            size_divisibility: batches are padded to a multiple; negative: to that of the backbone.
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
        self.topk_per_image = topk_per_image
        self.result_maker = ResultMaker(
            panoptic_merging,
            frozenset(thing_ids),
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
                DEFAULT_MERGING.strategy,
                score_threshold=test.OBJECT_MASK_THRESHOLD,
                min_visible_share=test.OVERLAP_THRESHOLD,
            ),
            "topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "resize_before_inference": test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
        }

    # Asked by SafeCheckpointer, which compares shapes and reports names before the model renames.
    checkpoint_renames = staticmethod(rename_official)

    def class_rows(self) -> dict[str, Sequence[int]]:
        """Entries with a row for each class, and one for "no object" after them."""
        head = "sem_seg_head.predictor.class_embed."
        names = (head + "weight", head + "bias", "criterion.empty_weight")
        return dict.fromkeys(names, range(self.sem_seg_head.num_classes))

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, results in evaluation.

        Args:
            batched_inputs: one dict an image in Detectron2's format: "image" (C, H, W), uint8 or
                float, in the channel order of the means; "height", "width" of the output (default:
                size of the image); in training "instances" with gt_classes and gt_masks.

        Returns:
            In training {loss name: weighted scalar}. Else one dict an image, with those wanted of
            "sem_seg", "panoptic_seg" and "instances", see :class:`ResultMaker`.
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

        predictions = self._mask_predictions(outputs, images, batched_inputs)
        del images, outputs  # the results need the memory
        return self.make_results(predictions)

    def predict_masks(self, batched_inputs: list[dict[str, Any]]) -> list[MaskPrediction]:
        """The masks of each image before they are resized and merged to results."""
        images = self.preprocess_images(batched_inputs)
        return self._mask_predictions(
            self.sem_seg_head(self.backbone(images.tensor)), images, batched_inputs
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

    def _mask_predictions(
        self, outputs: dict[str, Any], images: ImageList, batched_inputs: list[dict[str, Any]]
    ) -> list[MaskPrediction]:
        padded_size = tuple(images.tensor.shape[-2:])
        return [
            self.mask_prediction(
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
