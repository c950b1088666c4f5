"""An explorable in Chromium, from disk: keys move it, nothing is fetched, a phone has room, a still needs no script."""

import base64
import re

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from course_lib.explorables import (
    PLOT_HEIGHT,
    PLOT_WIDTH,
    Arrows,
    Curve,
    Heat,
    Panel,
    Points,
    Readout,
    Slider,
    explorable,
)

SHIFTS, SCALES = np.linspace(-2, 2, 41), np.linspace(0.5, 2, 4)
X = np.linspace(-3, 3, 121)


def parabola(shift, scale):
    return scale * (X - shift) ** 2


def figure():
    """scale * (x - shift)² over x, with its lowest point."""
    height = parabola(SHIFTS[:, None, None], SCALES[None, :, None])
    lowest = Points("lowest", SHIFTS[:, None, None], np.zeros((1, 1, 1)))
    panel = Panel(
        title="A parabola",
        xlabel="x",
        ylabel="f(x)",
        xlim=(-3, 3),
        ylim=(-1, 9),
        items=[Curve("f", X, height), Curve("x² for comparison", X, X**2), lowest],
        alt="A parabola over x beside the plain square, and its lowest point.",
    )
    return explorable(
        "A parabola that moves",
        "The shift moves the parabola sideways, the scale makes it steeper.",
        [Slider("Shift", SHIFTS, unit="m"), Slider("Scale", SCALES, start=1)],
        [
            panel,
            Panel("Again", "x", "f(x)", (-3, 3), (-1, 9), [Curve("f", X, height)], alt="The same parabola, alone."),
        ],
        [Readout("f(0)", SHIFTS[:, None] ** 2 * SCALES, format=".4f")],
    )


@pytest.fixture
def open_page(driver, tmp_path):
    """Open HTML as a page of its own, from disk, at a width in CSS pixels; afterwards all must have gone well."""

    def open_at(body, width=1280):
        driver.set_width(width)
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>A page</title>'
        page = tmp_path / "page.html"
        page.write_text(
            f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>', encoding="utf-8"
        )
        driver.get(page.as_uri())
        return driver.find_elements(By.CLASS_NAME, "x-explorable")

    driver.forget()
    yield open_at
    assert driver.elsewhere() == driver.warnings() == []


def drawn(root):
    """Points of the first curve and the lowest point, both in axis units, the readout, and the sliders' texts."""
    curve, _, point, _ = (path.get_attribute("d") for path in root.find_elements(By.CLASS_NAME, "x-item"))
    pixels = np.array([[float(number) for number in pair.split(",")] for pair in curve[1:].split(" ")])
    lowest = np.array([float(number) for number in re.match(r"M([-\d.]+),([-\d.]+)m", point).groups()])
    axes = [np.array([-3, 9]) + pair * np.array([6 / PLOT_WIDTH, -10 / PLOT_HEIGHT]) for pair in (pixels, lowest)]
    sliders = root.find_elements(By.TAG_NAME, "input")
    texts = [slider.get_attribute("aria-valuetext") for slider in sliders]
    assert [value.text for value in root.find_elements(By.CLASS_NAME, "x-value")] == texts
    return *axes, root.find_element(By.CLASS_NAME, "x-readout").text, texts


def assert_shows(root, i, j):
    """Half of a tenth of a unit of the SVG is what rounding may cost; far above the plot the path is cut."""
    curve, lowest, readout, texts = drawn(root)
    expected = np.stack([X, parabola(SHIFTS[i], SCALES[j])], axis=1)
    np.testing.assert_allclose(curve, expected, atol=0.051 * 10 / PLOT_HEIGHT)
    np.testing.assert_allclose(lowest, [SHIFTS[i], 0], atol=0.051 * 10 / PLOT_HEIGHT)
    assert float(readout) == pytest.approx(SHIFTS[i] ** 2 * SCALES[j], abs=1e-4)
    assert [text.replace("−", "-") for text in texts] == [f"{SHIFTS[i]:.2f} m", f"{SCALES[j]:.2f}"]


def press(driver, *keys):
    webdriver.ActionChains(driver).send_keys(*keys).perform()


