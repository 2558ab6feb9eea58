"""The model of a golden case, built from its configuration in neutral words."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

import panoptic_segformer  # noqa: F401  (registers the modules)
from panoptic_segformer.checkpoint_names import rename_official
from parity.golden import GOLDEN_ROOT, Case, fill_model
from parity.mask2former.model import CONFIGS
from segcore.config import get_cfg

NUM_THINGS, NUM_STUFF = 80, 53


def build_model_for_case(case: Case) -> nn.Module:
    """The PanopticSegFormer of a case with its weights, float64, in eval mode, on the CPU."""
    config, model_name = case.info.get("config", {}), case.info["model"]
    model = build_model(case_cfg(config, model_name)).double().eval()
    fill_model(
        model,
        rules=case.info.get("weight_override_rules", []),
        official_names={ours: name for name, ours in official_entries(model_name) if ours},
    )
    return model


def case_cfg(config: dict[str, Any], model: str) -> CfgNode:
    """Our configuration of the published ``model``, with what ``config`` names.

    Official values hold for what the case does not name, and the official treatment of padding;
    dropout and drop path are 0.
    """
    cfg = published_cfg(model)
    cfg.MODEL.SWIN.DROP_PATH_RATE = cfg.MODEL.PVT.DROP_PATH_RATE = 0.0
    things = config.get("num_thing_classes", NUM_THINGS)
    stuff = config.get("num_stuff_classes", NUM_STUFF)
    cfg.DATASETS.TRAIN = (dataset_with_things(things),)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = things + stuff
    cfg.TEST.DETECTIONS_PER_IMAGE = config.get("max_detections", 100)

    segformer = cfg.MODEL.PANOPTIC_SEGFORMER
    segformer.DROPOUT = 0.0
    segformer.OFFICIAL_PADDING = True
    segformer.OFFICIAL_EMPTY_THINGS = config.get("official_empty_things_rule", False)
    keys = {
        "num_thing_queries": "NUM_THING_QUERIES",
        "hidden_dim": "HIDDEN_DIM",
        "feedforward_dim": "DIM_FEEDFORWARD",
        "heads": "NHEADS",
        "encoder_layers": "ENC_LAYERS",
        "decoder_layers": "LOCATION_LAYERS",
        "thing_mask_layers": "THING_MASK_LAYERS",
        "stuff_mask_layers": "STUFF_MASK_LAYERS",
    }
    for word, key in keys.items():
        segformer[key] = config.get(word, segformer[key])
    merging = cfg.MODEL.PANOPTIC_MERGING
    for kind in ("things", "stuff"):
        for what in ("quality", "overlap"):
            key = f"{what}_threshold_{kind}"
            merging[key.upper()] = config.get(key, merging[key.upper()])
    merging.MASK_THRESHOLD = config.get("mask_threshold", merging.MASK_THRESHOLD)
    return cfg


def published_cfg(model: str) -> CfgNode:
    """Our configuration of a published model, on the CPU, without weights."""
    cfg = get_cfg()
    path = CONFIGS / f"coco/panoptic-segmentation/panoptic_segformer_{model}_24e.yaml"
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    return cfg


def official_entries(model: str) -> list[tuple[str, str | None]]:
    """(official name, ours or None) of every entry of a published model."""
    keys = Case(GOLDEN_ROOT / f"panoptic_segformer/keys_{model}.json")
    names = [name for name, _, _ in keys.info]
    renamed = rename_official(names)
    return [(name, renamed.get(name, name)) for name in names]


def dataset_with_things(count: int) -> str:
    """Name of a data set whose first ``count`` classes are things."""
    name = f"parity_{count}_things"
    ids = {i: i for i in range(count)}
    MetadataCatalog.get(name).set(thing_dataset_id_to_contiguous_id=ids)
    return name
