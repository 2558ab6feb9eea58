"""zoo:// names: from a server into the cache, into a model; errors without network."""

import dataclasses

import numpy as np
import pytest
from detectron2.modeling import build_model

import segcore
import segcore.zoo.cache
from segcore.checkpoint import local_file, write_checkpoint
from segcore.engine import setup_config
from segcore.errors import CheckpointError, ConfigError
from segcore.zoo import cached_file, fetch, find_model

NAME = "mask2former/coco/panoptic/swin-tiny"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def local_models(monkeypatch, server):
    """The models, at the same paths of the server on this machine."""

    def find(name):
        model = find_model(name)
        path = model.url.split("/", 3)[3]
        return dataclasses.replace(model, url=f"{server.address}/{path}")

    monkeypatch.setattr(segcore.zoo.cache, "find_model", find)


def test_fetched_once_with_the_licence(server, local_models, capsys, cache):
    path = local_file(f"zoo://{NAME}")
    folder = "maskformer/mask2former/coco/panoptic/maskformer2_swin_tiny_bs16_50ep"
    assert path == str(cache / folder / "model_final_9fd0ae.pkl")
    assert capsys.readouterr().err == f"{NAME}: licence of the weights: CC BY-NC 4.0\n"
    assert local_file(f"zoo://{NAME}") == path
    assert len(server.requests) == 1
    assert capsys.readouterr().err == ""


def test_error_names_address_and_place(server, local_models):
    server.status = 404
    with pytest.raises(CheckpointError) as caught:
        local_file(f"zoo://{NAME}")
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{NAME}: {server.address}/maskformer/")
    assert first.endswith("model_final_9fd0ae.pkl cannot be downloaded: HTTP 404 Not Found")
    assert second == f"Get the file by other means and put it at {cached_file(find_model(NAME))}"


def test_file_put_there_by_hand():
    model = find_model(NAME)
    cached_file(model).parent.mkdir(parents=True)
    cached_file(model).write_bytes(b"weights")
    assert fetch(model) == cached_file(model)


def test_unknown_name_is_an_error_of_the_user():
    with pytest.raises(ConfigError, match="published model: expected a name that is registered"):
        local_file("zoo://mask2former/coco/nothing")


def test_predictor_of_a_name():
    """A classifier: the smallest published model."""
    name = "autofocusformer/imagenet/classification/aff-mini"
    model = find_model(name)
    cfg = setup_config(str(model.config_file), [*model.options, "MODEL.DEVICE", "cpu"])
    write_checkpoint({"model": build_model(cfg).state_dict()}, cached_file(model))
    predictor = segcore.Predictor(f"zoo://{name}", device="cpu")
    logits = predictor(np.zeros((40, 60, 3), np.uint8))["class_logits"]
    assert len(logits) == len(predictor.metadata.classes) == 1000
    assert predictor.metadata.classes[:2] == ["tench", "goldfish"]
