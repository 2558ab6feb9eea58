"""segcore.Predictor with an image classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.modeling import build_model
from PIL import Image

import segcore
from segcore.checkpoint import SafeCheckpointer
from segcore.config import get_cfg
from segcore.data.mappers import build_test_mapper
from segcore.errors import ConfigError
from small_models import SMALL_MODELS

pytest.importorskip("timm")

CONFIG = Path(__file__).resolve().parents[3] / "configs/imagenet/classification/aff_mini.yaml"
CLASSES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """Made of the output folder of a training, as train_net.py leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    options = {**SMALL_MODELS, "INPUT.IMAGE_SIZE": 32, "MODEL.CLASSIFIER.NUM_CLASSES": 3}
    cfg.merge_from_list([part for pair in options.items() for part in pair])
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    metadata = Metadata(name="colors").set(classes=CLASSES)
    model = build_model(cfg)
    SafeCheckpointer(model, str(folder), metadata=metadata, config=cfg).save("model_final")
    return segcore.Predictor(folder, device="cpu")


def test_logits_are_those_of_evaluation(predictor, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    evaluated = build_test_mapper(predictor.cfg)({"file_name": str(path), "class_id": 0})
    with torch.no_grad():
        (expected,) = predictor.model([evaluated])
    photos = [path, pixels[:, :, ::-1], Image.open(path)]
    for photo in photos:
        result = predictor(photo)
        assert result.keys() == {"class_logits"}
        assert torch.equal(result["class_logits"], expected["class_logits"])
    for result in predictor(photos):  # a batch, whose sums have another order
        torch.testing.assert_close(result["class_logits"], expected["class_logits"])
    assert expected["class_logits"].shape == (3,)


def test_classes_come_from_the_checkpoint(predictor):
    assert predictor.metadata.classes == CLASSES
    assert predictor.cfg.MODEL.CLASSIFIER.NUM_CLASSES == 3


def test_there_are_no_segments(predictor):
    with pytest.raises(ConfigError, match="expected a model that segments images, got Auto"):
        predictor.predict_compact(np.zeros((32, 32, 3), np.uint8))
