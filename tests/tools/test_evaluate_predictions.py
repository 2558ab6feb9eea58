"""Files of predictions, evaluated from the command line; values are in tests/parity."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from segcore.errors import DataError
from segcore.evaluation.boundary import boundary_map, mask_boundary
from segcore.evaluation.semantic_pq import semantic_quality

ROOT = Path(__file__).resolve().parents[2]
SIZE = (20, 30)


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tool", ROOT / "tools/evaluate_predictions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rle(mask: np.ndarray) -> dict:
    encoded = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {**encoded, "counts": encoded["counts"].decode()}


def square() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[4:14, 6:20] = True
    return mask


def test_boundary_ap(tool, tmp_path: Path, capsys):
    truth = {
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": rle(square())}
            | {"iscrowd": 0, "area": 140, "bbox": [6, 4, 14, 10]}
        ],
    }
    result = {"image_id": 1, "category_id": 3, "score": 0.9, "segmentation": rle(square())}
    truth_file, results_file = tmp_path / "truth.json", tmp_path / "results.json"
    truth_file.write_text(json.dumps(truth))

    def run(results) -> int:
        results_file.write_text(json.dumps(results))
        return tool.main(["boundary-ap", str(truth_file), str(results_file)])

    assert run([result]) == 0
    assert "| AP50  | 100.00" in capsys.readouterr().out
    assert run([]) == 0
    assert "| AP50  | -" in capsys.readouterr().out
    for wrong, message in (
        ({"a": 1}, "expected a list"),
        ([{"image_id": 1}], "results: expected dicts with image_id"),
        ([result | {"image_id": 9}], "results: expected the image_id of one of the 1 images"),
        ([result | {"segmentation": rle(np.ones((2, 2), bool))}], "expected run lengths of size"),
    ):
        assert run(wrong) == 1
        assert message in capsys.readouterr().err


def test_semantic_pq(tool, tmp_path: Path, capsys):
    Image.fromarray(square().astype(np.uint8)).save(tmp_path / "0.png")
    record = {"file_name": "0.jpg", "sem_seg_file_name": str(tmp_path / "0.png")}
    name = "semantic_pq_test_data"
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(
        stuff_classes=["a", "b"],
        stuff_dataset_id_to_contiguous_id={10: 0, 20: 1},
        ignore_label=255,
    )
    predictions = tmp_path / "predictions.json"
    entry = {"file_name": "0.jpg", "category_id": 20, "segmentation": rle(square())}

    def run(entries, dataset=name) -> int:
        predictions.write_text(json.dumps(entries))
        return tool.main(["semantic-pq", dataset, str(predictions)])

    try:
        assert run([entry]) == 0
        row = capsys.readouterr().out.splitlines()[-1]
        assert [float(cell) for cell in row.strip("|").split("|")] == [100, 100, 100, 100, 2]
        for wrong, message in (
            ([{"file_name": "0.jpg"}], "predictions: expected dicts with file_name"),
            ([entry | {"category_id": 1}], "category_id: expected one of the data set's 2, got 1"),
            ([entry | {"file_name": "1.jpg"}], "such as '0.jpg', got '1.jpg'"),
        ):
            assert run(wrong) == 1
            assert message in capsys.readouterr().err
        assert run([entry], "semantic_pq_test_date") == 1
        assert "did you mean semantic_pq_test_data?" in capsys.readouterr().err
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_segments_of_which_more_than_half_is_void_are_no_mistakes():
    truth = np.zeros((4, 4), np.uint8)
    truth[2:] = 255
    prediction = np.zeros((4, 4), np.uint8)
    prediction[1:, :2] = 1  # two of six pixels are not void
    counts = semantic_quality([(prediction, truth)], ["a", "b"]).panoptic.counts()
    assert counts.fp.tolist() == [0, 0] and counts.tp.tolist() == [1, 0]


def test_wrong_maps():
    maps = np.zeros((2, 2), np.int64)
    with pytest.raises(DataError, match=r"image 0: expected a prediction .* of \(2, 3\)"):
        semantic_quality([(maps, np.zeros((2, 3), np.int64))], ["a"])
    with pytest.raises(DataError, match=r"image 0: prediction: expected classes in \[0, 1\)"):
        semantic_quality([(maps + 1, maps)], ["a"])


@pytest.mark.parametrize("seed", range(3))
def test_boundary_of_a_mask_is_that_of_a_map(seed: int):
    mask = np.random.default_rng(seed).random((37, 23)) < 0.9
    assert np.array_equal(mask_boundary(mask, 0.05), boundary_map(mask.astype(np.uint8), 0.05) > 0)
    assert not mask_boundary(np.zeros((4, 5), bool)).any()
