"""The work of ``segcore serve``."""

import argparse
import ipaddress
import socket
from typing import TYPE_CHECKING

from segcore.errors import UserError
from segcore.requirements import require_detectron2, require_serve
from segcore.text import printable

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

MAX_CONNECTIONS = 64


def main(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C.

    Args:
        args: of :func:`segcore.cli.serve.build_parser`.

    Raises:
        UserError: the address or the port cannot be used.
        ConfigError, CheckpointError: the first model cannot be loaded.
    """
    require_detectron2()
    require_serve()
    from segcore.serve.app import create_app
    from segcore.serve.models import Models
    from segcore.serve.uploads import Limits

    with listen(args.host, args.port) as listener:
        models = Models(args.weights, args.config_file, args.device)
        models[0]  # what is wrong with it is said here, not in the page
        limits = Limits(args.max_megabytes, args.max_megapixels)
        app = create_app(models, limits, [args.host, socket.gethostname()])
        print(f"Open {address(listener)}, end with Ctrl-C", flush=True)
        if not is_local(listener):
            print("Everyone who reaches this address can use it: there is no password", flush=True)
        build_server(app).run(sockets=[listener])


def build_server(app: "Starlette") -> "uvicorn.Server":
    """Return uvicorn's server of an application: plain HTTP and nothing else."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        UserError: it cannot; says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"--host {printable(host)} --port {port}: {error.strerror or error}"
        ) from error


def address(listener: socket.socket) -> str:
    """Return the URL of the page."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:  # that is, of all its addresses
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listener: socket.socket) -> bool:
    """Return whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
