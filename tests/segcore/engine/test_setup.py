"""Command line and config of a run."""

import logging
from pathlib import Path

import pytest
import torch

from segcore.config import get_cfg
from segcore.engine import explicit_num_classes, fit_to_machine, setup_config
from segcore.errors import ConfigError

PUBLISHED = Path(__file__).resolve().parents[3] / "configs"
CUSTOM_DATA = "DATASETS: {PANOPTIC: {TRAIN: {JSON: custom.json}}}\n"
BASE = f"_BASE_: {PUBLISHED / 'quickstart/mask2former_R18.yaml'}\n"
SEVEN = "MODEL: {SEM_SEG_HEAD: {NUM_CLASSES: 7}}\n"


def test_file_and_options(write):
    path = write("a.yaml", BASE + "SOLVER: {BASE_LR: 0.5, MAX_ITER: 3}\n")
    cfg = setup_config(path, ["SOLVER.MAX_ITER", "4"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 4)
    assert not cfg.is_frozen()


def test_no_file():
    with pytest.raises(ConfigError, match="no config: give --config-file"):
        setup_config("", ["SEED", "3"])


def test_absent_file():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        setup_config("nowhere.yaml")


def test_unknown_key(write):
    with pytest.raises(ConfigError, match="NO_SUCH_KEY"):
        setup_config(write("a.yaml", "SOLVER: {NO_SUCH_KEY: 1}\n"))


def test_values_are_validated(write):
    with pytest.raises(ConfigError, match=r"SOLVER\.MAX_ITER: expected .* at least 1, got 0"):
        setup_config(write("a.yaml", BASE), ["SOLVER.MAX_ITER", "0"])


def test_python_tag_of_official_files(write):
    text = 'INPUT: {MIN_SIZE_TRAIN: !!python/object/apply:eval ["[8 * x for x in range(1, 4)]"]}\n'
    assert setup_config(write("official.yaml", BASE + text)).INPUT.MIN_SIZE_TRAIN == (8, 16, 24)


@pytest.mark.parametrize("num_gpus", [None, 0, 1])
def test_cpu_without_gpu(monkeypatch, num_gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = get_cfg()
    fit_to_machine(cfg, num_gpus)
    assert cfg.MODEL.DEVICE == "cpu"


@pytest.mark.parametrize(("num_gpus", "device"), [(None, "cuda"), (0, "cpu"), (2, "cuda")])
def test_device_with_gpu(monkeypatch, num_gpus, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = get_cfg()
    cfg.MODEL.RESNETS.NORM = "SyncBN"
    fit_to_machine(cfg, num_gpus)
    assert device == cfg.MODEL.DEVICE
    assert cfg.MODEL.RESNETS.NORM == ("BN" if device == "cpu" else "SyncBN")


def test_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cuda:1"
    fit_to_machine(cfg)
    cfg.MODEL.DEVICE = "cuda:2"
    with pytest.raises(ConfigError, match=r"MODEL\.DEVICE: expected a GPU from 0 to 1, got 2"):
        fit_to_machine(cfg)


def test_sync_norms_on_cpu_become_plain_with_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # If an earlier test has called setup_logger, records do not reach the root logger, or, as
    # pytest 9 adds its handlers to such loggers, would reach caplog twice.
    monkeypatch.setattr(logging.getLogger("segcore"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("segcore"), "handlers", [])
    cfg = get_cfg()
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "SyncBN"
    fit_to_machine(cfg)
    assert cfg.MODEL.RESNETS.NORM == cfg.MODEL.FPN.NORM == "BN"
    assert cfg.MODEL.SEM_SEG_HEAD.NORM == "GN"
    (warning,) = [r for r in caplog.records if r.levelname == "WARNING"]
    assert "MODEL.FPN.NORM, MODEL.RESNETS.NORM" in warning.getMessage()


def test_class_count_beside_custom_data_is_explicit(write):
    assert explicit_num_classes(write("a.yaml", CUSTOM_DATA + SEVEN)) == 7


def test_class_count_on_the_command_line_is_explicit(write):
    opts = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9"]
    assert explicit_num_classes(write("a.yaml", CUSTOM_DATA + SEVEN), opts) == 9
    assert explicit_num_classes("", opts) == 9


def test_class_count_of_the_base_is_not_explicit(write):
    write("base.yaml", SEVEN)
    assert explicit_num_classes(write("a.yaml", "_BASE_: base.yaml\n" + CUSTOM_DATA)) is None


def test_class_count_above_custom_data_is_explicit(write):
    write("custom.yaml", CUSTOM_DATA)
    assert explicit_num_classes(write("a.yaml", "_BASE_: custom.yaml\n" + SEVEN)) == 7


def test_custom_data_on_the_command_line(write):
    opts = ["DATASETS.PANOPTIC.TRAIN.JSON", "custom.json"]
    assert explicit_num_classes(write("a.yaml", SEVEN), opts) is None


def test_several_bases(write):
    write("parts/first.yaml", CUSTOM_DATA + SEVEN)
    write("parts/second.yaml", "SEED: 1\n")
    path = write("a.yaml", "_BASE_: [parts/first.yaml, parts/second.yaml]\n")
    assert explicit_num_classes(path) == 7


def test_empty_paths_are_no_custom_data(write):
    text = "DATASETS: {PANOPTIC: {TRAIN: {IMAGES: '', JSON: '', PNGS: ''}}}\n" + SEVEN
    assert explicit_num_classes(write("a.yaml", text)) is None


@pytest.mark.parametrize("count", ["many", "[]", "{}"])
def test_class_count_that_is_no_number(count):
    with pytest.raises(ConfigError, match="NUM_CLASSES: expected an integer"):
        explicit_num_classes("", ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", count])


def test_class_count_from_an_unsafe_file_is_refused(write):
    text = CUSTOM_DATA + "MODEL: !!python/object/apply:os.getcwd []\n"
    with pytest.raises(ConfigError, match="line 2: the tag"):
        explicit_num_classes(write("a.yaml", text))


def test_without_file_and_options():
    assert explicit_num_classes("") is None


def test_published_files_have_no_explicit_class_count():
    paths = sorted(PUBLISHED.glob("**/maskformer2_*.yaml"))
    assert paths
    assert {explicit_num_classes(str(path)) for path in paths} == {None}
