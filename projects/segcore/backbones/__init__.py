"""Backbones beyond Detectron2's; importing this package registers them."""

from segcore.backbones.swin import D2SwinTransformer

__all__ = ["D2SwinTransformer"]
