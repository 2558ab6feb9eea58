"""Text from files, made safe to print, draw and log."""

import reprlib
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

# Control characters, format characters (bidirectional overrides among them), lone surrogates,
# private use, line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
MAX_LENGTH = 200
MAX_NAME_LENGTH = 100
_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxother = 2, MAX_LENGTH, MAX_LENGTH


def printable(value: object, max_length: int = MAX_LENGTH) -> str:
    r"""Return ``str(value)`` with unprintable characters escaped, cut to ``max_length`` characters.

    Terminal escapes, line breaks, bidirectional overrides and lone surrogates become ``\x1b``,
    ``\n``, ``\u202e``, ``\ud800``; other text, in any script, stays as it is.
    """
    text = str(value)
    shown = "".join(map(_escape, text[:max_length]))
    return shown + ("…" if len(text) > max_length else "")


def short_repr(value: object, max_length: int = 80) -> str:
    """Return a printable ``repr(value)`` of bounded length, for any content.

    The time is bounded, too: lists and dictionaries are shown by their first entries, two deep.
    """
    return printable(_repr.repr(value), max_length)


def did_you_mean(name: str, names: Iterable[str], most: int = 1) -> str:
    """Return "; did you mean X?" for those of ``names`` that are close, or ""."""
    if len(name) > MAX_NAME_LENGTH:
        return ""
    by_capitals = {candidate.upper(): candidate for candidate in names}
    close = get_close_matches(name.upper(), by_capitals, n=most, cutoff=0.8)
    suggestions = " or ".join(by_capitals[capitals] for capitals in close)
    return f"; did you mean {suggestions}?" if suggestions else ""


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    return character.encode("unicode_escape").decode("ascii")