def test_keys_move_curve_point_label_and_numbers(driver, open_page):
    (root,) = open_page(figure().html)
    assert_shows(root, 20, 1)
    press(driver, Keys.TAB)
    assert driver.switch_to.active_element.accessible_name == "Shift"
    press(driver, Keys.ARROW_RIGHT)
    assert_shows(root, 21, 1)
    label = root.find_elements(By.CLASS_NAME, "x-label")[-2]  # of the lowest point
    before = float(label.get_attribute("x"))
    press(driver, Keys.END)
    assert_shows(root, 40, 1)
    assert float(label.get_attribute("x")) > before
    press(driver, Keys.TAB, Keys.TAB, Keys.ARROW_LEFT)
    assert driver.switch_to.active_element.accessible_name == "Scale"
    assert_shows(root, 40, 0)


def button(root, k=0):
    return root.find_elements(By.CLASS_NAME, "x-play")[k]


def test_play_goes_to_the_end_and_stops_and_begins_anew(driver, open_page):
    (root,) = open_page(figure().html)
    scale = root.find_elements(By.TAG_NAME, "input")[1]
    play = button(root, 1)
    assert play.accessible_name == "Play: Scale"
    play.click()
    assert play.accessible_name == "Pause: Scale"
    assert (
        root.find_element(By.TAG_NAME, "output").get_attribute("aria-live") == "off"
    )  # or it would never stop talking
    WebDriverWait(driver, 10).until(lambda driver: play.accessible_name == "Play: Scale")
    assert_shows(root, 20, 3)
    assert root.find_element(By.TAG_NAME, "output").get_attribute("aria-live") == "polite"
    play.click()
    WebDriverWait(driver, 10).until(lambda driver: scale.get_property("value") == "1")
    scale.send_keys(Keys.HOME)  # whoever moves the slider takes it over
    assert play.accessible_name == "Play: Scale"
    assert_shows(root, 20, 0)


def test_where_motion_is_unwelcome_play_is_a_step(driver, open_page):
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    )
    (root,) = open_page(figure().html)
    assert button(root).accessible_name == "Step: Shift"
    button(root).click()
    assert_shows(root, 21, 1)
    assert button(root).accessible_name == "Step: Shift"
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_on_paper_stands_the_start(driver, open_page):
    (root,) = open_page(figure().html)
    press(driver, Keys.TAB, Keys.END)
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert_shows(root, 20, 1)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not root.find_element(By.TAG_NAME, "input").is_displayed()
    assert not button(root).is_displayed()
    assert root.find_element(By.CSS_SELECTOR, "svg").is_displayed()
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert_shows(root, 40, 1)


def test_arrows_and_colours_move(driver, open_page):
    """A field that turns by a quarter, and a map of one row that goes from dark to light."""
    arrows = Arrows("field", [0.0], [0.0], [[1.0], [0.0]], [[0.0], [1.0]], scale=0.5)
    heat = Heat("z", [[[0.0, 0.5, 1.0]], [[1.0, 0.5, 0.0]]])
    axes = {"xlabel": "x", "ylabel": "y", "xlim": (-1, 1), "ylim": (-1, 1)}
    panels = [
        Panel("Field", items=[arrows], alt="One arrow that points to the right.", **axes),
        Panel("Map", items=[heat], alt="Three cells, from dark to light.", **axes),
    ]
    page = explorable("Field and map", "The slider turns both.", [Slider("turn", [0, 1], start=0)], panels)
    still = base64.b64decode(re.search(r"svg\+xml;base64,([^\"]+)", page.html)[1]).decode()
    (root,) = open_page(page.html)
    arrow, image = root.find_elements(By.CLASS_NAME, "x-item")
    assert arrow.get_attribute("d") == re.search(r'class="x-item"[^>]* d="([^"]+)"', still)[1]
    middle, quarter = f"M{PLOT_WIDTH // 2},{PLOT_HEIGHT // 2}L", f"{PLOT_WIDTH // 2},{PLOT_HEIGHT // 4}M"
    dark, grey, light = colours(driver, image)
    assert dark < grey < light
    press(driver, Keys.TAB, Keys.ARROW_RIGHT)
    assert arrow.get_attribute("d").startswith(middle + quarter)
    assert colours(driver, image) == [light, grey, dark]


