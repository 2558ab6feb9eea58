"""The page in Chromium: drop a photo, point at segments, move a threshold, download."""

import base64

import pytest
from PIL import Image

from browser_pages import check_look, point_at, wait_for

from .conftest import encoded

pytestmark = pytest.mark.browser

DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (character) => character.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], arguments[1]));
for (const type of ["dragover", "drop"]) document.getElementById("drop").dispatchEvent(
    new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer }));
"""
STATUS = "return document.getElementById('status').textContent"
COUNT = "return document.querySelectorAll('#segments tbody tr').length"
ROWS = "return [...document.querySelectorAll('#segments tbody tr')].map((row) => row.innerText)"
MOVE = """
for (const [name, value] of Object.entries(arguments[0])) {
  const slider = document.querySelector(`#thresholds [name="${name}"]`);
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
}"""
CHOOSE = """
const choice = document.getElementById("model");
choice.value = arguments[0];
choice.dispatchEvent(new Event("change"));"""


def drop(browser, content: bytes, name: str = "my <i>photo.png") -> None:
    browser.execute_script(DROP, base64.b64encode(content).decode(), name)


def wait_for_status(browser, words: str) -> None:
    wait_for(browser, f"{STATUS}.includes(arguments[0])", words)


def drawn_canvas(browser):
    wait_for(browser, "return document.querySelector('canvas')?.dataset.drawn === 'true'")
    return browser.find_element("css selector", "canvas")


def segment(browser, photo, model: int) -> None:
    """Choose a model, drop a photo and wait for its segments."""
    browser.execute_script(CHOOSE, str(model))
    drop(browser, encoded(photo))
    wait_for_status(browser, "in 90 x 45 pixels")


def test_from_a_photo_to_its_files(server, open_page, photo, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    browser = open_page(server.url)
    downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
    assert browser.execute_script(STATUS).startswith("No photo yet")
    segment(browser, photo, model=1)
    few = browser.execute_script(ROWS)

    everything = {
        "quality-things": 0,
        "quality-stuff": 0,
        "overlap-things": 1,
        "overlap-stuff": 1,
        "mask": 0.01,
    }
    browser.execute_script(MOVE, everything)
    wait_for(browser, f"{COUNT} > arguments[0]", len(few))
    named = point_at(browser, drawn_canvas(browser), 0.5, 0.5).split("\n")
    assert named[0] in ("cat", "dog", "sky")
    assert named[1].startswith("score 0.") and named[1].endswith("pixels")

    browser.find_element("css selector", "a[data-kind='panoptic.png']").click()
    (file,) = WebDriverWait(browser, 20, 0.05).until(
        lambda _: list(tmp_path.glob("*_panoptic.png"))
    )
    assert Image.open(file).size == (90, 45)

    browser.find_element("id", "defaults").click()
    wait_for(browser, f"{COUNT} === arguments[0]", len(few))
    assert browser.execute_script(ROWS) == few


def test_photos_come_back_when_the_server_forgot_them(
    server, open_page, photo, client, monkeypatch
):
    browser = open_page(server.url)
    segment(browser, photo, model=0)
    monkeypatch.setattr("segcore.serve.store.MAX_PHOTOS", 1)
    client.segment(encoded(photo))
    browser.execute_script(MOVE, {"score": 0})
    wait_for(browser, "return document.querySelector('#defaults').hidden === false")
    wait_for_status(browser, "in 90 x 45 pixels")
    (entry,) = browser.get_log("browser")
    assert "404" in entry["message"]


def test_refusals_are_said(server, open_page):
    browser = open_page(server.url)
    drop(browser, bytes(2**20 + 1))  # not even sent
    wait_for_status(browser, "my <i>photo.png: expected a file of at most 1 MB")
    drop(browser, b"<svg onload=alert(1)>")
    wait_for_status(browser, "its content is not JPEG")
    (entry,) = browser.get_log("browser")
    assert "415" in entry["message"]


def test_last_photo_and_last_thresholds_win(server, open_page, photo):
    """Whatever is asked for while a request runs."""
    browser = open_page(server.url)
    segment(browser, photo, model=0)
    for size in (20, 24, 28):
        drop(browser, encoded(photo[:size]))
        browser.execute_script(MOVE, {"score": size / 100})
    wait_for_status(browser, "in 90 x 28 pixels")
    wait_for(
        browser,
        """return document.querySelector('#result').ariaBusy === 'false' &&
            document.querySelector("a[data-kind='overlay']").href.endsWith('?score=0.28')""",
    )
    assert "in 90 x 28 pixels" in browser.execute_script(STATUS)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_page_fits_its_window(server, open_page, photo, width, theme):
    browser = open_page(server.url, width, theme)
    segment(browser, photo, model=0)
    drawn_canvas(browser)
    check_look(browser, width, theme)
