"""Debian's Chromium, driven by selenium: nothing is looked for or fetched. A test that fails leaves a screenshot."""

import json
import re
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

SCREENSHOTS = Path(__file__).resolve().parents[2] / "build/screenshots"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)


TIME_KEYS = """
window.times = [];
document.addEventListener("keydown", (event) => requestAnimationFrame(() => {
  const channel = new MessageChannel();   // runs after the frame was painted
  channel.port1.onmessage = () => window.times.push(performance.now() - event.timeStamp);
  channel.port2.postMessage(null);
}), true);"""


class Browser(webdriver.Chrome):
    """A Chromium that keeps what its pages asked for and complained of."""

    def set_width(self, width):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def forget(self):
        for log in ("performance", "browser"):
            self.get_log(log)  # a log is emptied by reading it

    def elsewhere(self, host=r"file:"):
        """The addresses asked for that `host` does not match. chrome: is the browser's start page."""
        messages = [json.loads(entry["message"])["message"] for entry in self.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        assert asked, "the log of requests is empty: this check sees nothing"
        return [url for url in asked if not re.match(rf"{host}|(?:data|blob|chrome):", url)]

    def warnings(self):
        """What pages said on the console, from warnings upwards."""
        return [entry for entry in self.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]

    def time_keys(self):
        """From now on, write down the time from each key press to the end of the frame that it was painted in."""
        self.execute_script(TIME_KEYS)

    def key_times(self, number):
        """Milliseconds of the last `number` key presses."""
        WebDriverWait(self, 10).until(lambda d: d.execute_script("return window.times.length") >= number)
        return self.execute_script("return window.times")[-number:]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            pytest.fail(f"{program} is missing: apt-get install -y chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Both paths are given, so that selenium looks nowhere for them.
    options.binary_location = shutil.which("chromium")
    browser = Browser(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    browser.set_script_timeout(110)
    yield browser
    browser.quit()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and (browser := getattr(item, "funcargs", {}).get("driver")):
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(SCREENSHOTS / f"{re.sub(r'[^-.a-zA-Z0-9]+', '_', item.name)}.png"))
    return report
