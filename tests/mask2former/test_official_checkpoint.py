"""A pickle with official names, through the checkpointer, into a small model."""

import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from segcore.checkpoint import SafeCheckpointer
from segcore.config import get_cfg

CONFIG = Path(__file__).resolve().parents[2] / "configs/_base_/mask2former_small.yaml"
QUERY_FEAT = "sem_seg_head.predictor.query_feat.weight"
STATIC_QUERY = "sem_seg_head.predictor.static_query.weight"


def small_model(num_classes=5, num_queries=8):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES = num_queries
    cfg.DATASETS.TRAIN = ()
    return build_model(cfg)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return small_model()


@pytest.fixture(params=["with versions", "without versions"])
def official(request, model, tmp_path):
    state = model.state_dict()
    arrays = OrderedDict(
        (STATIC_QUERY if name == QUERY_FEAT else name, tensor.numpy())
        for name, tensor in state.items()
    )
    if request.param == "with versions":
        arrays._metadata = state._metadata
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party"}))
    return str(path)


def test_every_entry_is_loaded(model, official):
    other = small_model()
    checkpointer = SafeCheckpointer(other)
    checkpointer.load(official)
    report = checkpointer.report
    assert report.fresh() == report.left_over == []
    assert report.renamed == {STATIC_QUERY: QUERY_FEAT}
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_fine_tuning_with_other_classes_and_queries(official):
    checkpointer = SafeCheckpointer(small_model(num_classes=3, num_queries=6))
    checkpointer.load(official)
    report = checkpointer.report
    assert set(report.other_shape) == {
        QUERY_FEAT,
        "sem_seg_head.predictor.query_embed.weight",
        "sem_seg_head.predictor.class_embed.weight",
        "sem_seg_head.predictor.class_embed.bias",
        "criterion.empty_weight",
    }
    assert report.missing == report.left_over == []
