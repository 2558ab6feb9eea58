"""Relations between the config keys of this repository and those it uses of Detectron2."""

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor

from segcore.config.rules import (
    equally_long,
    indivisible_heads,
    list_of,
    number,
    relation,
    unknown_outputs,
)
from segcore.config.values import side


@relation("INPUT")
def _sizes(cfg: CfgNode) -> Iterator[str]:
    inputs = cfg.INPUT
    for split, smallest in (("TRAIN", max(inputs.MIN_SIZE_TRAIN)), ("TEST", inputs.MIN_SIZE_TEST)):
        largest = inputs[f"MAX_SIZE_{split}"]
        if smallest > largest:
            yield (
                f"INPUT.MAX_SIZE_{split}: expected at least INPUT.MIN_SIZE_{split}, "
                f"{smallest}, got {largest}"
            )
    if inputs.MIN_SIZE_TRAIN_SAMPLING == "range" and (
        len(inputs.MIN_SIZE_TRAIN) != 2 or inputs.MIN_SIZE_TRAIN[0] > inputs.MIN_SIZE_TRAIN[1]
    ):
        yield (
            "INPUT.MIN_SIZE_TRAIN: expected (smallest, largest), as "
            f"INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range', got {tuple(inputs.MIN_SIZE_TRAIN)}"
        )
    if inputs.MIN_SCALE > inputs.MAX_SCALE:
        yield (
            f"INPUT.MIN_SCALE: expected at most INPUT.MAX_SCALE, {inputs.MAX_SCALE}, "
            f"got {inputs.MIN_SCALE}"
        )
    if inputs.IMAGE_SIZE**2 > inputs.MAX_PIXELS:
        yield (
            f"INPUT.IMAGE_SIZE: expected a square of at most INPUT.MAX_PIXELS, "
            f"{inputs.MAX_PIXELS}, got {inputs.IMAGE_SIZE}"
        )


@relation("INPUT.CROP")
def _crop(cfg: CfgNode) -> Iterator[str]:
    crop = cfg.INPUT.CROP
    if not crop.ENABLED:
        return
    if crop.TYPE.startswith("relative"):
        rule = list_of(number(0, 1, above=True), 2)
    else:
        rule = list_of(side, 2)
    if fault := rule.fault(crop.SIZE):
        yield f"INPUT.CROP.SIZE: {fault} (INPUT.CROP.TYPE is {crop.TYPE!r})"
    elif crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1]:
        yield f"INPUT.CROP.SIZE: expected [smallest, largest], got {list(crop.SIZE)}"


@relation("SOLVER")
def _schedule(cfg: CfgNode) -> Iterator[str]:
    solver = cfg.SOLVER
    for key in ("ACCUMULATE", "REFERENCE_WORLD_SIZE"):
        if solver[key] and solver.IMS_PER_BATCH % solver[key]:
            yield (
                f"SOLVER.{key}: expected a divisor of SOLVER.IMS_PER_BATCH, "
                f"{solver.IMS_PER_BATCH}, got {solver[key]}"
            )
    if solver.OPTIMIZER == "SGD" and solver.NESTEROV and not solver.MOMENTUM:
        yield "SOLVER.MOMENTUM: expected a number above 0, as SOLVER.NESTEROV is on, got 0"
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        yield (
            f"SOLVER.BASE_LR_END: expected at most SOLVER.BASE_LR, {solver.BASE_LR:g}, "
            f"got {solver.BASE_LR_END:g}"
        )


@relation("TEST.BEST_CHECKPOINT", "TEST.EVAL_PERIOD")
def _best_checkpoint(cfg: CfgNode) -> Iterator[str]:
    if cfg.TEST.BEST_CHECKPOINT.ENABLED and not cfg.TEST.EVAL_PERIOD:
        yield "TEST.EVAL_PERIOD: expected at least 1, as TEST.BEST_CHECKPOINT is enabled, got 0"


