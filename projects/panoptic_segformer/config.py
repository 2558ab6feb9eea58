"""Keys of Panoptic SegFormer, with the settings of the published configurations."""

from detectron2.config import CfgNode


def add_panoptic_segformer_config(cfg: CfgNode) -> None:
    """Add ``MODEL.PANOPTIC_SEGFORMER``, in place."""
    cfg.MODEL.PANOPTIC_SEGFORMER = segformer = CfgNode()
    segformer.IN_FEATURES = ["res3", "res4", "res5"]
    segformer.HIDDEN_DIM = 256
    segformer.NHEADS = 8
    segformer.DIM_FEEDFORWARD = 1024
    segformer.DROPOUT = 0.1
    segformer.NUM_THING_QUERIES = 300
    segformer.ENC_LAYERS = 6
    segformer.LOCATION_LAYERS = 6
    # Blocks before the tail, which gives the final mask.
    segformer.THING_MASK_LAYERS = 4
    segformer.STUFF_MASK_LAYERS = 6
    # What the location decoder predicts: "box", or "centre", the centre of mass of the mask.
    segformer.LOCATION_TARGET = "box"
    # Batches are padded to a multiple of it.
    segformer.SIZE_DIVISIBILITY = 1
    # As the original: padding takes part in the masks, which are resized without cutting it off.
    segformer.OFFICIAL_PADDING = False
    # As the original: no stuff class loss where no image of a process has a thing.
    segformer.OFFICIAL_EMPTY_THINGS = False
    # Recompute the attention of the mask decoders in the backward pass, to save memory.
    segformer.CHECKPOINT_MASK_DECODERS = False

    segformer.CLASS_WEIGHT = 2.0
    segformer.L1_WEIGHT = 5.0
    segformer.GIOU_WEIGHT = 2.0
    segformer.DICE_WEIGHT = 2.0

    segformer.TEST = CfgNode()
    segformer.TEST.SEMANTIC_ON = True
    segformer.TEST.INSTANCE_ON = True
    segformer.TEST.PANOPTIC_ON = True
