"""Panoptic SegFormer (Li et al., CVPR 2022): things and stuff by queries of their own.

Importing this package registers its modules with Detectron2.
"""

from panoptic_segformer.config import add_panoptic_segformer_config

__all__ = ["add_panoptic_segformer_config"]
