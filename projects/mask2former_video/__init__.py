"""Mask2Former for video instance segmentation (Cheng et al., 2021).

Importing this package registers its modules and the data sets with Detectron2.
"""

import mask2former  # noqa: F401 registers the head and the pixel decoders
from mask2former_video import evaluation, mapper, ytvis  # noqa: F401 register themselves
from mask2former_video.config import add_mask2former_video_config
from mask2former_video.custom_data import (
    are_videos_set,
    check_videos,
    setup_videos,
)
from mask2former_video.meta_arch import VideoMaskFormer
from mask2former_video.quickstart import QUICKSTART_DATA
from mask2former_video.transformer_decoder import VideoMultiScaleMaskedTransformerDecoder
from segcore.data.kinds import DATA_KINDS, DataKind
from segcore.quickstart import register_quickstart

__all__ = [
    "VideoMaskFormer",
    "VideoMultiScaleMaskedTransformerDecoder",
    "add_mask2former_video_config",
]

DATA_KINDS.register(
    "DATASETS.VIDEO",
    DataKind(is_set=are_videos_set, set_up=setup_videos, check=check_videos),
)

register_quickstart(
    "mask2former_video", "configs/quickstart/mask2former_video_R18.yaml", data=QUICKSTART_DATA
)
