"""A server of small models with random weights, and requests to it."""

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from trained_folder import train

MEGABYTES, MEGAPIXELS = 1, 1


class Client:
    """Requests to a server, one connection each."""

    def __init__(self, port: int):
        self.port = port

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> SimpleNamespace:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return SimpleNamespace(
            status=response.status,
            headers=response.headers,
            content=content,
            json=json.loads(content) if is_json else None,
        )

    def segment(self, body: bytes, **query: Any) -> SimpleNamespace:
        return self.send("POST", f"/photos?{urlencode(query)}", body)

    def get(self, identity: str, kind: str = "", **query: Any) -> SimpleNamespace:
        return self.send("GET", f"/photos/{identity}{kind and '/'}{kind}?{urlencode(query)}")


def encoded(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """Noise (45, 90, 3), RGB."""
    return np.random.default_rng(0).integers(0, 256, (45, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server of two models, the second of which is not loaded yet."""
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from segcore.serve.app import create_app
    from segcore.serve.models import Models
    from segcore.serve.program import build_server, listen
    from segcore.serve.uploads import Limits

    folders = [
        str(train(tmp_path_factory.mktemp(system), system))
        for system in ("mask2former", "panoptic_segformer")
    ]
    models = Models([*folders, "<b>nowhere"], device="cpu")
    listener = listen("127.0.0.1", 0)
    uvicorn_server = build_server(
        create_app(models, Limits(MEGABYTES, MEGAPIXELS), ["Workstation"])
    )
    thread = threading.Thread(target=uvicorn_server.run, args=([listener],), daemon=True)
    thread.start()
    while not uvicorn_server.started:
        time.sleep(0.01)
    port = listener.getsockname()[1]
    yield SimpleNamespace(
        models=models, client=Client(port), port=port, url=f"http://127.0.0.1:{port}/"
    )
    uvicorn_server.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture(scope="session")
def client(server: SimpleNamespace) -> Client:
    return server.client
