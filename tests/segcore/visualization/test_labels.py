"""Names of classes in any script: never boxes."""

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image, ImageDraw

from segcore.visualization import labels
from segcore.visualization.labels import drawable_name, font_for


@pytest.fixture
def fonts(monkeypatch):
    """The installed fonts, as a list of paths to be filled; those of this machine do not count."""
    paths = []
    monkeypatch.setattr(labels, "_installed_fonts", lambda: paths)
    labels._find_font.cache_clear()
    yield paths
    labels._find_font.cache_clear()


def make_font(path, characters):
    """A font whose glyphs are triangles."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((250, 800))
    pen.lineTo((500, 0))
    pen.closePath()
    names = [".notdef", *(f"u{ord(character):04X}" for character in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, characters), names[1:], strict=True)))
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Triangles", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


def named(name, identity=7):
    return {"id": identity, "name": name, "isthing": 0}


@pytest.mark.parametrize("name", ["road", "Straße", "дорога", "δρόμος", "đường phố", "طريق", "1 %"])
def test_scripts_of_the_default_font(fonts, name):
    assert drawable_name(named(name)) == name


def test_names_that_no_font_has(fonts):
    assert drawable_name(named("道路")) == "#7"
    assert drawable_name(named("道路 (road)")) == "#7 (road)"
    assert drawable_name(named("\uff52\uff4f\uff41\uff44")) == "road"
    assert drawable_name(named("")) == ""


def test_installed_font_is_used(fonts, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    make_font(tmp_path / "cjk.ttf", "道路")
    fonts += [tmp_path / "missing.ttf", tmp_path / "broken.ttf", tmp_path / "cjk.ttf"]
    assert drawable_name(named("道路")) == "道路"
    assert drawable_name(named("歩道")) == "#7"
    assert font_for("道路", 20).path == str(tmp_path / "cjk.ttf")


def test_control_characters_are_escaped(fonts):
    assert drawable_name(named("a\x1b[31m\n\u202eb")) == r"a\x1b[31m\n\u202eb"


def test_glyphs_that_are_drawn_are_no_boxes(fonts):
    def drawn(text):
        canvas = Image.new("L", (200, 40))
        ImageDraw.Draw(canvas).text((5, 5), text, 255, font_for(text, 20))
        return np.asarray(canvas)

    assert not np.array_equal(drawn("д"), drawn("\ufdd0"))  # of no font
    assert drawn("д").any()


def test_fonts_of_this_machine_are_usable():
    """Whatever is installed: the list has files, and unsuitable ones are left out."""
    labels._installed_fonts.cache_clear()
    fonts = labels._installed_fonts()
    assert labels.default_font().is_relative_to(matplotlib.get_data_path())
    assert fonts and not any("LastResort" in str(path) for path in fonts)
    assert len(fonts) <= len(font_manager.fontManager.ttflist)
