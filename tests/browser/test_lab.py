"""The notebooks in a real JupyterLab in headless Chromium: Run All from a fresh kernel leaves no error and no warning;
in 08 every widget is moved, and every picture must change; in 02 a position is asked, in 09 a box is drawn.

Needs chromium, chromedriver and selenium (`make test-browser`); skipped aloud where one is missing. Screenshots
go to artefacts/browser.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
CHECKOUT = Path(__file__).resolve().parents[2]
EXPLORERS = "08_visualise.ipynb"
OTHERS = sorted(p.name for p in (CHECKOUT / "notebooks").glob("[0-9]*.ipynb") if p.name != EXPLORERS)
SHOTS = CHECKOUT / "artefacts" / "browser"
PATIENCE = float(os.environ.get("TLG_BROWSER_PATIENCE", 300))  # seconds for a notebook to run; slow machines need more
CHROMIUM = (
    os.environ.get("TLG_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("google-chrome")
    or shutil.which("chromium-browser")
)
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1400,1600"
).split()
PIXELS = """
const image = arguments[0], canvas = document.createElement("canvas");
canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
canvas.getContext("2d").drawImage(image, 0, 0);
return canvas.width * canvas.height ? canvas.toDataURL() : "";
"""
KERNEL_READY = """
const panel = window.jupyterapp.shell.currentWidget, kernel = panel?.sessionContext?.session?.kernel;
return panel?.sessionContext?.isReady === true && kernel?.connectionStatus === "connected" && kernel.status === "idle";
"""
RUN_ALL = """
window.tlgRun = "";
window.jupyterapp.commands.execute("notebook:run-all-cells").then(
    () => { window.tlgRun = "done"; }, (error) => { window.tlgRun = String(error); });
"""


def need_chromium(otherwise):
    """Skip, saying what was not looked at, where a part is missing."""
    pytest.importorskip("selenium", reason="selenium is not installed: make test-browser")
    if not CHROMIUM or not shutil.which("chromedriver"):
        pytest.skip(f"no chromium with chromedriver on this machine: {otherwise}")


def chromium():
    """A driver of headless Chromium that keeps the browser's log."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """URL of a JupyterLab on a copy of notebooks/, with data and runs of its own unless TLG_HOME is set."""
    need_chromium("the widgets were not tried in a browser")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(CHECKOUT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    settings = folder / "settings" / "@jupyterlab"
    for name, value in (
        ("notebook-extension/tracker", {"windowingMode": "none"}),
        ("apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False}),
    ):
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"TLG_SMOKE": "1", "OMP_NUM_THREADS": "1", "TLG_HOME": str(folder / "home"), **os.environ}
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            f"--port={port}",
            "--ip=127.0.0.1",
            "--IdentityProvider.token=",
            "--LabApp.expose_app_in_browser=True",
            f"--ServerApp.root_dir={folder}",
            f"--LabApp.user_settings_dir={folder / 'settings'}",
            f"--LabApp.workspaces_dir={folder / 'workspaces'}",
        ],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=folder,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: reachable(f"{address}/api"), 120, "JupyterLab did not start")
        yield address
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


@pytest.fixture(scope="module")
def browser(lab):
    driver = chromium()
    SHOTS.mkdir(parents=True, exist_ok=True)
    try:
        run_all(driver, lab, EXPLORERS)
        wait(
            lambda: len(boxes(driver)) == 5 and all(images(driver, b) for b in boxes(driver)),
            60,
            "not all five widgets were drawn",
        )
        yield driver
    finally:
        driver.save_screenshot(str(SHOTS / "last.png"))
        driver.quit()


def run_all(driver, lab, name):
    """Open a notebook and run it to its end with a fresh kernel."""
    driver.get(f"{lab}/lab/tree/notebooks/{name}?reset")
    wait(
        lambda: driver.execute_script("return !!document.querySelector('.jp-Notebook .jp-CodeCell')"),
        120,
        "the notebook did not open",
    )
    wait(lambda: driver.execute_script(KERNEL_READY), 120, "the kernel did not start")
    driver.execute_script(RUN_ALL)
    wait(lambda: driver.execute_script("return window.tlgRun"), PATIENCE, f"{name} was not run to its end", 2)
    assert driver.execute_script("return window.tlgRun") == "done"


