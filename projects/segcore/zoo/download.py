"""Downloads that go on where they were cut off, and appear only when they are complete."""

import os
import re
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from iopath.common.file_io import file_lock
from tqdm import tqdm

from segcore.errors import OutputError
from segcore.text import printable

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20  # bytes


class DownloadError(Exception):
    """The file cannot be had from its address; the message is the reason."""


class CutOffError(DownloadError):
    """The connection ended before the file did."""


def download(url: str, path: str | Path, *, timeout: float = TIMEOUT) -> None:
    """Download a file, unless it is there; processes that want the same one take turns.

    What was received stays beside ``path`` as ``.part`` when the connection ends; it is continued
    by the next call, and by this one as long as every connection brings something. A server that
    has another file by then, or cannot continue, sends it from the start.

    Args:
        url: http or https.
        timeout: seconds to wait for a connection, or for the next bytes.

    Raises:
        DownloadError: the server does not give the file whole; says why.
        OutputError: the folder cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.part")
    try:
        with file_lock(str(path)):
            if not path.is_file():
                _complete(url, partial, timeout)
                os.replace(partial, path)
                _tag_file(partial).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _complete(url: str, partial: Path, timeout: float) -> None:
    """Connect until the file is whole, as long as every connection brings something."""
    received = -1
    while received < _size(partial):
        received = _size(partial)
        try:
            return _transfer(url, partial, timeout)
        except CutOffError as error:
            failure = error
    raise failure


def _transfer(url: str, partial: Path, timeout: float) -> None:
    """Fetch what ``partial`` lacks of the file.

    Raises:
        CutOffError: there is still something missing.
        DownloadError: the server refuses, or sends something else.
    """
    start = _size(partial)
    with _open(url, partial, start, timeout) as response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            start = 0
            _save_tag(response, partial)
        total = _total_size(response, start)
        bar = tqdm(
            desc=partial.stem, total=total, initial=start, unit="B", unit_scale=True, disable=None
        )
        with bar, open(partial, "ab" if start else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
    received = _size(partial)
    if received < total:
        raise CutOffError(f"the connection ended after {received:,} of {total:,} bytes")
    if received > total:
        partial.unlink()
        raise DownloadError(f"expected {total:,} bytes, got {received:,}")


def _open(url: str, partial: Path, start: int, timeout: float) -> HTTPResponse:
    """Ask for the file from byte ``start`` on, if it is still the one of the first connection."""
    headers = {"User-Agent": "segcore", "Accept-Encoding": "identity"}
    tag = _tag_file(partial)
    if start and tag.is_file() and tag.stat().st_size:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag.read_text()}
    try:
        return urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        with error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                partial.unlink()
                return _open(url, partial, 0, timeout)
            raise DownloadError(f"HTTP {error.code} {printable(error.reason)}") from error
    except URLError as error:
        raise DownloadError(_reason(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise DownloadError(_reason(error)) from error


def _total_size(response: HTTPResponse, start: int) -> int:
    """Return the length of the whole file in bytes."""
    if response.headers.get_content_type() == "text/html":
        raise DownloadError("the server sends a web page instead of the file")
    if start:
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(rf"bytes {start}-\d+/(\d+)", content_range)
        if match is None:
            raise DownloadError(
                f"Content-Range: expected bytes from {start}, got '{printable(content_range, 80)}'"
            )
        return int(match[1])
    length = response.headers.get("Content-Length", "")
    if not length.isdecimal():
        raise DownloadError("the server does not state the length of the file (Content-Length)")
    return int(length)


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the content in pieces, until it or the connection ends."""
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, HTTPException):
            return
        if not chunk:
            return
        yield chunk


def _save_tag(response: HTTPResponse, partial: Path) -> None:
    """Keep what tells this file from a later one at the same address (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    if tag.startswith("W/") or not tag:
        tag = response.headers.get("Last-Modified", "")
    _tag_file(partial).write_text(tag)


def _tag_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(error: object) -> str:
    if isinstance(error, OSError):
        error = error.strerror or error
    return printable(error)
