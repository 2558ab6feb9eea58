"""Bounds of what class lists may hold, for annotation files and for checkpoints alike.

Each ``*_fault`` returns what is wrong as a phrase for an error message, or None.
"""

from segcore.text import printable, short_repr

# The confusion matrix of a semantic evaluation has (K + 1)^2 numbers of 8 bytes: 0.5 GiB.
MAX_CATEGORIES = 8192
MAX_NAME_LENGTH = 200


def name_fault(name: object) -> str | None:
    """Check a class name: a text of 1 to 200 characters, which UTF-8 can encode."""
    expected = f"expected a text of 1 to {MAX_NAME_LENGTH} characters"
    if not isinstance(name, str):
        return f"{expected}, got a {type(name).__name__}"
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        return f"{expected}, got {len(name)}"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return f"expected Unicode text, got lone surrogates in '{printable(name)}'"
    return None


def color_fault(color: object) -> str | None:
    """Check a color: a list of three integers in [0, 255]."""
    if isinstance(color, list | tuple) and len(color) == 3 and all(map(_is_channel, color)):
        return None
    return f"expected three integers in [0, 255], got {short_repr(color)}"


def _is_channel(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
