"""Data: data sets (``segcore.data.datasets`` registers them), training mappers, custom data."""

from segcore.requirements import require_detectron2, require_panopticapi

require_detectron2()
require_panopticapi()
