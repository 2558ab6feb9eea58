"""What is read as an image, what its pixels are, and what is refused."""

import os
import socket
import warnings

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from segcore.data.images import encode_image, load_image, open_image, read_ids, read_image
from segcore.errors import ImageError

ORIENTATION = 0x0112
NOISE = np.random.default_rng(0).integers(0, 256, (12, 17, 4), dtype=np.uint8)


def picture(mode):
    if mode == "I;16":
        return Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257)
    return Image.fromarray(NOISE, "RGBA").convert("RGB").convert(mode)


SAMPLES = [
    ("JPEG", "RGB"),
    ("JPEG", "L"),
    ("JPEG", "CMYK"),
    ("PNG", "RGB"),
    ("PNG", "RGBA"),
    ("PNG", "L"),
    ("PNG", "LA"),
    ("PNG", "P"),
    ("PNG", "1"),
    ("TIFF", "RGB"),
    ("TIFF", "RGBA"),
    ("TIFF", "CMYK"),
    ("TIFF", "YCbCr"),
    ("TIFF", "P"),
    ("TIFF", "PA"),
    ("TIFF", "LA"),
    ("TIFF", "1"),
    ("BMP", "RGB"),
    ("BMP", "P"),
    ("BMP", "1"),
    ("WEBP", "RGB"),
    ("WEBP", "RGBA"),
    ("GIF", "P"),
    ("GIF", "L"),
    ("AVIF", "RGB"),
]


@pytest.mark.parametrize(("kind", "mode"), SAMPLES)
@pytest.mark.parametrize("format", ["RGB", "BGR", "L"])
def test_pixels_are_those_of_detectron2(tmp_path, kind, mode, format):
    path = tmp_path / "picture.jpg"  # whatever the name says
    picture(mode).save(path, kind)
    pixels = read_image(path, format)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (12, 17, 1 if format == "L" else 3)
    np.testing.assert_array_equal(pixels, detection_utils.read_image(str(path), format))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = picture("RGB")
    image.save(tmp_path / "plain", kind)
    image.save(tmp_path / "turned", kind, exif=exif)
    plain = read_image(tmp_path / "plain")
    turned = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.transpose(1, 0, 2),
        6: plain[::-1].transpose(1, 0, 2),
        7: plain[::-1, ::-1].transpose(1, 0, 2),
        8: plain[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    np.testing.assert_array_equal(read_image(tmp_path / "turned"), turned)


def test_16_bit_grey_is_divided_by_257(tmp_path):
    values = np.array([[0, 128, 129, 256, 257, 385, 386, 32768, 65406, 65407, 65535]], np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        pixels = read_image(tmp_path / name, "RGB")
        np.testing.assert_array_equal(pixels, np.repeat(expected[:, :, None], 3, 2))


def test_ids_of_16_bits_are_not_scaled(tmp_path):
    values = np.array([[0, 1, 255, 256, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        ids, _ = read_ids(tmp_path / name)
        assert ids.dtype == np.uint16
        np.testing.assert_array_equal(ids, values)


@pytest.mark.parametrize(("mode", "dtype"), [("F", np.float32), ("I", np.int32)])
def test_values_without_a_scale_are_refused(tmp_path, mode, dtype):
    Image.fromarray(np.full((4, 4), 1000, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: expected .* 8 or 16 bits, got .* values"):
        read_image(tmp_path / "a.tif")


def test_pixels_are_bounded_before_decoding(tmp_path):
    Image.new("1", (12000, 12000)).save(tmp_path / "bomb.png")
    for read in (read_image, read_ids, load_image, open_image):
        with pytest.raises(ImageError, match=r"bomb\.png: .*INPUT\.MAX_PIXELS.*12000 x 12000"):
            read(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="at most 99 pixels"):
        read_image(tmp_path / "bomb.png", max_pixels=99)


def test_pillows_limit_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.tif").shape == (8, 8, 3)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "ICO", "PPM", "TGA", "ICNS", "JPEG2000"])
def test_other_formats_are_refused_whatever_their_name(tmp_path, kind):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", kind)
    with pytest.raises(ImageError, match=r"a\.jpg: .*its content is not JPEG, MPO, PNG"):
        open_image(tmp_path / "a.jpg")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        directory = os.open(tmp_path, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{directory}/socket.jpg")
        os.close(directory)
    names = ["fifo.jpg", "folder.jpg", "empty.jpg", "loop.jpg", "socket.jpg", "missing.jpg", "a\0b"]
    for path in ["/dev/zero", *(tmp_path / name for name in names)]:
        with pytest.raises(ImageError):
            read_image(path)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "link.jpg").symlink_to("a.png")
    assert read_image(tmp_path / "link.jpg").shape == (2, 2, 3)


def test_encoded_images_are_the_files_of_pillow(tmp_path):
    Image.fromarray(NOISE[:, :, :3]).save(tmp_path / "a.jpg", quality=80)
    assert encode_image(NOISE[:, :, :3], "JPEG", quality=80) == (tmp_path / "a.jpg").read_bytes()
