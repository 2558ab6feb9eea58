"""Photos that come as the body of a request: received and decoded within bounds."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request

from segcore.data.images import open_image, read_image
from segcore.errors import ImageError
from segcore.text import printable

SECONDS = 120  # for a body to arrive
NAME_LENGTH = 200  # characters
ANY_PIXELS = 2**62


class Limits(NamedTuple):
    """Bounds of a photo.

    Attributes:
        megabytes: of the file, 2^20 bytes each.
        megapixels: 10^6 pixels each.
    """

    megabytes: int = 32
    megapixels: int = 32


@asynccontextmanager
async def received(request: Request, megabytes: int) -> AsyncIterator[Path]:
    """Write the body into a temporary file, and yield its path.

    Raises:
        HTTPException: 413, it is too large; 408, it does not arrive.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > megabytes << 20:
        raise _too_large(megabytes)
    with tempfile.NamedTemporaryFile(prefix="segcore-") as file:
        try:
            await asyncio.wait_for(_write(request, file, megabytes), SECONDS)
        except asyncio.TimeoutError as error:
            raise HTTPException(408, f"the file did not arrive within {SECONDS} s") from error
        yield Path(file.name)


async def _write(request: Request, file: IO[bytes], megabytes: int) -> None:
    async for chunk in request.stream():
        file.write(chunk)
        if file.tell() > megabytes << 20:
            raise _too_large(megabytes)
    file.flush()


def _too_large(megabytes: int) -> HTTPException:
    return HTTPException(413, f"expected a file of at most {megabytes} MB")


def decode(path: Path, megapixels: int) -> np.ndarray:
    """Read a photo as (H, W, 3) uint8, RGB; its size is checked before it is decoded.

    Raises:
        HTTPException: 415, it is of no kind that is read; 413, it has too many pixels; 400, it is
            broken.
    """
    with _refused_as(415, path), open_image(path, ANY_PIXELS) as image:
        width, height = image.size
    if width * height > megapixels * 10**6:
        raise HTTPException(
            413, f"expected at most {megapixels} megapixels, got {width} x {height} pixels"
        )
    with _refused_as(400, path):
        return read_image(path, "RGB", megapixels * 10**6)


def file_name(text: str) -> str:
    """Return the name of a photo without folders, printable and of bounded length."""
    return printable(PurePosixPath(text.replace("\\", "/")).name, NAME_LENGTH) or "photo"


@contextmanager
def _refused_as(status: int, path: Path) -> Iterator[None]:
    """Turn an ImageError, which names the temporary file, into an answer that does not."""
    try:
        yield
    except ImageError as error:
        raise HTTPException(status, str(error).removeprefix(f"{path}: ")) from error
