"""Explorables without a browser: the still is the start data, nothing is random, bad input is named."""

import base64
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from PIL import Image

from course_lib import explorables
from course_lib.explorables import Arrows, Curve, Explorable, Heat, Panel, Points, Readout, Slider, explorable

ALT = "Two curves over x, which part as the slider moves."


# ---- the explorable of lecture 01, with JAX


def kl(shift, log_scale):
    """KL(p‖q) in nats for p = N(0, 1) and q = N(shift, exp(log_scale)²)."""
    return log_scale + 0.5 * (1 + shift**2) * jnp.exp(-2 * log_scale) - 0.5


def quadratic(shift, log_scale):
    """½ dᵀFd for d = (shift, log_scale) and F = diag(1, 2), the Fisher matrix of p in (μ, log σ)."""
    return 0.5 * (shift**2 + 2 * log_scale**2)


def two_gaussians() -> Explorable:
    d_mu, d_s = jnp.linspace(-2, 2, 41), jnp.linspace(-1, 1, 21)
    mu, s = d_mu[:, None, None], d_s[None, :, None]  # (41, 1, 1), (1, 21, 1)
    x = jnp.linspace(-5, 5, 121)
    # q is drawn over mu + u: its x moves with one slider and its height with the other. Finer where q may be narrow.
    u = 8.4 * jnp.sinh(jnp.linspace(-2.5, 2.5, 121)) / jnp.sinh(2.5)

    def density(z, s):
        return jnp.exp(-0.5 * (z / jnp.exp(s)) ** 2 - s) / jnp.sqrt(2 * jnp.pi)

    densities = Panel(
        title="Two densities",
        xlabel="x",
        ylabel="density",
        xlim=(-5, 5),
        ylim=(0, 1.2),
        items=[Curve("p", x, density(x, 0.0)), Curve("q", mu + u, density(u, s))],
        alt="Densities of p, the standard normal, and of q, the same bell half a unit to the right and a little wider.",
    )
    shifts = jnp.linspace(-2, 2, 81)
    divergence = Panel(
        title="Exact and quadratic, at this Δ log σ",
        xlabel="Δμ",
        ylabel="KL(p‖q) (nats)",
        xlim=(-2, 2),
        ylim=(0, 4),
        items=[
            Curve("exact", shifts, kl(shifts, s)),
            Curve("quadratic", shifts, quadratic(shifts, s)),
            Points("here", mu, kl(mu, s), color="black"),
        ],
        alt="KL(p‖q) and its quadratic against the shift of the mean: two parabolas that touch near no shift at all.",
    )
    exact, approximate = kl(d_mu[:, None], d_s[None, :]), quadratic(d_mu[:, None], d_s[None, :])
    return explorable(
        title="How far does the Fisher matrix see?",
        description="p is the standard normal. Moving Δμ shifts q, moving Δ log σ widens or narrows it. The second "
        "panel compares KL(p‖q) with ½ dᵀFd: they agree near zero and part as q gets narrow or far.",
        sliders=[
            Slider("Δμ, shift of the mean", d_mu, start=25),
            Slider("Δ log σ, change of the log scale", d_s, start=12),
        ],
        panels=[densities, divergence],
        readouts=[
            Readout("KL(p‖q)", exact, unit="nats"),
            Readout("½ dᵀFd", approximate, unit="nats"),
            Readout("difference", exact - approximate, unit="nats"),
        ],
    )


# ---- reading back what was written


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.all.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.all if name == tag]


def stills(html: str) -> list[ET.Element]:
    sources = [image["src"] for image in Tags(html).named("img")]
    return [ET.fromstring(base64.b64decode(source.removeprefix("data:image/svg+xml;base64,"))) for source in sources]


def of_class(svg: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in svg.iter() if element.get("class") == name]


def in_axes(path: str, panel: Panel) -> np.ndarray:
    """The points of a path in the units of the panel's axes (K, 2)."""
    points = re.findall(r"M([^a-z]+)", path) if "M" in path[1:] or "m" in path else path[1:].split(" ")
    pixels = np.array([[float(number) for number in point.split(",")] for point in points])
    x = panel.xlim[0] + pixels[:, 0] / explorables.PLOT_WIDTH * (panel.xlim[1] - panel.xlim[0])
    y = panel.ylim[1] - pixels[:, 1] / explorables.PLOT_HEIGHT * (panel.ylim[1] - panel.ylim[0])
    return np.stack([x, y], axis=1)


