"""Rules for the values of single config keys, and relations between several.

A project adds rules and relations of its keys by :func:`add_rules` and :func:`relation`.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from detectron2.config import CfgNode

from segcore.backbones.features import FEATURES
from segcore.text import did_you_mean, short_repr

MAX_INTEGER = 10**9
MAX_NAMES_SHOWN = 12
MAX_SIDE = 65_536  # pixels
SYNC_NORMS = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
NORMS = ("", "BN", "FrozenBN", "GN", *SYNC_NORMS)


@dataclass(frozen=True)
class Rule:
    """Condition on the value of a key.

    Attributes:
        expected: a phrase for messages.
        accepts: returns whether a value, of any type, is right.
        names: returns the known names, if the value is one.
    """

    expected: str
    accepts: Callable[[Any], bool]
    names: Callable[[], Collection[str]] | None = None

    def fault(self, value: Any) -> str | None:
        """Describe the fault of a value; None if it is right."""
        if self.accepts(value):
            return None
        shown, expected, suggestion = short_repr(value), self.expected, ""
        if self.names:
            names = sorted(self.names())
            if len(names) <= MAX_NAMES_SHOWN:
                expected = f"one of {', '.join(map(repr, names))}"
            suggestion = did_you_mean(str(value), names, most=2)
        return f"expected {expected}, got {shown}{suggestion}"


class Relation(NamedTuple):
    """Check of several keys, each of which is right on its own."""

    keys: tuple[str, ...]  # or sections, all of what ``check`` reads
    check: Callable[[CfgNode], Iterator[str]]  # yields faults, a line each


RULES: dict[str, Rule] = {}
RELATIONS: list[Relation] = []
# Backbone -> the section of MODEL that names its features.
BACKBONE_SECTIONS: dict[str, str] = {}


def add_rules(section: str, rules: Mapping[str, Rule]) -> None:
    """Add the rules of the keys of a section, such as "MODEL.SWIN"; "" for the whole config."""
    RULES.update({f"{section}.{key}" if section else key: rule for key, rule in rules.items()})


def relation(*keys: str) -> Callable:
    """Decorate a check of a config that yields faults; it runs if all of ``keys`` are right."""

    def register(check: Callable[[CfgNode], Iterator[str]]) -> Callable:
        RELATIONS.append(Relation(keys, check))
        return check

    return register


def integer(low: int, high: int = MAX_INTEGER) -> Rule:
    """Rule: an integer in [low, high]."""
    expected = (
        f"an integer of at least {low}"
        if high == MAX_INTEGER
        else f"an integer from {low} to {high}"
    )
    return Rule(expected, lambda value: type(value) is int and low <= value <= high)


def number(low: float, high: float = math.inf, *, above: bool = False, below: bool = False) -> Rule:
    """Rule: a finite number in [low, high], without the ends if ``above`` and ``below``."""
    if high == math.inf:
        expected = f"a finite number {'above' if above else 'of at least'} {low:g}"
    else:
        expected = f"a number in {'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"

    def accepts(value: Any) -> bool:
        return (
            type(value) in (int, float)
            and math.isfinite(value)
            and low <= value <= high
            and not (above and value == low)
            and not (below and value == high)
        )

    return Rule(expected, accepts)


def share() -> Rule:
    """Rule: a number in [0, 1]."""
    return number(0, 1)


def dropout() -> Rule:
    """Rule: a number in [0, 1)."""
    return number(0, 1, below=True)


def boolean() -> Rule:
    return Rule("True or False", lambda value: type(value) is bool)


def text(*, empty: bool = True) -> Rule:
    """Rule: a text."""
    expected = "a text" if empty else "a text that is not empty"
    return Rule(expected, lambda value: isinstance(value, str) and (empty or bool(value.strip())))


def one_of(*values: Any) -> Rule:
    """Rule: one of these values."""
    if all(isinstance(value, str) for value in values):
        return named(lambda: values)
    expected = f"one of {', '.join(map(repr, values))}"
    return Rule(expected, lambda value: any(value == v and type(value) is type(v) for v in values))


def named(names: Callable[[], Collection[str]]) -> Rule:
    """Rule: one of the names that ``names()`` returns at the check, such as those of a registry."""
    return Rule(
        "a name that is registered",
        lambda value: isinstance(value, str) and value in names(),
        names,
    )


def optional(rule: Rule) -> Rule:
    """Rule: None, or a value that ``rule`` accepts."""
    return Rule(
        f"None or {rule.expected}", lambda value: value is None or rule.accepts(value), rule.names
    )


def list_of(rule: Rule, length: int | None = None, *, least: int = 1) -> Rule:
    """Rule: a list of ``length`` items, or of at least ``least``, all accepted by ``rule``."""
    if length is not None:
        expected = f"a list of {length} items"
    else:
        expected = "a list" + (f" of at least {least} item(s)" if least else "")
    if rule.names:
        expected += f", each one of {', '.join(map(repr, rule.names()))}"
    else:
        expected += f", each {rule.expected}"

    def accepts(value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and (len(value) == length if length is not None else len(value) >= least)
            and all(map(rule.accepts, value))
        )

    return Rule(expected, accepts)


def image_size() -> Rule:
    """Rule: [height, width] in pixels, or an empty list."""
    size = list_of(integer(1, MAX_SIDE), 2)
    return Rule(
        "an empty list or [height, width] in pixels",
        lambda value: value in ([], ()) or size.accepts(value),
    )


def arguments() -> Rule:
    """Rule: a list of pairs [name, value] for a constructor, of plain values."""

    def is_argument(pair: Any) -> bool:
        match pair:
            case [str(), bool() | int() | float() | str() | list() | tuple() | None]:
                return True
        return False

    return list_of(Rule("a pair [name, value] of a plain value", is_argument), least=0)


def keys_with_sync_norm(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Yield the full keys below ``node`` whose norm has statistics of all processes."""
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from keys_with_sync_norm(value, f"{prefix}{key}.")
        elif key.endswith("NORM") and value in SYNC_NORMS:
            yield prefix + key


