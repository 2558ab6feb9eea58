"""Image classification, to pre-train backbones: model, recipe, data and evaluation."""

from autofocusformer.classification import mapper  # noqa: F401 registers it
from autofocusformer.classification.augmentation import BatchAugmentation
from autofocusformer.classification.check_image_folder import check_image_folders
from autofocusformer.classification.evaluation import AccuracyEvaluator
from autofocusformer.classification.image_folder import (
    image_folders,
    setup_image_folders,
    use_image_classes,
)
from autofocusformer.classification.meta_arch import AutoFocusFormerClassifier
from segcore.data.kinds import DATA_KINDS, DataKind

__all__ = ["AccuracyEvaluator", "AutoFocusFormerClassifier", "BatchAugmentation"]

DATA_KINDS.register(
    "DATASETS.IMAGE_FOLDER",
    DataKind(
        is_set=lambda cfg: bool(image_folders(cfg)),
        set_up=setup_image_folders,
        check=lambda cfg: check_image_folders(image_folders(cfg), max_pixels=cfg.INPUT.MAX_PIXELS),
        use_classes=use_image_classes,
    ),
)
