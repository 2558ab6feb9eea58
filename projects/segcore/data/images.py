"""Read and encode images: every photo, semantic map and panoptic PNG passes here.

Accepted are regular files whose content is of one of ``FORMATS``, up to a number of pixels. Of
files with several frames or pages, the first is read. Pixel values become 8 bits by one rule:

- 16-bit grey values are divided by 257 and rounded; of 16-bit colors Pillow reads the high byte,
  which differs from that by at most 1;
- alpha is dropped, palettes, CMYK and YCbCr become RGB as Pillow converts them;
- signed, 32-bit and floating-point values, 12-bit TIFFs, LAB, and more than 4 channels are refused.

For all other files the pixels are those of Detectron2's ``read_image``.
"""

import io
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from segcore.errors import ImageError
from segcore.text import printable

MAX_PIXELS = 128_000_000  # default of INPUT.MAX_PIXELS
MAX_SIDE = 1_000_000  # rows cost time and memory, however short they are
# Decoders of compressed formats read whole files into memory, or search them byte by byte.
MAX_FILE_BYTES, MAX_COMPRESSED_BYTES = 2**30, 2**27
MAX_TIFF_TAGS = 2**16
# Pillow opens MPO, photos of phones and stereo cameras, as JPEG.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "AVIF")
_UNCOMPRESSED = {"PNG", "TIFF", "BMP"}  # at least possibly so
_LOSSY = {"JPEG", "MPO", "AVIF"}
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"),
    *(".tif", ".tiff", ".bmp", ".webp", ".gif", ".avif", ".avifs"),
)
_COLOR_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(
    path: str | Path, format: str | None = "RGB", max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read a photo, turned as its EXIF orientation says.

    Args:
        format: "RGB", "BGR", "L" or "YUV-BT.601", as Detectron2's ``read_image`` takes it; None
            leaves the mode as it is.
        max_pixels: refuse images with more.

    Returns:
        (H, W, 3), or (H, W, 1) for "L", uint8; float64 for "YUV-BT.601".

    Raises:
        ImageError: the file is missing, broken, too large or of a kind that is refused.
    """
    image = load_image(path, max_pixels)
    with _pillow(path, image):
        if is_16_bit_grey(image):
            image = Image.fromarray(_to_8_bits(np.asarray(image)))
        if image.mode == "P":
            image.info.pop("transparency", None)  # only makes Pillow warn
        if image.mode == "RGB" and format in ("RGB", "BGR"):  # spares Detectron2's copy
            pixels = np.asarray(image)
            return pixels if format == "RGB" else pixels[:, :, ::-1]
        from detectron2.data.detection_utils import convert_PIL_to_numpy

        return convert_PIL_to_numpy(image, format)


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a photo completely and turn it as its EXIF orientation says; keep its mode.

    Raises:
        ImageError: as :func:`read_image`.
    """
    with open_image(path, max_pixels) as image, _pillow(path, image):
        image.load()
        # After loading: Pillow turns TIFFs itself.
        turn = _TURNS.get(exif_orientation(image))
        return image if turn is None else image.transpose(turn)


def read_ids(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, str]:
    """Read a semantic map or panoptic PNG as it is stored: values are ids, never scaled or turned.

    Returns:
        (H, W) or (H, W, C) uint8, uint16 or bool, and Pillow's mode: "P" gives palette indices.

    Raises:
        ImageError: as :func:`read_image`; or the values would not be those meant: lossy formats,
            2-bit or 4-bit grey, 16-bit colors, an EXIF orientation.
    """
    with open_image(path, max_pixels) as image:
        if image.format in _LOSSY:
            raise ImageError(
                f"{printable(path)}: expected ids in a PNG, got {image.format}, whose compression "
                "changes values"
            )
        raw = _raw_mode(image)
        if raw.startswith(("L;2", "L;4")) or (";16" in raw and not is_16_bit_grey(image)):
            raise ImageError(
                f"{printable(path)}: expected ids of 8 bits a channel, or 16-bit grey, got "
                f"{raw.partition(';')[2][:2].strip('BLNI')}-bit {image.mode}: save it with those"
            )
        with _pillow(path, image):
            image.load()
            orientation = exif_orientation(image)
            pixels = np.asarray(image)
        if orientation in _TURNS:
            raise ImageError(
                f"{printable(path)}: has the EXIF orientation {orientation}, but ids are read as "
                "stored: remove the tag"
            )
    return (pixels.astype(np.uint16) if is_16_bit_grey(image) else pixels), image.mode


def open_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image and read its header only; use it as a context manager to close the file.

    Size and kind of pixels are those accepted, but decoding can still fail: use
    :func:`read_image` or :func:`load_image` for the pixels.

    Raises:
        ImageError: the file is missing, not regular, of another format or refused.
    """
    image_format = _format_of(path)
    with _pillow(path):
        image = Image.open(path, formats=[image_format])
    try:
        _require_size(path, image, max_pixels)
        _require_readable_pixels(path, image)
    except BaseException:
        image.close()
        raise
    return image


def check_image_file(path: str | Path) -> None:
    """Raise an ImageError unless ``path`` is a regular file, or a link to one, with content."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{printable(path)}: cannot read the image ({reason})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a pipe, device or socket"
        if stat.S_ISDIR(status.st_mode):
            kind = "a folder" if os.access(path, os.R_OK) else "a folder that cannot be listed"
        raise ImageError(f"{printable(path)}: expected an image file, got {kind}")
    if status.st_size == 0:
        raise ImageError(f"{printable(path)}: cannot read the image (the file is empty)")


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation 1 to 8; 1 where there is none, or where the EXIF data are broken."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's parser fails in many ways, and Detectron2 ignores them all
        return 1
    return orientation if orientation in _TURNS else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened image as stored, before its EXIF orientation turns it."""
    # Pillow gives those of a TIFF as turned.
    return getattr(image, "_tile_size", image.size)


def is_image_name(name: str) -> bool:
    """Return whether a file's name ends as those of the accepted formats do."""
    return name.lower().endswith(SUFFIXES)


def is_16_bit_grey(image: Image.Image) -> bool:
    # Older versions of Pillow open a 16-bit PNG as "I".
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")


def changes_on_reading(image: Image.Image) -> list[str]:
    """Describe what :func:`read_image` changes or leaves out of an opened image that it accepts."""
    changes = []
    if is_16_bit_grey(image) or ";16" in _raw_mode(image):
        changes.append("16-bit values are divided by 257, which makes them 8-bit")
    if image.format == "TIFF" and _tiff_samples(image) > len(image.getbands()):
        changes.append(f"only {image.mode} of {_tiff_samples(image)} channels are used")
    if image.format != "MPO" and _has_more_frames(image):
        changes.append("only the first frame or page is used")
    return changes


def encode_image(image: np.ndarray | Image.Image, format: str, **options: object) -> bytes:
    """Encode into memory, for :func:`segcore.files.write_bytes`.

    Args:
        image: of Pillow, or an array that ``Image.fromarray`` takes.
        format: Pillow's name of the format, such as "PNG".
        options: of Pillow's ``save``, such as ``quality``.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    content = io.BytesIO()
    image.save(content, format=format, **options)
    return content.getvalue()


def _format_of(path: str | Path) -> str:
    """Pillow's name of the format that the first bytes of a file show."""
    check_image_file(path)
    Image.init()
    try:
        with open(path, "rb") as file:
            start, size = file.read(16), os.fstat(file.fileno()).st_size
            table_of_tags = _tag_count(start, file)
    except OSError as error:
        raise ImageError(f"{printable(path)}: cannot read the image ({error.strerror})") from error
    for name in FORMATS:
        _, accepts = Image.OPEN.get(name, (None, None))
        if accepts is None or accepts(start) is not True:
            continue
        limit = MAX_FILE_BYTES if name in _UNCOMPRESSED else MAX_COMPRESSED_BYTES
        if size > limit:
            raise ImageError(
                f"{printable(path)}: expected a {name} file of at most {limit >> 20} MiB, got "
                f"{size >> 20} MiB"
            )
        if table_of_tags > MAX_TIFF_TAGS:
            raise ImageError(
                f"{printable(path)}: expected at most {MAX_TIFF_TAGS} TIFF tags, got "
                f"{table_of_tags}"
            )
        return name
    raise ImageError(
        f"{printable(path)}: cannot read the image: its content is not JPEG, MPO, PNG, TIFF, BMP, "
        "WebP, GIF or AVIF"
    )


def _tag_count(start: bytes, file: IO[bytes]) -> int:
    """Number of tags of a BigTIFF, of which it can claim 2^64; 0 of other files."""
    orders = {b"II+\0": "<Q", b"MM\0+": ">Q"}
    if start[:4] not in orders or len(start) < 16:
        return 0
    order = orders[start[:4]]
    file.seek(min(struct.unpack(order, start[8:])[0], 2**62))
    count = file.read(8)
    return struct.unpack(order, count)[0] if len(count) == 8 else 0


def _require_size(path: str | Path, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise ImageError(f"{printable(path)}: cannot read the image ({width} x {height} pixels)")
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{printable(path)}: expected at most {MAX_SIDE} pixels a side, got {width} x {height}"
        )
    sizes = [("", width, height)]
    if image.format == "TIFF":
        tags = image.tag_v2
        sizes.append((" in a tile", _number(tags.get(322), 1), _number(tags.get(323), 1)))
    for where, w, h in sizes:
        if w * h > max_pixels:
            raise ImageError(
                f"{printable(path)}: expected at most {max_pixels} pixels{where} "
                f"(INPUT.MAX_PIXELS), got {w} x {h} = {w * h}"
            )


def _require_readable_pixels(path: str | Path, image: Image.Image) -> None:
    """Raise an ImageError for pixels that would lose their meaning as 8-bit colors."""
    kind = None
    if image.format == "TIFF":
        kind = _refused_tiff(image)
    if kind is None and image.mode not in _COLOR_MODES and not is_16_bit_grey(image):
        names = {"F": "floating-point values", "I": "32-bit or signed values"}
        kind = names.get(image.mode, f"color mode {image.mode}")
    if kind is not None:
        raise ImageError(
            f"{printable(path)}: expected grey or RGB values of 8 or 16 bits, got {kind}: convert "
            "it first"
        )


def _refused_tiff(image: Image.Image) -> str | None:
    """Name what Pillow would misread in a TIFF, or leave out without a word."""
    tags = image.tag_v2
    bits = set(_values(tags.get(258, 1)))
    if _tiff_samples(image) > 4:
        return f"{_tiff_samples(image)} channels"
    if set(_values(tags.get(339, 1))) != {1}:
        return "signed or floating-point values"
    if not bits <= {1, 2, 4, 8, 16}:
        return f"{max(bits)}-bit values"
    if 16 in bits and tags.get(284, 1) != 1:
        return "16-bit channels in separate planes"
    if 16 in bits and tags.get(262) == 0:
        return "16-bit values where 0 is white"
    boxes = np.array([tile[1] for tile in image.tile]).reshape(-1, 4)
    covered = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).sum()
    if covered < image.width * image.height:
        return "rows that are missing"
    return None


