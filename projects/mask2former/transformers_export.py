"""Mask2Former of ours as ``Mask2FormerForUniversalSegmentation`` of the Transformers library."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from mask2former.transformers_names import to_transformers
from segcore.checkpoint.transformers import EXPORTERS, TransformersModel
from segcore.errors import ConfigError

STAGES = ["stage1", "stage2", "stage3", "stage4"]
FEEDFORWARD = "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1.weight"
BILINEAR = 2  # of Pillow


def transformers_model(
    state: Mapping[str, Tensor], cfg: CfgNode, class_names: Sequence[str]
) -> TransformersModel:
    """Convert a model with a ResNet or Swin backbone.

    Raises:
        ConfigError: the backbone is another.
        CheckpointError: an entry of ``state`` has no place in their model.
    """
    head, mask_former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    config = {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        "backbone_config": _backbone_config(state, cfg),
        "feature_size": head.CONVS_DIM,
        "mask_feature_size": head.MASK_DIM,
        "common_stride": head.COMMON_STRIDE,
        "ignore_value": head.IGNORE_VALUE,
        "encoder_layers": head.TRANSFORMER_ENC_LAYERS,
        "encoder_feedforward_dim": len(state[FEEDFORWARD]),
        "hidden_dim": mask_former.HIDDEN_DIM,
        "num_attention_heads": mask_former.NHEADS,
        "num_queries": mask_former.NUM_OBJECT_QUERIES,
        "decoder_layers": mask_former.DEC_LAYERS,
        "dim_feedforward": mask_former.DIM_FEEDFORWARD,
        "dropout": mask_former.DROPOUT,
        "pre_norm": mask_former.PRE_NORM,
        "enforce_input_projection": mask_former.ENFORCE_INPUT_PROJ,
        "use_auxiliary_loss": mask_former.DEEP_SUPERVISION,
        "no_object_weight": mask_former.NO_OBJECT_WEIGHT,
        "class_weight": mask_former.CLASS_WEIGHT,
        "mask_weight": mask_former.MASK_WEIGHT,
        "dice_weight": mask_former.DICE_WEIGHT,
        "train_num_points": mask_former.TRAIN_NUM_POINTS,
        "oversample_ratio": mask_former.OVERSAMPLE_RATIO,
        "importance_sample_ratio": mask_former.IMPORTANCE_SAMPLE_RATIO,
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: index for index, name in enumerate(class_names)},
    }
    return TransformersModel(to_transformers(state), config, _preprocessor_config(cfg))


EXPORTERS.register("MaskFormer", transformers_model)


def _backbone_config(state: Mapping[str, Tensor], cfg: CfgNode) -> dict[str, Any]:
    match cfg.MODEL.BACKBONE.NAME:
        case "D2SwinTransformer":
            return _swin_config(cfg.MODEL.SWIN)
        case "build_resnet_backbone":
            return _resnet_config(state, cfg.MODEL.RESNETS)
        case name:
            raise ConfigError(
                "MODEL.BACKBONE.NAME: expected D2SwinTransformer or build_resnet_backbone, which "
                f"Mask2Former of Transformers can have, got {name}"
            )


def _swin_config(swin: CfgNode) -> dict[str, Any]:
    return {
        "model_type": "swin",
        "image_size": swin.PRETRAIN_IMG_SIZE,
        "patch_size": swin.PATCH_SIZE,
        "embed_dim": swin.EMBED_DIM,
        "depths": swin.DEPTHS,
        "num_heads": swin.NUM_HEADS,
        "window_size": swin.WINDOW_SIZE,
        "mlp_ratio": swin.MLP_RATIO,
        "qkv_bias": swin.QKV_BIAS,
        "drop_path_rate": swin.DROP_PATH_RATE,
        "out_features": STAGES,
    }


def _resnet_config(state: Mapping[str, Tensor], resnets: CfgNode) -> dict[str, Any]:
    blocks = [
        {
            int(match[1])
            for name in state
            if (match := re.match(rf"backbone\.res{s}\.(\d+)\.", name))
        }
        for s in range(2, 6)
    ]
    has_bottlenecks = "backbone.res2.0.conv3.weight" in state
    last = "conv3" if has_bottlenecks else "conv2"
    return {
        "model_type": "resnet",
        "embedding_size": resnets.STEM_OUT_CHANNELS,
        "hidden_sizes": [len(state[f"backbone.res{s}.0.{last}.weight"]) for s in range(2, 6)],
        "depths": [len(indices) for indices in blocks],
        "layer_type": "bottleneck" if has_bottlenecks else "basic",
        "downsample_in_bottleneck": resnets.STRIDE_IN_1X1,
        "out_features": STAGES,
    }


def _preprocessor_config(cfg: CfgNode) -> dict[str, Any]:
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": cfg.INPUT.MIN_SIZE_TEST, "longest_edge": cfg.INPUT.MAX_SIZE_TEST},
        "size_divisor": 32,
        "resample": BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in cfg.MODEL.PIXEL_MEAN],
        "image_std": [value / 255 for value in cfg.MODEL.PIXEL_STD],
        "ignore_index": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        "do_reduce_labels": False,
    }
