"""Protection of a local server from the web pages that are open in the same browser."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from segcore.text import short_repr

HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # the page itself has the rest
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class SameOriginMiddleware:
    """Passes on requests of the server's own page, and of programs, alone.

    * ``Host`` is an address or one of ``names``: under DNS rebinding, a stranger's domain points
      to this machine, and ``Host`` has the name of that domain.
    * ``Origin`` and ``Sec-Fetch-Site``, which browsers add, are those of the page. A link to the
      page itself may stand anywhere.

    Args:
        app: that answers.
        names: of hosts, beside addresses and localhost.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()):
        self.app = app
        self.names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(Headers(scope=scope), is_page=scope["path"] == "/")
        app = self.app if refusal is None else JSONResponse({"error": refusal}, 403)
        await app(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers, is_page: bool) -> str | None:
        host = headers.get("host", "")
        if not self._is_known(host):
            return (
                "Host: expected an address such as 127.0.0.1, localhost or the name given as "
                f"--host, got {short_repr(host)}"
            )
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            return f"Origin: expected that of this page, got {short_repr(origin)}"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and not is_page:
            return f"Sec-Fetch-Site: expected same-origin, got {short_repr(site)}"
        return None

    def _is_known(self, host: str) -> bool:
        name = _split(f"//{host}").hostname or ""
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _split(address: str):
    try:
        return urlsplit(address)
    except ValueError:  # such as an unclosed bracket
        return urlsplit("")
