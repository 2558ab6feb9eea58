"""tools/convert_checkpoint.py from file to file."""

import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from segcore.backbones import PyramidVisionTransformerV2
from segcore.checkpoint import SafeCheckpointer, read_checkpoint
from segcore.config import get_cfg
from small_models import SMALL_MODELS

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools/convert_checkpoint.py"
BASE_CONFIG = ROOT / "configs/_base_/mask2former_small.yaml"


@pytest.fixture(scope="module")
def convert():
    spec = importlib.util.spec_from_file_location("convert_checkpoint", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


def test_there_and_back(convert, tmp_path, capsys):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    official = {"model": {"weight": weight, "bias": weight[:, 0]}, "__author__": "theirs"}
    (tmp_path / "official.pkl").write_bytes(pickle.dumps(official))
    source = tmp_path / "official.pkl"
    for target in ("a.safetensors", "b.pth", "c.pkl"):
        convert(source, tmp_path / target)
        assert "bias" in capsys.readouterr().out
        source = tmp_path / target
    loaded = read_checkpoint(source)
    assert loaded["__author__"] == "theirs"
    np.testing.assert_array_equal(loaded["model"]["weight"], weight)

    model = nn.Linear(3, 2)
    DetectionCheckpointer(model).load(str(source))  # Detectron2 itself reads it too
    np.testing.assert_array_equal(model.weight.detach(), weight)


def test_training_state_stays_behind(convert, tmp_path):
    checkpoint = {"model": {"a": torch.ones(1)}, "trainer": {"iteration": 3}, "iteration": 3}
    torch.save(checkpoint, tmp_path / "model.pth")
    convert(tmp_path / "model.pth", tmp_path / "weights.pth")
    assert read_checkpoint(tmp_path / "weights.pth").keys() == {"model"}


def test_swin_keeps_its_names(convert, tmp_path):
    state = {"layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(169, 3)}
    torch.save({"model": state}, tmp_path / "swin.pth")
    convert(tmp_path / "swin.pth", tmp_path / "swin.pkl", "--backbone", "swin")
    loaded = read_checkpoint(tmp_path / "swin.pkl")
    assert list(loaded["model"]) == list(state)
    assert loaded["matching_heuristics"] is True


@pytest.mark.parametrize("data_sets", ["()", "('cat_dog_sky',)"])
def test_through_a_model(convert, tmp_path, capsys, data_sets):
    """Official names become present ones; classes are those of the config's data set, if any."""
    config = tmp_path / "small.yaml"
    options = {**SMALL_MODELS, "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 3, "DATASETS.TRAIN": data_sets}
    cfg = get_cfg()
    cfg.merge_from_file(str(BASE_CONFIG))
    cfg.merge_from_list([part for pair in options.items() for part in pair])
    cfg.MODEL.DEVICE = "cpu"
    config.write_text(cfg.dump())
    MetadataCatalog.get("cat_dog_sky").set(stuff_classes=["cat", "dog", "sky"])
    state = build_model(cfg).state_dict()
    official = {name.replace("query_feat", "static_query"): t for name, t in state.items()}
    torch.save({"model": official}, tmp_path / "official.pth")
    assert convert(tmp_path / "official.pth", tmp_path / "m.pth", "--config-file", config) == 0
    assert "static_query" in capsys.readouterr().out
    converted = read_checkpoint(tmp_path / "m.pth")
    assert converted["model"].keys() == state.keys()
    assert "NUM_OBJECT_QUERIES: 8" in converted["config"]
    expected = {"stuff_classes": ["cat", "dog", "sky"]} if "cat" in data_sets else None
    assert converted.get("metadata") == expected


def classifier() -> dict[str, torch.Tensor]:
    names = (
        "patch_embed.norm.weight",
        "layers.0.blocks.0.norm1.weight",
        "layers.0.blocks.0.attn.blank_k",
        "layers.0.downsample.norm.weight",
        "norm.weight",
        "norm.bias",
        "head.weight",
        "head.bias",
    )
    return {name: torch.full((2,), float(number)) for number, name in enumerate(names)}


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
def test_autofocusformer_classifier_becomes_a_backbone(convert, tmp_path, suffix):
    state = classifier()
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    official = {
        "model": state,
        "model_ema": {"head.weight": torch.ones(2)},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 299,
        "max_accuracy": np.float64(78.2),
        "rng_state": torch.get_rng_state(),
        "np_rng_state": np.random.RandomState(0).get_state(),
    }
    torch.save(official, tmp_path / "aff_mini.pth")
    target = tmp_path / f"backbone{suffix}"
    convert(tmp_path / "aff_mini.pth", target, "--backbone", "autofocusformer")
    loaded = read_checkpoint(target)
    assert list(loaded) == ["model"]  # no training state, and no matching by the ends of names
    kept = [name for name in state if not name.startswith(("norm.", "head."))]
    assert set(loaded["model"]) == {"backbone." + name for name in kept}
    for name in kept:
        assert torch.equal(loaded["model"]["backbone." + name], state[name])


def test_pvt_v2_classifier_becomes_a_backbone(convert, tmp_path):
    small = {"embed_dims": (8, 8, 8, 8), "num_heads": (1, 1, 1, 1)}
    state = PyramidVisionTransformerV2(**small).state_dict()
    head = {"head.weight": torch.ones(3, 8), "head.bias": torch.ones(3)}
    torch.save(state | head, tmp_path / "pvt_v2.pth")  # as published: no key "model"
    convert(tmp_path / "pvt_v2.pth", tmp_path / "pvt_v2.pkl", "--backbone", "pvt-v2")
    detector = nn.ModuleDict({"backbone": PyramidVisionTransformerV2(**small)})
    checkpointer = SafeCheckpointer(detector)
    checkpointer.load(str(tmp_path / "pvt_v2.pkl"))
    report = checkpointer.report
    assert not (report.left_over or report.missing or report.other_shape)
    for name, value in detector["backbone"].state_dict().items():
        assert torch.equal(value, state[name])


def test_other_weights_are_no_pvt_v2(convert, tmp_path, capsys):
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "model.pth")
    assert convert(tmp_path / "model.pth", tmp_path / "x.pkl", "--backbone", "pvt-v2") == 1
    assert capsys.readouterr().err.startswith("error: expected a PVT v2 classifier")


def test_other_weights_are_no_autofocusformer(convert, tmp_path, capsys):
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "model.pth")
    assert convert(tmp_path / "model.pth", tmp_path / "x.pkl", "--backbone", "autofocusformer") == 1
    assert capsys.readouterr().err.startswith("error: expected an AutoFocusFormer classifier")


def test_errors_are_one_line(convert, tmp_path, capsys):
    assert convert(tmp_path / "none.pkl", tmp_path / "out.pth") == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "none.pkl" in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out.pth").exists()
