"""Arguments of ``segcore serve``."""

import argparse

from segcore.cli.values import positive


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Serve a local page to segment photos: drop one, choose model and thresholds, "
        "point at segments, download PNG and JSON.",
        epilog="The page is docs/serve.md.",
    )
    add = parser.add_argument
    add(
        "--weights",
        action="append",
        required=True,
        metavar="FILE",
        help="file, name of a published model, or folder of a training; repeat it for a choice of "
        "models in the page",
    )
    add("--config-file", metavar="FILE", help="needed for weights that carry no config")
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="default %(default)s, this machine alone; 0.0.0.0 serves everyone in its network",
    )
    add("--port", type=port, default=8000, help="default %(default)s; 0 takes a free one")
    add("--max-megapixels", type=positive, default=32, metavar="N", help="a photo; default 32")
    add("--max-megabytes", type=positive, default=32, metavar="N", help="a file; default 32")
    return parser


def port(text: str) -> int:
    """Parse the number of a port."""
    if text.isascii() and text.isdigit() and int(text[:6]) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
