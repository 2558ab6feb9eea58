"""Panoptic SegFormer (Li et al., CVPR 2022): things and stuff by separate queries.

Importing this package registers its modules, the backbones and the data sets with Detectron2.
"""

import segcore.backbones
import segcore.data.datasets  # noqa: F401 registers them
from panoptic_segformer.config import add_panoptic_segformer_config
from panoptic_segformer.mapper import PanopticSegFormerMapper
from panoptic_segformer.meta_arch import PanopticSegFormer
from segcore.quickstart import register_quickstart

__all__ = ["PanopticSegFormer", "PanopticSegFormerMapper", "add_panoptic_segformer_config"]

register_quickstart("panoptic_segformer", "configs/quickstart/panoptic_segformer_R18.yaml")
