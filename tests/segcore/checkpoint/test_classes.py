"""Classes are matched by name: permuted, refused or warned of, never silently exchanged."""

import logging

import pytest
import torch
from detectron2.data import Metadata
from torch import nn

from panoptic_segformer.class_order import ClassOrder
from segcore.checkpoint import SafeCheckpointer, plain_metadata
from segcore.checkpoint.classes import class_list, permute_classes, stored_class_count
from segcore.errors import CheckpointError, ConfigError

NAMES = ["cat", "dog", "sky"]


def metadata(names, things=(), **extra):
    ids = {index + 1: index for index, name in enumerate(names) if name in things}
    flags = {"thing_dataset_id_to_contiguous_id": ids} if things else {}
    return Metadata(name="data").set(thing_classes=names, stuff_classes=names, **flags, **extra)


class Model(nn.Module):
    """Class c of the head has the weights c, "no object" -1."""

    def __init__(self, classes=3):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, classes + 1)
        rows = torch.tensor([*range(classes), -1.0])
        self.head.weight.data.copy_(rows[:, None].expand(-1, 2))
        self.head.bias.data.copy_(rows)

    def class_rows(self):
        rows = range(len(self.head.bias) - 1)
        return {"head.weight": rows, "head.bias": rows}


def checkpoint(classes=3, stored=None):
    stored = {} if stored is None else {"metadata": plain_metadata(stored)}
    return {"model": Model(classes).state_dict(), **stored}


def load(stored, wanted, *, complete=True, model=None, **options):
    model = model or Model()
    checkpointer = SafeCheckpointer(model, metadata=wanted, complete=complete)
    checkpointer.load_checkpoint(stored, "m.pth", **{"checkpointables": [], **options})
    return model


@pytest.mark.parametrize("complete", [True, False])
def test_another_order_is_permuted_and_said(caplog, complete):
    with caplog.at_level(logging.WARNING):
        model = load(
            checkpoint(stored=metadata(NAMES, ["cat"])),
            metadata(["sky", "cat", "dog"], ["cat"]),
            complete=complete,
        )
    assert model.head.bias.tolist() == [2, 0, 1, -1]
    assert model.head.weight[:, 0].tolist() == [2, 0, 1, -1]
    assert "same classes in another order (class 0 is 'cat', not 'sky')" in caplog.text


def test_the_checkpoint_is_left_alone():
    stored = checkpoint(stored=metadata(NAMES))
    stored["model"] = nn.DataParallel(Model()).state_dict()
    names = list(stored["model"])
    for _ in range(2):
        model = load(stored, metadata(NAMES[::-1]))
        assert model.head.bias.tolist() == [2, 1, 0, -1]
    assert list(stored["model"]) == names


def test_the_same_order_is_silent(caplog):
    with caplog.at_level(logging.WARNING):
        model = load(checkpoint(stored=metadata(NAMES)), metadata(NAMES))
    assert model.head.bias.tolist() == [0, 1, 2, -1]
    assert not caplog.records


@pytest.mark.parametrize(
    ("stored", "wanted", "said"),
    [
        (metadata(NAMES), metadata(["cat", "dog", "sea"]), "class 2 is 'sky', not 'sea'"),
        (metadata(["a", "a", "b"]), metadata(["a", "b", "a"]), "class 1 is 'a', not 'b'"),
        (metadata(NAMES, ["cat"]), metadata(NAMES, ["dog"]), "class 0, 'cat', is a thing"),
        (metadata(NAMES, ["cat"]), metadata(NAMES[::-1], ["dog"]), "class 0 is 'cat', not 'sky'"),
    ],
)
def test_other_classes_are_refused_for_evaluation_and_said_for_training(
    caplog, stored, wanted, said
):
    with pytest.raises(CheckpointError, match=rf"m\.pth, data set 'data': .*{said}"):
        load(checkpoint(stored=stored), wanted)
    with caplog.at_level(logging.WARNING):
        model = load(checkpoint(stored=stored), wanted, complete=False)
    assert said in caplog.text
    assert model.head.bias.tolist() == [0, 1, 2, -1]


def test_another_number_of_classes_names_both():
    message = r"4 classes instead of 3"
    with pytest.raises(CheckpointError, match=message):
        load(checkpoint(4, metadata([*NAMES, "sea"])), metadata(NAMES))
    with pytest.raises(CheckpointError, match=r"it has 7 classes, the model 3"):
        load(checkpoint(7), metadata(NAMES))  # as official files: without names
    assert load(checkpoint(7), metadata(NAMES), complete=False).head.bias.tolist()[-1] == -1


