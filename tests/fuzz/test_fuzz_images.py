"""Damaged photos and panoptic PNGs: read, or refused by one clear error."""

import io
from functools import partial
from random import Random

import numpy as np
import pytest
from PIL import Image

from fuzz.fuzzing import mutated_bytes, run_cases, tree
from segcore.data.images import read_ids, read_image
from segcore.errors import ImageError

FORMATS = ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "AVIF"]
MAX_PIXELS = 1_000_000


def encoded(format: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    image, content = Image.fromarray(pixels), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    options = {"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {}
    image.save(content, format, **options)
    return content.getvalue()


def photo(path) -> None:
    pixels = read_image(path, "BGR", MAX_PIXELS)
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    assert pixels[..., 0].size <= MAX_PIXELS


def ids(path) -> None:
    pixels, _ = read_ids(path, MAX_PIXELS)
    assert pixels.ndim in (2, 3) and pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata in various ways
@pytest.mark.parametrize("read", [photo, ids])
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_images(tmp_path, format, read):
    if format not in Image.SAVE and not Image.init() and format not in Image.SAVE:
        pytest.skip(f"this build of Pillow writes no {format}")
    sound, path = encoded(format), tmp_path / "photo"

    def make(random: Random) -> bytes:
        return mutated_bytes(sound, random)

    def use(content: bytes) -> None:
        path.write_bytes(content)
        read(path)

    run_cases(f"{read.__name__} {format}", make, use, ImageError)
    assert tree(tmp_path) == {"photo"}


def test_random_bytes_after_the_signature_of_a_format(tmp_path):
    signatures = [encoded(format)[:12] for format in FORMATS]
    signatures += [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%PDF-1.4\n", b"P6\n9 9\n255\n", b"SIMPLE  = T"]
    path = tmp_path / "photo"

    def use(content: bytes) -> None:
        path.write_bytes(content)
        read_image(path, "RGB", MAX_PIXELS)

    def make(random: Random) -> bytes:
        return random.choice(signatures) + random.randbytes(random.randrange(4096))

    run_cases("random image", make, partial(use), ImageError)
    assert tree(tmp_path) == {"photo"}
