"""Keys that all projects share, with their defaults; ``values.py`` has their rules."""

from detectron2.config import CfgNode


def add_segcore_config(cfg: CfgNode) -> None:
    """Add the keys that all projects share, in place."""
    _add_deeplab_keys(cfg)
    _add_input_keys(cfg)
    _add_swin_keys(cfg)
    _add_pvt_keys(cfg)
    _add_timm_keys(cfg)
    _add_custom_data_keys(cfg)
    _add_merging_keys(cfg)
    _add_finetuning_keys(cfg)

    # Train with torch.use_deterministic_algorithms: equal runs on a GPU to the bit, but slower; an
    # operation of PyTorch that has no deterministic form raises an error.
    cfg.DETERMINISTIC = False
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # Pairs [part of a parameter's name, factor of its learning rate], such as
    # ["sampling_offsets", 0.1]; the first that fits counts, also before BACKBONE_MULTIPLIER.
    cfg.SOLVER.LR_MULTIPLIERS = []
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.0
    # For position biases and absolute position encodings of a backbone, not nn.Embedding.
    cfg.SOLVER.WEIGHT_DECAY_POSITION = 0.0
    # Gradient accumulation: number of micro-batches of a process in one optimizer step.
    cfg.SOLVER.ACCUMULATE = 1
    # Keep the optimizer's state of a parameter in one of the processes of a job only.
    cfg.SOLVER.SHARDED_OPTIMIZER = False
    # For biases and other parameters of one dimension; None: by the rules for all parameters.
    cfg.SOLVER.WEIGHT_DECAY_1D = None
    # Final learning rate of "WarmupCosineLR"; Detectron2's main has the same key.
    cfg.SOLVER.BASE_LR_END = 0.0
    # Type of autocast on a GPU: "float16" (with loss scaling) or "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "float16"
    # On a CPU, SOLVER.AMP.ENABLED means float32 unless this is set too.
    cfg.SOLVER.AMP.CPU_BFLOAT16 = False
    # Autocast of the pixel decoders, too, which the official code leaves in float32.
    cfg.SOLVER.AMP.PIXEL_DECODER = False
    # Share of the images for "RandomSubsetTrainingSampler"; Detectron2's main has the same key.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0
    # Type of the network's weights in evaluation and prediction: "float32", "bfloat16", or on a
    # GPU "float16".
    cfg.TEST.PRECISION = "float32"
    # Batch size of a process in evaluation.
    cfg.TEST.IMS_PER_BATCH = 1
    # Evaluate and predict although weights are missing in the checkpoint, or its classes differ.
    cfg.TEST.ALLOW_MISSING_WEIGHTS = False
    # Who counts panoptic quality: "segcore", or "panopticapi", slower with equal results.
    cfg.TEST.PANOPTIC_EVALUATOR = "segcore"
    # Keep panoptic predictions as PNGs and JSON, the form of submissions to COCO.
    cfg.TEST.SAVE_PANOPTIC = False
    cfg.TEST.BOUNDARY_AP = False
    cfg.TEST.BOUNDARY_PQ = False
    # Write OUTPUT_DIR/report.html after each evaluation.
    cfg.TEST.REPORT = True


def _add_deeplab_keys(cfg: CfgNode) -> None:
    """Add the keys of detectron2.projects.deeplab, often absent, that official YAML files set."""
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    head = cfg.MODEL.SEM_SEG_HEAD
    head.LOSS_TYPE = "hard_pixel_mining"
    head.PROJECT_FEATURES = ["res2"]
    head.PROJECT_CHANNELS = [48]
    head.ASPP_CHANNELS = 256
    head.ASPP_DILATIONS = [6, 12, 18]
    head.ASPP_DROPOUT = 0.1
    head.USE_DEPTHWISE_SEPARABLE_CONV = False
    cfg.MODEL.RESNETS.RES4_DILATION = 1
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 2, 4]
    cfg.MODEL.RESNETS.STEM_TYPE = "deeplab"


def _add_input_keys(cfg: CfgNode) -> None:
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_semantic"
    cfg.INPUT.COLOR_AUG_SSD = False
    # Images with more pixels are refused, in training, evaluation and prediction.
    cfg.INPUT.MAX_PIXELS = 128_000_000
    # Target height and width of the training image in pixels; -1 leaves the size as it is.
    cfg.INPUT.SIZE_DIVISIBILITY = -1
    # Large-scale jitter: a square of IMAGE_SIZE pixels, scaled by MIN_SCALE to MAX_SCALE.
    cfg.INPUT.IMAGE_SIZE = 1024
    cfg.INPUT.MIN_SCALE = 0.1
    cfg.INPUT.MAX_SCALE = 2.0
    # For "panoptic_segformer": choices for the short edge before the crop, and its longest edge.
    cfg.INPUT.CROP.RESIZE_MIN_SIZES = [400, 500, 600]
    cfg.INPUT.CROP.RESIZE_MAX_SIZE = 4200


