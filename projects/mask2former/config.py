"""Keys of Mask2Former, with the official names and code defaults."""

from detectron2.config import CfgNode


def add_mask2former_config(cfg: CfgNode) -> None:
    """Add ``MODEL.MASK_FORMER`` and the head's keys of ``MODEL.SEM_SEG_HEAD``, in place."""
    cfg.MODEL.MASK_FORMER = mask_former = CfgNode()
    mask_former.DEEP_SUPERVISION = True
    mask_former.NO_OBJECT_WEIGHT = 0.1
    mask_former.CLASS_WEIGHT = 1.0
    mask_former.DICE_WEIGHT = 1.0
    mask_former.MASK_WEIGHT = 20.0

    mask_former.NHEADS = 8
    mask_former.DROPOUT = 0.1
    mask_former.DIM_FEEDFORWARD = 2048
    mask_former.ENC_LAYERS = 0
    # Predictions, one before the first layer included: 10 means 9 layers.
    mask_former.DEC_LAYERS = 6
    mask_former.PRE_NORM = False
    mask_former.HIDDEN_DIM = 256
    mask_former.NUM_OBJECT_QUERIES = 100
    mask_former.TRANSFORMER_IN_FEATURE = "res5"
    mask_former.ENFORCE_INPUT_PROJ = False
    mask_former.SIZE_DIVISIBILITY = 32
    mask_former.TRANSFORMER_DECODER_NAME = "MultiScaleMaskedTransformerDecoder"

    mask_former.TRAIN_NUM_POINTS = 112 * 112
    mask_former.OVERSAMPLE_RATIO = 3.0
    mask_former.IMPORTANCE_SAMPLE_RATIO = 0.75

    mask_former.TEST = CfgNode()
    mask_former.TEST.SEMANTIC_ON = True
    mask_former.TEST.INSTANCE_ON = False
    mask_former.TEST.PANOPTIC_ON = False
    mask_former.TEST.OBJECT_MASK_THRESHOLD = 0.0
    mask_former.TEST.OVERLAP_THRESHOLD = 0.0
    mask_former.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False

    head = cfg.MODEL.SEM_SEG_HEAD
    head.MASK_DIM = 256
    head.TRANSFORMER_ENC_LAYERS = 0
    head.PIXEL_DECODER_NAME = "BasePixelDecoder"
    head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    # Both exist in official files and are read by nothing: 4 points, heads by MASK_FORMER.NHEADS.
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8
