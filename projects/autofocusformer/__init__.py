"""AutoFocusFormer (Ziwen et al., CVPR 2023): attention among tokens that gather where needed.

Importing this package registers its modules with Detectron2. Its segmentation model is that of
Mask2Former with a pixel decoder and a transformer decoder on tokens.
"""

import mask2former  # noqa: F401  (meta-architecture, head, data sets)
from autofocusformer import convert  # noqa: F401 registers it
from autofocusformer.backbone import AutoFocusFormer, AutoFocusFormerTrunk
from autofocusformer.classification import AutoFocusFormerClassifier
from autofocusformer.config import add_autofocusformer_config
from autofocusformer.decoder import PointMaskedTransformerDecoder
from autofocusformer.grid import AutoFocusFormerGrid
from autofocusformer.pixel_decoder import PointPixelDecoder
from autofocusformer.tokens import Tokens
from segcore.quickstart import register_quickstart

__all__ = [
    "AutoFocusFormer",
    "AutoFocusFormerClassifier",
    "AutoFocusFormerGrid",
    "AutoFocusFormerTrunk",
    "PointMaskedTransformerDecoder",
    "PointPixelDecoder",
    "Tokens",
    "add_autofocusformer_config",
]

register_quickstart("autofocusformer", "configs/quickstart/autofocusformer_demo.yaml")
