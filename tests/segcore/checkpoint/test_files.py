"""Every format round-trips bit by bit; nothing unsafe or damaged gets through."""

import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from segcore.checkpoint import (
    UnsafeCheckpointError,
    local_file,
    read_checkpoint,
    write_checkpoint,
)
from segcore.checkpoint.folder import tag_last_checkpoint
from segcore.errors import CheckpointError
from segcore.files import atomic_file

SUFFIXES = [".pth", ".pkl", ".safetensors"]


def example():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator)
    model = OrderedDict(
        weight=weight,
        transposed=weight.t(),
        shared=weight,
        half=weight.half(),
        double=weight.double(),
        index=torch.arange(5),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 4),
        mask=weight > 0,
    )
    model._metadata = OrderedDict({"": {"version": 1}, "head": {"version": 2}})
    metadata = {"thing_classes": ["cat", "dog"], "thing_dataset_id_to_contiguous_id": {17: 0, 3: 1}}
    return {"model": model, "__author__": "us", "metadata": metadata}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_is_exact(tmp_path, suffix):
    checkpoint = example()
    path = tmp_path / f"new folder/model{suffix}"
    write_checkpoint(checkpoint, path)
    loaded = read_checkpoint(path)
    assert loaded["model"].keys() == checkpoint["model"].keys()
    for name, tensor in checkpoint["model"].items():
        assert loaded["model"][name].dtype == tensor.dtype
        assert torch.equal(loaded["model"][name], tensor), name
    assert loaded["model"]._metadata == checkpoint["model"]._metadata
    assert loaded["metadata"] == checkpoint["metadata"]
    assert loaded["__author__"] == "us"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_safetensors_whose_header_starts_as_a_pickle_does(tmp_path):
    # The file begins with the length of its header, which can have the first byte of a pickle.
    path = tmp_path / "model.safetensors"
    for length in range(0, 256, 8):  # headers are padded to multiples of 8
        write_checkpoint({**example(), "text": "x" * length}, path)
        assert read_checkpoint(path)["text"] == "x" * length
        if path.read_bytes()[:1] == pickle.PROTO:
            return
    pytest.fail("no header of such a length")


def test_safetensors_of_another_program(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "plain.safetensors")
    loaded = read_checkpoint(tmp_path / "plain.safetensors")
    assert loaded.keys() == {"model"}
    assert loaded["model"]["a"].tolist() == [1, 1]


def test_safetensors_takes_no_other_tensors(tmp_path):
    with pytest.raises(ValueError, match="tensors under 'model' only"):
        write_checkpoint({**example(), "x": torch.ones(1)}, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffix_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"model\.bin: expected a name ending in \.pth"):
        write_checkpoint(example(), tmp_path / "model.bin")


@pytest.mark.parametrize("key", ["model", "state_dict", None])
@pytest.mark.parametrize("zipped", [True, False])
def test_layouts_of_torch_files(tmp_path, key, zipped):
    state = {"a": torch.ones(2)}
    data = {key: state, "epoch": 3} if key else state
    torch.save(data, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    loaded = read_checkpoint(tmp_path / "m.pth")
    assert loaded["model"]["a"].tolist() == [1, 1]
    assert loaded.get("epoch") == (3 if key else None)


def test_pycls_layout(tmp_path):
    state = {"s1.weight": torch.ones(1), "s1.num_batches_tracked": torch.tensor(1)}
    torch.save({"model_state": state}, tmp_path / "model.pyth")
    loaded = read_checkpoint(tmp_path / "model.pyth")
    assert list(loaded["model"]) == ["s1.weight"]
    assert loaded["matching_heuristics"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_caffe2_layouts(tmp_path, wrapped):
    blobs = {"conv1_w": np.ones(2), "conv1_w_momentum": np.ones(2)}
    (tmp_path / "c2.pkl").write_bytes(pickle.dumps({"blobs": blobs} if wrapped else blobs))
    loaded = read_checkpoint(tmp_path / "c2.pkl")
    assert list(loaded["model"]) == ["conv1_w"]
    assert (loaded["__author__"], loaded["matching_heuristics"]) == ("Caffe2", True)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ""])
def test_malicious_torch_files_are_refused(tmp_path, suffix, zipped):
    mark, path = tmp_path / "executed", tmp_path / f"evil{suffix}"
    evil = {"model": {"a": torch.ones(1)}, "x": Touch(mark)}
    torch.save(evil, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"evil.* is refused: it asks for posix.system"):
        read_checkpoint(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the file of this test is harmless"


def test_numpy_in_torch_files(tmp_path):
    """Generator states and scalars beside the weights, as training programs leave them there."""
    path = tmp_path / "training.pth"
    random_state = np.random.RandomState(0).get_state()
    extra = {"generator": random_state, "max_accuracy": np.float64(78.2)}
    torch.save({"model": {"a": torch.ones(1), "b": np.arange(6.0).reshape(2, 3).T}, **extra}, path)
    loaded = read_checkpoint(path)
    assert torch.equal(loaded["model"]["b"], torch.arange(6.0).double().view(2, 3).T)
    np.testing.assert_array_equal(loaded["generator"][1], random_state[1])
    assert loaded["max_accuracy"] == 78.2
    with pytest.raises(pickle.UnpicklingError):  # torch.load itself is as it was
        torch.load(path, weights_only=True)


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"model": {"a": torch.ones(1)}, "x": np.array([None, "text"])}, path)
    with pytest.raises(UnsafeCheckpointError, match=r"evil.* is refused: .* dtype object"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", ["", "\n"])
def test_no_file_can_name_the_classes_behind(tmp_path, suffix):
    path = tmp_path / "evil.pth"
    torch.save({"model": {"a": torch.ones(1)}, "x": np.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in entries if name.endswith("data.pkl"))
    for module in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        request = b"c" + module + b"\n_reconstruct\n"
        entries[name] = entries[name].replace(request, f"c\n_Array\n{suffix}".encode())
    assert b"_Array" in entries[name]
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    with pytest.raises((UnsafeCheckpointError, ValueError)):
        read_checkpoint(path)


def test_malicious_pickle_under_another_name(tmp_path):
    mark, path = tmp_path / "executed", tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"model": Touch(mark)}))
    with pytest.raises(ValueError, match=r"evil\.pth"):
        read_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0, 100, -50])
def test_damaged_files_are_errors(tmp_path, suffix, keep):
    path = tmp_path / f"model{suffix}"
    write_checkpoint(example(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"model{suffix} is damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_file(tmp_path, suffix):
    with pytest.raises(CheckpointError, match=r"none.*: no such file"):
        read_checkpoint(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("data", [[1, 2], {1: torch.ones(1)}, torch.ones(1)])
def test_no_dictionary_of_names_is_an_error(tmp_path, data):
    torch.save(data, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="expected a dictionary of names and tensors"):
        read_checkpoint(tmp_path / "model.pth")


def test_entry_that_is_no_tensor_is_an_error(tmp_path):
    torch.save({"model": {"a": torch.ones(1), "b": "text"}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: entry 'b' is a str, expected a tensor"):
        read_checkpoint(tmp_path / "model.pth")


def test_interrupted_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half of the new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_output_folder_stands_for_its_last_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder, expected a checkpoint file"):
        local_file(tmp_path)
    tag_last_checkpoint(tmp_path, "model_final.pth")
    assert local_file(tmp_path) == str(tmp_path / "model_final.pth")
