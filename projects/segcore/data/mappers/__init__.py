"""Mappers, dataset dict -> the model's input, in a registry that systems add to."""

from segcore.data.mappers import lsj, resize_crop  # noqa: F401 registers them
from segcore.data.mappers.registry import (
    MAPPERS,
    MapperEntry,
    build_test_mapper,
    build_test_pixels,
    build_train_mapper,
    register_mapper,
)

__all__ = [
    "MAPPERS",
    "MapperEntry",
    "build_test_mapper",
    "build_test_pixels",
    "build_train_mapper",
    "register_mapper",
]