@relation("TEST.BOUNDARY_PQ", "TEST.PANOPTIC_EVALUATOR")
def _boundary_quality(cfg: CfgNode) -> Iterator[str]:
    if cfg.TEST.BOUNDARY_PQ and cfg.TEST.PANOPTIC_EVALUATOR != "segcore":
        yield (
            "TEST.PANOPTIC_EVALUATOR: expected 'segcore', as TEST.BOUNDARY_PQ is True, got "
            f"{cfg.TEST.PANOPTIC_EVALUATOR!r}"
        )


@relation("MODEL", "TEST.AUG")
def _results(cfg: CfgNode) -> Iterator[str]:
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    section = getattr(model, "config_section", None)
    switches = cfg.MODEL[section].TEST if section else {}
    if section and not any(switches[f"{task}_ON"] for task in ("SEMANTIC", "INSTANCE", "PANOPTIC")):
        yield (
            f"MODEL.{section}.TEST: expected at least one of SEMANTIC_ON, INSTANCE_ON and "
            "PANOPTIC_ON to be True"
        )
    is_semantic = model is SemanticSegmentor or switches.get("SEMANTIC_ON")
    if cfg.TEST.AUG.ENABLED and not is_semantic:
        yield "TEST.AUG.ENABLED: expected a model with SEMANTIC_ON, whose results alone it is for"


@relation("MODEL.BACKBONE.NAME", "MODEL.FPN", "MODEL.RESNETS")
def _fpn(cfg: CfgNode) -> Iterator[str]:
    used, returned = list(cfg.MODEL.FPN.IN_FEATURES), list(cfg.MODEL.RESNETS.OUT_FEATURES)
    if "fpn" in cfg.MODEL.BACKBONE.NAME and not (used and set(used) <= set(returned)):
        yield (
            f"MODEL.FPN.IN_FEATURES: expected some of MODEL.RESNETS.OUT_FEATURES, {returned}, "
            f"got {used}"
        )


@relation("MODEL.BACKBONE.NAME", "MODEL.RESNETS")
def _resnet(cfg: CfgNode) -> Iterator[str]:
    resnet = cfg.MODEL.RESNETS
    if "resnet" not in cfg.MODEL.BACKBONE.NAME or resnet.DEPTH > 34:
        return
    for key, expected in (("RES2_OUT_CHANNELS", 64), ("RES5_DILATION", 1), ("NUM_GROUPS", 1)):
        if resnet[key] != expected:
            yield (
                f"MODEL.RESNETS.{key}: expected {expected}, as MODEL.RESNETS.DEPTH is "
                f"{resnet.DEPTH}, got {resnet[key]}"
            )
    if any(resnet.DEFORM_ON_PER_STAGE):
        yield (
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE: expected False for each stage, as "
            f"MODEL.RESNETS.DEPTH is {resnet.DEPTH}, got {list(resnet.DEFORM_ON_PER_STAGE)}"
        )


@relation("MODEL.BACKBONE.NAME", "MODEL.SWIN")
def _swin(cfg: CfgNode) -> Iterator[str]:
    swin = cfg.MODEL.SWIN
    if cfg.MODEL.BACKBONE.NAME != "D2SwinTransformer":
        return
    yield from equally_long("MODEL.SWIN", swin, ("DEPTHS", "NUM_HEADS"))
    for stage, heads in enumerate(swin.NUM_HEADS):
        channels = swin.EMBED_DIM * 2**stage
        if channels % heads:
            yield (
                f"MODEL.SWIN.NUM_HEADS: expected a divisor of the {channels} channels of stage "
                f"{stage}, got {heads}"
            )
    yield from unknown_outputs("MODEL.SWIN", swin)


@relation("MODEL.BACKBONE.NAME", "MODEL.PVT")
def _pvt(cfg: CfgNode) -> Iterator[str]:
    if cfg.MODEL.BACKBONE.NAME != "PyramidVisionTransformerV2":
        return
    pvt = cfg.MODEL.PVT
    yield from indivisible_heads("MODEL.PVT", pvt.EMBED_DIMS, pvt.NUM_HEADS)
