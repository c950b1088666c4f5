"""The style can be read by everyone, and a figure without words is refused."""

import base64
import io

import matplotlib
import numpy as np
import pytest
from matplotlib import colors
from matplotlib import pyplot as plt
from PIL import Image

from course_lib import plots

ALT = "A line that rises from zero to one over two steps."


@pytest.fixture(autouse=True)
def course_style():
    with matplotlib.rc_context():
        matplotlib.use("Agg")
        plots.use_style()
        yield
        plt.close("all")


@pytest.fixture
def shown(monkeypatch):
    """Show a figure and return what the notebook would store: data and metadata."""
    calls = []
    monkeypatch.setattr(plots, "display", lambda data, metadata, raw: calls.append((data, metadata, raw)))

    def show(fig, alt=ALT):
        plots.show(fig, alt)
        ((data, metadata, raw),) = calls
        calls.clear()
        assert raw
        return data, metadata

    return show


def figure(**labels):
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    ax.set(**({"xlabel": "step", "ylabel": "loss (nats)"} | labels))
    return fig


def contrast(color) -> float:
    """WCAG 2.2 contrast with white."""
    rgb = np.array(colors.to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_every_colour_of_the_cycle_has_a_dash_of_its_own():
    styles = list(matplotlib.rcParams["axes.prop_cycle"])
    assert len({str(style["linestyle"]) for style in styles}) == len(styles) == len(plots.CYCLE) == len(plots.MARKERS)


def test_ink_can_be_read_and_leaves_dark_colours_alone():
    assert all(contrast(plots.ink(color)) >= 4.5 for color in plots.OKABE_ITO.values())
    assert plots.ink(plots.OKABE_ITO["blue"]).upper() == plots.OKABE_ITO["blue"]


def test_show_describes_the_image_in_both_places(shown):
    data, metadata = shown(figure(), alt='A line "rises" & ends at 1 < 2.')
    assert metadata == {"image/png": {"alt": 'A line "rises" & ends at 1 < 2.', "width": 520}}
    assert 'alt="A line &quot;rises&quot; &amp; ends at 1 &lt; 2."' in data["text/html"]
    assert data["image/png"] in data["text/html"]
    assert data["text/plain"] == 'A line "rises" & ends at 1 < 2.'


def test_show_is_crisp_small_opaque_and_undated(shown):
    png = base64.b64decode(shown(figure())[0]["image/png"])
    image = Image.open(io.BytesIO(png))
    assert image.width == 2 * 520
    assert len(png) < 60_000
    assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    assert image.info.keys() <= {"dpi"}


def test_show_gives_the_same_bytes_twice(shown):
    assert shown(figure()) == shown(figure())


def test_show_closes_the_figure(shown):
    fig = figure()
    shown(fig)
    assert not plt.fignum_exists(fig.number)


@pytest.mark.parametrize("alt", ["", "   ", "a plot", " " * 30])
def test_a_description_that_says_nothing_is_refused(alt):
    with pytest.raises(ValueError, match="write what the figure shows"):
        plots.show(figure(), alt)


@pytest.mark.parametrize("missing", ["xlabel", "ylabel"])
def test_a_missing_label_is_refused_with_the_name_of_the_axes(missing):
    fig, (first, second) = plt.subplots(1, 2)
    first.set(xlabel="step", ylabel="loss (nats)")
    second.set(xlabel="step", ylabel="loss (nats)", title="Second")
    second.set(**{missing: " "})
    with pytest.raises(ValueError, match=rf"axes 2 of 2 \('Second'\): no {missing}"):
        plots.show(fig, ALT)


def test_axes_that_show_no_numbers_need_no_label(shown):
    fig, (off, bare, hidden) = plt.subplots(1, 3)
    off.axis("off")
    bare.set(xticks=[], yticks=[])
    hidden.set_visible(False)
    shown(fig)


def test_shared_and_figure_labels_count(shown):
    fig, axes = plt.subplots(2, 2, sharex=True, sharey=True)
    fig.supylabel("loss (nats)")
    for ax in axes[1]:
        ax.set_xlabel("step")
    shown(fig)


def test_a_colour_bar_needs_one_label_only(shown):
    fig, ax = plt.subplots()
    image = ax.imshow(np.eye(2))
    ax.set(xlabel="column", ylabel="row")
    fig.colorbar(image, label="entry of H")
    shown(fig)


def test_labels_at_the_end_of_lines_keep_their_distance():
    fig, ax = plt.subplots()
    for end in (0.50, 0.51, 0.52, 1.0):
        ax.plot([0, 1], [0, end], label=f"to {end}")
    ax.plot([0, 1], [0, 0.9])  # no label, so no text
    plots.label_lines(ax, gap=15)
    fig.canvas.draw()
    heights = sorted(text.get_window_extent().y0 * 72 / fig.dpi for text in ax.texts)
    assert [text.get_text() for text in ax.texts] == ["to 0.5", "to 0.51", "to 0.52", "to 1.0"]
    assert np.diff(heights).min() > 14.5  # a pixel is 0.72 points


def test_a_slope_guide_has_its_slope_and_its_label():
    fig, ax = plt.subplots()
    plots.slope_guide(ax, [2.0, 4.0, 16.0], 3.0, -1.5, "slope -3/2")
    x, y = ax.lines[0].get_xydata().T
    np.testing.assert_allclose(np.diff(np.log(y)) / np.diff(np.log(x)), -1.5)
    assert y[0] == 3.0
    assert [text.get_text() for text in ax.texts] == ["slope -3/2"]
    plt.close(fig)
