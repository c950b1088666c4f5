"""The pages in Chromium, from disk and from a sub-path: figures move, nothing is fetched elsewhere, all can read it."""

import re
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tools.claims import notebooks
from tools.notebooks import ROOT
from tools.site import package

SITE = ROOT / "site"
PAGES = sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)
NAMES = [str(path.relative_to(SITE)) for path in PAGES]
WITH_FIGURES = [path for path in PAGES if '<div class="x-explorable"' in path.read_text(encoding="utf-8")]
LECTURE = SITE / "lectures/01_likelihood_score_fisher.html"
PHONE = 390
AXE_PART = {"exclude": [["mjx-container > *"]]}  # thousands of nodes a page, all of them MathJax's own
AXE_OPTIONS = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], "preload": False}

# After a change of width the theme's sidebars glide for some frames, and what overflows in between is nobody's page.
SETTLED = """
const look = () => requestAnimationFrame(() => requestAnimationFrame(() => {
  const gliding = document.getAnimations().filter((motion) => motion instanceof CSSTransition);
  if (gliding.length) Promise.allSettled(gliding.map((motion) => motion.finished)).then(look);
  else done();
}));
const done = arguments[0];
look();"""


def test_there_is_a_site():
    assert LECTURE in PAGES, "run `make site` first"
    assert {LECTURE, SITE / "explorables.html"} <= set(WITH_FIGURES)


def load(driver, address):
    """Open a page and wait for its mathematics."""
    driver.get(address)
    WebDriverWait(driver, 30).until(
        lambda d: (
            d.execute_async_script("(window.MathJax?.startup?.promise ?? Promise.resolve()).then(arguments[0])") or True
        )
    )


def serious(driver):
    """What axe-core calls serious or critical, as "rule: element"."""
    driver.execute_async_script(SETTLED)
    driver.execute_script((package("axe-core") / "axe.min.js").read_text(encoding="utf-8"))
    found = driver.execute_async_script("axe.run(arguments[0], arguments[1]).then(arguments[2])", AXE_PART, AXE_OPTIONS)
    bad = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    return sorted({f"{v['id']}: {node['html'][:120]}" for v in bad for node in v["nodes"]})


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_is_quiet_narrow_and_readable(driver, page):
    driver.set_width(PHONE)
    driver.forget()
    load(driver, page.as_uri())
    assert driver.elsewhere() == driver.warnings() == []
    assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE
    assert serious(driver) == []
    driver.set_width(1280)
    assert serious(driver) == []


@pytest.mark.parametrize("page", [LECTURE, SITE / "claims.html", SITE / "map.html"], ids=lambda page: page.stem)
def test_a_dark_page_is_readable(driver, page):
    driver.set_width(1280)
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    load(driver, page.as_uri())
    assert driver.execute_script("return document.documentElement.dataset.theme") == "dark"
    assert serious(driver) == []
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("page", WITH_FIGURES, ids=lambda page: page.stem)
def test_key_to_pixels_is_measured(driver, page, record_property):
    """On every page with figures. One frame is the aim; a shared machine is no clock, so only a hang fails."""
    driver.set_width(1280)
    load(driver, page.as_uri())
    driver.time_keys()
    times = []
    for slider in driver.find_elements(By.CSS_SELECTOR, ".x-explorable input"):
        for key in (Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.END, Keys.ARROW_LEFT):
            slider.send_keys(key)
        times += driver.key_times(5)
    record_property("key_to_pixels_ms", {"median": float(np.median(times)), "max": max(times)})
    print(f"{page.stem}, key press to pixels: median {np.median(times):.1f} ms, longest {max(times):.1f} ms")
    assert np.median(times) < 500


SEEN = """
const root = arguments[0], text = (selector) => [...root.querySelectorAll(selector)].map((e) => e.textContent);
const drawn = [...root.querySelectorAll(".x-item")].map((e) => e.getAttribute("d") ?? e.getAttribute("href"));
return {values: text(".x-value"), rest: JSON.stringify([drawn, text(".x-readout")])};"""


@pytest.mark.parametrize("page", WITH_FIGURES, ids=lambda page: page.stem)
def test_every_slider_moves_its_figure_by_keyboard(driver, page):
    driver.set_width(1280)
    load(driver, page.as_uri())
    for root in driver.find_elements(By.CLASS_NAME, "x-explorable"):
        for axis, slider in enumerate(root.find_elements(By.TAG_NAME, "input")):
            slider.send_keys(Keys.HOME)
            low = driver.execute_script(SEEN, root)
            slider.send_keys(Keys.END)
            high = driver.execute_script(SEEN, root)
            slider.send_keys(Keys.ARROW_LEFT)
            before = driver.execute_script(SEEN, root)
            values = [seen["values"][axis] for seen in (low, high, before)]
            assert len(set(values)) == (3 if slider.get_property("max") != "1" else 2)
            assert slider.get_attribute("aria-valuetext") == values[2]
            assert low["rest"] != high["rest"], f"{slider.accessible_name} changes nothing"
            others = [seen["values"][:axis] + seen["values"][axis + 1 :] for seen in (low, high)]
            assert others[0] == others[1]


@contextmanager
def served(folder):
    """The address of a server of this folder on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_sub_path_is_as_good(driver, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/course").symlink_to(SITE)
    driver.set_width(1280)
    with served(tmp_path) as host:
        driver.forget()
        load(driver, f"{host}/a/course/lectures/{LECTURE.name}")
        assert len(driver.find_elements(By.CSS_SELECTOR, "mjx-container svg")) > 100
        driver.find_element(By.LINK_TEXT, "Claims and verdicts").click()
        assert driver.current_url == f"{host}/a/course/claims.html"
        load(driver, driver.current_url)
        driver.find_element(By.CSS_SELECTOR, "a[href*='#cell-m-3']").click()
        assert driver.current_url.endswith(f"{LECTURE.name}#cell-m-3")
        assert driver.elsewhere(host) == driver.warnings() == []


def test_search_finds_a_word_from_disk(driver):
    driver.get(f"{(SITE / 'search.html').as_uri()}?q=Hutchinson")
    WebDriverWait(driver, 20).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#search-results li"))


def test_paper_has_the_text_and_not_the_menus(driver):
    driver.set_width(1280)
    load(driver, LECTURE.as_uri())
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = {name: driver.find_element(By.CSS_SELECTOR, name).is_displayed() for name in PAPER}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert shown == PAPER


PAPER = {".bd-sidebar-primary": False, ".bd-header-article": False, "article h2": True, ".x-explorable svg": True}


@pytest.mark.parametrize("stored", notebooks(), ids=lambda path: path.stem)
def test_buttons_lead_to_the_notebook_as_it_is_stored(stored):
    text = (SITE / "lectures" / f"{stored.stem}.html").read_text(encoding="utf-8")
    for start in ("https://mybinder.org/v2/gh/", "https://colab.research.google.com/github/"):
        assert re.search(rf'href="{re.escape(start)}[^"]+/lectures/{stored.name}"', text)
    assert f'href="../_sources/lectures/{stored.name}"' in text
    assert (SITE / "_sources/lectures" / stored.name).read_bytes() == stored.read_bytes()


def test_no_file_of_the_site_is_from_elsewhere():
    """What a page would ask for by itself; links that a reader follows may lead out."""
    asks = re.compile(
        r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]+\"|@import \"?https?:|url\(\"?https?:"
    )
    texts = {str(p.relative_to(SITE)): p.read_text(encoding="utf-8") for p in [*PAGES, *SITE.rglob("*.css")]}
    assert {name: hit[0] for name, text in texts.items() if (hit := asks.search(text))} == {}
