"""Batches of photos that go on after errors."""

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from segcore.demo.batch import collect_photos, exit_on_termination, predict_photos
from segcore.errors import DataError, ImageError, OutputError

PHOTOS = [Path("a.jpg"), Path("b.jpg"), Path("c.jpg")]


def predict_but(error):
    def predict(path):
        if path == PHOTOS[1]:
            raise error
        return f"table of {path}"

    return predict


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ImageError("b.jpg: is broken"), "failed: b.jpg: is broken"),
        (MemoryError(), "failed: b.jpg: the memory of the host is exhausted."),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed: b.jpg: the memory of the GPU"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "failed: b.jpg: the memory of the host is exhausted",
        ),
        (OutputError("o/b.png: cannot be written: denied"), "failed: b.jpg: o/b.png: cannot be"),
        (OSError(errno.EFBIG, "File too large", "b.png"), "failed: b.jpg: b.png: File too large"),
        (OSError(errno.EIO, "I/O error", "b.jpg"), "failed: b.jpg: I/O error"),
        (SyntaxError("broken PNG"), "failed: b.jpg: SyntaxError: broken PNG (--debug shows where)"),
        (KeyError("k" * 9999), "failed: b.jpg: KeyError: 'kkk"),
        (ValueError("two\nlines \x1b[31m"), r"failed: b.jpg: ValueError: two\nlines \x1b[31m"),
    ],
)
def test_one_photo_that_fails_is_one_line(capsys, error, line):
    assert predict_photos(PHOTOS, predict_but(error)) == 1
    printed, errors = capsys.readouterr()
    assert printed == "\na.jpg\ntable of a.jpg\n\nc.jpg\ntable of c.jpg\n"
    assert errors.startswith(line)
    assert errors.count("\n") == 1
    assert len(errors) < 500


def test_traceback_if_asked(capsys):
    assert predict_photos(PHOTOS, predict_but(KeyError("x")), debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_full_disk_ends_the_batch(capsys):
    full = OutputError("o/b.png: cannot be written: No space left on device")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match="No space left"):
        predict_photos(PHOTOS, predict_but(full))
    assert "c.jpg" not in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_passes_finally(number):
    before = signal.getsignal(number)
    passed = []
    with pytest.raises(SystemExit) as stop, exit_on_termination():
        try:
            os.kill(os.getpid(), number)
        finally:
            passed.append(True)
    assert (stop.value.code, passed) == (128 + number, [True])
    assert signal.getsignal(number) == before


def test_file_names_are_escaped(capsys):
    predict_photos([Path(os.fsdecode(b"\x1b[2J\xff.jpg"))], lambda path: "table")
    assert capsys.readouterr().out == "\n\\x1b[2J\\udcff.jpg\ntable\n"


class TestCollectPhotos:
    def test_named_twice(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for name in ("a.jpg", "b.jpg"):
            Path(name).touch()
        names = ["./b.jpg", ".", "x/../a.jpg", str(tmp_path / "b.jpg")]
        assert collect_photos(names) == ([Path("b.jpg"), Path("a.jpg")], [])

    def test_empty_folders(self, tmp_path):
        (tmp_path / "empty").mkdir()
        empty = str(tmp_path / "empty")
        with pytest.raises(DataError, match=r"no photos in .*empty"):
            collect_photos([empty])
        assert collect_photos([empty, "a.jpg"]) == ([Path("a.jpg")], [empty])
