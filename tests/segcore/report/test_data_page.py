"""The page of ``--check-data`` and the configuration that it suggests."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from segcore.config import get_cfg, load_config
from segcore.data import quickstart
from segcore.data.derived import PanopticSource
from segcore.data.panoptic_format import read_panoptic_json, read_panoptic_png
from segcore.data.report import ClassCount, Problem, Report
from segcore.errors import DataError
from segcore.report import suggestion as suggestion_module
from segcore.report.data_page import report_on_data
from segcore.report.data_statistics import SplitStatistics, split_statistics, touching_segments
from segcore.report.suggestion import given_keys, suggest, write_suggestion
from segcore.report.training_cost import TrainingCost, training_size

from .conftest import HOSTILE

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = str(ROOT / "configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml")
CATEGORIES = [{"id": 1, "name": "sky", "isthing": 0}, {"id": 2, "name": "ant", "isthing": 1}]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> PanopticSource:
    root = tmp_path_factory.mktemp("drawn")
    quickstart.generate(root, seed=3, num_train=5, num_val=1, size=(48, 64))
    folder = root / "train"
    return PanopticSource(folder / "images", folder / "panoptic.json", folder / "panoptic")


def test_touching_is_of_neighbors_of_one_group():
    located = np.array([[0, 0, 1, 1], [4, 4, 4, 4], [2, 2, 3, 3]])  # 4: no segment
    assert touching_segments(located, np.array([5, 5, 5, 5])).all()
    assert touching_segments(located, np.array([5, 6, 7, 7])).tolist() == [False, False, True, True]
    assert not touching_segments(located, np.array([-1, -1, 0, 1])).any()
    assert touching_segments(located.T, np.array([5, 5, 0, 1])).tolist() == [True, True, 0, 0]


def test_statistics_are_those_of_the_pixels(source):
    data = read_panoptic_json(source.json)
    statistics = split_statistics(source)
    assert statistics.num_measured == len(statistics.shown) == 5
    assert statistics.sizes.tolist() == [[48, 64]] * 5
    annotation = data["annotations"][0]
    ids = read_panoptic_png(source.pngs / annotation["file_name"])
    areas = [int((ids == segment["id"]).sum()) for segment in annotation["segments_info"]]
    assert statistics.areas[: len(areas)].tolist() == areas
    assert statistics.areas.sum() == 5 * 48 * 64 * (1 - statistics.unlabeled_share)
    sky = quickstart.CATEGORY_ID["sky"]
    with_sky = [
        any(s["category_id"] == sky for s in a["segments_info"]) for a in data["annotations"]
    ]
    assert statistics.photos_with[[c["id"] for c in data["categories"]].index(sky)] == sum(with_sky)


def test_page_of_faulty_data_names_the_faults(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    problems = [Problem("broken <i>", f"{n}.png", "is broken") for n in range(7)]
    problems.append(Problem("odd", "x.png", "is odd", is_error=False))
    report = Report("<b>.json", problems, [ClassCount(HOSTILE, True, 3)], split="TRAIN")
    with pytest.raises(DataError, match=r"--suggest-config: expected .* without errors"):
        report_on_data(cfg, [report], suggestion=str(tmp_path / "x.yaml"))
    page = (tmp_path / "data.html").read_text()
    assert not (tmp_path / "x.yaml").exists()
    assert "broken &lt;i&gt;" in page and "and 2 more" in page and "x.png: is odd" in page
    assert HOSTILE not in page and "<b>.json" not in page
    assert page.count("<script") == 2


def photos(count: int, side: int, area: int) -> SplitStatistics:
    sizes = np.tile([[side // 2, side]], (count, 1))
    areas, classes = np.full(count, area), np.ones(count, int)
    return SplitStatistics(
        CATEGORIES, sizes, np.array([0, count]), count, areas, classes, areas < 0, 0.0, []
    )


@pytest.fixture
def published():
    return load_config(PUBLISHED, [])


@pytest.fixture
def free_gibibytes(monkeypatch):
    """Set the memory that is free."""
    return lambda gibibytes: monkeypatch.setattr(
        suggestion_module, "available_memory", lambda device: gibibytes * 2**30
    )


def cost(size=(1024, 1024)) -> TrainingCost:
    """A GiB for the model, another for each 1024 x 1024 image, and a second for it."""
    pixels = 256.0**2, 512.0**2
    shares = [count / 2**20 for count in pixels]
    memory = tuple(2**30 * (1 + share) for share in shares)
    return TrainingCost("cpu", size, pixels, tuple(shares), memory, 0)


def test_cost_is_linear_in_images_and_pixels():
    assert cost().seconds_of_iteration(4) == pytest.approx(4)
    assert cost().memory_of(3) == pytest.approx(4 * 2**30)
    assert cost().memory_of(2, 512**2) == pytest.approx(1.5 * 2**30)


def test_training_size_is_that_of_the_mapper():
    cfg = get_cfg()
    cfg.INPUT.DATASET_MAPPER_NAME, cfg.INPUT.IMAGE_SIZE = "coco_panoptic_lsj", 96
    assert training_size(cfg, (40, 200)) == (96, 96)
    cfg.INPUT.DATASET_MAPPER_NAME = "panoptic_segformer"
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (50,), 120
    assert training_size(cfg, (40, 200)) == (24, 120)


def test_small_photos_on_a_small_machine(published, free_gibibytes):
    free_gibibytes(4.0)
    proposed = suggest(published, photos(240, 500, 5000), cost(), evaluates=True)
    values = proposed.values
    assert values["INPUT.IMAGE_SIZE"] == 512
    assert values["INPUT.MIN_SIZE_TEST"] == 384 and values["INPUT.MAX_SIZE_TEST"] == 672
    # 1 + 0.25 GiB an image in 0.7 x 4 GiB.
    assert values["SOLVER.IMS_PER_BATCH"] == 4
    assert values["SOLVER.BASE_LR"] == pytest.approx(0.0001 / 4)
    assert values["SOLVER.MAX_ITER"] == 240 * 50 / 4
    assert values["SOLVER.STEPS"] == [2667, 2889]
    assert values["TEST.EVAL_PERIOD"] == values["SOLVER.CHECKPOINT_PERIOD"] == 300
    assert proposed.seconds == pytest.approx(3000 * 4 * 0.25)


def test_schedules_of_other_systems_are_left_out():
    config = str(ROOT / "configs/finetune/eomt.yaml")
    cfg, training = load_config(config, []), photos(240, 500, 5000)
    proposed = suggest(cfg, training, None, evaluates=False, given=given_keys(config, []))
    shorter = proposed.values["SOLVER.MAX_ITER"] / cfg.SOLVER.MAX_ITER
    assert proposed.values["SOLVER.WARMUP_STAGES"] == [round(200 * shorter), round(400 * shorter)]
    given = given_keys("", ["SOLVER.MAX_ITER", "9"])
    assert given == {"SOLVER.MAX_ITER"}
    values = suggest(cfg, training, None, evaluates=False, given=given).values
    assert "SOLVER.WARMUP_STAGES" not in values and "SOLVER.WARMUP_ITERS" in values


def test_many_large_photos_on_a_large_machine_keep_the_recipe(published, free_gibibytes):
    free_gibibytes(math.nan)
    values = suggest(published, photos(118_000, 2000, 50_000), cost(), evaluates=False).values
    assert "INPUT.IMAGE_SIZE" not in values and "SOLVER.BASE_LR" not in values
    assert values["SOLVER.IMS_PER_BATCH"] == 16
    assert values["SOLVER.MAX_ITER"] == published.SOLVER.MAX_ITER
    assert values["TEST.EVAL_PERIOD"] == 0


def test_small_things_get_more_pixels_and_few_photos_small_batches(published):
    values = suggest(published, photos(3, 500, 500), None, evaluates=True).values
    assert values["INPUT.IMAGE_SIZE"] == 768
    assert values["SOLVER.IMS_PER_BATCH"] == 2


def test_suggestion_keeps_what_was_given(tmp_path):
    opts = ["DATASETS.PANOPTIC.TRAIN.IMAGES", "fotos", "MODEL.WEIGHTS", "0.5", "SEED", "7"]
    values = {"SOLVER.MAX_ITER": 12, "SOLVER.STEPS": [5]}
    proposed = SimpleNamespace(values=values, reasons=["few photos"])
    write_suggestion(tmp_path / "x.yaml", proposed, PUBLISHED, opts)
    cfg = load_config(str(tmp_path / "x.yaml"), [])
    assert cfg.SOLVER.MAX_ITER == 12 and cfg.SOLVER.STEPS == (5,) and cfg.SEED == 7
    assert cfg.MODEL.WEIGHTS == "0.5"
    assert cfg.DATASETS.PANOPTIC.TRAIN.IMAGES.endswith("/fotos")
    assert cfg.DATASETS.PANOPTIC.TEST.IMAGES == ""
    assert (tmp_path / "x.yaml").read_text().startswith("# Suggested")
