"""The page of `shmflow view --web` in a real browser: Debian's Chromium, without a window.

Owns: a scene of processes (frames, a plot, a volume, a log; one reader keeps up, one hoards), the
browser, and the screenshots, which are kept in build/screenshots (SHMFLOW_SCREENSHOTS).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.viewing import View, view_of
from needs import missing
from shell import PATIENCE, PYTHON, until

import shmflow

for needed in ("starlette", "uvicorn", "PIL", "selenium"):
    pytest.importorskip(needed)

pytestmark = pytest.mark.slow

SCENE = """
import sys, threading, time
import numpy as np
import shmflow

def flow(name, hz, make, **options):
    with shmflow.Topic(name, "w", **options) as topic:
        number = 0
        while True:
            topic.write(make(number))
            number += 1
            time.sleep(1 / hz)

y, x = np.mgrid[:120, :160].astype(np.int64)
time_axis = np.linspace(0, 12, 3000)
cam = lambda n: np.stack([(x + 4 * n) % 256, (y + n) % 256, (x * 0 + 40)], -1).astype("u1")
wave = lambda n: np.sin(time_axis + n / 9)
volume = lambda n: (np.arange(5)[:, None, None] * 50 + (x + y + n) % 20).astype("u1")
text = lambda n: b"line %d <b>&amp;" % n
for name, hz, make, options in (
    ("cam", 30, cam, dict(capacity="8 MiB", depth=40)),
    ("wave", 40, wave, dict(capacity="1 MiB")),
    ("lab/volume", 10, volume, dict(capacity="4 MiB")),
    ("log", 10, text, dict(capacity="1 MiB")),
):
    thread = threading.Thread(target=flow, args=(name, hz, make), kwargs=options, daemon=True)
    thread.start()
reader, kept = shmflow.Topic("cam", "r"), []
print("flows", flush=True)
for number, frame in enumerate(reader):
    if number % 4 == 0:
        kept = [*kept[-6:], frame]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("topics")


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMFLOW_DIR", str(folder))


