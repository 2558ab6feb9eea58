"""Images that are read, their pixels, and images that are refused."""

import os
import socket
import struct
import warnings

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from segcore.data.images import (
    changes_on_reading,
    encode_image,
    load_image,
    open_image,
    read_ids,
    read_image,
)
from segcore.errors import ImageError

ORIENTATION = 0x0112
NOISE = np.random.default_rng(0).integers(0, 256, (12, 17, 4), dtype=np.uint8)


def orientation_tag(value):
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


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
    image = picture("RGB")
    image.save(tmp_path / "plain", kind)
    image.save(tmp_path / "turned", kind, exif=orientation_tag(orientation))
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


def damaged(content, seed):
    """Shortened to each tenth, with flipped bits, and followed by other bytes."""
    for tenth in range(1, 10):
        yield content[: len(content) * tenth // 10]
    rng = np.random.default_rng(seed)
    for count in (1, 1, 2, 8):
        flipped = bytearray(content)
        for position in rng.integers(0, len(content), count):
            flipped[position] ^= 1 << rng.integers(8)
        yield bytes(flipped)
    yield content + bytes(100)


@pytest.mark.parametrize(("kind", "mode"), [*SAMPLES, ("PNG", "I;16"), ("TIFF", "I;16")])
def test_damaged_files_are_read_or_refused(tmp_path, kind, mode):
    options = {} if kind in ("BMP", "GIF") else {"exif": orientation_tag(6)}
    content = encode_image(picture(mode), kind, **options)
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken metadata
        for number, data in enumerate(damaged(content, seed=len(mode))):
            (tmp_path / f"{number}").write_bytes(data)
            for read in (read_image, read_ids):
                try:
                    read(tmp_path / f"{number}")
                except ImageError as error:
                    assert str(tmp_path / f"{number}") in str(error)
                    refused += 1
    assert refused >= 9


def tiff(shape, bits, photometric=1, **tags):
    """An uncompressed TIFF (H, W, C) of zeros; ``tags`` by name replace those computed."""
    height, width, channels = shape
    values = {
        **{256: (4, width), 257: (4, height), 258: (3, *[bits] * channels), 259: (3, 1)},
        **{262: (3, photometric), 273: (4, 0), 277: (3, channels), 278: (4, height)},
        **{int(name.removeprefix("tag")): value for name, value in tags.items()},
    }
    start = 8 + 2 + 12 * len(values) + 4
    outside = struct.pack(f"<{channels}H", *[bits] * channels)
    values[273] = (4, start + len(outside))
    entries = b""
    for tag, (kind, *numbers) in sorted(values.items()):
        content = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'L'}", *numbers)
        if len(content) > 4:
            content = struct.pack("<L", start)
        entries += struct.pack("<HHL", tag, kind, len(numbers)) + content.ljust(4, b"\0")
    header = b"II*\0" + struct.pack("<LH", 8, len(values))
    return header + entries + bytes(4) + outside + bytes(height * width * channels * bits // 8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff((4, 4, 5), 8, 2, tag338=(3, 0, 0)), "5 channels"),
        (tiff((4, 4, 1), 8, tag339=(3, 2)), "signed"),
        (tiff((4, 4, 1), 32), "32-bit"),
        (tiff((4, 4, 1), 12), "12-bit"),
        (tiff((4, 4, 1), 16, 0), "0 is white"),
        (tiff((4, 4, 1), 8, tag278=(4, 1)), "missing"),
        (tiff((4, 4, 3), 8, 8), "LAB"),
        (tiff((4, 4, 1), 8, tag322=(4, 2**20), tag323=(4, 2**20)), "pixels in a tile"),
        (tiff((2_000_000, 1, 1), 8), "pixels a side"),
        (b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 8, "TIFF tags"),
    ],
)
def test_tiffs_that_would_be_misread_are_refused(tmp_path, content, reason):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.tif: .*{reason}"):
        read_image(tmp_path / "a.tif")


def test_changes_on_reading(tmp_path):
    """Warnings of ``--check-data``."""
    frames = [picture("RGB"), picture("RGB").rotate(180)]
    samples = {
        "16-bit": encode_image(picture("I;16"), "PNG"),
        "RGB of 4 channels": tiff((4, 4, 4), 8, 2, tag338=(3, 0)),
        "first frame": encode_image(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "": encode_image(frames[0], "MPO", save_all=True, append_images=frames[1:]),
    }
    for expected, content in samples.items():
        (tmp_path / "a").write_bytes(content)
        with open_image(tmp_path / "a") as image:
            changes = changes_on_reading(image)
        assert [expected in change for change in changes] == ([True] if expected else [])
        read_image(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode_image(picture("L"), "JPEG"), "compression changes values"),
        (encode_image(picture("L"), "PNG", exif=orientation_tag(6)), "orientation 6"),
        (encode_image(picture("L"), "PNG", bits=4), "4-bit"),
    ],
)
def test_ids_that_would_be_others_are_refused(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=rf"a\.png: .*{reason}"):
        read_ids(tmp_path / "a.png")
