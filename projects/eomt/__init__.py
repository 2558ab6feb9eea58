"""EoMT (Kerssies et al., 2025): a plain ViT that segments, without decoder or adapter.

Importing this package registers its modules and the data sets with Detectron2.
"""

import segcore.data.datasets  # noqa: F401 registers them
from eomt import mapper  # noqa: F401 registers the mappers
from eomt.config import add_eomt_config
from eomt.meta_arch import EoMT
from eomt.network import EncoderOnlyMaskTransformer
from segcore.quickstart import register_quickstart

__all__ = ["EncoderOnlyMaskTransformer", "EoMT", "add_eomt_config"]

register_quickstart("eomt", "configs/quickstart/eomt_tiny.yaml")
