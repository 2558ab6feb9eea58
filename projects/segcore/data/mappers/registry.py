"""Data mappers by the names that ``INPUT.DATASET_MAPPER_NAME`` has for them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.modeling import META_ARCH_REGISTRY

from segcore.data.mappers.augmentation import resize_for_test
from segcore.data.mappers.pixels import PixelTransform, resized_pixels
from segcore.data.mappers.testing import TestMapper
from segcore.registry import NamedRegistry

DEFAULT_MAPPER = "mask_former_semantic"  # of the key

# Dataset dict -> the model's input.
Mapper = Callable[[dict[str, Any]], dict[str, Any]]
Build = TypeVar("Build", bound=Callable[[CfgNode], Mapper])


@dataclass(frozen=True)
class MapperEntry:
    """Builders, from a config, of what makes the model's input of the images of one mapper.

    Attributes:
        train: augments the image and makes the targets.
        test: for evaluation.
        test_pixels: of a photo that belongs to no data set, the "image" that ``test`` makes of its
            file.
    """

    train: Callable[[CfgNode], Mapper]
    test: Callable[[CfgNode], Mapper]
    test_pixels: Callable[[CfgNode], PixelTransform]


MAPPERS: NamedRegistry[MapperEntry] = NamedRegistry("INPUT.DATASET_MAPPER_NAME")


def register_mapper(
    name: str,
    *,
    test_resize: Callable[[CfgNode], T.Augmentation] = resize_for_test,
    test: Callable[[CfgNode], Mapper] | None = None,
    test_pixels: Callable[[CfgNode], PixelTransform] | None = None,
) -> Callable[[Build], Build]:
    """Decorate a training mapper, or a function that builds one from a config.

    Args:
        name: for ``INPUT.DATASET_MAPPER_NAME``.
        test_resize: resizes photos in evaluation and prediction.
        test, test_pixels: replace what is made with ``test_resize``; both, as the model must get
            the same pixels in evaluation and in prediction.

    Raises:
        ValueError: the name is taken; one of ``test`` and ``test_pixels`` is missing.
    """
    if (test is None) != (test_pixels is None):
        raise ValueError(f"mapper {name!r}: expected both of test and test_pixels, or none")

    def register(train: Build) -> Build:
        pixels = test_pixels or partial(resized_pixels, resize=test_resize)
        entry = MapperEntry(train, test or partial(_test_mapper, build_pixels=pixels), pixels)
        MAPPERS.register(name, entry)
        return train

    return register


def mapper_entry(cfg: CfgNode) -> MapperEntry:
    """Return the mapper that ``INPUT.DATASET_MAPPER_NAME`` names.

    A model may have a ``default_mapper``, which stands for the default of the key: official files
    of such models leave it out.

    Raises:
        ConfigError: there is none of that name.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name == DEFAULT_MAPPER:
        model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
        name = getattr(model, "default_mapper", name)
    return MAPPERS.find(name)


def build_train_mapper(cfg: CfgNode) -> Mapper:
    """Build the mapper that ``INPUT.DATASET_MAPPER_NAME`` names, see :func:`mapper_entry`.

    Raises:
        ConfigError: there is none of that name.
    """
    return mapper_entry(cfg).train(cfg)


def build_test_mapper(cfg: CfgNode) -> Mapper:
    """Build the mapper for evaluation that belongs to the one for training."""
    return mapper_entry(cfg).test(cfg)


def build_test_pixels(cfg: CfgNode) -> PixelTransform:
    """Build what makes of a photo the "image" that the mapper for evaluation makes of its file."""
    return mapper_entry(cfg).test_pixels(cfg)


def _test_mapper(cfg: CfgNode, build_pixels: Callable[[CfgNode], PixelTransform]) -> TestMapper:
    return TestMapper(cfg, pixels=build_pixels(cfg))
