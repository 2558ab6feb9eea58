"""SafeCheckpointer: what Detectron2's does, with a report, fine-tuning, class names, resume."""

import logging
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from torch import nn

from segcore.checkpoint import SafeCheckpointer, UnsafeCheckpointError, read_checkpoint
from segcore.checkpoint.convert import from_swin, from_torchvision_resnet
from segcore.errors import CheckpointError, ConfigError

CLASSES = {
    "thing_classes": ["cat", "dog"],
    "thing_colors": [(1, 2, 3), (4, 5, 6)],
    "thing_dataset_id_to_contiguous_id": {17: 0, 18: 1},
    "stuff_classes": ["cat", "dog", "sky"],
    "stuff_dataset_id_to_contiguous_id": {17: 0, 18: 1, 187: 2},
    "ignore_label": 255,
}


class Model(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.backbone = nn.Sequential(
            OrderedDict(stem=nn.Conv2d(3, 4, 1), res2=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4))
        )
        self.class_embed = nn.Linear(4, classes + 1)
        self.register_buffer("empty_weight", torch.ones(classes + 1))


class Renaming(Model):
    def checkpoint_renames(self, names):
        return {name: name.replace("old_embed", "class_embed") for name in names}


def filled(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return model


def assert_same(state, other):
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name


def pickled(path, state, **extra):
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "test", **extra}))
    return str(path)


def test_save_and_load_is_exact(tmp_path):
    saved, loaded = filled(Model()), Model()
    SafeCheckpointer(saved, str(tmp_path)).save("model_0001", iteration=7)
    checkpointer = SafeCheckpointer(loaded, str(tmp_path))
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["iteration"] == 7
    assert_same(loaded.state_dict(), saved.state_dict())
    report = checkpointer.report
    assert report.missing == report.left_over == []
    assert (
        report.parameters_loaded
        == report.parameters_total
        == sum(parameter.numel() for parameter in loaded.parameters())
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last_checkpoint", "model_0001.pth"]


def test_resume_of_optimizer_and_schedule(tmp_path):
    def trained(steps, model, optimizer, schedule):
        for step in range(*steps):
            optimizer.zero_grad()
            model.class_embed(torch.full((2, 4), step / 10)).square().sum().backward()
            optimizer.step()
            schedule.step()

    def build():
        model = filled(Model())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3])
        return model, optimizer, schedule

    through, first, second = build(), build(), build()
    trained((0, 6), *through)
    trained((0, 4), *first)
    SafeCheckpointer(first[0], str(tmp_path), optimizer=first[1], schedule=first[2]).save("m")
    SafeCheckpointer(
        second[0], str(tmp_path), optimizer=second[1], schedule=second[2]
    ).resume_or_load("", resume=True)
    trained((4, 6), *second)
    assert_same(second[0].state_dict(), through[0].state_dict())


def test_fine_tuning_on_other_classes(tmp_path, caplog):
    path = pickled(tmp_path / "coco.pkl", filled(Model(133)).state_dict())
    model = Model(5)
    initial = model.class_embed.weight.clone()
    checkpointer = SafeCheckpointer(model)
    with caplog.at_level(logging.INFO):
        checkpointer.load(path)
    shapes = {name: shapes for name, shapes in checkpointer.report.other_shape.items()}
    assert shapes == {
        "class_embed.weight": ((134, 4), (6, 4)),
        "class_embed.bias": ((134,), (6,)),
        "empty_weight": ((134,), (6,)),
    }
    assert torch.equal(model.class_embed.weight, initial)
    assert checkpointer.report.missing == checkpointer.report.left_over == []
    tables = [record.getMessage() for record in caplog.records if "other shape" in record.message]
    assert len(tables) == 1
    assert "starts fresh" in tables[0]


def test_renames_come_before_shapes_are_compared(tmp_path):
    state = filled(Model(7)).state_dict()
    state = {name.replace("class_embed", "old_embed"): tensor for name, tensor in state.items()}
    path = pickled(tmp_path / "official.pkl", state)
    same, other = Renaming(7), SafeCheckpointer(Renaming(5))
    checkpointer = SafeCheckpointer(same)
    checkpointer.load(path)
    assert checkpointer.report.renamed == {
        "old_embed.weight": "class_embed.weight",
        "old_embed.bias": "class_embed.bias",
    }
    assert torch.equal(same.class_embed.weight, state["old_embed.weight"])
    other.load(path)
    assert set(other.report.other_shape) >= {"class_embed.weight", "class_embed.bias"}