def _add_swin_keys(cfg: CfgNode) -> None:
    cfg.MODEL.SWIN = swin = CfgNode()
    swin.PRETRAIN_IMG_SIZE = 224
    swin.PATCH_SIZE = 4
    swin.EMBED_DIM = 96
    swin.DEPTHS = [2, 2, 6, 2]
    swin.NUM_HEADS = [3, 6, 12, 24]
    swin.WINDOW_SIZE = 7
    swin.MLP_RATIO = 4.0
    swin.QKV_BIAS = True
    swin.QK_SCALE = None
    swin.DROP_RATE = 0.0
    swin.ATTN_DROP_RATE = 0.0
    swin.DROP_PATH_RATE = 0.3
    swin.APE = False
    swin.PATCH_NORM = True
    swin.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    swin.USE_CHECKPOINT = False


def _add_pvt_keys(cfg: CfgNode) -> None:
    """Add the keys of PVT v2; lists have one item a stage."""
    cfg.MODEL.PVT = pvt = CfgNode()
    pvt.EMBED_DIMS = [32, 64, 160, 256]
    pvt.NUM_HEADS = [1, 2, 5, 8]
    pvt.MLP_RATIOS = [8, 8, 4, 4]
    pvt.DEPTHS = [2, 2, 2, 2]
    pvt.SR_RATIOS = [8, 4, 2, 1]
    pvt.DROP_PATH_RATE = 0.1
    pvt.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    pvt.USE_CHECKPOINT = False


def _add_timm_keys(cfg: CfgNode) -> None:
    """Add the keys of "TimmBackbone" and "TimmViTPyramid"; weights are ``MODEL.WEIGHTS``."""
    cfg.MODEL.TIMM = timm = CfgNode()
    timm.NAME = "convnext_tiny"
    # Maps that the model returns, by its own count; empty: the last of each stride of 4 to 32.
    timm.OUT_INDICES = []
    # (height, width) that the model is built for; empty: its own.
    timm.IMG_SIZE = []
    # Side of a patch of a plain ViT in pixels; 0: its own.
    timm.PATCH_SIZE = 0
    timm.DROP_PATH_RATE = 0.0
    # In the place of each batch norm; "" leaves them.
    timm.NORM = ""
    timm.USE_CHECKPOINT = False
    timm.PYRAMID_CHANNELS = 256
    timm.ARGUMENTS = []  # pairs [name, value] for the constructor in timm


def _add_custom_data_keys(cfg: CfgNode) -> None:
    """Custom data in COCO panoptic format: image folder, panoptic JSON, folder of panoptic PNGs."""
    cfg.DATASETS.PANOPTIC = CfgNode()
    for split in ("TRAIN", "TEST"):
        cfg.DATASETS.PANOPTIC[split] = CfgNode({"IMAGES": "", "JSON": "", "PNGS": ""})


def _add_merging_keys(cfg: CfgNode) -> None:
    """Add the keys of :class:`segcore.inference.PanopticMerging`."""
    cfg.MODEL.PANOPTIC_MERGING = merging = CfgNode()
    # "mask_wise", "pixel_wise", "mask2former", or "" for the default of the system.
    merging.STRATEGY = ""
    # Mask-wise: least merged score; largest share of a mask that may be taken already.
    merging.QUALITY_THRESHOLD_THINGS = 0.25
    merging.QUALITY_THRESHOLD_STUFF = 0.25
    merging.OVERLAP_THRESHOLD_THINGS = 0.4
    merging.OVERLAP_THRESHOLD_STUFF = 0.2
    # Exponents of class score and mean mask value in the merged score.
    merging.CLASS_EXPONENT = 1.0
    merging.MASK_EXPONENT = 2.0
    # Least mask value of a pixel of the mask.
    merging.MASK_THRESHOLD = 0.5
    # Other strategies: masks with no larger class score are left out. "mask2former": least
    # share of a mask that remains. Mask2Former has MODEL.MASK_FORMER.TEST for both.
    merging.SCORE_THRESHOLD = 0.3
    merging.MIN_VISIBLE_SHARE = 0.8


def _add_finetuning_keys(cfg: CfgNode) -> None:
    # Leading parts of the backbone that are not trained: 1 is its stem, 2 the first stage as well.
    cfg.MODEL.BACKBONE.FREEZE = 0
    # Exponential moving average of the weights, which is evaluated and saved in their place.
    cfg.SOLVER.EMA = CfgNode({"ENABLED": False, "DECAY": 0.999, "WARMUP": 10})
    # model_best.pth: the weights with the best METRIC, such as "sem_seg/mIoU". PATIENCE: the
    # training ends after as many evaluations without a better one; 0 for never.
    cfg.TEST.BEST_CHECKPOINT = CfgNode(
        {"ENABLED": False, "METRIC": "panoptic_seg/PQ", "MODE": "max", "PATIENCE": 0}
    )
