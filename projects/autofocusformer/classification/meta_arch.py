"""AutoFocusFormer as an image classifier: photos to a loss, or to class logits.

Parameter names are those of the official classification checkpoints.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from autofocusformer.backbone import AutoFocusFormerTrunk, trunk_arguments
from autofocusformer.classification.augmentation import BatchAugmentation
from segcore.functional import at_least_float32

INITIAL_STD = 0.02


@META_ARCH_REGISTRY.register()
class AutoFocusFormerClassifier(AutoFocusFormerTrunk):
    """The mean over the tokens of the last stage, normalized, through a linear layer."""

    float32_parts = ("pixel_mean", "pixel_std")  # see segcore.precision

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        label_smoothing: float = 0.0,
        augmentation: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        **trunk: Any,
    ) -> None:
        """
        Args:
            num_classes: K.
            pixel_mean, pixel_std: of each channel, in the range of the input image.
            label_smoothing: of targets that are labels.
            augmentation: in training, normalized images (B, C, H, W) and labels (B,) -> images and
                targets, which are labels or class probabilities (B, K).
            trunk: arguments of :class:`AutoFocusFormerTrunk`; by default images are not padded.
        """
        super().__init__(**{"pad": False, **trunk})
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
        dim = self.layers[-1].blocks[0].norm1.normalized_shape
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(*dim, num_classes)
        self.label_smoothing = label_smoothing
        self.augmentation = augmentation
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.apply(init_linear)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        classifier, options = cfg.MODEL.CLASSIFIER, cfg.INPUT.CLASSIFICATION
        return {
            **trunk_arguments(cfg, in_channels=len(cfg.MODEL.PIXEL_MEAN)),
            "num_classes": classifier.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "label_smoothing": classifier.LABEL_SMOOTHING,
            "augmentation": BatchAugmentation(
                num_classes=classifier.NUM_CLASSES,
                erasing_prob=options.ERASING_PROB,
                mixup_alpha=options.MIXUP_ALPHA,
                cutmix_alpha=options.CUTMIX_ALPHA,
                mix_prob=options.MIX_PROB,
                cutmix_prob=options.CUTMIX_PROB,
                label_smoothing=classifier.LABEL_SMOOTHING,
            ),
        }

    def class_rows(self) -> dict[str, Sequence[int]]:
        """Entries with a row for each class."""
        return dict.fromkeys(("head.weight", "head.bias"), range(self.head.out_features))

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: dicts with "image" (C, H, W), all of one size, and in training
                "class_id", an integer in [0, K).

        Returns:
            In training {"loss_cls": scalar}, else a dict with "class_logits" (K,) for each image.
        """
        if self.training:
            return self.losses(batched_inputs)
        images = self.preprocess(batched_inputs)
        return [{"class_logits": logits} for logits in at_least_float32(self.network(images))]

    def network(self, images: Tensor) -> Tensor:
        """Class logits (B, K) of normalized images (B, C, H, W)."""
        *_, tokens = self.stages(images)
        return self.head(self.norm(tokens.features).mean(1))

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Cross entropy of annotated images: {"loss_cls": scalar}."""
        images = self.preprocess(batched_inputs)
        targets = torch.tensor([record["class_id"] for record in batched_inputs])
        targets = targets.to(images.device)
        if self.augmentation is not None:
            images, targets = self.augmentation(images, targets)
        smoothing = 0.0 if targets.is_floating_point() else self.label_smoothing
        loss = F.cross_entropy(self.network(images), targets, label_smoothing=smoothing)
        return {"loss_cls": loss}

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> Tensor:
        """The images as a normalized batch (B, C, H, W) on the model's device."""
        images = [record["image"] for record in batched_inputs]
        sizes = sorted({tuple(image.shape[-2:]) for image in images})
        if len(sizes) > 1:
            raise ValueError(
                "batched_inputs: expected images of one size, as they would have different "
                f"numbers of tokens, got (height, width) {', '.join(map(str, sizes))}"
            )
        batch = torch.stack(images).to(self.pixel_mean.device)
        return ((batch - self.pixel_mean) / self.pixel_std).to(self.head.weight.dtype)


def init_linear(module: nn.Module) -> None:
    """Published initial values: truncated normal weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        nn.init.zeros_(module.bias)
