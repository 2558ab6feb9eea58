"""Actions on a page in Chromium, driven by Selenium."""


def wait_for(browser, script: str, *arguments):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20, 0.05).until(
        lambda _: browser.execute_script(script, *arguments)
    )


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


def check_look(browser, width: int, theme: str) -> None:
    """Check that nothing is wider than the page, and that its colors are of a theme."""
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground, ink = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    assert (_brightness(ground) > _brightness(ink)) == (theme == "light")
    assert len(browser.get_screenshot_as_png()) > 10_000


def _brightness(color: str) -> int:
    return sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(",")))
