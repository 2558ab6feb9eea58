"""Mask2Former (Cheng et al., 2022): masked-attention mask transformer for any segmentation task.

Importing this package registers its modules, the backbones and the data sets with Detectron2.
"""

import segcore.backbones
import segcore.data.datasets  # noqa: F401 registers them
from mask2former import transformers_export  # noqa: F401 registers it
from mask2former.config import add_mask2former_config
from mask2former.fpn import BasePixelDecoder, TransformerEncoderPixelDecoder
from mask2former.head import MaskFormerHead
from mask2former.meta_arch import MaskFormer
from mask2former.per_pixel import PerPixelBaselineHead, PerPixelBaselinePlusHead
from mask2former.pixel_decoder import MSDeformAttnPixelDecoder
from mask2former.standard_decoder import StandardTransformerDecoder
from mask2former.transformer_decoder import (
    TRANSFORMER_DECODER_REGISTRY,
    MultiScaleMaskedTransformerDecoder,
)
from segcore.quickstart import register_quickstart

__all__ = [
    "TRANSFORMER_DECODER_REGISTRY",
    "BasePixelDecoder",
    "MSDeformAttnPixelDecoder",
    "MaskFormer",
    "MaskFormerHead",
    "MultiScaleMaskedTransformerDecoder",
    "PerPixelBaselineHead",
    "PerPixelBaselinePlusHead",
    "StandardTransformerDecoder",
    "TransformerEncoderPixelDecoder",
    "add_mask2former_config",
]

register_quickstart("mask2former", "configs/quickstart/mask2former_R18.yaml", is_default=True)
