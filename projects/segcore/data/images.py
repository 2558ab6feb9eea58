"""Read and encode images: every photo, semantic map and panoptic PNG passes here.

Accepted are regular files whose content is of one of ``FORMATS``, up to a number of pixels. Of
files with several frames or pages, the first is read. Pixel values become 8 bits by one rule:

- 16-bit grey values are divided by 257 and rounded; of 16-bit colours Pillow reads the high byte,
  which differs from that by at most 1;
- alpha is dropped, palettes, CMYK and YCbCr become RGB as Pillow converts them;
- signed, 32-bit and floating-point values, 12-bit TIFFs, LAB, and more than 4 channels are refused.

For all other files the pixels are those of Detectron2's ``read_image``.
"""

import io
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import ExifTags, Image, UnidentifiedImageError

from segcore.errors import ImageError
from segcore.text import printable

MAX_PIXELS = 128_000_000  # default of INPUT.MAX_PIXELS
MAX_FILE_BYTES = 2**30  # some decoders read whole files into memory
# Pillow opens MPO, photos of phones and stereo cameras, as JPEG.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "AVIF")
_FORMAT_NAMES = "JPEG, MPO, PNG, TIFF, BMP, WebP, GIF or AVIF"
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .tif .tiff .bmp .webp .gif .avif .avifs".split()
)
_COLOR_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
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
    if is_16_bit_grey(image):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode == "P":
        image.info.pop("transparency", None)  # only makes Pillow warn
    return convert_PIL_to_numpy(image, format)


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a photo completely and turn it as its EXIF orientation says; keep its mode.

    Raises:
        ImageError: as :func:`read_image`.
    """
    with open_image(path, max_pixels) as image:
        _require_readable_pixels(path, image)
        with _pillow(path, image):
            image.load()
            # After loading: Pillow turns TIFFs itself.
            turn = _TURNS.get(exif_orientation(image))
            return image if turn is None else image.transpose(turn)


def read_ids(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, str]:
    """Read a semantic map or panoptic PNG as it is stored: values are ids, never scaled or turned.

    Returns:
        (H, W) or (H, W, C) uint8, uint16 or bool, and Pillow's mode: "P" gives palette indices.

    Raises:
        ImageError: as :func:`read_image`; or the values would not be those of the file: 2-bit or
            4-bit grey, 16-bit colours, an EXIF orientation.
    """
    with open_image(path, max_pixels) as image:
        _require_readable_pixels(path, image)
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

    The size of an image that is opened is bounded, decoding it can still fail: use
    :func:`read_image` or :func:`load_image` for the pixels.

    Raises:
        ImageError: the file is missing, not regular, of another format or has too many pixels.
    """
    check_image_file(path)
    try:
        with _pillow(path):
            image = Image.open(path, formats=_available_formats())
    except ImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise _unidentified(path) from error.__cause__
        raise
    try:
        _require_size(path, image, max_pixels)
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
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, device or socket"
        raise ImageError(f"{printable(path)}: expected an image file, got {kind}")
    if status.st_size == 0:
        raise ImageError(f"{printable(path)}: cannot read the image (the file is empty)")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(
            f"{printable(path)}: expected an image file of at most {MAX_FILE_BYTES >> 20} MiB, got "
            f"{status.st_size >> 20} MiB"
        )


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation 1 to 8; 1 where there is none, or where the EXIF data are broken."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's parser fails in many ways, and Detectron2 ignores them all
        return 1
    return orientation if orientation in _TURNS else 1


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


def _available_formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _unidentified(path: str | Path) -> ImageError:
    with open(path, "rb") as file:
        prefix = file.read(16)
    for name in _available_formats():
        accepts = Image.OPEN[name][1]
        if accepts is not None and accepts(prefix) is True:
            return ImageError(
                f"{printable(path)}: cannot read the image: the header of the {name} file is "
                "broken, or its kind of pixels is not supported"
            )
    return ImageError(
        f"{printable(path)}: cannot read the image: its content is not {_FORMAT_NAMES}"
    )


def _require_size(path: str | Path, image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise ImageError(f"{printable(path)}: cannot read the image ({width} x {height} pixels)")
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
    """Raise an ImageError for pixels that would lose their meaning as 8-bit colours."""
    kind = None
    if image.format == "TIFF":
        kind = _refused_tiff(image)
    if kind is None and image.mode not in _COLOR_MODES and not is_16_bit_grey(image):
        names = {"F": "floating-point values", "I": "32-bit or signed values"}
        kind = names.get(image.mode, f"colour mode {image.mode}")
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
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(
            f"{printable(path)}: cannot read the image ({printable(reason)})"
        ) from error


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