def test_two_entries_of_one_name_are_an_error(tmp_path):
    state = filled(Model()).state_dict()
    path = pickled(tmp_path / "m.pkl", {**state, "old_embed.bias": state["class_embed.bias"]})
    with pytest.raises(ValueError, match=r"m\.pkl: both class_embed.bias and old_embed.bias mean"):
        SafeCheckpointer(Renaming()).load(path)


def test_missing_and_left_over(tmp_path):
    state = filled(Model()).state_dict()
    extra = {"decoder.weight": state.pop("backbone.res2.weight")}
    checkpointer = SafeCheckpointer(Model())
    checkpointer.load(pickled(tmp_path / "m.pkl", {**state, **extra}))
    assert checkpointer.report.missing == ["backbone.res2.weight"]
    assert checkpointer.report.left_over == ["decoder.weight"]
    assert checkpointer.report.parameters_loaded == checkpointer.report.parameters_total - 4 * 4 * 9


def test_shared_parameters_are_not_missing(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight

    state = filled(Tied()).state_dict()
    del state["b.weight"]
    model = Tied()
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(pickled(tmp_path / "m.pkl", state))
    assert checkpointer.report.missing == []
    assert torch.equal(model.b.weight, state["a.weight"])


def test_module_versions_reach_the_model(tmp_path):
    seen = []

    class Versioned(nn.Linear):
        _version = 3

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            seen.append(local_metadata.get("version"))
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    state = Versioned(2, 2).state_dict()
    arrays = OrderedDict((name, tensor.numpy()) for name, tensor in state.items())
    arrays._metadata = state._metadata
    (tmp_path / "v.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    SafeCheckpointer(Versioned(2, 2)).load(str(tmp_path / "v.pkl"))
    assert seen == [3]


def test_names_of_data_parallel_training(tmp_path):
    saved, loaded = filled(Model()), Model()
    torch.save(nn.DataParallel(saved).state_dict(), tmp_path / "m.pth")
    SafeCheckpointer(loaded).load(str(tmp_path / "m.pth"))
    assert_same(loaded.state_dict(), saved.state_dict())


def test_backbone_is_matched_by_the_ends_of_names(tmp_path):
    state = filled(Model()).backbone.state_dict()
    backbone = {
        "stem.weight": state["stem.weight"],
        "res2.weight": torch.ones(8, 4, 3, 3),
        "fc.weight": torch.ones(2, 2),
    }
    path = pickled(tmp_path / "R.pkl", backbone, matching_heuristics=True)
    model = Model()
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(path)
    report = checkpointer.report
    assert torch.equal(model.backbone.stem.weight, state["stem.weight"])
    assert report.renamed["stem.weight"] == "backbone.stem.weight"
    assert report.other_shape == {"backbone.res2.weight": ((8, 4, 3, 3), (4, 4, 3, 3))}
    assert report.left_over == ["fc.weight"]


@pytest.mark.parametrize("query", ["", "?matching_heuristics=True", "?matching_heuristics=False"])
@pytest.mark.parametrize("name", ["R.pkl", "R?v=2.pkl"])
def test_matching_by_ends_on_demand(tmp_path, name, query):
    stem = filled(nn.Conv2d(3, 4, 1)).state_dict()
    path = pickled(tmp_path / name, {f"stem.{key}": tensor for key, tensor in stem.items()})
    model = Model()
    checkpointer = SafeCheckpointer(model)
    if query.endswith("True"):
        checkpointer.load(path + query)
        assert torch.equal(model.backbone.stem.weight, stem["weight"])
        assert checkpointer.report.source == path
    else:
        with pytest.raises(CheckpointError, match="nothing in this checkpoint fits"):
            checkpointer.load(path + query)


def test_wrong_query(tmp_path):
    path = pickled(tmp_path / "R.pkl", Model().state_dict())
    with pytest.raises(ConfigError, match=r"expected matching_heuristics=True or False, got '1'"):
        SafeCheckpointer(Model()).load(f"{path}?matching_heuristics=1")
    with pytest.raises(CheckpointError, match=r"R\.pkl\?a=b: no such file"):
        SafeCheckpointer(Model()).load(f"{path}?a=b")


def test_caffe2_names(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.res2 = nn.Sequential(OrderedDict(conv1=nn.Conv2d(2, 2, 1)))

    weight = np.arange(4, dtype=np.float32).reshape(2, 2, 1, 1)
    blobs = {"res2_branch2a_w": weight, "fc1000_b": np.ones(3), "res2_branch2a_w_momentum": weight}
    (tmp_path / "c2.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    model = Net()
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(str(tmp_path / "c2.pkl"))
    assert torch.equal(model.res2.conv1.weight, torch.from_numpy(weight))
    assert checkpointer.report.left_over == ["fc1000_b"]


def test_nothing_fits(tmp_path):
    path = pickled(tmp_path / "other.pkl", {"x": torch.ones(1)})
    with pytest.raises(ValueError, match=r"other\.pkl: nothing .* fits the model"):
        SafeCheckpointer(Model()).load(path)


def test_missing_file_and_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pkl"):
        SafeCheckpointer(Model()).load(str(tmp_path / "none.pkl"))
    assert SafeCheckpointer(Model()).load("") == {}


def test_unsafe_file_leaves_the_model_alone(tmp_path):
    model = filled(Model())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({"model": Model().state_dict(), "e": eval}))
    with pytest.raises(UnsafeCheckpointError):
        SafeCheckpointer(model).load(str(tmp_path / "m.pkl"))
    assert_same(model.state_dict(), before)


def test_url_goes_through_the_path_manager(tmp_path):
    checkpointer = SafeCheckpointer(Model())
    path = pickled(tmp_path / "R-50.pkl", filled(Model()).state_dict())
    checkpointer.path_manager = type("Paths", (), {"get_local_path": lambda self, url: path})()
    checkpointer.load("detectron2://ImageNetPretrained/torchvision/R-50.pkl")
    assert checkpointer.report.source == path


def test_class_names_are_saved(tmp_path):
    metadata = Metadata(name="mine").set(**CLASSES, json_file="not stored")
    SafeCheckpointer(Model(), str(tmp_path), metadata=metadata).save("m")
    stored = read_checkpoint(tmp_path / "m.pth")["metadata"]
    assert stored == {**CLASSES, "thing_colors": [[1, 2, 3], [4, 5, 6]]}


def test_nothing_is_written_where_saving_is_off(tmp_path):
    SafeCheckpointer(Model(), str(tmp_path), save_to_disk=False).save("m")
    assert list(tmp_path.iterdir()) == []


def test_torchvision_resnet(tmp_path):
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone
    from torchvision.models import resnet50

    theirs = resnet50()
    converted = from_torchvision_resnet(filled(theirs).state_dict())
    torch.save(converted, tmp_path / "R-50.pth")
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    model = nn.ModuleDict({"backbone": build_backbone(cfg)})
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(str(tmp_path / "R-50.pth"))
    report = checkpointer.report
    assert report.missing == list(report.other_shape) == []
    assert {n for n in report.left_over if "tracked" not in n} == {"stem.fc.weight", "stem.fc.bias"}
    assert torch.equal(model["backbone"].res4[5].conv2.norm.bias, theirs.layer3[5].bn2.bias)
    assert len(report.table().splitlines()) < 40

    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 100
    features = theirs.eval().maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    torch.testing.assert_close(model["backbone"].eval()(image)["res2"], theirs.layer1(features))


def test_conversions_refuse_other_networks():
    with pytest.raises(ValueError, match="expected a ResNet of torchvision"):
        from_torchvision_resnet({"a": torch.ones(1)})
    with pytest.raises(ValueError, match="expected an original Swin"):
        from_swin({"a": torch.ones(1)})


def test_model_that_renames_while_loading(tmp_path):
    class Hooked(Model):
        def __init__(self):
            super().__init__()
            self.register_load_state_dict_pre_hook(self.rename)

        @staticmethod
        def rename(module, state_dict, prefix, *args):
            state_dict["class_embed.bias"] = state_dict.pop("old_embed.bias")

    state = filled(Model()).state_dict()
    state["old_embed.bias"] = state.pop("class_embed.bias")
    model = Hooked()
    checkpointer = SafeCheckpointer(model)
    checkpointer.load(pickled(tmp_path / "m.pkl", state))
    assert torch.equal(model.class_embed.bias, state["old_embed.bias"])
    assert checkpointer.report.missing == checkpointer.report.left_over == []


def test_counters_that_the_file_lacks_are_missing(tmp_path):
    state = filled(Model()).state_dict()
    del state["backbone.norm.num_batches_tracked"]
    checkpointer = SafeCheckpointer(Model())
    checkpointer.load(pickled(tmp_path / "m.pkl", state))
    assert checkpointer.report.missing == ["backbone.norm.num_batches_tracked"]


def test_url_that_cannot_be_fetched():
    class Offline:
        def get_local_path(self, url):
            raise OSError("no network")

    checkpointer = SafeCheckpointer(Model())
    checkpointer.path_manager = Offline()
    with pytest.raises(CheckpointError, match=r"detectron2://R\.pkl cannot be fetched: no net"):
        checkpointer.load("detectron2://R.pkl")
