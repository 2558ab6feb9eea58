"""train_net.py from the command line, on a data set drawn on the spot and tiny models."""

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from PIL import Image

from drawn_data import draw_data
from segcore.checkpoint import read_checkpoint, write_checkpoint
from segcore.cli import run_command
from segcore.engine import Trainer
from segcore.engine.logs import package_names
from small_models import SMALL_MODELS

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "configs" / "quickstart"
CONFIG = QUICKSTART / "mask2former_R18.yaml"
TINY = {
    "SEED": 1,
    **SMALL_MODELS,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 64,
    # An untrained model finds something only if it need not be sure.
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.0,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.0,
    "MODEL.PANOPTIC_MERGING.QUALITY_THRESHOLD_THINGS": 0.0,
    "MODEL.PANOPTIC_MERGING.QUALITY_THRESHOLD_STUFF": 0.0,
    "INPUT.IMAGE_SIZE": 64,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": 48,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.STEPS": "(3,)",
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.REPORT": False,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The options that name the data."""
    return draw_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a whole run of Mask2Former."""
    output = tmp_path_factory.mktemp("trained")
    result = run(output, {**data, "TEST.REPORT": True})
    assert result.returncode == 0, result.stdout + result.stderr
    return output


OTHER_SYSTEMS = {
    "autofocusformer_demo": {},
    "eomt_tiny": {  # resumed while the masks of attention go
        "MODEL.EOMT.TRAIN_NUM_POINTS": 64,
        "MODEL.EOMT.ANNEALING.START_STEPS": "(0, 1)",
        "MODEL.EOMT.ANNEALING.END_STEPS": "(4, 5)",
        "MODEL.EOMT.TEST.OBJECT_MASK_THRESHOLD": 0.0,
        "MODEL.EOMT.TEST.OVERLAP_THRESHOLD": 0.0,
        "SOLVER.WARMUP_STAGES": "(1, 0)",
    },
    "panoptic_segformer_R18": {"INPUT.DATASET_MAPPER_NAME": "panoptic_segformer"},
}


@pytest.mark.parametrize("system", OTHER_SYSTEMS)
def test_other_systems_train_resume_and_evaluate(system, data, tmp_path: Path):
    config = QUICKSTART / f"{system}.yaml"
    options = {**data, **OTHER_SYSTEMS[system], "SOLVER.EMA.ENABLED": True}
    options["MODEL.BACKBONE.FREEZE"] = 1
    result = run(tmp_path / "unbroken", options, config=config)
    assert result.returncode == 0, result.stdout + result.stderr
    assert_resumed_alike(tmp_path / "unbroken", tmp_path / "resumed", options, config)


def arguments(output: Path, options: dict, *flags: str, config: Path | str = CONFIG) -> list[str]:
    options = {**TINY, "OUTPUT_DIR": output, **options}
    pairs = [part for option in options.items() for part in option]
    return [str(part) for part in ("--config-file", config, *flags, *pairs)]


def run(
    output: Path,
    options: dict,
    *flags: str,
    launcher: tuple[str, ...] = (),
    config: Path = CONFIG,
) -> subprocess.CompletedProcess:
    """train_net.py in processes of its own, with one thread each, so that sums keep their order."""
    command = [sys.executable, *launcher, str(ROOT / "train_net.py")]
    return subprocess.run(
        [*command, *arguments(output, options, *flags, config=config)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def run_here() -> Iterator[Callable[..., int]]:
    """train_net.py in this process, which is faster; leaves loggers and data sets as they were."""
    data_sets = set(DatasetCatalog)
    loggers = [logging.getLogger(name) for name in package_names()]
    before = [(logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    yield lambda *args, **kwargs: run_command(
        "train", arguments(*args, **kwargs) if args else ["--config-file", *kwargs.values()]
    )
    for name in set(DatasetCatalog) - data_sets:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for logger, (propagate, level, handlers) in zip(loggers, before, strict=True):
        logger.propagate, logger.level, logger.handlers = propagate, level, handlers
    setup_logger.cache_clear()  # it would not set their levels again


def assert_same_metrics(first: Path, second: Path) -> None:
    """Every line of metrics.json is the same, without times; NaN equals NaN."""
    for one, other in zip(*map(metrics_lines, (first, second)), strict=True):
        assert one == pytest.approx(other, rel=0, abs=0, nan_ok=True)


def metrics_lines(output: Path) -> list[dict]:
    times = {"time", "data_time", "eta_seconds"}
    lines = map(json.loads, (output / "metrics.json").read_text().splitlines())
    return [{name: line[name] for name in line.keys() - times} for line in lines]


def metrics(output: Path) -> dict:
    """The last value of everything in metrics.json."""
    lines = (output / "metrics.json").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def test_training_ends_with_checkpoint_and_evaluation(trained: Path):
    assert (trained / "model_final.pth").exists()
    assert (trained / "model_0000001.pth").exists()
    assert (trained / "config.yaml").exists()
    assert "star" in (trained / "report.html").read_text()
    numbers = metrics(trained)
    assert numbers["iteration"] == 4
    assert numbers["total_loss"] > 0
    for name in ("panoptic_seg/PQ", "sem_seg/mIoU", "segm/AP", "bbox/AP"):
        assert 0 <= numbers[name] <= 100, name
    log = (trained / "log.txt").read_text()
    assert "Panoptic quality" in log
    assert "MODEL.DEVICE is cpu" in log


def test_resumed_run_ends_like_the_unbroken_one(data, trained: Path, tmp_path: Path):
    assert_resumed_alike(trained, tmp_path / "resumed", data, CONFIG)


def assert_resumed_alike(unbroken: Path, resumed: Path, options: dict, config: Path) -> None:
    """Resume from a copy of what the unbroken run had after two iterations."""
    resumed.mkdir()
    (resumed / "model_0000001.pth").write_bytes((unbroken / "model_0000001.pth").read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000001.pth")
    result = run(resumed, options, "--resume", config=config)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Starting training from iteration 2" in result.stdout
    assert_same_metrics(resumed, unbroken)
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (unbroken, resumed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def classes_reversed(path: Path, target: Path) -> Path:
    """The same model, trained on the same classes in another order."""
    checkpoint = read_checkpoint(path)
    metadata, model = checkpoint["metadata"], checkpoint["model"]
    last = len(metadata["stuff_classes"]) - 1
    for name in ("thing_classes", "stuff_classes"):
        metadata[name] = metadata[name][::-1]
    for name in ("thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"):
        metadata[name] = {identity: last - index for identity, index in metadata[name].items()}
    for name in ("weight", "bias"):
        rows = model[f"sem_seg_head.predictor.class_embed.{name}"]
        rows[:-1] = rows[:-1].flip(0)
    write_checkpoint(checkpoint, target)
    return target


def test_eval_only_with_other_class_order_and_tta(data, trained: Path, tmp_path: Path):
    options = {
        **data,
        "MODEL.WEIGHTS": classes_reversed(trained / "model_final.pth", tmp_path / "reversed.pth"),
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.MIN_SIZES": "[32, 48]",
    }
    result = run(tmp_path, options, "--eval-only")
    assert result.returncode == 0, result.stdout + result.stderr
    printed = re.findall(r"copypaste: ([\d.]+)", result.stdout)
    expected = metrics(trained)
    assert f"{expected['panoptic_seg/PQ']:.4f}" in printed
    assert "the same classes in another order" in result.stdout
    assert (tmp_path / "inference_TTA" / "sem_seg_evaluation.pth").exists()
    assert not (tmp_path / "model_final.pth").exists()


def test_check_of_good_data(data, tmp_path: Path, run_here, capsys):
    assert run_here(tmp_path, data, "--check-data") == 0
    printed = capsys.readouterr().out
    assert "4 photos" in printed
    assert "3 photos" in printed
    assert not (tmp_path / "config.yaml").exists()
    page = (tmp_path / "data.html").read_text()
    assert all(text in page for text in ("None found.", "star", "seconds an iteration"))


def test_suggested_configuration_starts_as_it_is(data, tmp_path: Path, run_here, capsys):
    suggested = tmp_path / "suggested.yaml"
    options = {**data, "SOLVER.MAX_ITER": 2}
    for task in ("SEMANTIC", "INSTANCE"):
        options[f"MODEL.MASK_FORMER.TEST.{task}_ON"] = False
    assert run_here(tmp_path / "output", options, "--suggest-config", str(suggested)) == 0
    assert str(suggested) in capsys.readouterr().out
    assert run_here(config=str(suggested)) == 0
    numbers = metrics(tmp_path / "output")
    assert numbers["iteration"] == 2
    assert numbers["panoptic_seg/PQ"] >= 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({}, 1, "DETECTRON2_DATASETS"),
        ({"DATASETS.TEST": "('coco_2017_vall',)"}, 2, "there is no data set 'coco_2017_vall'"),
        ({"DATASETS.TRAIN": "()", "DATASETS.TEST": "()"}, 1, "nothing to check"),
    ],
)
def test_check_of_registered_data(tmp_path: Path, run_here, capsys, options, code, message):
    published = ROOT / "configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml"
    assert run_here(tmp_path, options, "--check-data", config=published) == code
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def test_check_knows_what_evaluation_lacks(tmp_path: Path, run_here, capsys):
    """Instances are asked for, and the data have stuff only."""
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
    Image.new("RGB", (8, 8), (1, 0, 0)).save(tmp_path / "x.png")
    content = {
        "images": [{"id": 1, "file_name": "x.jpg", "height": 8, "width": 8}],
        "annotations": [
            {"image_id": 1, "file_name": "x.png", "segments_info": [{"id": 1, "category_id": 1}]}
        ],
        "categories": [{"id": 1, "name": "sky", "isthing": 0}],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    files = {"IMAGES": tmp_path, "JSON": tmp_path / "panoptic.json", "PNGS": tmp_path}
    options = {f"DATASETS.PANOPTIC.TRAIN.{key}": "''" for key in files}
    options |= {f"DATASETS.PANOPTIC.TEST.{key}": path for key, path in files.items()}
    for task in ("SEMANTIC", "INSTANCE", "PANOPTIC"):
        options[f"MODEL.MASK_FORMER.TEST.{task}_ON"] = task == "INSTANCE"
    assert run_here(tmp_path / "output", options, "--check-data") == 2
    assert "nothing to evaluate" in capsys.readouterr().err
    assert not (tmp_path / "output" / "derived").exists()


@pytest.mark.parametrize("flags", [("--check-data",), ()])
def test_broken_data_stop_before_training(data, tmp_path: Path, run_here, capsys, flags):
    broken = tmp_path / "panoptic.json"
    content = json.loads(Path(data["DATASETS.PANOPTIC.TRAIN.JSON"]).read_text())
    content["annotations"][0]["segments_info"].pop()
    broken.write_text(json.dumps(content))
    options = {**data, "DATASETS.PANOPTIC.TRAIN.JSON": broken}
    assert run_here(tmp_path / "output", options, *flags) == 1
    captured = capsys.readouterr()
    assert content["annotations"][0]["file_name"] in captured.out + captured.err
    assert (tmp_path / "output" / "data.html").exists() == (flags == ("--check-data",))
    assert not list(tmp_path.glob("output/*.pth"))


def test_explicit_wrong_class_count(data, tmp_path: Path, run_here, capsys):
    assert run_here(tmp_path, {**data, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5}) == 1
    assert "NUM_CLASSES is set to 5" in capsys.readouterr().err


def test_absent_evaluation_data_stop_before_training(tmp_path: Path, run_here, capsys):
    published = ROOT / "configs/coco/panoptic-segmentation/maskformer2_R50_bs16_50ep.yaml"
    assert run_here(tmp_path, {}, config=published) == 1
    assert "DETECTRON2_DATASETS" in capsys.readouterr().err


def test_absent_config(tmp_path: Path, run_here, capsys):
    assert run_here(tmp_path, {}, config="nowhere.yaml") == 2
    assert "nowhere.yaml does not exist" in capsys.readouterr().err


def test_used_folder_needs_resume(data, tmp_path: Path, run_here, capsys):
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    assert run_here(tmp_path, data) == 2
    printed = capsys.readouterr().err
    assert "--resume" in printed
    assert "OUTPUT_DIR" in printed
    assert not (tmp_path / "log.txt").exists()


def test_evaluation_of_a_run_without_checkpoint(data, tmp_path: Path, run_here, capsys):
    assert run_here(tmp_path, data, "--eval-only", "--resume") == 2
    assert "has no checkpoint to evaluate" in capsys.readouterr().err


def test_option_after_the_settings(data, tmp_path: Path, run_here, capsys):
    assert run_here(tmp_path, {**data, "--resume": ""}) == 2
    assert "--resume: options come before" in capsys.readouterr().err


def test_eval_only_needs_weights(data, tmp_path: Path, run_here, capsys):
    assert run_here(tmp_path, data, "--eval-only") == 2
    assert "error: no weights: expected a checkpoint as MODEL.WEIGHTS" in capsys.readouterr().err


def test_eval_only_needs_every_weight(data, trained: Path, tmp_path: Path, run_here, capsys):
    weights = {"MODEL.WEIGHTS": trained / "model_final.pth"}
    other = {"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 9}
    assert run_here(tmp_path, {**data, **weights, **other}, "--eval-only") == 1
    assert "2 entries of the model are not in this checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "value", "code", "message"),
    [
        ("sem_seg", 40.5, 0, ""),
        ("sem_seg", 42.0, 1, "error: results differ from TEST.EXPECTED_RESULTS"),
        ("semantic", 40.0, 2, "error: TEST.EXPECTED_RESULTS: expected tasks among sem_seg"),
    ],
)
def test_expected_results_of_eval_only(
    data, trained: Path, tmp_path: Path, run_here, capsys, monkeypatch, task, value, code, message
):
    monkeypatch.setattr(Trainer, "test", lambda *_: {"sem_seg": {"mIoU": 40.0}})
    options = {
        **data,
        "MODEL.WEIGHTS": trained / "model_final.pth",
        "TEST.EXPECTED_RESULTS": f"[['{task}', 'mIoU', {value}, 1.0]]",
    }
    assert run_here(tmp_path, options, "--eval-only") == code
    assert message in capsys.readouterr().err
