"""Pages in Chromium: they draw, sort and answer the pointer, without an error of the console."""

import pytest

from browser_pages import check_look, point_at, wait_for

from .conftest import HOSTILE

pytestmark = pytest.mark.browser


def column(browser, index: int) -> list[str]:
    script = """return [...document.querySelectorAll('#classes tbody tr')]
        .map((row) => row.cells[arguments[0]].textContent)"""
    return browser.execute_script(script, index)


def drawn_canvases(browser):
    wait_for(
        browser,
        "return [...document.querySelectorAll('canvas')].every((c) => c.dataset.drawn === 'true')",
    )
    return browser.find_elements("css selector", ".card canvas")


def test_tables_are_sorted_by_their_headings(report, open_page):
    browser = open_page(report.path.as_uri())
    headings = browser.find_elements("css selector", "#classes th button")
    before = column(browser, 2)
    headings[2].click()
    falling = column(browser, 2)
    assert falling == sorted(before, key=float, reverse=True)
    headings[2].click()
    assert column(browser, 2) == falling[::-1]
    headings[0].click()
    names = column(browser, 0)
    assert names[-1] == "sky"
    headings[0].click()
    assert column(browser, 0) == names[::-1]


def test_pointing_names_segment_score_and_overlap(report, open_page):
    browser = open_page(report.path.as_uri())
    truth, found, errors = drawn_canvases(browser)[3:6]  # of the second photo
    assert point_at(browser, truth, 0.02, 0.05).startswith("sky\nmatched · IoU 0.9")
    assert point_at(browser, found, 0.02, 0.05).startswith("sky\nmatched · score 0.90 · IoU 0.9")
    assert "<script>" in point_at(browser, truth, 0.4, 0.5)
    assert point_at(browser, errors, 0.02, 0.05).startswith("right, or not counted\ntruth: sky")
    wrong = drawn_canvases(browser)[2]
    assert point_at(browser, wrong, 0.4, 0.5).startswith("missed, and another found instead")


def test_hostile_names_are_text(report, open_page):
    browser = open_page(report.path.as_uri())
    assert browser.title.endswith("on few_photos")
    assert HOSTILE in column(browser, 0)
    assert browser.find_elements("css selector", "[onclick], main script") == []


def test_class_leads_to_its_worst_photos(report, open_page):
    browser = open_page(report.path.as_uri())
    browser.find_elements("css selector", "#classes a[data-class='2']")[0].click()
    titles = [card.text for card in browser.find_elements("css selector", ".card h3")]
    assert len(titles) == 1 and "PQ 0.0 of this class" in titles[0]


def test_comparison_shows_both_predictions(comparison, open_page):
    browser = open_page(comparison.as_uri())
    first, second = drawn_canvases(browser)[1:3]
    place = 53 / 80, 0.5  # right of the square, and on the shifted one
    assert point_at(browser, first, *place).startswith("sky\nmatched")
    assert "<script>" in point_at(browser, second, *place)
    headings = browser.find_elements("css selector", "#classes th button")
    browser.execute_script("scrollTo(0, 0)")
    headings[4].click()
    assert column(browser, 4) == sorted(column(browser, 4), key=float, reverse=True)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_page_fits_its_window(report, open_page, width, theme):
    browser = open_page(report.path.as_uri(), width, theme)
    drawn_canvases(browser)
    check_look(browser, width, theme)
