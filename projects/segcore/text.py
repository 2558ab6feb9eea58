"""Text from files, made safe to print, draw and log."""

import unicodedata

# Control characters, format characters (bidirectional overrides among them), lone surrogates,
# private use, line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
MAX_LENGTH = 200


def printable(value: object, max_length: int = MAX_LENGTH) -> str:
    r"""Return ``str(value)`` with unprintable characters escaped, cut to ``max_length`` characters.

    Terminal escapes, line breaks, bidirectional overrides and lone surrogates become ``\x1b``,
    ``\n``, ``\u202e``, ``\ud800``; other text, in any script, stays as it is.
    """
    text = str(value)
    shown = "".join(map(_escape, text[:max_length]))
    return shown + ("…" if len(text) > max_length else "")


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    return character.encode("unicode_escape").decode("ascii")
