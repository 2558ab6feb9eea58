"""Pages of one file: template, style, script, data and pictures inside, nothing from elsewhere."""

import base64
import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jinja2

from segcore.files import write_bytes

DATA_TAG = '<script type="application/json" id="data">'
TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: str | Path, template: str, **context: Any) -> None:
    """Write a page atomically.

    Text of ``context`` is escaped by the template; the page's policy forbids every script but ours
    and every address but the page itself.

    Args:
        path: of the page.
        template: name of a file in ``templates``.
        context: names of the template; ``data``, whose JSON the page's script reads, is one.

    Raises:
        OutputError: the page cannot be written.
    """
    context["data"] = finite(context["data"])
    page = _environment().get_template(template).render(**context)
    write_bytes(page.encode("utf-8", errors="backslashreplace"), path)


def finite(value: Any) -> Any:
    """Replace numbers that JSON does not know, NaN and infinity, by None, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    environment.globals.update(
        style=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=script,
        data_tag=DATA_TAG,
        script_hash=base64.b64encode(digest).decode(),
    )
    environment.policies["json.dumps_function"] = json.dumps
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda value: _number(None if value is None else 100 * value)
    return environment


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