def run_next(driver, lab, name):
    """``run_all`` of another notebook; the kernels before it are shut down."""
    driver.execute_script("return window.jupyterapp.serviceManager.sessions.shutdownAll()")
    run_all(driver, lab, name)


def shown(driver, selector):
    """The first picture of a kind, in view, and the box that it stands in."""
    from selenium.webdriver.common.by import By

    wait(lambda: driver.find_elements(By.CSS_SELECTOR, selector), 60, f"no {selector}")
    frame = driver.find_element(By.CSS_SELECTOR, selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", frame)
    return frame, next(b for b in boxes(driver) if b.find_elements(By.CSS_SELECTOR, selector))


def complaints(driver):
    """Texts of all error and stderr outputs, of widgets that could not be drawn, and of empty ones."""
    return driver.execute_script("""
        const told = [...document.querySelectorAll(
            '[data-mime-type$="jupyter.stderr"], [data-mime-type$="jupyter.error"]')].map((e) => e.innerText);
        const views = [...document.querySelectorAll('[data-mime-type$="jupyter.widget-view+json"]')];
        return told.concat(views.filter((v) => !v.firstElementChild || v.offsetHeight < 8
            || v.innerText.includes("Error displaying widget")).map((v) => "widget: " + v.innerHTML.slice(0, 200)))""")


def console_errors(driver):
    """What the page wrote as errors; "intervention" is the browser's own word on leaving the page before."""
    return [
        entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE" and entry["source"] != "intervention"
    ]


def wait(condition, seconds, what, pause=0.3):
    """Poll until the condition holds; pytest.fail with ``what`` when it does not in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(pause)
    pytest.fail(f"{what} in {seconds:.0f} s")


def reachable(address):
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except OSError:
        return False


def boxes(driver):
    """The five explorers, in the order of the notebook."""
    return driver.execute_script("""return [...document.querySelectorAll('.jp-OutputArea-output')].filter(
        (box) => box.querySelector('.tlg-picture'))""")


def images(driver, box):
    """Pixels of every visible picture of a box, as data URLs; [] while one is not loaded."""
    shown = driver.execute_script(
        """return [...arguments[0].querySelectorAll('.tlg-picture img')].filter(
        (image) => image.offsetParent)""",
        box,
    )
    pixels = [driver.execute_script(PIXELS, image) for image in shown]
    return pixels if all(pixels) else []


def changes(driver, box, act, name):
    """Do ``act``, and wait until the pictures of the box differ from before; keep a screenshot."""
    before = images(driver, box)
    act()
    wait(lambda: (now := images(driver, box)) and now != before, 60, f"{name}: no picture changed")
    keep(driver, box, name)


def keep(driver, box, name):
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    box.screenshot(str(SHOTS / f"{name}.png"))


def slide(box, label, keys):
    from selenium.webdriver.common.by import By

    row = next(r for r in box.find_elements(By.CSS_SELECTOR, ".widget-hslider") if label in r.text)
    row.find_element(By.CSS_SELECTOR, ".noUi-handle").send_keys(keys)


def test_a_click_and_the_arrow_keys_move_the_query_position(browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    box = boxes(browser)[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", box)
    frame = box.find_element(By.CSS_SELECTOR, ".tlg-pickable")
    size = frame.size
    click = ActionChains(browser).move_to_element_with_offset(frame, -size["width"] // 3, size["height"] // 4).click()
    changes(browser, box, click.perform, "1-correlation-click")
    told = frame.get_attribute("aria-label")
    assert "Row 13 of 16, column 3 of 16" in told or "Row 12 of 16, column 3 of 16" in told, told
    changes(browser, box, lambda: frame.send_keys(Keys.ARROW_RIGHT), "1-correlation-key")
    assert "column 4 of 16" in frame.get_attribute("aria-label")


def test_the_transport_slider_changes_the_plan(browser):
    from selenium.webdriver.common.keys import Keys

    box = boxes(browser)[1]
    changes(browser, box, lambda: slide(box, "regularisation", Keys.PAGE_DOWN * 12), "2-transport")


def test_a_typed_word_changes_the_text_map_and_an_empty_one_is_refused_in_the_widget(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    box = boxes(browser)[2]
    field = box.find_element(By.CSS_SELECTOR, "input[type=text]")
    field.send_keys(Keys.CONTROL + "a")  # a call of its own: the modifier is held until the call ends
    changes(browser, box, lambda: field.send_keys("cat" + Keys.ENTER), "3-text")
    field.send_keys(Keys.CONTROL + "a")
    field.send_keys(Keys.BACKSPACE + Keys.ENTER)
    wait(lambda: "the name prompt is empty" in box.text, 60, "the error was not shown")
    box.find_element(By.TAG_NAME, "button").click()
    wait(lambda: "the name prompt is empty" not in box.text, 60, "the error stayed")


def test_a_ticked_support_changes_the_pictures(browser):
    from selenium.webdriver.common.by import By

    box = boxes(browser)[3]
    ticks = box.find_elements(By.CSS_SELECTOR, "input[type=checkbox]")
    told = box.text
    ticks[1].click()
    wait(lambda: box.text != told and "vote of 2" in box.text, 60, "the vote did not change")
    keep(browser, box, "4-shots")


def test_the_mask_slider_changes_the_mask(browser):
    from selenium.webdriver.common.keys import Keys

    box = boxes(browser)[4]
    changes(browser, box, lambda: slide(box, "background exponent", Keys.PAGE_UP * 3), "5-masks")


def test_nothing_failed_and_the_console_is_clean(browser):
    assert complaints(browser) == []
    assert all('role="alert"' not in box.get_attribute("innerHTML") for box in boxes(browser))
    assert console_errors(browser) == []


@pytest.mark.parametrize("name", OTHERS)
def test_run_all_leaves_no_error_no_warning_and_no_blank_widget(browser, lab, name):
    run_next(browser, lab, name)
    time.sleep(2)  # widgets are drawn after the last cell has answered
    assert complaints(browser) == []
    assert console_errors(browser) == []
    browser.save_screenshot(str(SHOTS / f"{Path(name).stem}.png"))


def test_a_box_dragged_on_the_photograph_of_09_is_its_mask(browser, lab):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    run_next(browser, lab, "09_your_own_images.ipynb")
    frame, box = shown(browser, ".tlg-drawable")
    field = box.find_element(By.CSS_SELECTOR, "input[type=text]")
    before, (width, height) = field.get_attribute("value"), (frame.size["width"], frame.size["height"])
    corner = ActionChains(browser).move_to_element_with_offset(frame, -width // 4, -height // 4).click_and_hold()
    changes(browser, box, corner.move_by_offset(width // 2, height // 2).release().perform, "6-drawing")
    x0, y0, x1, y1 = (int(part) for part in field.get_attribute("value").split(","))
    assert field.get_attribute("value") != before
    assert abs((x1 - x0) - (y1 - y0)) <= 4 and abs((x0 + x1) - (y0 + y1)) <= 8  # in the middle of a square photograph
    assert "the object covers" in box.text and 'role="alert"' not in box.get_attribute("innerHTML")
    assert console_errors(browser) == []


def test_a_click_on_the_image_of_02_shows_where_that_position_leads(browser, lab):
    from selenium.webdriver.common.action_chains import ActionChains

    run_next(browser, lab, "02_pseudo_masks.ipynb")
    frame, box = shown(browser, ".tlg-pickable")
    corner = (-3 * frame.size["width"] // 8, -3 * frame.size["height"] // 8)
    click = ActionChains(browser).move_to_element_with_offset(frame, *corner).click()
    changes(browser, box, click.perform, "7-affinity")
    assert "lands on the object" in box.text
    assert console_errors(browser) == []
