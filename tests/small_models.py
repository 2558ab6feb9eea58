"""Settings that make the systems of this repository small, for tests of whole programs."""

from torch import nn

SMALL_MODELS = {
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 32,
    "MODEL.MASK_FORMER.DEC_LAYERS": 2,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 8,
    "MODEL.AFF.EMBED_DIM": [16, 16, 32, 32],
    "MODEL.AFF.DEPTHS": [1, 1, 1, 1],
    "MODEL.AFF.NUM_HEADS": [1, 1, 2, 2],
    "MODEL.PANOPTIC_SEGFORMER.HIDDEN_DIM": 32,
    "MODEL.PANOPTIC_SEGFORMER.NHEADS": 4,
    "MODEL.PANOPTIC_SEGFORMER.DIM_FEEDFORWARD": 32,
    "MODEL.PANOPTIC_SEGFORMER.ENC_LAYERS": 1,
    "MODEL.PANOPTIC_SEGFORMER.LOCATION_LAYERS": 2,
    "MODEL.PANOPTIC_SEGFORMER.THING_MASK_LAYERS": 1,
    "MODEL.PANOPTIC_SEGFORMER.STUFF_MASK_LAYERS": 1,
    "MODEL.PANOPTIC_SEGFORMER.NUM_THING_QUERIES": 8,
    "MODEL.EOMT.VIT.ARGUMENTS": [["embed_dim", 32], ["depth", 2], ["num_heads", 2]],
    "MODEL.EOMT.NUM_OBJECT_QUERIES": 8,
}


def keep_first_layers(head: nn.Module) -> None:
    """Keep the first layer of each transformer of a ``MaskFormerHead``."""
    for layers in (
        head.pixel_decoder.transformer.encoder.layers,
        head.predictor.transformer_cross_attention_layers,
        head.predictor.transformer_self_attention_layers,
        head.predictor.transformer_ffn_layers,
    ):
        del layers[1:]
