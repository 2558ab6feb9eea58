"""Crafted files end in a short CheckpointError that names them, soon and in bounded memory."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import _utils

from segcore.checkpoint import read_checkpoint, unpickler
from segcore.errors import CheckpointError

WEIGHTS = {"a": torch.ones(2)}
DEEP = 30_000
LARGE = struct.pack("<Q", 2**50)

PICKLES = {
    "key of nested tuples": b"\x80\x02}K\x01" + b"\x85" * DEEP + b"K\x01s.",
    "key of doubled tuples": b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",
    "member of nested tuples": b"\x80\x04\x8f(K\x01" + b"\x85" * DEEP + b"\x90.",
    "frozen member": b"\x80\x04(K\x01" + b"\x85" * DEEP + b"\x91.",
    "dictionary of nested tuples": b"(K\x01" + b"\x85" * DEEP + b"K\x02d.",
    "nested lists": b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
    "bytes of a petabyte": b"\x80\x04\x8e" + LARGE + b"abc.",
    "text of a petabyte": b"\x80\x04\x8d" + LARGE + b"abc.",
    "byte array of a petabyte": b"\x80\x05\x96" + LARGE + b"abc.",
    "frame of a petabyte": b"\x80\x04\x95" + LARGE + b"}.",
    "object made": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "instance made": b"(icollections\nOrderedDict\n.",
    "registered extension": b"\x80\x02\x82\x01.",
    "object outside": b"Pabc\n.",
    "call of a text": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "item of a list": b"\x80\x02]K\x01K\x02s.",
    "model within itself": b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.",
    "nothing": b"\x80\x02.",
}


def zipped(data: object = None, change: dict[str, bytes | None] | None = None, **options) -> bytes:
    """A file of torch.save, with the content of its entries changed, or an entry taken out."""
    file = io.BytesIO()
    torch.save({"model": WEIGHTS} if data is None else data, file)
    with zipfile.ZipFile(file) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", **options) as archive:
        for name, content in {**entries, **(change or {})}.items():
            if content is not None:
                archive.writestr(f"archive/{name}", content)
    return result.getvalue()


def legacy(data: object) -> bytes:
    file = io.BytesIO()
    torch.save(data, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def refused(path, content: bytes, match: str = "") -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=match) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert path.name in message
    assert message.count("\n") < 3
    assert len(message) < 600
    assert message.isprintable()


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path, name):
    refused(tmp_path / "bomb.pkl", PICKLES[name])
    refused(tmp_path / "bomb.pth", zipped(change={"data.pkl": PICKLES[name]}))


def test_number_of_operations(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickler._Operations, "left", 1000)
    refused(tmp_path / "m.pkl", b"\x80\x02]" + b"]0" * 500 + b".", "600,000 operations")


def test_memo_of_any_number(tmp_path):
    """Python's unpickler in C makes a table of 64 GB for it."""
    (tmp_path / "m.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    assert read_checkpoint(tmp_path / "m.pkl")["model"] == {}


def test_attributes_of_a_dictionary_are_not_set(tmp_path):
    """``items`` of the instance would stand before that of the class."""
    state = b"}X\x05\x00\x00\x00itemsK\x01sb"
    program = b"\x80\x02}X\x05\x00\x00\x00modelccollections\nOrderedDict\n)R" + state + b"s."
    (tmp_path / "m.pkl").write_bytes(program)
    assert read_checkpoint(tmp_path / "m.pkl")["model"] == {}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data/0": None}, "no item named"),
        ({"data/0": b"1234"}, "2 numbers of torch.float32 in 4 bytes"),
        ({"data.pkl": None}, "zip archive that torch.save has not written"),
        ({"x/data.pkl": b"N."}, "zip archive that torch.save has not written"),
        ({"constants.pkl": b"N."}, "TorchScript"),
        ({"byteorder": b"big"}, "little-endian"),
    ],
)
def test_archives(tmp_path, change, match):
    refused(tmp_path / "m.pth", zipped(change=change), match)


