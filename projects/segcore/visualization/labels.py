"""Class names in any script, in an installed font that has their glyphs.

The glyphs of fonts are asked, so that no picture shows boxes in place of a name.
"""

import functools
import unicodedata
from pathlib import Path

from PIL import ImageFont

from segcore.data.panoptic_format import Category
from segcore.text import printable

# Fonts whose glyphs are boxes, nothing, or pictures of fixed size.
_UNSUITABLE = ("lastresort", "blank", "emoji", "color")
MAX_NAME_LENGTH = 60


def drawable_name(category: Category) -> str:
    """Return the name of a category in characters that an installed font has.

    Characters that no installed font has are replaced by their decomposition, such as "A" for a
    full-width "A". If a character has none, the category's id stands before the rest:
    "#7", or "#7 (road)".
    """
    name = printable(category["name"], MAX_NAME_LENGTH)
    if name.isascii() or _font_of(name) is not None:
        return name
    parts = [_drawable(character) for character in name]
    rest = " ".join("".join(part or " " for part in parts).split())
    return rest if all(parts) else f"#{category['id']} {rest}".strip()


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of ``size`` pixels that has the glyphs of ``text``, where one is installed."""
    if text.isascii():
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(_font_of(text) or default_font()), size)


@functools.cache
def default_font() -> Path:
    """Return the font of Matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and more."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


def _drawable(character: str) -> str:
    """Return the character, or the part of its decomposition that can be drawn."""
    if _font_of(character) == default_font():
        return character
    parts = unicodedata.normalize("NFKD", character)
    return "".join(part for part in parts if _font_of(part) == default_font())


def _font_of(text: str) -> Path | None:
    return _find_font(frozenset(map(ord, text)) - {ord(" ")})


@functools.lru_cache(maxsize=4096)
def _find_font(characters: frozenset[int]) -> Path | None:
    """Return the first font that has all characters (code points), or None."""
    for path in (default_font(), *_installed_fonts()):
        if characters <= _characters_of(path):
            return path
    return None


@functools.cache
def _installed_fonts() -> list[Path]:
    """Return installed fonts, upright and of normal weight before others, sans-serif first."""
    from matplotlib import font_manager

    fonts = [
        font
        for font in font_manager.fontManager.ttflist
        if not any(word in font.name.replace(" ", "").lower() for word in _UNSUITABLE)
    ]
    fonts.sort(
        key=lambda font: (
            font.style != "normal",
            str(font.weight) not in ("400", "normal", "regular"),
            "sans" not in font.name.lower(),
            font.name,
            font.fname,
        )
    )
    return list(dict.fromkeys(Path(font.fname) for font in fonts))


@functools.cache
def _characters_of(path: Path) -> frozenset[int]:
    """Return the code points of a font that Pillow can draw; none of an unusable font."""
    from matplotlib.ft2font import FT2Font

    try:
        ImageFont.truetype(str(path), 16)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
