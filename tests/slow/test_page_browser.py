"""The page in a real browser: filters, keys, pointer and thumb, and not one request."""

import contextlib
import json
import os
import re
import shutil

import pytest
from page_run import LAM, PROMPTS, TAU, WHY, K, is_right, make_project
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from arrag.report.attribution import Blend, attribute_patches
from arrag.report.page.build import Options, write_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync force-prefers-reduced-motion window-size=1200,900"
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs chromium and chromedriver on PATH, which are not installed here",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory, root, tiny_janus):
    with contextlib.chdir(path := tmp_path_factory.mktemp("page")):
        project = make_project(path, root, tiny_janus)
        write_page(
            project.config,
            path / "config.yaml",
            path / "index.html",
            options=Options(traced_images=2),
        )
        yield project


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER, env=dict(os.environ)))
    driver.get("about:blank")
    driver.get_log("performance")  # of the browser's own first page
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, project):
    """The page, freshly opened from its file; afterwards nothing was asked for or complained of."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((project.path / "index.html").as_uri())
    yield browser
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    own = (project.path / "index.html").as_uri()
    assert own in {url.split("#")[0] for url in asked}  # the log sees requests at all
    assert {url for url in asked if url.split("#")[0] != own and url[:5] != "data:"} == set()
    assert browser.get_log("browser") == []


def one(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def shown(page):
    """The images in the gallery that can be seen: {(method, prompt, sample)}."""
    return {
        tuple(place)
        for place in page.execute_script(
            "return [...document.querySelectorAll('.tile')].filter((t) => t.checkVisibility())"
            ".map((t) => [t.closest('figure').dataset.method,"
            " Number(t.closest('.card').dataset.prompt), Number(t.dataset.sample)])"
        )
    }


EVERY = {(m, p, s) for m in ("vanilla", "daid") for p in range(3) for s in range(2)}


def test_no_prompt_runs_as_a_script(page):
    assert page.execute_script("return document.querySelectorAll('img[onerror]').length") == 0
    # An alert that had opened would make every further command fail.
    titles = [e.text for e in page.find_elements(By.CSS_SELECTOR, ".card q")]
    assert [t.strip('“”"') for t in titles] == [p["prompt"].replace("“", "") for p in PROMPTS]


def test_filters_and_search(page):
    assert shown(page) == EVERY
    assert one(page, "#count").text == "12 images of 3 prompts"
    one(page, "#verdict").send_keys("correct only")
    assert shown(page) == {place for place in EVERY if is_right(*place)}
    one(page, "#tag").send_keys("counting")
    assert shown(page) == {("daid", 1, 1)}
    assert one(page, "#count").text == "1 image of 1 prompt"
    one(page, "#verdict").send_keys("correct and wrong")
    one(page, "#tag").send_keys("all")
    one(page, '#methods input[value="daid"]').click()
    assert shown(page) == {place for place in EVERY if place[0] == "vanilla"}
    one(page, "#words").send_keys("Dog PHOTO")
    assert shown(page) == {("vanilla", 0, 0), ("vanilla", 0, 1)}
    one(page, "#words").send_keys(" <script>")
    assert shown(page) == set() and one(page, "#count").text.startswith("No image fits")
    one(page, "#words").send_keys(Keys.ENTER)  # sends no form
    assert page.current_url.endswith("index.html")


def active(page):
    return page.switch_to.active_element


def test_gallery_by_keyboard(page):
    stops = page.find_elements(By.CSS_SELECTOR, '.tile[tabindex="0"]')
    assert len(stops) == 1
    page.execute_script("arguments[0].focus()", stops[0])

    def at():
        tile = active(page)
        card = tile.find_element(By.XPATH, "./ancestor::article").get_attribute("data-prompt")
        return card, tile.get_attribute("aria-label")

    assert at() == ("0", "Janus <i>, sample 1, correct")
    active(page).send_keys(Keys.ARROW_RIGHT)
    assert at() == ("0", "Janus <i>, sample 2, wrong")
    active(page).send_keys(Keys.ARROW_RIGHT, Keys.NULL)
    active(page).send_keys(Keys.ARROW_DOWN)
    assert at() == ("1", "+ DAiD, sample 1, wrong, patches can be traced")
    active(page).send_keys(Keys.ENTER)
    dialog = one(page, "#closer")
    assert dialog.is_displayed() and one(page, "#closer h2").text == PROMPTS[1]["prompt"]
    assert one(page, "#closer .verdict").text.endswith(WHY)
    assert dialog.find_element(By.CSS_SELECTOR, "img").get_attribute("src").startswith("data:")
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert not dialog.is_displayed()
    assert at() == ("1", "+ DAiD, sample 1, wrong, patches can be traced")  # the focus is back
    active(page).send_keys(Keys.ENTER)
    one(page, "#closer .follow").click()
    assert not dialog.is_displayed()
    assert one(page, ".stage img").get_attribute("alt") == f"+ DAiD: {PROMPTS[1]['prompt']}"
    assert active(page).get_attribute("role") == "gridcell"


def expected(project, codes, position):
    """What a direct search finds for a patch: the lines that the page should show."""
    found = attribute_patches(codes, project.index, K, 6, Blend(LAM, TAU))
    row = found.positions.tolist().index(position)
    size = project.tokenizer.grid[0] * project.tokenizer.grid[1]
    lines = []
    for slot in range(6):
        image, place = divmod(int(found.entries[row, slot]), size)
        lines.append((project.index.store.keys(image), place, int(found.codes[row, slot])))
    return lines, found.distances[row, :6], found.weights[row, :6], found.agreeing[row]


def panel(page):
    items = page.find_elements(By.CSS_SELECTOR, ".neighbours li")
    data = [item.get_property("dataset") for item in items]
    lines = [(d["image"], int(d["position"]), int(d["code"])) for d in data]
    marked = [
        int(item.find_element(By.CSS_SELECTOR, ".marks").get_attribute("data-patch"))
        for item in items
    ]
    assert marked == [place for _, place, _ in lines]
    return lines, [float(d["distance"]) for d in data], [float(d["weight"]) for d in data]


def check_panel(page, project, codes, position):
    lines, distances, weights, agreeing = expected(project, codes, position)
    found, their_distances, their_weights = panel(page)
    assert found == lines
    assert their_distances == pytest.approx(distances.tolist(), rel=1e-3)
    assert their_weights == pytest.approx(weights.tolist(), rel=1e-3)
    row, column = divmod(position, project.tokenizer.grid[1])
    heading = f"Row {row + 1}, column {column + 1}: code {codes[row, column]}"
    assert one(page, ".panel h3").text == heading
    assert one(page, ".said").text.startswith(f"{agreeing} of the {K} retrieved patches")
    marks = one(page, ".stage .marks")
    assert int(marks.get_attribute("data-patch")) == position
    width = project.tokenizer.grid[1]
    around = [position - width - 1, position - width, position - width + 1, position - 1]
    assert marks.get_attribute("data-around").split() == [str(p) for p in around]
    assert len(marks.find_elements(By.CSS_SELECTOR, "rect.around")) == 4


def cell(page, position):
    return one(page, f'.patches [data-position="{position}"]')


def choose(page, number):
    page.execute_script("arguments[0].click()", one(page, f'.picker input[value="{number}"]'))


def test_pointing_at_a_patch_shows_what_a_search_finds(page, project):
    width = project.tokenizer.grid[1]
    page.execute_script("arguments[0].scrollIntoView()", one(page, "#viewer"))
    for number, (prompt, sample) in ((0, (0, 0)), (3, (1, 1))):
        choose(page, number)
        for position in (width + 1, 5 * width + 3):
            ActionChains(page).move_to_element(cell(page, position)).perform()
            check_panel(page, project, project.codes[prompt, sample], position)
    ActionChains(page).move_to_element(cell(page, 0)).perform()
    assert panel(page)[0] == [] and one(page, ".said").text.startswith("Nothing was retrieved")
    before = one(page, ".stage img").get_attribute("src")
    choose(page, 1)
    assert one(page, ".stage img").get_attribute("src") != before
    one(page, "#shade").click()
    assert "shaded" in one(page, "#viewer").get_attribute("class")


def test_walking_over_patches_by_keyboard(page, project):
    width = project.tokenizer.grid[1]
    codes, start = project.codes[0, 0], 3 * width + 4
    choose(page, 0)
    page.execute_script("arguments[0].focus()", cell(page, start))
    check_panel(page, project, codes, start)
    for key, step in ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_DOWN, width), (Keys.ARROW_LEFT, -1)):
        active(page).send_keys(key)
        start += step
        check_panel(page, project, codes, start)
    stops = page.find_elements(By.CSS_SELECTOR, '.patches button[tabindex="0"]')
    assert [int(stop.get_attribute("data-position")) for stop in stops] == [start]
    page.execute_script("arguments[0].focus()", cell(page, 4 * width))
    active(page).send_keys(Keys.ARROW_LEFT)  # stays at the edge
    assert active(page).get_attribute("data-position") == str(4 * width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(page, project, scheme):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    assert page.execute_script(
        "return [innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth]"
    ) == [360, 360, 360]
    colours = page.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    )
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert (ink > paper) == (scheme == "dark") and abs(ink - paper) > 450
    width = project.tokenizer.grid[1]
    position = 4 * width + 6
    choose(page, 0)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell(page, position))
    place = page.execute_script(
        "const r = arguments[0].getBoundingClientRect();"
        "return [r.left + r.width / 2, r.top + r.height / 2]",
        cell(page, position),
    )
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    tap = {"x": place[0], "y": place[1], "gestureSourceType": "touch"}
    page.execute_cdp_cmd("Input.synthesizeTapGesture", tap)
    check_panel(page, project, project.codes[0, 0], position)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
