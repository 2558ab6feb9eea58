"""The page and its requests: addresses, statuses, and what runs beside the event loop."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from segcore.errors import ImageError, UserError
from segcore.program import explain
from segcore.report.page import render_page
from segcore.serve.models import Models
from segcore.serve.same_origin import SameOriginMiddleware
from segcore.serve.store import KINDS, ForgottenPhotoError, PhotoStore
from segcore.serve.thresholds import ThresholdError
from segcore.serve.uploads import Limits, file_name, received
from segcore.text import printable

TEMPLATES = Path(__file__).parent / "templates"
MAX_WAITING = 16  # requests
MEDIA_TYPES = {".jpg": "image/jpeg", ".png": "image/png", ".json": "application/json"}
Answer = TypeVar("Answer")
Endpoint = Callable[["_Server", Request], Awaitable[Response]]


def create_app(models: Models, limits: Limits, host_names: Collection[str] = ()) -> Starlette:
    """Return the application.

    ========================  ================================================================
    ``GET /``                 the page
    ``POST /photos``          segment the photo in the body; ``model`` is an index, ``name`` that
                              of the file, everything else a threshold
    ``GET /photos/ID``        its segments with other thresholds
    ``GET /photos/ID/KIND``   a file, one of ``KINDS``
    ========================  ================================================================

    A refusal is JSON with one line, ``error``.

    Args:
        host_names: see :class:`SameOriginMiddleware`.
    """
    server = _Server(models, limits)
    return Starlette(
        routes=[
            Route("/", server.page),
            Route("/photos", server.add_photo, methods=["POST"]),
            Route("/photos/{identity}", server.photo),
            Route("/photos/{identity}/{kind}", server.file),
        ],
        middleware=[Middleware(SameOriginMiddleware, names=host_names)],
        exception_handlers={
            HTTPException: _refuse,
            ClientDisconnect: lambda request, error: Response(status_code=400),  # nobody reads it
        },
    )


def _bounded(endpoint: Endpoint) -> Endpoint:
    """Refuse requests that come while ``MAX_WAITING`` are at work, or wait."""

    @functools.wraps(endpoint)
    async def bounded(self: "_Server", request: Request) -> Response:
        if self.waiting >= MAX_WAITING:
            raise HTTPException(503, f"{MAX_WAITING} requests are waiting: try again later")
        self.waiting += 1
        try:
            return await endpoint(self, request)
        finally:
            self.waiting -= 1

    return bounded


class _Server:
    def __init__(self, models: Models, limits: Limits):
        self._store = PhotoStore(models, limits)
        self._limits = limits
        # The event loop stays free, and models and photos have one user at a time.
        self._worker = ThreadPoolExecutor(1, "segcore-serve")
        self._lock = asyncio.Lock()
        self.waiting = 0  # requests

    async def page(self, request: Request) -> Response:
        data = {
            "kind": "serve",
            "title": "Segment a photo",
            "models": [printable(name) for name in self._store.models.names],
            "limits": self._limits._asdict(),
            "categories": [],
            "photos": [],
        }
        return HTMLResponse(render_page("serve.html", folder=TEMPLATES, data=data))

    @_bounded
    async def add_photo(self, request: Request) -> Response:
        thresholds = dict(request.query_params)
        name, model = file_name(thresholds.pop("name", "")), thresholds.pop("model", "0")
        count = len(self._store.models.names)
        if model not in map(str, range(count)):
            raise HTTPException(400, f"model: expected a number below {count}")
        async with received(request, self._limits.megabytes) as path:
            answer = await self._run(request, self._store.add, path, name, int(model), thresholds)
        return JSONResponse(answer, 201)

    @_bounded
    async def photo(self, request: Request) -> Response:
        return JSONResponse(
            await self._run(
                request,
                self._store.describe,
                request.path_params["identity"],
                dict(request.query_params),
            )
        )

    @_bounded
    async def file(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise HTTPException(404, f"expected one of {', '.join(KINDS)}")
        name, content = await self._run(
            request,
            self._store.file,
            request.path_params["identity"],
            kind,
            dict(request.query_params),
        )
        return Response(
            content,
            media_type=MEDIA_TYPES[Path(name).suffix],
            headers={"Content-Disposition": f"attachment; filename*=utf-8''{quote(name)}"},
        )

    async def _run(
        self, request: Request, function: Callable[..., Answer], *arguments: Any
    ) -> Answer:
        """Run a method of the store, after the requests before this one, unless its sender left."""
        try:
            async with self._lock:
                if await request.is_disconnected():
                    raise ClientDisconnect
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._worker, function, *arguments)
        except (ClientDisconnect, HTTPException):
            raise
        except Exception as error:
            known = explain(error)
            if known is None:
                raise
            raise HTTPException(_status(known), " ".join(str(known).splitlines())) from error


def _status(error: UserError) -> int:
    for kind, status in ((ForgottenPhotoError, 404), (ThresholdError, 400), (ImageError, 400)):
        if isinstance(error, kind):
            return status
    return 500


async def _refuse(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
