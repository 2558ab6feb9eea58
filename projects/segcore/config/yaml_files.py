"""Configuration files: bounded YAML that runs no code, with the files that ``_BASE_`` names."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY

from segcore.config.expression import evaluate_int_list
from segcore.config_names import config_names, find_config
from segcore.errors import ConfigError
from segcore.files import relative_to
from segcore.text import did_you_mean, printable, short_repr

MAX_FILE_SIZE = 128 * 1024  # bytes; ours and the official ones have less than 4 KiB
MAX_FILES = 64  # that one file may load by ``_BASE_``, itself included
MAX_BASE_DEPTH = 16
MAX_VALUES = 10_000  # of a file, those of aliases counted each time
MAX_DEPTH = 16
MAX_NUMBER_LENGTH = 64

_TAG = "tag:yaml.org,2002:"
_SCALARS = {_TAG + name for name in ("str", "int", "float", "bool", "null")}
_MERGE = _TAG + "merge"
_EXPRESSION = _TAG + "python/object/apply:eval"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class ConfigFile:
    """Settings of one file.

    Attributes:
        source: its name in messages: a path.
        settings: nested dicts of plain values, without ``_BASE_``.
        bases: the paths in ``_BASE_``, as written, weakest first.
        lines: for each full key, such as "MODEL.WEIGHTS", the number of its line.
    """

    source: str
    settings: dict[str, Any]
    bases: list[str] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """Return the value of a full key, or None."""
        value = self.settings
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def location(self, key: str) -> str:
        """Return the file and line that set a full key, for messages."""
        line = self.lines.get(key)
        return self.source + (f", line {line}" if line else "")


def read_config_files(path: str | os.PathLike) -> list[ConfigFile]:
    """Read a configuration file and its bases, in the order in which they are merged.

    A ``_BASE_`` is relative to the file that names it. Where there is no such file, a path is the
    name of a configuration that comes with the package: :func:`segcore.config_names.find_config`.

    Raises:
        ConfigError: see :func:`parse_config`; or a file is missing, remote, no regular file, too
            large or not UTF-8; or ``_BASE_`` has a loop, or names too many files.
    """
    files: list[ConfigFile] = []
    _read_with_bases(find_config(os.fspath(path)), [], files)
    return files


def parse_config(text: str, source: str) -> ConfigFile:
    """Parse YAML text into plain values only.

    Raises:
        ConfigError: names ``source``, the line and the fault: syntax, a tag such as
            ``!!python/...``, a duplicate key, a key that is no text, a date, more values or a
            deeper nesting than allowed.
    """
    source = printable(source, 300)
    if len(text) > MAX_FILE_SIZE:
        raise ConfigError(f"{source} is larger than {MAX_FILE_SIZE // 1024} KiB")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}{at}: no valid YAML: {printable(error.problem)}") from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        reason = printable(getattr(error, "reason", error))
        raise ConfigError(f"{source}, line {line}: no valid YAML: {reason}") from error
    except RecursionError:
        raise ConfigError(f"{source}: values are nested too deep") from None
    if not isinstance(node, yaml.MappingNode):
        content = "nothing" if node is None else f"a {node.id}"
        raise ConfigError(f"{source}: expected KEY: VALUE lines, got {content}")
    reader = _NodeReader(source)
    settings = reader.read(node)
    location = f"{source}, line {reader.lines.get(BASE_KEY)}"
    bases = _checked_bases(settings.pop(BASE_KEY, []), location)
    return ConfigFile(source, settings, bases, reader.lines)


def read_text(path: str, named_by: str = "") -> str:
    """Read a local configuration file.

    Args:
        named_by: addition to messages that tells the origin of the path.
    """
    shown = f"config file {printable(path, 300)}"
    if _URL.match(path):
        raise ConfigError(
            f"{shown}{named_by} is remote: download it, look at it, and give the local path"
        )
    try:
        is_regular = stat.S_ISREG(os.stat(path).st_mode)
        if is_regular:
            with open(path, "rb") as file:
                content = file.read(MAX_FILE_SIZE + 1)
    except FileNotFoundError as error:
        start = ": it is relative to that file" if named_by else relative_to(path)
        hint = did_you_mean(path, config_names())
        raise ConfigError(f"{shown}{named_by} does not exist{start}{hint}") from error
    except (OSError, ValueError) as error:  # no permission, name too long, a null character
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{shown}{named_by} cannot be read: {reason}") from error
    if not is_regular:
        raise ConfigError(f"{shown}{named_by} is no regular file")
    if len(content) > MAX_FILE_SIZE:
        raise ConfigError(f"{shown}{named_by} is larger than {MAX_FILE_SIZE // 1024} KiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{shown}{named_by} is no YAML text: byte {error.start} is not UTF-8"
        ) from error


def _read_with_bases(path: str, chain: list[str], files: list[ConfigFile]) -> None:
    named_by = ""
    if chain:
        named_by = f" (_BASE_ of {printable(chain[-1], 300)})"
    if len(chain) > MAX_BASE_DEPTH:
        raise ConfigError(f"{printable(chain[0], 300)}: _BASE_ is more than {MAX_BASE_DEPTH} deep")
    text = read_text(path, named_by)
    if os.path.realpath(path) in map(os.path.realpath, chain):
        loop = " -> ".join(printable(os.path.basename(name), 80) for name in [*chain, path][-5:])
        raise ConfigError(f"{printable(chain[0], 300)}: _BASE_ goes round in a loop: {loop}")
    config = parse_config(text, path)
    for base in config.bases:
        base = os.path.expanduser(base)
        if not _URL.match(base):
            base = find_config(base, os.path.dirname(path))
        _read_with_bases(base, [*chain, path], files)
    files.append(config)
    if len(files) > MAX_FILES:
        raise ConfigError(
            f"{printable((*chain, path)[0], 300)}: _BASE_ names more than {MAX_FILES} files in all"
        )


def _checked_bases(value: Any, location: str) -> list[str]:
    bases = value if isinstance(value, list) else [value]
    for base in bases:
        if not isinstance(base, str) or not base:
            raise ConfigError(
                f"{location}: {BASE_KEY}: expected a path or a list of paths, "
                f"got {short_repr(base)}"
            )
    return bases


class _NodeReader:
    """Turns the node graph of one YAML document into plain values."""

    def __init__(self, source: str):
        self.source = source
        self.lines: dict[str, int] = {}
        self.num_values = 0
        self.constructor = yaml.constructor.SafeConstructor()

    def read(self, node: yaml.Node, key: str = "", depth: int = 0) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise self.error(node, f"more than {MAX_VALUES} values, aliases included")
        if depth > MAX_DEPTH:
            raise self.error(node, f"values are nested more than {MAX_DEPTH} deep")
        if node.tag == _EXPRESSION:
            return self._expression(node)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.read(item, key, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node)
        raise self.error(node, self._refusal(node))

    def error(self, node: yaml.Node, fault: str) -> ConfigError:
        return ConfigError(f"{self.source}, line {node.start_mark.line + 1}: {fault}")

    def _mapping(self, node: yaml.MappingNode, prefix: str, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged = dict(self._merged(value_node, prefix, depth)) | merged
                continue
            if key_node.tag != _TAG + "str" or not isinstance(key_node, yaml.ScalarNode):
                raise self.error(key_node, "expected a name as key (in quotes, if it has to be)")
            name = key_node.value
            if name in result:
                raise self.error(key_node, f"{printable(name)}: this key is set twice")
            key = f"{prefix}.{name}" if prefix else name
            self.lines[key] = key_node.start_mark.line + 1
            result[name] = self.read(value_node, key, depth + 1)
        return merged | result

    def _merged(self, node: yaml.Node, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        """Return the entries that ``<<`` merges; the first of several mappings takes precedence."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in reversed(sources):
            if not isinstance(source, yaml.MappingNode):
                raise self.error(node, "<<: expected a mapping, or a list of mappings")
            yield from self.read(source, prefix, depth + 1).items()

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        too_long = kind in ("int", "float") and len(node.value) > MAX_NUMBER_LENGTH
        try:
            value = None if too_long else self.constructor.construct_object(node)
        except (ValueError, KeyError, IndexError, AttributeError, yaml.YAMLError):
            too_long = True
        if too_long:
            raise self.error(node, f"expected a value of type {kind}, got {_shown(node)}")
        return value

    def _expression(self, node: yaml.Node) -> list[int]:
        match node:
            case yaml.SequenceNode(value=[yaml.ScalarNode(tag="tag:yaml.org,2002:str") as source]):
                try:
                    return evaluate_int_list(source.value)
                except ValueError as error:
                    raise self.error(node, f"{_shown(source)}: {error}") from error
        raise self.error(node, "!!python/object/apply:eval: expected a list of one expression")

    def _refusal(self, node: yaml.Node) -> str:
        tag = node.tag.replace(_TAG, "!!")
        if tag == "!!timestamp":
            return f"{_shown(node)} is a date in YAML: write it in quotes"
        if tag == "!!value":
            return "'=' means something in YAML: write it in quotes"
        reason = ": YAML that runs Python is refused" if tag.startswith("!!python") else ""
        return f"the tag {printable(tag, 80)} is not allowed{reason}"


def _shown(node: yaml.ScalarNode) -> str:
    return f"'{printable(node.value, 80)}'"
