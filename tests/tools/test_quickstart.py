"""The systems that `make demo` offers."""

import importlib.util
from pathlib import Path

import pytest

from segcore.config import get_cfg

ROOT = Path(__file__).resolve().parents[2]


def quickstart():
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "tools/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("system", ["autofocusformer", "mask2former", "panoptic_segformer"])
def test_configuration_of_each_system(system):
    tool = quickstart()
    parser = tool.argument_parser()
    assert parser.parse_args(["--system", system]).system == system
    assert parser.parse_args([]).system == "mask2former"
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / tool.QUICKSTARTS[system].config_file))
    assert system in cfg.OUTPUT_DIR
    assert cfg.MODEL.WEIGHTS == ""
    for split in cfg.DATASETS.PANOPTIC.values():
        assert all(Path(path).is_relative_to(tool.DATA) for path in split.values())
