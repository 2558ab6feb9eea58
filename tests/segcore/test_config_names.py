"""Configurations by name: files take precedence, names lead to those of the package."""

from pathlib import Path

import pytest

from segcore.config import load_config
from segcore.config_names import CONFIGS_FOLDER, config_names, find_config
from segcore.errors import ConfigError

NAME = "quickstart/mask2former_R18.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_name_leads_to_the_package_and_a_file_takes_precedence(tmp_path: Path):
    assert Path(find_config(NAME)) == CONFIGS_FOLDER / NAME
    assert NAME in config_names()
    assert not any(name.startswith("_base_") for name in config_names())
    (tmp_path / "quickstart").mkdir()
    (tmp_path / NAME).touch()
    assert find_config(NAME) == NAME
    assert find_config(NAME, "folder") == str(CONFIGS_FOLDER / NAME)


@pytest.mark.parametrize("path", ["nowhere.yaml", "quickstart", "/nowhere/x.yaml"])
def test_what_is_neither_stays(path: str):
    assert find_config(path) == path


def test_a_name_is_a_base(tmp_path: Path):
    (tmp_path / "my.yaml").write_text(f"_BASE_: {NAME}\nSOLVER: {{MAX_ITER: 7}}\n")
    cfg = load_config("my.yaml")
    assert cfg.SOLVER.MAX_ITER == 7
    assert cfg.DATASETS == load_config(NAME).DATASETS


def test_a_name_that_is_close_is_suggested():
    with pytest.raises(ConfigError, match=f"does not exist.*; did you mean {NAME}"):
        load_config(f"configs/{NAME}")
