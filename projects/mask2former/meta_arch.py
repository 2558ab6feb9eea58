"""Mask2Former as a Detectron2 model: photos to losses, or to segmentation results."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head
from torch import Tensor, nn

from mask2former.checkpoint_names import rename_official
from mask2former.criterion import build_criterion
from mask2former.mask_classification import (
    DEFAULT_MERGING,
    MaskClassificationModel,
    MaskOutputs,
    result_options,
)
from mask2former.transformers_names import is_of_transformers, to_ours
from segcore.backbones.resnet import backbone_features
from segcore.checkpoint import rename_on_load
from segcore.inference import PanopticMerging
from segcore.layers import pad_to
from segcore.meta_arch import checked_target


@META_ARCH_REGISTRY.register()
class MaskFormer(MaskClassificationModel):
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
            criterion: predictions and targets -> weighted losses.
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
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            size_divisibility=size_divisibility,
            semantic_on=semantic_on,
            instance_on=instance_on,
            panoptic_on=panoptic_on,
            thing_ids=thing_ids,
            panoptic_merging=panoptic_merging,
            topk_per_image=topk_per_image,
        )
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
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
            "size_divisibility": cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
            **result_options(cfg, cls.config_section),
            "resize_before_inference": test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
        }

    # Asked by SafeCheckpointer, which compares shapes and reports names before the model renames.
    checkpoint_renames = staticmethod(rename_official)

    def adapt_checkpoint(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """Convert the entries of a file of Transformers, or of the backbone alone."""
        if is_of_transformers(state):
            return to_ours(state)
        return super().adapt_checkpoint(state, source)

    def class_rows(self) -> dict[str, Sequence[int]]:
        """Entries with a row for each class, and one for "no object" after them."""
        head = "sem_seg_head.predictor.class_embed."
        names = (head + "weight", head + "bias", "criterion.empty_weight")
        return dict.fromkeys(names, range(self.sem_seg_head.num_classes))

    def network(self, images: Tensor) -> MaskOutputs:
        """Class and mask logits of normalized images (B, 3, H, W), in evaluation."""
        outputs = self.sem_seg_head(backbone_features(self.backbone, images))
        return MaskOutputs(outputs["pred_logits"], outputs["pred_masks"])

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute the losses of annotated images: {name: weighted scalar}.

        Raises:
            ValueError: annotations that are missing or wrong, see :func:`checked_target`.
        """
        # Before the network runs, so that a bad annotation is found by its name.
        num_classes = self.sem_seg_head.num_classes
        targets = [checked_target(inputs, num_classes, self.device) for inputs in batched_inputs]
        images = self.preprocess_images(batched_inputs).tensor
        for target in targets:
            target["masks"] = pad_to(target["masks"], images.shape[-2:])
        return self.criterion(self.sem_seg_head(backbone_features(self.backbone, images)), targets)
