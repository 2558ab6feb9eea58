"""Damaged and crafted checkpoint files: read, or refused by one clear error; nothing runs."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from functools import partial
from random import Random

import pytest
import torch

from fuzz.fuzzing import mutated_bytes, run_cases, tree
from segcore.checkpoint import read_checkpoint, write_checkpoint
from segcore.errors import CheckpointError

SUFFIXES = (".pth", ".pkl", ".safetensors")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, bytes]:
    """A small checkpoint in every format."""
    folder, generator = tmp_path_factory.mktemp("sound"), torch.Generator().manual_seed(0)
    model = OrderedDict(
        (f"layer.{i}.weight", torch.randn(3, i + 1, generator=generator)) for i in range(4)
    )
    checkpoint = {"model": model, "iteration": 7, "metadata": {"thing_classes": ["a", "b"]}}
    contents = {}
    for suffix in SUFFIXES:
        write_checkpoint(checkpoint, folder / f"model{suffix}")
        contents[suffix] = (folder / f"model{suffix}").read_bytes()
    return contents


def use(folder, suffix: str, content: bytes) -> None:
    path = folder / f"crafted{suffix}"
    path.write_bytes(content)
    checkpoint = read_checkpoint(path)
    assert all(isinstance(tensor, torch.Tensor) for tensor in checkpoint["model"].values())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files(checkpoints, tmp_path, suffix):
    make = partial(mutated_bytes, checkpoints[suffix])
    run_cases(f"checkpoint{suffix}", make, partial(use, tmp_path, suffix), CheckpointError)
    assert tree(tmp_path) == {f"crafted{suffix}"}


class Payload:
    """Makes a file when it is unpickled by ``pickle.load``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def crafted_pickle(random: Random) -> bytes:
    """A pickle that names callables of all kinds, alone or among sound parts."""
    target = "executed"
    payload = random.choice(
        [
            Payload(os.system, f"touch {target}"),
            Payload(os.mkdir, target),
            Payload(open, target, "w"),
            Payload(eval, f"open({target!r}, 'w')"),
            Payload(exec, f"open({target!r}, 'w')"),
            Payload(getattr, "text", "upper"),
            Payload(torch.load, target),
            Payload(io.open_code, "/etc/passwd"),
            Payload(bytearray, 2**40),
            Payload(range, 2**40),
        ]
    )
    sound = {"weight": torch.zeros(2).numpy(), "name": ["text", 1, 2.5, None, (True,)]}
    places = [payload, {"model": payload}, {"model": sound, "trainer": [payload]}, [sound, payload]]
    content = pickle.dumps(random.choice(places), protocol=random.randint(0, 5))
    return content if random.random() < 0.7 else mutated_bytes(content, random)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_crafted_pickles(tmp_path, monkeypatch, suffix):
    def make(random: Random) -> bytes:
        content = crafted_pickle(random)
        if suffix == ".pkl" or random.random() < 0.3:
            return content
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("archive/data.pkl", content)
            file.writestr("archive/byteorder", "little")
            file.writestr("archive/version", "3\n")
        return archive.getvalue()

    monkeypatch.chdir(tmp_path)
    run_cases(f"pickle{suffix}", make, partial(use, tmp_path, suffix), CheckpointError)
    assert tree(tmp_path) == {f"crafted{suffix}"}
