"""Mask2Former for video instance segmentation (Cheng et al., 2021).

Importing this package registers its modules and the data sets with Detectron2.
"""

import mask2former  # noqa: F401 registers the head and the pixel decoders
from mask2former_video import evaluation, mapper, ytvis  # noqa: F401 register themselves
from mask2former_video.config import add_mask2former_video_config
from mask2former_video.meta_arch import VideoMaskFormer
from mask2former_video.transformer_decoder import VideoMultiScaleMaskedTransformerDecoder

__all__ = [
    "VideoMaskFormer",
    "VideoMultiScaleMaskedTransformerDecoder",
    "add_mask2former_video_config",
]
