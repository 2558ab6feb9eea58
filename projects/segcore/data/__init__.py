"""Data: data sets (registered by this import), training mappers, custom data, quickstart."""

from segcore.requirements import require_detectron2, require_panopticapi

require_detectron2()
require_panopticapi()

from segcore.data import datasets  # noqa: F401 registers them
from segcore.data.mappers import build_train_mapper

__all__ = ["build_train_mapper"]