def _tiff_samples(image: Image.Image) -> int:
    return max(_number(image.tag_v2.get(277), 1), len(image.getbands()))


def _values(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _number(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for the layout of the pixels in an opened file, such as "RGB;16B"; or ""."""
    for tile in getattr(image, "tile", []):
        for argument in _values(tile[3]):
            if isinstance(argument, str):
                return argument
    return ""


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a broken second frame is not read
        return True


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """Divide 16-bit values by 257 and round: 65535 becomes 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


@contextmanager
def _pillow(path: str | Path, image: Image.Image | None = None) -> Iterator[None]:
    """Turn what Pillow raises on broken files, which can be anything, into an ImageError."""
    try:
        with _without_pillow_limit():
            yield
    except MemoryError as error:
        need = "" if image is None else f" of {image.width} x {image.height} pixels"
        raise ImageError(
            f"{printable(path)}: not enough memory for an image{need}: INPUT.MAX_PIXELS refuses "
            "images above a size"
        ) from error
    except Exception as error:
        reason = printable(getattr(error, "strerror", None) or error)
        if isinstance(error, UnidentifiedImageError):
            reason = "its header is broken, or its kind of pixels is not supported"
        raise ImageError(f"{printable(path)}: cannot read the image ({reason})") from error


_limit_lock = threading.Lock()
_limit_users = 0
_pillow_limit: int | None = None


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Suspend Pillow's bound of pixels, which warns below ours and cannot be set a call."""
    global _limit_users, _pillow_limit
    with _limit_lock:
        if _limit_users == 0:
            _pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                Image.MAX_IMAGE_PIXELS = _pillow_limit
