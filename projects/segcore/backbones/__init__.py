"""Backbones beyond Detectron2's; importing this package registers them."""

import segcore.backbones.timm_hub  # noqa: F401 registers its paths
from segcore.backbones.pvt_v2 import PyramidVisionTransformerV2
from segcore.backbones.swin import D2SwinTransformer
from segcore.backbones.timm_features import TimmBackbone
from segcore.backbones.timm_vit_pyramid import TimmViTPyramid

__all__ = ["D2SwinTransformer", "PyramidVisionTransformerV2", "TimmBackbone", "TimmViTPyramid"]
