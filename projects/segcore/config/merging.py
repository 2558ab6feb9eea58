"""Merging of settings into a config: keys must exist, values have the type of the default."""

import re
import warnings
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from fvcore.common.config import BASE_KEY

from segcore.config.faults import MAX_SHOWN
from segcore.text import did_you_mean, printable, short_repr

MAX_TEXT_LENGTH = 10_000
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
PLAIN_TYPES = (str, int, float, bool, type(None))
TYPE_NAMES = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a text",
    list: "a list in brackets",
    tuple: "a list in brackets",
}


def merge_settings(
    root: CfgNode,
    settings: Mapping[str, Any],
    location: Callable[[str], str] = lambda key: "",
) -> list[str]:
    """Merge nested settings into ``root``, in place; right ones are set even if others are wrong.

    Texts that are Python literals count as these, as everywhere in Detectron2's configs.

    Args:
        location: returns the file and line that set a full key, "" if unknown.

    Returns:
        The faults, one line a key.
    """
    faults = []
    for key, fault, is_known in _merge(root, root, settings, ""):
        if not is_known and len(faults) < MAX_SHOWN:  # a search takes milliseconds
            fault += _usage_hint([key]) or did_you_mean(key, all_keys(root), most=2)
        faults.append(f"{location(key)}: {fault}" if location(key) else fault)
    return faults


def merge_pairs(root: CfgNode, pairs: Sequence[Any]) -> list[str]:
    """Merge ``[key, value, key, value, ...]`` into ``root``; see :func:`merge_settings`."""
    if len(pairs) % 2:
        return [
            "expected pairs KEY VALUE, got an odd number of arguments, the last of which is "
            f"{printable(pairs[-1], 80)}" + _usage_hint(pairs)
        ]
    faults = []
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        settings = value
        for name in reversed(str(key).split(".")):
            settings = {name: settings}
        faults += merge_settings(root, settings)
    return faults


def all_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Yield the full keys of a config, sections included."""
    for name, value in node.items():
        yield prefix + name
        if isinstance(value, CfgNode):
            yield from all_keys(value, f"{prefix}{name}.")


def _merge(
    root: CfgNode, node: CfgNode, settings: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, str, bool]]:
    """Yield for each wrong setting its key, the fault, and whether there is such a key."""
    for name, raw in settings.items():
        key = f"{prefix}{name}"
        section = node.get(name)
        if isinstance(section, CfgNode) and isinstance(raw, Mapping):
            yield from _merge(root, section, raw, f"{key}.")
        elif name in node or node.is_new_allowed():
            try:
                node[name] = _converted(raw, section) if name in node else _new_value(node, raw)
            except ValueError as error:
                yield key, f"{printable(key)}: {error}", True
        elif not root.key_is_deprecated(key):
            while isinstance(raw, Mapping) and len(raw) == 1:
                ((name, raw),) = raw.items()
                key = f"{key}.{name}"
            yield key, *_unknown(root, key)


def _new_value(node: CfgNode, raw: Any) -> Any:
    """Return the value of a key that has no default."""
    if isinstance(raw, Mapping):
        return type(node)(dict(raw))
    return _converted(raw, None)


def _converted(raw: Any, default: Any) -> Any:
    """Convert ``raw`` to the type of ``default``; raise a ValueError if that is impossible."""
    value = _decoded(raw) if isinstance(raw, str) else raw
    if isinstance(default, CfgNode):
        names = ", ".join(list(default)[:3])
        raise ValueError(f"expected a section with keys such as {names}; got {short_repr(raw)}")
    if isinstance(default, str) and isinstance(raw, str) and not isinstance(value, str | None):
        value = raw
    if isinstance(default, float) and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if isinstance(default, list | tuple) and isinstance(value, list | tuple):
        value = type(default)(value)
    if not (default is None or value is None or type(value) is type(default)):
        raise ValueError(f"expected {TYPE_NAMES[type(default)]}, got {short_repr(raw)}")
    _require_plain(value, raw)
    return value


def _decoded(text: str) -> Any:
    """Return the value of a text that is a Python literal, else the text itself."""
    if len(text) > MAX_TEXT_LENGTH:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _require_plain(value: Any, raw: Any) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            _require_plain(item, raw)
    elif type(value) not in PLAIN_TYPES:
        raise ValueError(f"expected text, numbers and lists of them, got {short_repr(raw)}")
    elif isinstance(value, str) and _UNUSABLE.search(value):
        raise ValueError(
            f"expected a text without control characters and surrogates, got {short_repr(raw)}"
        )


def _unknown(root: CfgNode, key: str) -> tuple[str, bool]:
    if root.key_is_renamed(key):
        new = root.__dict__[CfgNode.RENAMED_KEYS][key]
        new = " ".join(new) if isinstance(new, tuple) else new
        return f"{printable(key)}: this key was renamed to {new}", True
    shown = f"{printable(key)}: there is no such key"
    if key.rpartition(".")[2] == BASE_KEY:
        return f"{shown}: {BASE_KEY} stands in files only, at their top", True
    return shown, False


def _usage_hint(arguments: Sequence[Any]) -> str:
    for argument in map(str, arguments):
        if argument.startswith("-"):
            return f"; options such as {printable(argument, 40)} come before the pairs KEY VALUE"
        if re.match(r"[A-Z0-9_.]+=", argument):
            return "; write KEY VALUE, without '='"
    return ""
