"""Which files are photos, and what their pixels are."""

import os

import numpy as np
import pytest
from PIL import Image

from segcore.demo import find_photos, read_photo
from segcore.errors import ImageError

EXIF_ORIENTATION = 0x0112


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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_color_mode_becomes_bgr(tmp_path, mode):
    photo = read_photo(save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), mode))
    assert (photo.shape, photo.dtype) == ((4, 8, 3), np.uint8)


def test_channel_order(tmp_path):
    Image.new("RGB", (2, 2), (250, 100, 10)).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png")[0, 0].tolist() == [10, 100, 250]


def test_exif_orientation(tmp_path):
    upright = np.zeros((4, 8, 3), np.uint8)
    upright[0, :] = 255
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # to be turned clockwise for viewing
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png"), upright)


def test_unreadable_files_say_why(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.jpg: .*its content is not JPEG"):
        read_photo(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match=r"none\.jpg: .*No such file"):
        read_photo(tmp_path / "none.jpg")
    path = save(tmp_path / "cut.png", size=(300, 300))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match=r"cut\.png: "):
        read_photo(path)


def test_folder_that_cannot_be_listed_is_named_by_reading(tmp_path, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", scandir)
    assert find_photos([tmp_path]) == [tmp_path]
    with pytest.raises(ImageError, match="got a folder"):
        read_photo(tmp_path)


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
        read_photo(tmp_path / "a\nb.png", max_pixels=1)
