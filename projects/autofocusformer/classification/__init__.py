"""Image classification, to pre-train backbones."""

from autofocusformer.classification.augmentation import BatchAugmentation
from autofocusformer.classification.meta_arch import AutoFocusFormerClassifier

__all__ = ["AutoFocusFormerClassifier", "BatchAugmentation"]
