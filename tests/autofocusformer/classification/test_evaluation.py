"""Top-1 and top-5 accuracy."""

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from autofocusformer.classification import AccuracyEvaluator
from segcore.config import get_cfg
from segcore.evaluation import build_evaluator, register_evaluator


def evaluate(logits: torch.Tensor, labels: list[int]) -> dict[str, float]:
    evaluator = AccuracyEvaluator()
    for batch in torch.arange(len(labels)).split(2):
        inputs = [{"class_id": labels[i]} for i in batch]
        evaluator.process(inputs, [{"class_logits": logits[i]} for i in batch])
    return evaluator.evaluate()["classification"]


def test_rank_of_the_right_class():
    """Class 0 has the highest logit of all, class 9 the lowest."""
    logits = -torch.arange(10.0).repeat(5, 1)
    assert evaluate(logits, [0, 1, 4, 5, 9]) == {"top1": 20.0, "top5": 60.0}


def test_few_classes():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert evaluate(logits, [1, 1, 1]) == {"top1": pytest.approx(200 / 3), "top5": 100.0}


def test_reset():
    evaluator = AccuracyEvaluator()
    for right in (False, True):
        evaluator.reset()
        logits = torch.tensor([1.0, 0.0] if right else [0.0, 1.0])
        evaluator.process([{"class_id": 0}], [{"class_logits": logits}])
    assert evaluator.evaluate()["classification"]["top1"] == 100


def test_chosen_by_the_kind_of_data():
    MetadataCatalog.get("few_images").set(evaluator_type="image_classification")
    cfg = get_cfg()
    cfg.TEST.REPORT = False
    try:
        assert isinstance(build_evaluator(cfg, "few_images"), AccuracyEvaluator)
    finally:
        MetadataCatalog.remove("few_images")


def test_type_of_data_is_registered_once():
    for evaluator_type in ("image_classification", "coco_panoptic_seg"):
        with pytest.raises(ValueError, match="is registered already"):
            register_evaluator(evaluator_type, lambda *_: AccuracyEvaluator())


def test_counts_of_all_processes(monkeypatch):
    """Three more images in another process, of which the model has one right."""
    others = (3, {1: 1, 5: 2})
    monkeypatch.setattr(comm, "gather", lambda counts: [counts, others])
    assert evaluate(torch.eye(8)[:1], [0]) == {"top1": 50.0, "top5": 75.0}
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert AccuracyEvaluator().evaluate() is None