def backbone_features(cfg: CfgNode) -> list[str] | None:
    """Return the features that the config's backbone returns, or None if that is unknown."""
    section = BACKBONE_SECTIONS.get(cfg.MODEL.BACKBONE.NAME)
    return None if section is None else list(cfg.MODEL[section].OUT_FEATURES)


def unknown_features(cfg: CfgNode, key: str, features: Collection[str]) -> Iterator[str]:
    """Yield a fault if the backbone does not return the features of ``key``."""
    returned = backbone_features(cfg)
    if returned is not None and not set(features) <= set(returned):
        section = BACKBONE_SECTIONS[cfg.MODEL.BACKBONE.NAME]
        yield (
            f"{key}: expected features of the backbone, {returned} (MODEL.{section}.OUT_FEATURES), "
            f"got {list(features)}"
        )


def equally_long(section: str, node: CfgNode, names: Collection[str]) -> Iterator[str]:
    """Yield a fault if the lists of a section, one item a stage each, differ in length."""
    lengths = {name: len(node[name]) for name in names}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        yield f"{section}: expected lists of one length, one item a stage; {shown}"


def indivisible_heads(
    section: str, channels: Collection[int], heads: Collection[int]
) -> Iterator[str]:
    """Yield a fault if the heads of a stage do not divide its channels."""
    if any(width % number for width, number in zip(channels, heads, strict=False)):
        yield (
            f"{section}.NUM_HEADS: expected divisors of the channels {list(channels)}, "
            f"got {list(heads)}"
        )


def unknown_outputs(section: str, node: CfgNode) -> Iterator[str]:
    """Yield a fault if a backbone of ``DEPTHS`` stages lacks some of ``OUT_FEATURES``."""
    emitted = FEATURES[: len(node.DEPTHS)]
    if not set(node.OUT_FEATURES) <= set(emitted):
        yield f"{section}.OUT_FEATURES: expected some of {emitted}, got {list(node.OUT_FEATURES)}"
