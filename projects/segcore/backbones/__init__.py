"""Backbones beyond Detectron2's; importing this package registers them."""

from segcore.backbones.pvt_v2 import PyramidVisionTransformerV2
from segcore.backbones.swin import D2SwinTransformer

__all__ = ["D2SwinTransformer", "PyramidVisionTransformerV2"]