def test_compressed_archives(tmp_path):
    bomb = zipped(change={"data/1": bytes(10_000_000)}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 20_000
    refused(tmp_path / "m.pth", bomb, "compressed archive")


def test_archive_whose_entries_overlap(tmp_path):
    """Many entries of one content: small, stored, and large once it is read."""
    content = bytearray(zipped(change={"data/1": bytes(4000)}))
    start = content.rindex(b"PK\x01\x02")  # the central directory's last entry
    size_at = start + 20
    content[size_at : size_at + 8] = struct.pack("<II", 2**31, 2**31)
    refused(tmp_path / "m.pth", bytes(content), "larger than the file")


class View:
    """Pickled as a tensor of any size and stride on four numbers."""

    def __init__(self, size, stride, offset=0):
        storage = torch.arange(4.0).untyped_storage()
        typed = torch.storage.TypedStorage(
            wrap_storage=storage, dtype=torch.float32, _internal=True
        )
        self.arguments = (typed, offset, size, stride, False, OrderedDict())

    def __reduce__(self):
        return _utils._rebuild_tensor_v2, self.arguments


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize(
    "view",
    [
        ((2**60,), (1,)),
        ((2**30,), (0,)),
        ((2,), (1,), 2**40),
        ((2,), (-1,)),
        ((-1,), (1,)),
        (([1],), (1,)),
        ((2**33, ("a",)), (1, 1)),
    ],
)
def test_views_of_more_than_there_is(tmp_path, view, write):
    refused(tmp_path / "m.pth", write({"model": {"a": View(*view)}}))


def test_legacy_file_that_claims_more_than_it_has(tmp_path):
    content = legacy({"model": WEIGHTS})
    claim = content.replace(b"K\x02Nt", b"J\xff\xff\xff\x7fNt", 1)
    assert claim != content
    refused(tmp_path / "m.pth", claim, "2147483647 numbers of torch.float32 in a file of")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
        torch.ones(2, dtype=torch.complex64),
        np.ones(2, dtype=np.complex64),
        np.ones(2, dtype=np.longdouble),
        {"a": torch.ones(1)},
    ],
)
def test_entries_that_are_no_dense_real_tensors(tmp_path, tensor):
    refused(tmp_path / "m.pth", zipped({"model": {"x": tensor}}))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ({"a" * 1000: torch.ones(1)}, "name of 1,000 characters"),
        ({1: torch.ones(1)}, "expected a dictionary of names"),
        ({"\x1b[31m": "x"}, r"entry '\\x1b\[31m' is a str"),
    ],
)
def test_names(tmp_path, model, match):
    refused(tmp_path / "m.pth", zipped({"model": model}), match)


@pytest.mark.parametrize("versions", [{"": {"version": "x"}}, {"": 3}, [1], {3: {}}])
def test_versions_of_modules(tmp_path, versions):
    model = OrderedDict(WEIGHTS)
    model._metadata = versions
    refused(tmp_path / "m.pth", zipped({"model": model}), "version")


def safetensors(text: str) -> bytes:
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": {"checkpoint": text}, "a": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + b"1234"


@pytest.mark.parametrize(
    "text",
    [
        "[" * DEEP + "]" * DEEP,
        "[1]",
        "{",
        "3",
        '{"a": ' + "9" * 5000 + "}",
        '{"a": {"--5": 1}}',
        '{"_metadata": [1]}',
        '{"metadata": {"thing_classes": [1]}}',
        '{"a": "' + "x" * 10_000_000 + '"}',
    ],
    ids=range(9),
)
def test_text_of_safetensors(tmp_path, text):
    refused(tmp_path / "m.safetensors", safetensors(text))


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(99),
        bytes(999),
        b"hello " * 99,
        struct.pack("<Q", 2**62) + b"{}",
    ],
    ids=["empty", "JPEG", "zeros", "text", "header"],
)
def test_other_files(tmp_path, content, suffix):
    refused(tmp_path / f"m{suffix}", content)


def test_random_damage(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}
    for whole in (zipped(), legacy({"model": WEIGHTS}), pickle.dumps({"model": arrays})):
        for _ in range(40):
            content = bytearray(whole)
            for place in generator.integers(0, len(content), 3):
                content[place] = generator.integers(256)
            (tmp_path / "m.pth").write_bytes(content)
            try:
                read_checkpoint(tmp_path / "m.pth")
            except CheckpointError as error:
                assert "m.pth" in str(error)


def test_folders_and_pipes(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_checkpoint(tmp_path / "pipe.pth")


def test_mmdetection_layout(tmp_path):
    meta = {"config": "a = 1", "CLASSES": ("cat",), "epoch": 12}
    (tmp_path / "m.pth").write_bytes(zipped({"meta": meta, "state_dict": WEIGHTS}))
    assert read_checkpoint(tmp_path / "m.pth")["model"]["a"].tolist() == [1, 1]