def colours(driver, image):
    """The red, green and blue of each pixel that an <image> refers to."""
    return driver.execute_async_script(
        """
        const [image, done] = arguments, picture = new Image();
        picture.onload = () => {
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [picture.width, picture.height];
          const context = canvas.getContext("2d");
          context.drawImage(picture, 0, 0);
          const data = [...context.getImageData(0, 0, picture.width, picture.height).data];
          done(Array.from({length: data.length / 4}, (_, k) => data.slice(4 * k, 4 * k + 3)));
        };
        picture.src = image.getAttribute("href");""",
        image,
    )


def test_two_copies_of_one_output_move_apart(driver, open_page):
    first, second = open_page(figure().html + figure().html)
    second.find_element(By.TAG_NAME, "label").click()
    press(driver, Keys.HOME)
    assert_shows(first, 20, 1)
    assert_shows(second, 0, 1)


def test_different_explorables_share_a_page(driver, open_page):
    other = figure().html
    point = Points("here", [[0.0], [1.0]], [0.5])
    panel = Panel("P", "x", "y", (0, 1), (0, 1), [point], alt="One point, in the middle.")
    small = explorable("Another", "The slider moves one point.", [Slider("Place", [0, 1])], [panel])
    first, second = open_page(other + small.html)
    press(driver, Keys.TAB, Keys.ARROW_LEFT)
    assert_shows(first, 19, 1)
    path = second.find_element(By.CLASS_NAME, "x-item").get_attribute("d")
    assert path.startswith(f"M{PLOT_WIDTH},{PLOT_HEIGHT // 2}m")


def test_screen_readers_get_the_words(driver, open_page):
    (root,) = open_page(figure().html)
    svg = root.find_element(By.CSS_SELECTOR, "svg[role=img]")
    assert svg.accessible_name == "A parabola"
    assert root.accessible_name == "A parabola that moves"
    description = root.find_element(By.TAG_NAME, "input").get_attribute("aria-describedby")
    assert driver.find_element(By.ID, description).text.startswith("The shift moves the parabola")
    assert root.find_elements(By.CLASS_NAME, "x-note") == []


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_needs_no_sideways_scroll(driver, open_page, width):
    (root,) = open_page(figure().html, width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    tops = [panel.rect["y"] for panel in root.find_elements(By.CSS_SELECTOR, "svg[role=img]")]
    assert tops[1] - tops[0] > 200  # one below the other
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('.x-panels text')].map((text) => text.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 10  # pixels


def test_without_scripts_a_still_and_a_line_that_says_so(driver, open_page):
    """What JupyterLab leaves of an output that is not trusted: no script, no style, no id."""
    html = re.sub(r"<(script|style)>.*?</\1>", "", figure().html, flags=re.DOTALL)
    (root,) = open_page(html)
    images = root.find_elements(By.TAG_NAME, "img")
    assert [image.accessible_name for image in images][1] == "The same parabola, alone."
    assert all(driver.execute_script("return arguments[0].naturalWidth", image) == 360 for image in images)
    assert "once the cell has been run" in root.find_element(By.CLASS_NAME, "x-note").text


def test_the_still_and_the_live_figure_are_the_same(driver, open_page):
    """The first thing that the script does is draw the start position; that may change nothing."""
    html = figure().html
    source = base64.b64decode(re.search(r"svg\+xml;base64,([^\"]+)", html)[1]).decode()
    (root,) = open_page(html)
    live = [path.get_attribute("d") for path in root.find_elements(By.CLASS_NAME, "x-item")]
    still = re.findall(r'class="x-item"[^>]* d="([^"]+)"', source)
    assert live[:3] == still
    labels = [(t.get_attribute("x"), t.get_attribute("y")) for t in root.find_elements(By.CLASS_NAME, "x-label")]
    assert labels[:3] == re.findall(r'class="x-label" x="([^"]+)" y="([^"]+)"', source)


def test_key_to_pixels_is_measured(driver, open_page, record_property):
    """One frame is the aim; a shared machine is no clock, so only a hang fails."""
    open_page(figure().html)
    driver.time_keys()
    press(driver, Keys.TAB)
    for _ in range(20):
        press(driver, Keys.ARROW_RIGHT)
    times = np.array(driver.key_times(20))
    record_property("key_to_pixels_ms", {"median": float(np.median(times)), "max": float(times.max())})
    print(f"key press to pixels: median {np.median(times):.1f} ms, longest {times.max():.1f} ms of {len(times)}")
    assert np.median(times) < 500