@pytest.fixture(scope="module")
def scene(folder: Path) -> Iterator[subprocess.Popen[str]]:
    env = os.environ | {"SHMFLOW_DIR": str(folder)}
    running = subprocess.Popen([*PYTHON, "-c", SCENE], env=env, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stdout.readline() == "flows\n"
    yield running
    running.kill()
    running.communicate()


@pytest.fixture(scope="module")
def view(
    folder: Path, scene: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[View]:
    with view_of(folder, tmp_path_factory.mktemp("view")) as view:
        yield view


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing("the browser: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.add_argument("--hide-scrollbars")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # A sanitizer is for the extension: the browser would not start with it.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    running = webdriver.Chrome(options, Service(driver, env=env))
    running.set_page_load_timeout(PATIENCE)
    yield running
    running.quit()


class Page:
    """The page, as somebody sees it."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def look(self, width: int, height: int, scheme: str) -> None:
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def ask(self, script: str, *values: object) -> Any:
        return self.browser.execute_script(f"return {script}", *values)

    def data(self, name: str) -> dict[str, str]:
        """The data attributes of a topic's card."""
        return self.ask(f"{{...(document.getElementById('topic-{name}') || {{}}).dataset}}")

    def show(self, name: str) -> Any:
        """Scrolls to a topic, and gives its card when something is seen of it."""
        until(lambda: self.data(name), name)
        self.ask("document.getElementById(arguments[0]).scrollIntoView()", f"topic-{name}")
        until(lambda: self.data(name).get("kind") and "tail" in self.data(name), name)
        return self.browser.find_element("id", f"topic-{name}")

    def picture(self, selector: str) -> str:
        """What a canvas or an image shows, as the pixels' URL."""
        return self.ask(
            "(function(seen){ const c = document.createElement('canvas');"
            " c.width = 80; c.height = 60;"
            " c.getContext('2d').drawImage(seen, 0, 0, 80, 60); return c.toDataURL(); })"
            "(document.querySelector(arguments[0]))",
            selector,
        )

    def screenshot(self, name: str) -> None:
        folder = Path(
            os.environ.get("SHMFLOW_SCREENSHOTS")
            or Path(__file__).parents[2] / "build" / "screenshots"
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.browser.save_screenshot(str(folder / f"{name}.png"))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture
def page(browser: Any, view: View) -> Page:
    browser.get_log("browser")
    opened = Page(browser, view.url)
    opened.look(1280, 900, "dark")
    until(lambda: opened.ask("document.querySelectorAll('article').length") == 4, "4 cards")
    return opened


def moves(page: Page, selector: str) -> None:
    """What is seen there changes, more than once."""
    for _ in range(2):
        before = page.picture(selector)
        until(lambda b=before: page.picture(selector) != b, f"another picture in {selector}")


def test_pictures_and_plots_move(page: Page) -> None:
    page.show("cam")
    cam = "#topic-cam .picture"
    until(lambda: page.ask(f"document.querySelector('{cam}').naturalWidth") == 160, "a frame")
    moves(page, cam)
    page.screenshot("frames")
    page.show("wave")
    moves(page, "#topic-wave .plot")
    page.screenshot("plot")
    assert page.data("wave")["kind"] == "plot"
    assert page.complaints() == []


def test_numbers_agree_with_the_topic(page: Page, scene: subprocess.Popen[str]) -> None:
    card = page.show("cam")
    with shmflow.Topic("cam", "monitor", create=False) as topic:
        for _ in range(3):
            low = topic.head
            changed = page.data("cam")["head"]
            until(lambda h=changed: page.data("cam")["head"] != h, "the next sample")
            until(lambda b=low: int(page.data("cam")["head"]) >= b, "the number")
            assert int(page.data("cam")["head"]) <= topic.head
            assert int(page.data("cam")["seq"]) <= topic.head
        until(lambda: float(page.data("cam")["rate"]) > 1, "a rate")
        rows = until(lambda: page.ask(ROWS), "participants")
        told = topic.participants()
        assert [int(row["pid"]) for row in rows] == [p.pid for p in told]
        assert {p.pid for p in told} == {scene.pid}
        [place] = [i for i, p in enumerate(told) if p.mode == "r"]
        until(lambda: int(page.ask(ROWS)[place]["held"]) >= 5, "what the reader holds")
        assert abs(int(page.ask(ROWS)[place]["held"]) - told[place].held_blocks) <= 2
        ring = card.find_element("css selector", ".ring")
        until(lambda: int(ring.get_attribute("data-held") or 0) >= 3, "held blocks")
        assert f"held by {scene.pid}" in card.find_element("css selector", ".legend").text
        assert "msg/s" in card.find_element("css selector", ".rate").text
        until(lambda: "median" in card.find_element("css selector", ".ages-text").text, "ages")


def test_each_kind_is_shown_and_chosen(page: Page) -> None:
    log = page.show("log")
    until(lambda: " 6c 69 6e 65 20 " in page.ask(TEXT, "#topic-log .hex"), "hex")
    assert "<b>&amp;" in page.ask(TEXT, "#topic-log .text"), "markup is text"
    assert not log.find_elements("css selector", ".data b")
    choose(log, "kind", "plot")
    until(lambda: page.data("log")["kind"] == "plot", "bytes as a plot")
    volume = page.show("lab/volume")
    assert page.data("lab/volume")["kind"] == "image"
    path = "[id='topic-lab/volume'] "
    until(lambda: brightness(page, path + ".picture") < 30, "the first slice")
    page.ask(
        "(function(i){ i.value = 4; i.dispatchEvent(new Event('input', {bubbles: true})); })"
        "(document.querySelector(arguments[0]))",
        path + ".slices input",
    )
    until(lambda: brightness(page, path + ".picture") > 190, "the last slice")
    assert "4 of 5" in volume.find_element("css selector", ".slices").text
    link = volume.find_element("css selector", ".npy").get_attribute("href")
    assert "/t/lab/volume/frame.npy?" in link and "index=4" in link
    cam = page.show("cam")
    blue = "(function(p){return [p[0], p[2]]})(" + PIXEL + ")"
    until(lambda: page.ask(blue, "#topic-cam .picture")[0] in range(30, 51), "red is 40")
    choose(cam, "order", "rgb")
    until(lambda: page.ask(blue, "#topic-cam .picture")[1] in range(30, 51), "blue is 40")


ROWS = "[...document.querySelectorAll('#topic-cam .participants tr')].map((r) => ({...r.dataset}))"
TEXT = "(document.querySelector(arguments[0]) || {}).textContent || ''"
PIXEL = (
    "(function(seen){ const c = document.createElement('canvas').getContext('2d');"
    " c.drawImage(seen, 0, 0); return [...c.getImageData(20, 20, 1, 1).data]; })"
    "(document.querySelector(arguments[0]))"
)


def brightness(page: Page, selector: str) -> int:
    return page.ask(PIXEL, selector)[0]


def choose(card: Any, name: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(card.find_element("name", name)).select_by_visible_text(value)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_dark_and_light_and_a_phone(page: Page, scheme: str) -> None:
    page.look(1280, 900, scheme)
    page.show("cam")
    ground = page.ask("getComputedStyle(document.body).backgroundColor")
    shade = sum(int(part) for part in ground[4:-1].split(","))
    assert (shade < 150) == (scheme == "dark")
    until(lambda: page.ask("document.querySelector('.picture').naturalWidth"), "a frame")
    time.sleep(0.5)  # some of a history, for the screenshot
    page.screenshot(f"view-{scheme}")
    for width in (320, 375):
        page.look(width, 800, scheme)
        for name in ("cam", "wave", "lab/volume", "log"):
            page.show(name)
            wide = "[document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
            assert page.ask(wide) == [width, width, width], (name, width)
    page.show("cam")
    page.screenshot(f"phone-{scheme}")


def test_nothing_comes_from_elsewhere(page: Page, view: View) -> None:
    page.show("cam")
    page.show("wave")
    loaded = page.ask("performance.getEntries().map((e) => e.name).filter((n) => n.includes(':'))")
    assert len(loaded) > 3
    assert [name for name in loaded if not name.startswith((view.url, "blob:"))] == []


def test_its_end_is_told(page: Page, tmp_path: Path, browser: Any) -> None:
    with View(tmp_path, "--port", "0") as other:
        seen = Page(browser, other.url)
        status = "document.getElementById('connection').dataset.state"
        until(lambda: seen.ask(status) == "live", "the page")
        seen.show("cam")
        assert other.ctrl_c() == 0 and other.stderr == ""
        until(lambda: seen.ask(status) == "lost", "the end")
        assert "has ended" in seen.ask(TEXT, "#connection")
