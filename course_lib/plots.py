"""The look of every figure, and the one way to show one: with a description for readers who cannot see it.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with each kind of colour blindness can
tell apart. Colour still never carries a meaning alone: the cycle pairs every colour with a dash pattern of its own.
"""

import base64
import html
import io

import matplotlib
import numpy as np
from cycler import cycler
from IPython.display import display
from matplotlib import colors
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.typing import ColorType
from numpy.typing import ArrayLike
from PIL import Image

OKABE_ITO = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "black": "#000000",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
}
CYCLE = ("blue", "vermillion", "green", "purple", "orange", "black")  # sky and yellow are faint as lines on white
# On and off lengths in line widths; the first is solid.
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1, 1.2), (6, 1.5, 1, 1.5), (2, 1), (6, 1.2, 1, 1.2, 1, 1.2))
MARKERS = ("o", "s", "^", "D", "v", "X")
MIN_ALT = 20  # characters; shorter than this says no more than "a plot"

_STYLE = {
    "axes.prop_cycle": cycler(color=[OKABE_ITO[name] for name in CYCLE])
    + cycler(linestyle=["-" if not dash else (0, dash) for dash in DASHES]),
    # Shown 520 px wide; on a phone (350 px of text) 12 pt still come to 11 px.
    "figure.figsize": (5.2, 3.4),
    "figure.dpi": 100,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    # Pages may be dark: the background is always painted.
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
    "legend.frameon": False,
    "image.cmap": "cividis",  # even in lightness, the same to all kinds of colour vision
    "svg.hashsalt": "beyond-the-gradient",  # ids in an SVG would be random otherwise
}


def use_style() -> None:
    """Make the course's style the default of every later figure."""
    matplotlib.rcParams.update(_STYLE)  # type: ignore[arg-type]


def ink(color: ColorType) -> str:
    """The colour, darkened until text in it reads well on white: contrast at least 4.5 (WCAG 2.2, 1.4.3)."""
    rgb = np.array(colors.to_rgb(color))
    while _luminance(rgb) > 1.05 / 4.5 - 0.05:
        rgb = rgb * 0.97
    return colors.to_hex(tuple(rgb))


def _luminance(rgb: np.ndarray) -> float:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def label_lines(ax: Axes, gap: float = 15.0) -> None:
    """Write each labelled line's name at its right end, at least `gap` points apart, so that no legend is needed."""
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    ends = [np.asarray(line.get_xydata(), dtype=float)[-1] for line in lines]
    to_points = 72.0 / ax.figure.dpi
    heights = [ax.transData.transform(end)[1] * to_points for end in ends]
    floor = -np.inf
    for i in np.argsort(heights):
        target = max(heights[i], floor)
        _write_beside(ax, str(lines[i].get_label()), ends[i], lines[i].get_color(), target - heights[i])
        floor = target + gap


def slope_guide(ax: Axes, x: ArrayLike, start: float, slope: float, label: str) -> None:
    """A dashed line through (x[0], start) with this slope on logarithmic axes, to compare a measured rate with.

    x: (m,), positive and increasing. The label stands at the right end.
    """
    x = np.asarray(x, dtype=float)
    y = start * (x / x[0]) ** slope
    color = OKABE_ITO["vermillion"]
    ax.loglog(x, y, color=color, linestyle="--", marker="none")
    _write_beside(ax, label, np.array([x[-1], y[-1]]), color)


def _write_beside(ax: Axes, text: str, point: np.ndarray, color: ColorType, lift: float = 0.0) -> None:
    """Write to the right of the point, `lift` typographic points higher."""
    ax.annotate(
        text,
        tuple(point),
        xytext=(5, lift),
        textcoords="offset points",
        color=ink(color),
        verticalalignment="center",
        annotation_clip=False,
    )


def check_alt(alt: str) -> str:
    """Return `alt`; ValueError where it is too short to stand in for a figure."""
    if len(alt.strip()) < MIN_ALT:
        raise ValueError(
            f"alt is {alt!r}: write what the figure shows to someone who cannot see it, in a sentence or two "
            f"(what is drawn against what, and what one should notice), at least {MIN_ALT} characters"
        )
    return alt


def show(fig: Figure, alt: str) -> None:
    """Display `fig` at twice the resolution of the page, described by `alt`, and close it.

    The output holds image/png with the description in its metadata, as the notebook format has it, and also text/html,
    because JupyterLab 4.6 and nbconvert's lab template drop that metadata: there the <img> of the HTML carries it.

    Raises ValueError for a description that says nothing, and for an axis that shows numbers without saying of what.
    """
    check_alt(alt)
    _check_labels(fig)
    png, width = _png(fig)
    plt.close(fig)
    data = base64.b64encode(png).decode("ascii")
    image = (
        f'<img alt="{html.escape(alt)}" width="{width}" style="max-width: 100%; height: auto" '
        f'src="data:image/png;base64,{data}">'
    )
    bundle = {"image/png": data, "text/html": image, "text/plain": alt}
    display(bundle, metadata={"image/png": {"alt": alt, "width": width}}, raw=True)


def _png(fig: Figure) -> tuple[bytes, int]:
    """The figure as PNG bytes, and the width in CSS pixels to show it at."""
    drawn, small = io.BytesIO(), io.BytesIO()
    fig.savefig(drawn, format="png", dpi=2 * fig.dpi)
    # 128 colours are enough for lines, text and a colour map, and take a quarter of the bytes. Writing the image anew
    # also leaves out the version of matplotlib, which would change what is stored.
    image = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    return small.getvalue(), round(image.width / 2)


def _check_labels(fig: Figure) -> None:
    fig.draw_without_rendering()  # tick labels are empty before the first drawing
    for number, ax in enumerate(fig.axes, start=1):
        if not (ax.axison and ax.get_visible()):
            continue
        title = ax.get_title("left") or ax.get_title("center")
        name = f"axes {number} of {len(fig.axes)}" + (f" ({title!r})" if title else "")
        if _unlabelled(ax.xaxis) and not fig.get_supxlabel():
            raise ValueError(f"{name}: no xlabel; say what the numbers along x are, with the unit")
        if _unlabelled(ax.yaxis) and not fig.get_supylabel():
            raise ValueError(f"{name}: no ylabel; say what the numbers along y are, with the unit")


def _unlabelled(axis: Axis) -> bool:
    """Whether the axis shows numbers and has no label; a shared axis whose numbers stand elsewhere shows none."""
    numbers = any(text.get_visible() and text.get_text() for text in axis.get_ticklabels())
    return axis.get_visible() and numbers and not axis.label.get_text().strip()
