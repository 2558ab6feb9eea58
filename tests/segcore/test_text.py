import pytest

from segcore.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("street", "street"),
        ("straße 道路 🚲", "straße 道路 🚲"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines\r", r"two\nlines\r"),
        ("right\u202eleft", r"right\u202eleft"),
        ("lone\ud800", r"lone\ud800"),
    ],
)
def test_unprintable_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_long_text_is_cut():
    assert printable("a" * 1000, 10) == "a" * 10 + "…"


def test_other_values_are_shown_as_text():
    assert printable(["\x1b"]) == r"['\x1b']"
