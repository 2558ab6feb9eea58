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
    """Write a page atomically, see :func:`render_page`.

    Raises:
        OutputError: the page cannot be written.
    """
    page = render_page(template, **context)
    write_bytes(page.encode("utf-8", errors="backslashreplace"), path)


def render_page(template: str, *, folder: Path = TEMPLATES, **context: Any) -> str:
    """Return the text of a page.

    Text of ``context`` is escaped by the template; the page's policy forbids every script but ours
    and every address but the page itself.

    Args:
        template: name of a file, such as ``data.html``.
        folder: of the template; its style and script (``data.css``, ``data.js``), if there are
            such, follow those of all pages.
        context: names of the template; ``data``, whose JSON the page's script reads, is one.
    """
    stem = folder / Path(template).stem
    script = _joined(TEMPLATES / "page.js", stem.with_suffix(".js"))
    digest = hashlib.sha256(script.encode()).digest()
    context |= {
        "data": finite(context["data"]),
        "style": _joined(TEMPLATES / "page.css", stem.with_suffix(".css")),
        "script": script,
        "script_hash": base64.b64encode(digest).decode(),
    }
    return _environment(folder).get_template(template).render(**context)


def _joined(*paths: Path) -> str:
    """Return the texts of those files that there are."""
    return "".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())


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
def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["data_tag"] = DATA_TAG
    environment.policies["json.dumps_function"] = json.dumps
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters["number"] = _number
    environment.filters["percent"] = lambda value: _number(None if value is None else 100 * value)
    return environment


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