def half_a_tenth(panel: Panel) -> np.ndarray:
    """Coordinates are rounded to a tenth of a unit of the SVG: an error of half of that, in the axes' units."""
    plot = np.array([explorables.PLOT_WIDTH, explorables.PLOT_HEIGHT])
    return 0.0501 * np.array([np.ptp(panel.xlim), np.ptp(panel.ylim)]) / plot


def script_data(html: str) -> dict:
    return json.loads(re.search(r'explorable\("x-\w+", (.*)\);\n\}\)', html)[1])


def panel_of(*items, **changes) -> Panel:
    fields = {"title": "A panel", "xlabel": "x", "ylabel": "y", "xlim": (0, 1), "ylim": (0, 1), "alt": ALT} | changes
    return Panel(items=items, **fields)


def simple(*items, sliders=None, readouts=(), title="A title", **changes) -> Explorable:
    sliders = [Slider("shift", [0.0, 0.5, 1.0])] if sliders is None else sliders
    return explorable(title, ALT, sliders, [panel_of(*items, **changes)], readouts)


LINE = Curve("line", [0.0, 1.0], [0.0, 1.0])


# ---- what it draws


def test_bytes_are_the_same_every_time():
    assert two_gaussians().html == two_gaussians().html


def test_the_id_follows_from_the_content():
    def identity(text):
        return Tags(simple(LINE, title=text).html).named("div")[0]["id"]

    assert identity("one") == identity("one") != identity("two")


def test_lecture_01_is_small():
    assert len(two_gaussians().html.encode()) < 150_000


