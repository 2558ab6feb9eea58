"""Keys of AutoFocusFormer, with the official names and code defaults."""

from detectron2.config import CfgNode


def add_autofocusformer_config(cfg: CfgNode) -> None:
    """Add ``MODEL.AFF``, in place; all else is Mask2Former's."""
    cfg.MODEL.AFF = aff = CfgNode()
    aff.EMBED_DIM = [32, 128, 256, 384]
    aff.DEPTHS = [2, 2, 6, 2]
    aff.NUM_HEADS = [3, 6, 12, 24]
    aff.MLP_RATIO = 2.0
    aff.CLUSTER_SIZE = 8
    aff.NBHD_SIZE = [48, 48, 48, 48]
    aff.LAYER_SCALE = 0.0
    # Weight of the importance against the grid, and share of the tokens that a stage keeps.
    aff.ALPHA = 4.0
    aff.DS_RATE = 0.25
    aff.RESERVE = True
    aff.DROP_RATE = 0.0
    aff.ATTN_DROP_RATE = 0.0
    aff.DROP_PATH_RATE = 0.3
    aff.PATCH_NORM = True
    aff.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Of the pixel decoder; acts on the distance, and so halved on the squared distance.
    aff.SHEPARD_POWER = 6.0
    aff.SHEPARD_POWER_LEARNABLE = True
    # Ours: the result of a photo does not depend on the others in its batch. Published weights were
    # trained without.
    aff.PER_IMAGE = False