def test_official_files_without_names_are_accepted():
    assert load(checkpoint(), metadata(NAMES)).head.bias.tolist() == [0, 1, 2, -1]


def test_resuming_on_other_classes_is_refused(tmp_path):
    saved = SafeCheckpointer(Model(), str(tmp_path), metadata=metadata(NAMES), optimizer=adam())
    saved.save("m")
    resumed = SafeCheckpointer(
        Model(), str(tmp_path), metadata=metadata(NAMES[::-1]), optimizer=adam()
    )
    with pytest.raises(CheckpointError, match="trained on other classes: class 0 is 'cat'"):
        resumed.resume_or_load("", resume=True)


def adam():
    return torch.optim.AdamW(Model().parameters())


@pytest.mark.parametrize("lost", ["head.weight", "norm.weight", "norm.running_var"])
def test_every_weight_must_come_from_the_file(lost, caplog):
    stored = checkpoint()
    del stored["model"][lost]
    with caplog.at_level(logging.WARNING), pytest.raises(CheckpointError) as caught:
        load(stored, None)
    message = str(caught.value)
    assert message.startswith("m.pth: 1 entries of the model are not in this checkpoint")
    assert lost in message
    assert "TEST.ALLOW_MISSING_WEIGHTS" in message
    assert message.count("\n") < 3
    assert "keeps its initial values" in caplog.text  # the table
    load(stored, None, complete=False)


def test_counters_need_not_be_there():
    stored = checkpoint()
    del stored["model"]["norm.num_batches_tracked"]
    load(stored, None)


def test_evaluation_without_weights_is_an_error():
    with pytest.raises(ConfigError, match=r"no weights: .* MODEL\.WEIGHTS"):
        SafeCheckpointer(Model(), complete=True).resume_or_load("", resume=False)
    assert SafeCheckpointer(Model()).resume_or_load("", resume=False) == {}


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_numbers_of_another_kind_are_refused(dtype):
    stored = checkpoint()
    stored["model"]["head.bias"] = torch.ones(4, dtype=dtype)
    with pytest.raises(CheckpointError, match=r"entry head\.bias is of .*, expected torch.float32"):
        load(stored, None, complete=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused(value):
    stored = checkpoint()
    stored["model"]["head.bias"] = torch.full((4,), value, dtype=torch.float64)
    with pytest.raises(CheckpointError, match=r"entry head\.bias has values that are not finite"):
        load(stored, None, complete=False)


def test_things_and_stuff_with_rows_of_their_own():
    """Stored: things a, c; stuff b, d. Wanted: order d, c, b, a, so things c, a and stuff d, b."""
    order = [3, 2, 1, 0]
    wanted = ClassOrder(4, {1, 3})
    rows = {"things": wanted.things.tolist(), "stuff": wanted.stuff.tolist()}
    state = {"things": torch.tensor([0.0, 2.0]), "stuff": torch.tensor([1.0, 3.0])}
    permuted = permute_classes(state, rows, order)
    assert permuted["things"].tolist() == [2, 0]
    assert permuted["stuff"].tolist() == [3, 1]


def test_class_count_of_heads_for_things_and_stuff():
    rows = {"things": [0, 1], "more things": [0, 1], "stuff": [2]}
    shapes = {"things": ((5, 8), (2, 8)), "more things": ((5,), (2,)), "stuff": ((3, 8), (1, 8))}
    assert stored_class_count(rows, shapes) == 8
    assert stored_class_count(rows, {}) is None


def test_list_of_the_length_of_the_model():
    """Cityscapes names 8 things and 19 classes, 8 of which are things."""
    cityscapes = Metadata(name="x").set(
        thing_classes=list("ABCDEFGH"),
        stuff_classes=[str(index) for index in range(19)],
        thing_dataset_id_to_contiguous_id={index: index for index in range(11, 19)},
    )
    assert class_list(cityscapes, 8).names == list("ABCDEFGH")
    assert class_list(cityscapes, 8).thing_ids is None
    assert class_list(cityscapes, 19).thing_ids == frozenset(range(11, 19))
    assert class_list(Metadata(name="y")) is None
    assert class_list(Metadata(name="z").set(classes=["a"]), 1).names == ["a"]
