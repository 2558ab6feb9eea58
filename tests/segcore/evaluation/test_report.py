"""``TEST.REPORT``: the page that evaluators write."""

import logging
from pathlib import Path

import pytest
import torch

from segcore.evaluation import build_evaluator

from .conftest import empty_output, evaluate, perfect_output


@pytest.mark.parametrize("kind", ["segcore", "panopticapi"])
def test_page_is_written_and_results_stay_the_same(dataset, config, tmp_path: Path, kind: str):
    cfg = config("semantic", "panoptic")
    cfg.TEST.PANOPTIC_EVALUATOR = kind
    plain = evaluate(build_evaluator(cfg, dataset), perfect_output)
    cfg.TEST.REPORT = True
    assert evaluate(build_evaluator(cfg, dataset), perfect_output) == plain
    page = Path(cfg.OUTPUT_DIR, "report.html").read_text()
    assert all(name in page for name in ("Panoptic", "Semantic segmentation", "mIoU", "grass"))
    assert ("<h2>Confusion" in page) == (kind == "segcore")


def test_nothing_found_on_photos_that_are_not_there(dataset, config):
    cfg = config("panoptic")
    cfg.TEST.REPORT = True
    cfg.DATASETS.TEST = (dataset, dataset)
    evaluate(build_evaluator(cfg, dataset), empty_output)
    page = Path(cfg.OUTPUT_DIR, f"report_{dataset}.html").read_text()
    assert page.count('"picture":null') == 2


def test_scores_come_from_the_semantic_result(dataset, config):
    """Unless the segments have their own."""
    cfg = config("panoptic")
    cfg.TEST.REPORT = True
    evaluator = build_evaluator(cfg, dataset, str(Path(cfg.OUTPUT_DIR, "other")))

    def output(number):
        result = perfect_output(number)
        result["sem_seg"] *= 0.25
        if number == 1:
            for info in result["panoptic_seg"][1]:
                info["score"] = 0.75
        return result

    evaluate(evaluator, output)
    photos = evaluator._evaluators[0].photos
    scores = [[segment["score"] for segment in photo.predicted_segments] for photo in photos]
    assert scores == [[0.25] * 3, [0.75] * 3]
    assert Path(cfg.OUTPUT_DIR, "other", "report.html").exists()


def test_page_that_cannot_be_written_ends_no_training(dataset, config, caplog):
    cfg = config("panoptic")
    cfg.TEST.REPORT = True
    Path(cfg.OUTPUT_DIR, "report.html").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        results = evaluate(build_evaluator(cfg, dataset), perfect_output)
    assert results["panoptic_seg"]["PQ"] == 100
    assert "no report" in caplog.text


def test_labels_without_segments_have_pictures(dataset, config):
    cfg = config("panoptic")
    cfg.TEST.REPORT = True

    def output(number):
        ids, segments = perfect_output(number)["panoptic_seg"]
        labels = torch.full_like(ids, -1)
        for segment in segments:
            labels[ids == segment["id"]] = segment["category_id"] * 1000 + segment["id"]
        return {"panoptic_seg": (labels, None)}

    evaluator = build_evaluator(cfg, dataset)
    evaluate(evaluator, output)
    states = {s["state"] for s in evaluator._evaluators[0].photos[0].predicted_segments}
    assert states == {"matched"}
