"""Augmentations of normalized images and of whole batches, by timm, on the model's device."""

from dataclasses import dataclass

from torch import Tensor

from segcore.requirements import require_timm


@dataclass(frozen=True)
class BatchAugmentation:
    """Random erasing (Zhong et al., 2020), then mixup (Zhang et al., 2018) or CutMix (Yun et al.,
    2019) of each image with one other of the batch, all with the same factor.

    Attributes:
        num_classes: K.
        erasing_prob: share of the images in which a rectangle becomes standard normal noise.
        mixup_alpha, cutmix_alpha: both parameters of the factor's beta distribution; 0: off.
        mix_prob: share of the batches that are mixed.
        cutmix_prob: share of CutMix among these, where mixup is on too.
        label_smoothing: of the targets, if images are mixed.
    """

    num_classes: int
    erasing_prob: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_prob: float = 1.0
    cutmix_prob: float = 0.5
    label_smoothing: float = 0.0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment normalized images (B, C, H, W), in place, with labels (B,) int64 in [0, K).

        Returns:
            The images, and as targets the labels, or if mixing is on, class probabilities (B, K).

        Raises:
            ValueError: images are to be mixed in pairs, and the batch is odd.
            ImportError: timm is not installed.
        """
        if self.erasing_prob > 0:
            images = self._erase(images)
        if self.mixup_alpha > 0 or self.cutmix_alpha > 0:
            return self._mix(images, labels)
        return images, labels

    def _erase(self, images: Tensor) -> Tensor:
        require_timm()
        from timm.data.random_erasing import RandomErasing

        return RandomErasing(self.erasing_prob, mode="pixel", device=images.device)(images)

    def _mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(images) % 2:
            raise ValueError(
                "mixup and CutMix need an even number of images in each process, got "
                f"{len(images)}: change SOLVER.IMS_PER_BATCH, or set "
                "INPUT.CLASSIFICATION.MIXUP_ALPHA and CUTMIX_ALPHA to 0"
            )
        require_timm()
        from timm.data import Mixup

        mix = Mixup(
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
            prob=self.mix_prob,
            switch_prob=self.cutmix_prob,
            label_smoothing=self.label_smoothing,
            num_classes=self.num_classes,
        )
        return mix(images, labels)
