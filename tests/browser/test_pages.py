"""The pages of docs/ in headless Chromium: on a phone nothing but code, tables and formulas is wider than the screen,
and those scroll within themselves; on a desk no line of a notebook's code is cut.

Needs chromium, chromedriver and selenium (`make test-browser`); skipped aloud where one is missing.
"""

import pytest
from test_lab import CHECKOUT, chromium, need_chromium

pytestmark = pytest.mark.browser
PAGES = sorted((CHECKOUT / "docs").glob("*.html"))
CUT = """
return [...document.querySelectorAll("pre")].filter(e => e.innerText && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.innerText);
"""


@pytest.fixture(scope="module")
def browser():
    need_chromium("the pages were not looked at in a browser")
    driver = chromium()
    yield driver
    driver.quit()


def screen(browser, width, mobile):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page_fits_a_phone_and_shows_whole_lines_on_a_desk(browser, page):
    screen(browser, 390, True)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    screen(browser, 1280, False)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 1280
    assert browser.execute_script(CUT) == []
