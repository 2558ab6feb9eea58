"""Photos among the files and folders of a command line."""

import os

import pytest
from PIL import Image

from segcore.data.images import read_image
from segcore.demo.photos import find_photos
from segcore.errors import ImageError


def save(path, mode="RGB", size=(8, 4), **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new(mode, size).save(path, **options)
    return path


def test_files_and_folders(tmp_path):
    a, b = save(tmp_path / "folder/b.PNG"), save(tmp_path / "folder/a.jpg")
    (tmp_path / "folder/notes.txt").write_text("text")
    (tmp_path / "folder/inner.jpg").mkdir()
    other = save(tmp_path / "other.jpg")
    missing = tmp_path / "missing.jpg"
    assert find_photos([other, tmp_path / "folder", missing, a]) == [other, b, a, missing]


def test_patterns(tmp_path):
    paths = [save(tmp_path / name) for name in ("a/x.png", "a/b/y.png", "a/b/[z].png", "a/b/z.jpg")]
    x, y, bracket, _ = paths
    assert find_photos([tmp_path / "a/**/*.png"]) == [bracket, y, x]
    assert find_photos([tmp_path / "a/b/[y-z].*", bracket]) == [y, paths[3], bracket]
    assert find_photos([tmp_path / "a/[b]"]) == [bracket, y, paths[3]]
    assert find_photos([tmp_path / "*.png"]) == [tmp_path / "*.png"]


def test_unreadable_files_say_why(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.jpg: .*its content is not JPEG"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match=r"none\.jpg: .*No such file"):
        read_image(tmp_path / "none.jpg")
    path = save(tmp_path / "cut.png", size=(300, 300))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"cut\.png: "):
        read_image(path)


def test_folder_that_cannot_be_listed_is_named_by_reading(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", scandir)
    assert find_photos([tmp_path]) == [tmp_path]
    with pytest.raises(ImageError, match="got a folder"):
        read_image(tmp_path)


def test_strange_names_in_a_folder(tmp_path):
    """Only accepted suffixes; links in circles and names of any bytes are left to reading."""
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    named = [save(tmp_path / name) for name in ("a\nb.png", os.fsdecode(b"\xff.png"))]
    for name in ("a.eps", "a.pdf", "a.ico", "png"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "circle.png").symlink_to(tmp_path)
    assert find_photos([tmp_path]) == sorted([loop, *named])
    with pytest.raises(ImageError, match=r"a\\nb\.png: expected at most 1 pixels"):
        read_image(tmp_path / "a\nb.png", max_pixels=1)
