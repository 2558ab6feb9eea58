"""Pages in Chromium: they draw, sort and answer the pointer, without an error of the console."""

import pytest

from .conftest import HOSTILE

pytestmark = pytest.mark.browser


@pytest.fixture
def open_page(browser):
    """Open a page of some width, light or dark; afterwards the console must be clean."""

    def open_page(path, width=1280, theme="light"):
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []


def wait_for(browser, script: str, *arguments):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20, 0.05).until(
        lambda _: browser.execute_script(script, *arguments)
    )


def column(browser, index: int) -> list[str]:
    script = """return [...document.querySelectorAll('#classes tbody tr')]
        .map((row) => row.cells[arguments[0]].textContent)"""
    return browser.execute_script(script, index)


def point_at(browser, canvas, x: float, y: float) -> str:
    """Point at a place of a canvas, in shares of its size; return the tooltip's text."""
    from selenium.webdriver.common.action_chains import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    right, down = (
        round((place - 0.5) * canvas.size[side]) for place, side in ((x, "width"), (y, "height"))
    )
    ActionChains(browser).move_to_element_with_offset(canvas, right, down).perform()
    return wait_for(
        browser,
        "const tip = document.getElementById('tooltip'); return tip.hidden ? '' : tip.innerText",
    )


def drawn_canvases(browser):
    wait_for(
        browser,
        "return [...document.querySelectorAll('canvas')].every((c) => c.dataset.drawn === 'true')",
    )
    return browser.find_elements("css selector", ".card canvas")


def test_tables_are_sorted_by_their_headings(report, open_page):
    browser = open_page(report.path)
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
    browser = open_page(report.path)
    truth, found, errors = drawn_canvases(browser)[3:6]  # of the second photo
    assert point_at(browser, truth, 0.02, 0.05).startswith("sky\nmatched · IoU 0.9")
    assert point_at(browser, found, 0.02, 0.05).startswith("sky\nmatched · score 0.90 · IoU 0.9")
    assert "<script>" in point_at(browser, truth, 0.4, 0.5)
    assert point_at(browser, errors, 0.02, 0.05).startswith("right, or not counted\ntruth: sky")
    wrong = drawn_canvases(browser)[2]
    assert point_at(browser, wrong, 0.4, 0.5).startswith("missed, and another found instead")


def test_hostile_names_are_text(report, open_page):
    browser = open_page(report.path)
    assert browser.title.endswith("on few_photos")
    assert HOSTILE in column(browser, 0)
    assert browser.find_elements("css selector", "[onclick], main script") == []


def test_class_leads_to_its_worst_photos(report, open_page):
    browser = open_page(report.path)
    browser.find_elements("css selector", "#classes a[data-class='2']")[0].click()
    titles = [card.text for card in browser.find_elements("css selector", ".card h3")]
    assert len(titles) == 1 and "PQ 0.0 of this class" in titles[0]


def test_comparison_shows_both_predictions(comparison, open_page):
    browser = open_page(comparison)
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
    browser = open_page(report.path, width, theme)
    drawn_canvases(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground, ink = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    assert (brightness(ground) > brightness(ink)) == (theme == "light")
    assert len(browser.get_screenshot_as_png()) > 10_000


def brightness(color: str) -> int:
    return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(",")))
