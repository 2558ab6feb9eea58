"""Output folders as trainings leave them, of small models with random weights."""

from pathlib import Path

import torch
from detectron2.data import Metadata
from detectron2.modeling import build_model

from segcore.checkpoint import SafeCheckpointer, use_class_metadata
from segcore.config import get_cfg
from small_models import SMALL_MODELS

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "_base_"
CLASSES = {
    "thing_classes": ["cat", "dog", "sky"],
    "stuff_classes": ["cat", "dog", "sky"],
    "thing_dataset_id_to_contiguous_id": {17: 0, 18: 1},
    "stuff_dataset_id_to_contiguous_id": {17: 0, 18: 1, 187: 2},
}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "INPUT.MIN_SIZE_TEST": 40,
    "INPUT.MAX_SIZE_TEST": 64,
    **SMALL_MODELS,
}
SYSTEMS = {
    "mask2former": ("mask2former_small.yaml", {}),
    "autofocusformer": ("mask2former_small.yaml", {"MODEL.BACKBONE.NAME": "AutoFocusFormer"}),
    "panoptic_segformer": (
        "panoptic_segformer_small.yaml",
        {"INPUT.DATASET_MAPPER_NAME": "panoptic_segformer"},
    ),
}


def configuration(system: str = "mask2former"):
    base, options = SYSTEMS[system]
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / base))
    cfg.merge_from_list([part for pair in {**SMALL, **options}.items() for part in pair])
    return cfg


def train(folder: Path, system: str = "mask2former") -> Path:
    """The output folder of a training: config.yaml, model_final.pth, last_checkpoint."""
    cfg = configuration(system)
    of_model = cfg.clone()
    metadata = Metadata(name="three_classes").set(**CLASSES)
    use_class_metadata(of_model, metadata, "test_predictor")
    torch.manual_seed(0)
    model = build_model(of_model)
    SafeCheckpointer(model, str(folder), metadata=metadata, config=cfg).save("model_final")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder
