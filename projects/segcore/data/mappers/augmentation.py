"""The three families of augmentations that the training mappers use, built from a config.

Geometry draws from ``numpy.random``, color from ``random``; every augmentation draws when it is
reached, so the order of the lists below is the order of the draws.
"""

from detectron2.config import CfgNode
from detectron2.data import transforms as T

from segcore.data.mappers.color import RandomSSDColor
from segcore.data.mappers.opencv_resize import OpenCVResizeShortestEdge


def large_scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Flip, resize by a random scale, crop or pad to a square of ``INPUT.IMAGE_SIZE`` pixels.

    Large-scale jittering of Ghiasi et al., Simple Copy-Paste, 2021. The image is padded at the
    right and bottom with 128.
    """
    size = cfg.INPUT.IMAGE_SIZE
    scales = cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE
    return [
        *_flip(cfg.INPUT.RANDOM_FLIP),
        T.ResizeScale(*scales, target_height=size, target_width=size),
        T.FixedSizeCrop(crop_size=(size, size)),
    ]


def resize_crop_color_flip(cfg: CfgNode, *, limit_category: bool) -> list[T.Augmentation]:
    """Resize the short edge, crop, change colors, flip horizontally.

    Args:
        limit_category: crop again, 10 times at most, while one category of the semantic map covers
            more than ``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA`` of it.
    """
    inputs = cfg.INPUT
    augmentations = [
        T.ResizeShortestEdge(
            inputs.MIN_SIZE_TRAIN, inputs.MAX_SIZE_TRAIN, inputs.MIN_SIZE_TRAIN_SAMPLING
        )
    ]
    if inputs.CROP.ENABLED:
        augmentations.append(
            _crop_by_category(cfg)
            if limit_category
            else T.RandomCrop(inputs.CROP.TYPE, inputs.CROP.SIZE)
        )
    if inputs.COLOR_AUG_SSD:
        augmentations.append(RandomSSDColor(inputs.FORMAT))
    # Always horizontal, whatever INPUT.RANDOM_FLIP says: so the published models were trained.
    return [*augmentations, T.RandomFlip()]


def flip_crop_resize(cfg: CfgNode) -> list[T.Augmentation]:
    """Flip; with probability 0.5 resize and crop; resize the short edge (DETR's augmentation).

    Panoptic SegFormer has it, with the resizing of mmdetection.
    """
    inputs, crop = cfg.INPUT, cfg.INPUT.CROP
    augmentations = _flip(inputs.RANDOM_FLIP)
    if crop.ENABLED:
        resize = OpenCVResizeShortestEdge(crop.RESIZE_MIN_SIZES, crop.RESIZE_MAX_SIZE)
        resize_crop = T.AugmentationList([resize, T.RandomCrop(crop.TYPE, crop.SIZE)])
        augmentations.append(T.RandomApply(resize_crop, prob=0.5))
    resize = OpenCVResizeShortestEdge(
        inputs.MIN_SIZE_TRAIN, inputs.MAX_SIZE_TRAIN, inputs.MIN_SIZE_TRAIN_SAMPLING
    )
    return [*augmentations, resize]


def resize_for_test(cfg: CfgNode) -> T.Augmentation:
    """Resize the short edge to ``INPUT.MIN_SIZE_TEST``, as Detectron2 does in tests."""
    size = cfg.INPUT.MIN_SIZE_TEST
    return T.ResizeShortestEdge([size, size], cfg.INPUT.MAX_SIZE_TEST)


def opencv_resize_for_test(cfg: CfgNode) -> T.Augmentation:
    """Resize as :func:`resize_for_test`, with sizes and pixels of mmdetection."""
    return OpenCVResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST)


def max_ratio_in_training(cfg: CfgNode) -> float:
    """Ratio of a photo's sides from which on the shorter one is rounded to no pixel."""
    inputs = cfg.INPUT
    if inputs.DATASET_MAPPER_NAME.endswith("_lsj"):
        return 2 * inputs.IMAGE_SIZE * min(inputs.MIN_SCALE, inputs.MAX_SCALE)
    return 2 * inputs.MAX_SIZE_TRAIN


def max_ratio_in_tests(cfg: CfgNode) -> float:
    """As :func:`max_ratio_in_training`, of the resizing in tests."""
    return 2 * cfg.INPUT.MAX_SIZE_TEST


def _flip(direction: str) -> list[T.Augmentation]:
    if direction == "none":
        return []
    if direction not in ("horizontal", "vertical"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP: expected 'horizontal', 'vertical' or 'none', got {direction!r}"
        )
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]


def _crop_by_category(cfg: CfgNode) -> T.Augmentation:
    crop = cfg.INPUT.CROP
    return T.RandomCrop_CategoryAreaConstraint(
        crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    )
