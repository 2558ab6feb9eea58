import errno
import os
import socket

import pytest

from segcore.errors import OutputError
from segcore.files import atomic_file, atomic_folder, remove_partial_files, write_bytes, write_json


def test_file_has_its_name_only_when_complete(tmp_path):
    path = tmp_path / "new" / "file"
    with atomic_file(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_bytes(b"old", path)
    with pytest.raises(ZeroDivisionError), atomic_file(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_full_disk_is_an_output_error_that_names_the_file(tmp_path):
    path = tmp_path / "file"
    message = r"file: cannot be written: No space left"
    with pytest.raises(OutputError, match=message), atomic_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_full_disk_under_torch_save_is_an_output_error(tmp_path):
    message = r"file: cannot be written: No space left"
    with pytest.raises(OutputError, match=message), atomic_file(tmp_path / "file"):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("PytorchStreamWriter failed writing file")  # noqa: B904
    assert not list(tmp_path.iterdir())


def test_folder_has_its_name_only_when_complete(tmp_path):
    path = tmp_path / "new" / "folder"
    with pytest.raises(OutputError, match="folder: cannot be written"), atomic_folder(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(path.parent.iterdir())
    with atomic_folder(path) as folder:
        (folder / "file").touch()
        assert not path.exists()
    assert [p.name for p in path.iterdir()] == ["file"]


def test_name_of_the_greatest_length_can_be_written(tmp_path):
    path = tmp_path / ("a" * 255)
    write_json({"a": 1}, path)
    assert path.read_text() == '{"a": 1}'


def test_partial_files_of_dead_processes_are_removed(tmp_path):
    host = socket.gethostname()
    dead = tmp_path / "below" / f".{host}-{2**22 + 1}-0.partial"
    earlier = tmp_path / f".{host}-{os.getpid()}-0.partial"  # in a container, pids start anew
    alive = tmp_path / f".{host}-{os.getppid()}-0.partial"
    elsewhere = tmp_path / ".another-machine-1-0.partial"
    other = tmp_path / ".my.partial"
    dead.parent.mkdir()
    for path in (dead, earlier, alive, elsewhere, other):
        path.touch()
    assert remove_partial_files(tmp_path) == 2
    assert not dead.exists() and not earlier.exists()
    assert alive.exists() and elsewhere.exists() and other.exists()
    os.utime(elsewhere, (0, 0))
    assert remove_partial_files(tmp_path) == 1