grids = st.lists(st.integers(2, 4), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(grid=grids, points=st.integers(1, 5), still=st.lists(st.booleans(), min_size=6, max_size=6), data=st.data())
def test_the_still_is_the_start_data(grid, points, still, data):
    """For any grid, any axes of size 1 and any start, the drawn path read back gives the start row of the arrays."""
    start = [data.draw(st.integers(0, m - 1)) for m in grid]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shapes = [[1 if flat else m for m, flat in zip(grid, still[k:], strict=False)] for k in (0, 3)]
    x, y = (rng.uniform(-3, 3, (*shape, points)) for shape in shapes)
    sliders = [Slider(f"s{k}", np.arange(m), start=i) for k, (m, i) in enumerate(zip(grid, start, strict=True))]
    panel = panel_of(Curve("c", x, y), Points("p", y, x), xlim=(-2, 2), ylim=(-1, 3))
    html = explorable("A title", ALT, sliders, [panel]).html
    full_x, full_y = (np.broadcast_to(v, (*grid, points))[tuple(start)] for v in (x, y))
    curve, marks = (in_axes(path.get("d"), panel) for path in of_class(stills(html)[0], "x-item"))
    error = half_a_tenth(panel)
    assert (np.abs(curve - np.stack([full_x, full_y], axis=1)) <= error).all()
    assert (np.abs(marks - np.stack([full_y, full_x], axis=1)) <= error).all()


def test_every_position_is_in_the_data():
    """The script's rows, picked as the script picks them, are the arrays at every position."""
    x, y = np.linspace(0, 1, 7), np.linspace(0, 1, 3 * 7).reshape(3, 1, 7)
    readout = Readout("r", np.arange(6.0).reshape(3, 2), format=".0f")
    sliders = [Slider("a", [0, 1, 2]), Slider("b", [0, 1])]
    data = script_data(simple(Curve("c", x, y), sliders=sliders, readouts=[readout]).html)
    rows, texts = data["items"][0]["y"], data["readouts"][0]
    values = np.frombuffer(base64.b64decode(rows["values"]), "<i2") / 10 / explorables.PLOT_HEIGHT
    for i, j in np.ndindex(3, 2):
        first = np.dot(rows["stride"], (i, j))
        np.testing.assert_allclose(
            1 - values[first : first + rows["count"]], y[i, 0], atol=0.06 / explorables.PLOT_HEIGHT
        )
        assert texts["values"][np.dot(texts["stride"], (i, j))] == f"{2 * i + j}"


def tails_and_tips(path: str) -> np.ndarray:
    """(K, 2, 2): tail and tip of each arrow of a path, in units of the SVG."""
    shafts = re.findall(r"M([^ML]+)L([^ML]+)M[^ML]+L[^ML]+L[^ML]+", path)
    return np.array([[[float(number) for number in point.split(",")] for point in shaft] for shaft in shafts])


def test_an_arrow_goes_from_its_point_along_its_vector():
    """Tail at (x, y), and the tip at scale * (dx, dy) from it: read back from the path of the start position."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (2, 5))
    dx, dy = rng.normal(size=(2, 3, 5))
    panel = panel_of(Arrows("field", x, y, dx, dy, scale=0.3), xlim=(-2, 2), ylim=(-3, 3))
    html = explorable("A title", ALT, [Slider("s", [0, 1, 2], start=2)], [panel]).html
    drawn = tails_and_tips(of_class(stills(html)[0], "x-item")[0].get("d"))
    pixels = explorables.PLOT_WIDTH / 4, -explorables.PLOT_HEIGHT / 6
    np.testing.assert_allclose(drawn[:, 0], np.stack([(x + 2) * pixels[0], (y - 3) * pixels[1]], 1), atol=0.0501)
    expected = 0.3 * np.stack([dx[2] * pixels[0], dy[2] * pixels[1]], 1)
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], expected, atol=0.1001)


def test_a_field_without_a_scale_has_one_for_all_positions():
    """The longest arrow anywhere is MAX_ARROW long; the start, a tenth of it, is drawn a tenth as long."""
    dx = np.array([[0.1], [1.0]])
    html = simple(Arrows("field", [0.5], [0.5], dx, [0.0]), sliders=[Slider("s", [0, 1], start=0)]).html
    ((tail, tip),) = tails_and_tips(of_class(stills(html)[0], "x-item")[0].get("d"))
    assert tip[0] - tail[0] == pytest.approx(explorables.MAX_ARROW / 10, abs=0.11)
    assert tip[1] == tail[1]


def cells(svg: ET.Element) -> np.ndarray:
    """(rows, columns, 3) of the heat map in a still."""
    source = of_class(svg, "x-item")[0].get("href")
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as image:
        return np.array(image)


@pytest.mark.parametrize(("ylim", "order"), [((0, 1), -1), ((1, 0), 1)])
def test_a_map_has_the_colour_of_each_value(ylim, order):
    """Row 0 at the lower end of ylim: the image is upside down unless ylim is."""
    values = np.random.default_rng(0).normal(size=(3, 4, 5))
    html = simple(Heat("z", values, limits=(-1, 2)), sliders=[Slider("s", [0, 1, 2])], ylim=ylim).html
    expected = colormaps["cividis"](np.round(np.clip((values[1] + 1) / 3, 0, 1) * 255).astype(int), bytes=True)
    np.testing.assert_array_equal(cells(stills(html)[0]), expected[::order, :, :3])


def test_a_diverging_map_is_white_at_zero():
    (svg,) = stills(simple(Heat("z", [[-1.0, 0.0], [3.0, 0.0]], diverging=True), ylim=(2, 0)).html)
    assert cells(svg)[:, 1].min() > 240
    texts = [element.text for element in svg.iter() if element.tag.endswith("text")]
    assert {"z −3", "3"} <= set(texts)


def test_what_stands_on_a_map_has_a_rim():
    (svg,) = stills(simple(LINE, Heat("z", np.eye(3))).html)
    image, line = of_class(svg, "x-item")
    assert image.tag.endswith("image")  # under the line, though it was given after it
    assert "drop-shadow" in line.get("style")


def test_a_constant_map_has_a_scale():
    assert cells(stills(simple(Heat("z", np.ones((2, 2)))).html)[0]).shape == (2, 2, 3)


def test_far_away_coordinates_are_cut_and_not_wrapped():
    html = simple(Curve("c", [0.0, 1.0], [0.5, 1e30])).html
    path = of_class(stills(html)[0], "x-item")[0].get("d")
    assert path == f"M0,{explorables.PLOT_HEIGHT / 2:g} {explorables.PLOT_WIDTH},-3000"


def test_labels_stay_inside_and_apart():
    """At every position of lecture 01's sliders a label is out of sight or wholly inside, and none covers another."""
    items = script_data(two_gaussians().html)["items"]
    boxes = []
    for item, text in zip(items, ["p", "q", "exact", "quadratic", "here"], strict=True):
        centres = np.frombuffer(base64.b64decode(item["place"]["values"]), "<i2").reshape(41 * 21, 2) / 10
        half = np.array([3.4 * len(text) + 2, 7])
        seen = centres[:, 0] > -900
        size = np.array([explorables.PLOT_WIDTH, explorables.PLOT_HEIGHT])
        inside = ((centres >= half - 0.1) & (centres <= size - half + 0.1)).all(axis=1)
        # A line that leaves through the top may have no room beside it; that is rare.
        assert np.mean(inside[seen]) > 0.98, text
        boxes.append((centres, half))
    for a, b in [(0, 1), (2, 3), (2, 4), (3, 4)]:
        gap = np.abs(boxes[a][0] - boxes[b][0]) - boxes[a][1] - boxes[b][1]
        assert (gap.max(axis=1) < 0).mean() < 0.02, (a, b)


def test_numbers_have_a_real_minus_and_no_negative_zero():
    html = simple(LINE, sliders=[Slider("s", [-1.0, -1e-9, 1.0], unit="nats", format=".1f")]).html
    assert script_data(html)["sliders"] == [["−1.0 nats", "0.0 nats", "1.0 nats"]]


# ---- who reads it


def test_controls_speak():
    tags = Tags(two_gaussians().html)
    ids = [attributes.get("id") for _, attributes in tags.all]
    inputs, labels = tags.named("input"), tags.named("label")
    assert [label["for"] for label in labels] == [slider["id"] for slider in inputs]
    assert [slider["aria-valuetext"] for slider in inputs] == ["0.50", "0.20"]
    for slider in inputs:
        assert slider["type"] == "range"
        assert slider["data-lm-suppress-shortcuts"] == "true"
        assert slider["aria-describedby"] in ids
    assert tags.named("div")[0]["role"] == "group"
    assert tags.named("div")[0]["aria-labelledby"] in ids
    assert tags.named("output")[0]["aria-live"] == "polite"


def test_every_figure_has_words():
    html = two_gaussians().html
    for svg, image in zip(stills(html), Tags(html).named("img"), strict=True):
        children = {child.tag.rpartition("}")[2]: child for child in svg}
        assert svg.get("role") == "img"
        assert children["title"].text
        assert children["desc"].text == image["alt"]
        assert children["rect"].get("fill") == "white"


def test_colour_is_never_alone():
    svg = stills(simple(*[Curve(f"c{k}", [0, 1], [k / 6, k / 6]) for k in range(6)]).html)[0]
    dashes = [path.get("stroke-dasharray") for path in of_class(svg, "x-item")]
    assert len(set(dashes)) == 6


def test_text_fallback_names_title_and_description():
    assert repr(simple(LINE)) == f"A title. {ALT}"
    assert simple(LINE)._repr_html_() == simple(LINE).html


def test_nothing_is_fetched():
    html = two_gaussians().html
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import|fetch\(|https?://", html)


pieces = st.sampled_from(["<", ">", "&", '"', "'", "</script>", "<!--", "]]>", "&lt;", "\\", "$", "é", "x"])
nasty = st.lists(pieces, min_size=1, max_size=4).map("".join)  # at most MAX_TEXT characters


@settings(max_examples=60, deadline=None)
@given(text=nasty)
def test_any_text_is_only_text(text):
    """Whatever an author writes adds no tag, ends no script, and comes back as written."""

    def build(label):
        slider, readout = Slider(label, [0, 1], unit=label), Readout(label, [1.0, 2.0], unit=label)
        curve = Curve(label, [0, 1], [0, 1])
        fields = {"title": label, "xlabel": label, "ylabel": label, "alt": ALT + label}
        return explorable(label, ALT + label, [slider], [panel_of(curve, **fields)], [readout]).html

    tags, plain = Tags(build(text)), Tags(build("x"))
    assert [name for name, _ in tags.all] == [name for name, _ in plain.all]
    assert tags.texts.count(text) == plain.texts.count("x")
    assert build(text).count("</script") == 1
    assert "<!--" not in build(text)  # inside a script it changes where the script ends
    svg = stills(build(text))[0]
    assert len(list(svg.iter())) == len(list(stills(build("x"))[0].iter()))
    assert of_class(svg, "x-label")[0].text == text
    assert script_data(build(text))["sliders"][0][0] == f"0.00 {text}"


# ---- what it refuses, by name


def field(**changes) -> Arrows:
    return Arrows(**({"label": "a", "x": [0.5], "y": [0.5], "dx": [1.0], "dy": [0.0]} | changes))


TOO_MANY = Curve("big", np.zeros((3, 100_000)), np.zeros((3, 100_000)))
REFUSED = {
    "no sliders": (lambda: simple(LINE, sliders=[]), "no sliders"),
    "one position": (lambda: simple(LINE, sliders=[Slider("s", [1.0])]), r"slider 's': values have shape \(1,\)"),
    "slider 2-d": (lambda: simple(LINE, sliders=[Slider("s", np.ones((2, 2)))]), r"shape \(2, 2\)"),
    "slider nan": (lambda: simple(LINE, sliders=[Slider("s", [0.0, np.nan])]), "slider 's': 1 of 2 values"),
    "coarse format": (lambda: simple(LINE, sliders=[Slider("s", [0.001, 0.002])]), "slider 's': two positions read"),
    "start": (lambda: simple(LINE, sliders=[Slider("s", [0, 1], start=2)]), "start 2 is not one of its 2"),
    "same slider": (lambda: simple(LINE, sliders=[Slider("s", [0, 1])] * 2), "two sliders are called 's'"),
    "same curve": (lambda: simple(LINE, LINE), "two items of panel 'A panel' are called 'line'"),
    "same readout": (lambda: simple(LINE, readouts=[Readout("r", [0, 1, 2])] * 2), "two readouts are called 'r'"),
    "empty label": (lambda: simple(Curve(" ", [0, 1], [0, 1])), "empty label"),
    "shape": (lambda: simple(Curve("c", [0, 1], np.ones((2, 2)))), r"Curve 'c': y has shape \(2, 2\); .*\(3, T\)"),
    "no point": (lambda: simple(Curve("c", [], [])), r"Curve 'c': x has shape \(0,\)"),
    "lengths": (lambda: simple(Points("c", [0, 1], [0, 1, 2])), "Points 'c': x has 2 points and y has 3"),
    "not finite": (lambda: simple(Curve("c", [0, np.inf], [0, 1])), "Curve 'c': x: 1 of 2 values are not finite"),
    "readout shape": (lambda: simple(LINE, readouts=[Readout("r", [0, 1])]), r"'r' has shape \(2,\); expected \(3,\)"),
    "readout nan": (lambda: simple(LINE, readouts=[Readout("r", [0, 1, np.nan])]), "readout 'r': 1 of 3"),
    "colour": (lambda: simple(Curve("c", [0, 1], [0, 1], color="red")), "color 'red' does not exist; there are blue"),
    "marker": (lambda: simple(Points("c", [0], [0], marker="star")), "marker 'star' does not exist; there are circle"),
    "same dash": (lambda: simple(LINE, Curve("c", [0, 1], [1, 0], dash=())), "only colour would tell them apart"),
    "same marker": (lambda: simple(Points("a", [0], [0]), Points("b", [1], [1])), "only colour would tell them apart"),
    "two fields": (lambda: simple(field(label="a"), field(label="b")), "fields or heat maps"),
    "two maps": (lambda: simple(Heat("a", np.eye(2)), Heat("b", np.eye(2))), "fields or heat maps"),
    "field lengths": (lambda: simple(field(dx=[1.0, 2.0])), "Arrows 'a': x has 1 points, dx has 2 and dy has 1"),
    "map shape": (
        lambda: simple(Heat("z", np.ones((2, 4, 5)))),
        r"shape \(2, 4, 5\); expected \(rows, columns\) or \(3, rows",
    ),
    "map of a row": (lambda: simple(Heat("z", np.ones(5))), r"Heat 'z' has shape \(5,\); expected \(rows, columns\)"),
    "map limits": (lambda: simple(Heat("z", np.eye(2), limits=(1, 0))), r"Heat 'z': limits are \(1, 0\)"),
    "map label": (lambda: simple(Heat("z" * 20, np.eye(2))), "they have 21 characters"),
    "limits": (lambda: simple(LINE, xlim=(1, 0)), r"'A panel': xlim is \(1, 0\)"),
    "limits nan": (lambda: simple(LINE, ylim=(0, np.nan)), "'A panel': ylim is"),
    "no xlabel": (lambda: simple(LINE, xlabel=""), "room for 1 to 44"),
    "long title": (lambda: simple(LINE, title="t", ylabel="y" * 45), "has 45 characters"),
    "alt": (lambda: simple(LINE, alt="a plot"), "alt is 'a plot': write what the figure shows"),
    "size": (lambda: simple(TOO_MANY), r"bytes, more than 300,000: .*'big' in panel 'A panel' .*\(3, 100000\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_named(case):
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build()
