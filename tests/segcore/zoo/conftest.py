"""A server of weights on this machine, and a cache of the test's own."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


class WeightsServer(ThreadingHTTPServer):
    """Serves CONTENT at every path; attributes make it misbehave.

    Attributes:
        requests: the Range header of each request so far, None where there was none.
        cut_after: bytes after which connections end, one number a connection.
        stated_length: Content-Length instead of the true one; "" for none.
        status: answer with this code.
        takes_ranges: whether Range is respected.
        pause: seconds to wait in the middle of the content.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.tag = CONTENT, '"first"'
        self.requests: list[str | None] = []
        self.cut_after: list[int] = []
        self.stated_length: str | None = None
        self.status = 200
        self.takes_ranges = True
        self.content_type = "binary/octet-stream"
        self.stop = threading.Event()
        self.pause = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server: WeightsServer = self.server
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        total, start = len(server.content), 0
        if wanted and server.takes_ranges and self.headers.get("If-Range") == server.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        length = str(total - start) if server.stated_length is None else server.stated_length
        if length:
            self.send_header("Content-Length", length)
        self.send_header("ETag", server.tag)
        self.send_header("Content-Type", server.content_type)
        self.end_headers()
        body = server.content[start:]
        if server.cut_after:
            body = body[: server.cut_after.pop(0)]
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        server.stop.wait(server.pause)
        self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *args):
        pass


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    with WeightsServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.stop.set()
        server.shutdown()
        thread.join()
