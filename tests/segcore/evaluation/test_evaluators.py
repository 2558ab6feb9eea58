"""Evaluators on a data set whose right answers are known."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from PIL import Image

from segcore.errors import DataError
from segcore.evaluation import (
    InstanceSegEvaluator,
    PanopticapiEvaluator,
    PanopticEvaluator,
    SemanticEvaluator,
    build_evaluator,
)
from segcore.evaluation import build as build_module
from segcore.report.comparison import read_report

from .conftest import CATEGORIES, empty_output, evaluate, perfect_output, register


def test_perfect_predictions_score_100(dataset, config, tmp_path: Path):
    evaluator = build_evaluator(config("semantic", "instance", "panoptic"), dataset)
    assert isinstance(evaluator, DatasetEvaluators)
    results = evaluate(evaluator, perfect_output)
    for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st", "PQ-cat", "PQ-grass", "PQ-dog"):
        assert results["panoptic_seg"][name] == pytest.approx(100), name
    for task in ("bbox", "segm"):
        for name in ("AP", "AP50", "AP-cat", "AP-dog"):
            assert results[task][name] == pytest.approx(100), (task, name)
    for name in ("mIoU", "IoU-grass", "IoU-dog", "pACC"):
        assert results["sem_seg"][name] == pytest.approx(100), name

    folder = tmp_path / "output" / "inference"
    written = json.loads((folder / "predictions.json").read_text())["annotations"]
    assert [s["category_id"] for s in written[0]["segments_info"]] == [7, 3, 11]
    boxes = json.loads((folder / "coco_instances_results.json").read_text())
    assert {box["category_id"] for box in boxes} == {3, 11}


def test_empty_predictions(dataset, config):
    evaluator = build_evaluator(config("semantic", "instance", "panoptic"), dataset)
    results = evaluate(evaluator, empty_output)
    assert results["panoptic_seg"]["PQ"] == 0
    assert results["panoptic_seg"]["PQ-dog"] == 0
    assert math.isnan(results["segm"]["AP"])
    assert 0 <= results["sem_seg"]["mIoU"] < 100


def test_boundary_ap_is_one_key_away(dataset, config):
    cfg = config("instance")
    cfg.TEST.BOUNDARY_AP = True
    results = evaluate(build_evaluator(cfg, dataset), perfect_output)
    assert set(results) == {"bbox", "segm", "boundary"}
    assert results["boundary"]["AP"] == results["segm"]["AP"] == pytest.approx(100)
    assert evaluate(build_evaluator(cfg, dataset), empty_output).keys() == results.keys()


def test_boundary_quality_is_one_key_away(dataset, config):
    cfg = config("panoptic")
    plain = evaluate(build_evaluator(cfg, dataset), shifted_output)["panoptic_seg"]
    cfg.TEST.BOUNDARY_PQ = cfg.TEST.REPORT = True
    evaluator = build_evaluator(cfg, dataset)
    results = evaluate(evaluator, shifted_output)["panoptic_seg"]
    assert {name: results[name] for name in plain} == plain
    boundary = {name: value for name, value in results.items() if name not in plain}
    assert boundary.keys() == {f"Boundary{name}" for name in plain}
    assert boundary["BoundaryPQ"] < plain["PQ"]
    assert boundary["BoundaryRQ_st"] == plain["RQ_st"] == 100
    page = read_report(cfg.OUTPUT_DIR)["panoptic"]
    rows = [page["groups"][0]["boundary_pq"], *(row["boundary_pq"] for row in page["classes"])]
    assert rows == [boundary[f"BoundaryPQ{name}"] for name in ("", "-cat", "-grass", "-dog")]


def test_half_right_panoptic_quality(dataset):
    """The dog of each image is taken for a cat: cat has 2 tp and 2 fp, dog has 2 fn."""

    def output(number):
        result = perfect_output(number)
        result["panoptic_seg"][1][2]["category_id"] = 0
        return result

    quality = evaluate(PanopticEvaluator(dataset), output)["panoptic_seg"]
    assert quality["PQ-cat"] == pytest.approx(100 * 2 / 3)
    assert quality["SQ"] == pytest.approx(100 * 2 / 3)  # 1 for cat and grass, 0 for dog
    assert quality["PQ-dog"] == 0
    assert quality["PQ"] == pytest.approx(100 * (2 / 3 + 1) / 3)
    assert quality["PQ_st"] == pytest.approx(100)


def shifted_output(number: int) -> dict:
    ids, segments = perfect_output(number)["panoptic_seg"]
    return {"panoptic_seg": (ids.roll(1, dims=1), segments)}


def test_results_are_those_of_panopticapi(dataset, tmp_path: Path):
    """Shifted masks, against ``pq_compute`` on the same files, and against our use of it."""
    from detectron2.evaluation import COCOPanopticEvaluator

    counted = evaluate(PanopticEvaluator(dataset), shifted_output)["panoptic_seg"]
    reference = evaluate(PanopticapiEvaluator(dataset), shifted_output)["panoptic_seg"]
    theirs = evaluate(COCOPanopticEvaluator(dataset, str(tmp_path)), shifted_output)
    assert 0 < counted["PQ"] < 100
    assert counted == reference
    expected = theirs["panoptic_seg"]
    assert {name: counted[name] for name in expected} == pytest.approx(expected)


def test_panopticapi_is_one_key_away(dataset, config):
    cfg = config("panoptic")
    cfg.TEST.PANOPTIC_EVALUATOR = "panopticapi"
    assert type(build_evaluator(cfg, dataset)) is PanopticapiEvaluator


@pytest.mark.parametrize("kind", ["segcore", "panopticapi"])
def test_saved_predictions_are_read_by_panopticapi(dataset, config, tmp_path: Path, kind: str):
    from panopticapi.evaluation import pq_compute

    cfg = config("panoptic")
    cfg.TEST.PANOPTIC_EVALUATOR, cfg.TEST.SAVE_PANOPTIC = kind, True
    quality = evaluate(build_evaluator(cfg, dataset, str(tmp_path / "out")), shifted_output)
    result = pq_compute(
        str(tmp_path / "panoptic.json"),
        str(tmp_path / "out" / "predictions.json"),
        gt_folder=str(tmp_path),
    )
    assert 100 * result["All"]["pq"] == pytest.approx(quality["panoptic_seg"]["PQ"])


def test_labels_instead_of_segments(dataset):
    """Category * label_divisor + instance, -1 for void, as Panoptic-DeepLab predicts."""

    def output(number):
        ids, segments = perfect_output(number)["panoptic_seg"]
        labels = torch.full_like(ids, -1)
        for segment in segments:
            labels[ids == segment["id"]] = segment["category_id"] * 1000 + segment["id"]
        return {"panoptic_seg": (labels, None)}

    assert evaluate(PanopticEvaluator(dataset), output)["panoptic_seg"]["PQ"] == 100


def test_wrong_prediction_is_refused_with_its_image(dataset):
    evaluator = PanopticEvaluator(dataset)
    evaluator.reset()
    wrong = {"panoptic_seg": (torch.zeros(3, 3, dtype=torch.int32), [])}
    with pytest.raises(ValueError, match=r"image 1: prediction: expected shape \(12, 16\)"):
        evaluator.process([{"image_id": 1, "file_name": "photo_0.jpg"}], [wrong])


@pytest.mark.parametrize(("isthing", "absent"), [(1, "PQ_st"), (0, "PQ_th")])
def test_data_without_things_or_without_stuff(tmp_path: Path, isthing: int, absent: str):
    from detectron2.data import DatasetCatalog

    from .conftest import DATASET

    categories = [category for category in CATEGORIES if category["isthing"] == isthing]
    register(tmp_path, categories)

    def output(number):
        ids, segments = perfect_output(number)["panoptic_seg"]
        segments = [s for s in segments if s["isthing"] == bool(isthing)]
        ids[~torch.isin(ids, torch.tensor([s["id"] for s in segments]))] = 0
        return {"panoptic_seg": (ids, segments)}

    try:
        quality = evaluate(PanopticEvaluator(DATASET), output)["panoptic_seg"]
    finally:
        DatasetCatalog.remove(DATASET)
        MetadataCatalog.remove(DATASET)
    assert quality["PQ"] == pytest.approx(100)
    assert math.isnan(quality[absent])


def test_missing_prediction_is_named(dataset):
    evaluator = PanopticEvaluator(dataset)
    evaluator.reset()
    with pytest.raises(ValueError, match=r"2 of 2 annotated images .* image 1"):
        evaluator.evaluate()


def test_instance_of_a_stuff_class_is_an_error(dataset):
    output = perfect_output(0)
    output["instances"].pred_classes[:] = 1
    evaluator = InstanceSegEvaluator(dataset)
    evaluator.reset()
    with pytest.raises(ValueError, match=r"class 1 .* none of the things .* \[0, 2\]"):
        evaluator.process([{"image_id": 1}], [output])


def test_prediction_is_not_changed(dataset):
    output = perfect_output(0)
    before = output["instances"].pred_classes.clone()
    evaluator = InstanceSegEvaluator(dataset)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [output])
    assert torch.equal(output["instances"].pred_classes, before)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("semantic", SemanticEvaluator),
        ("instance", InstanceSegEvaluator),
        ("panoptic", PanopticEvaluator),
    ],
)
def test_one_task_one_evaluator(dataset, config, task, kind):
    assert type(build_evaluator(config(task), dataset)) is kind


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, r"photo_0_semantic\.png: cannot read the image"),
        (Path.unlink, r"photo_0_semantic\.png"),
        (lambda path: Image.new("L", (3, 2)).save(path), r"expected a semantic map .*\(2, 3\)"),
        (lambda path: Image.new("RGB", (3, 2)).save(path), r"semantic\.png.*\(2, 3, 3\)"),
        (lambda path: Image.new("L", (3, 2)).save(path, "JPEG"), r"semantic\.png.*compression"),
    ],
)
def test_a_damaged_semantic_map_is_named(dataset, tmp_path: Path, spoil, message):
    spoil(tmp_path / "photo_0_semantic.png")
    with pytest.raises(DataError, match=message):
        evaluate(SemanticEvaluator(dataset), perfect_output)


def test_compiled_coco_evaluation_where_detectron2_has_it(dataset, monkeypatch):
    def asked_for(compiled: dict) -> bool:
        monkeypatch.setitem(sys.modules, "detectron2._C", SimpleNamespace(**compiled))
        asked = []
        monkeypatch.setattr(
            COCOEvaluator,
            "__init__",
            lambda self, *args, use_fast_impl, **kwargs: asked.append(use_fast_impl),
        )
        build_module.EVALUATORS["coco"](dataset, None)
        return asked[0]

    assert asked_for({"COCOevalEvaluateImages": None}) is True
    assert asked_for({}) is False


def test_no_task(dataset, config):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        build_evaluator(config(), dataset)


def test_unknown_evaluator_type(config):
    MetadataCatalog.get("evaluation_test_unknown").set(evaluator_type="mystery")
    try:
        with pytest.raises(ValueError, match="evaluator_type 'mystery', expected one of"):
            build_evaluator(config("panoptic"), "evaluation_test_unknown")
    finally:
        MetadataCatalog.remove("evaluation_test_unknown")


def test_absent_ground_truth(dataset, config, tmp_path: Path):
    (tmp_path / "panoptic.json").unlink()
    with pytest.raises(DataError, match=r"panoptic\.json .*\n.*DETECTRON2_DATASETS"):
        build_evaluator(config("panoptic"), dataset)


def test_cityscapes_package_is_named(config, monkeypatch: pytest.MonkeyPatch):
    MetadataCatalog.get("evaluation_test_city").set(evaluator_type="cityscapes_sem_seg")
    monkeypatch.setattr(build_module, "find_spec", lambda name: None)
    try:
        with pytest.raises(ImportError, match=r"panoptic-toolkit\[cityscapes\]"):
            build_evaluator(config("semantic"), "evaluation_test_city")
    finally:
        MetadataCatalog.remove("evaluation_test_city")


def test_cityscapes_on_several_machines(config, monkeypatch: pytest.MonkeyPatch):
    MetadataCatalog.get("evaluation_test_city").set(evaluator_type="cityscapes_instance")
    monkeypatch.setattr(build_module, "find_spec", lambda name: "found")
    monkeypatch.setattr(build_module.comm, "get_world_size", lambda: 16)
    monkeypatch.setattr(build_module.comm, "get_local_size", lambda: 8)
    try:
        with pytest.raises(ValueError, match="one machine only"):
            build_evaluator(config("instance"), "evaluation_test_city")
    finally:
        MetadataCatalog.remove("evaluation_test_city")
