"""Figures that the reader moves: sliders, curves and numbers, computed beforehand, so that no kernel is needed.

Values on a grid of slider positions become one piece of HTML that works in JupyterLab, on a static page and on
paper: native range inputs, SVG drawn here for the start position, and a script (`_explorable.js`) that swaps in other
rows of the arrays. An array whose grid axis has size 1 does not move with that slider; a curve that shifts along x with
one slider and changes shape with another is x: (m1, 1, T), y: (1, m2, T), and needs m1 + m2 rows instead of m1 * m2.
"""

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike
from PIL import Image

from course_lib._labels import place_labels
from course_lib.plots import CYCLE, DASHES, OKABE_ITO, check_alt, ink

MAX_BYTES = 300_000
MAX_TEXT = 44  # characters of a title or an axis label
MAX_BESIDE_SCALE = 20  # of a label on the y axis that shares its line with the scale of a heat map
MAX_ARROW = 22  # units of the SVG: the longest arrow of a field that is left to scale itself
# Units of the SVG, about one CSS pixel each: the panel, and the plot inside it.
WIDTH, HEIGHT = 360, 284
LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 50, 50, 298, 188
RIM = 5  # around the plot, so that a marker on its edge is whole
# Drawn at each point, starting from it.
MARKERS = {
    "circle": "m-5,0a5,5 0 1 0 10,0a5,5 0 1 0 -10,0z",
    "square": "m-4.5,-4.5h9v9h-9z",
    "triangle": "m0,-6l5.5,10h-11z",
    "diamond": "m0,-6l6,6l-6,6l-6,-6z",
    "cross": "m-5,-5l10,10m0,-10l-10,10m5,-5",
}
HALO = ' style="filter:drop-shadow(0 0 1px white) drop-shadow(0 0 1px white)"'  # of what is drawn on a heat map
ARROW = "arrow"  # the sign of a vector field, as a dash or a marker is of other items
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Slider:
    """One axis of the grid: `values` (m,), read out as `format` and `unit`; `start` is an index, else the middle."""

    label: str
    values: ArrayLike
    unit: str = ""
    start: int | None = None
    format: str = ".2f"


@dataclass(frozen=True)
class Curve:
    """A line through T points; x and y are (T,) where nothing moves them, else (*grid, T), where a grid axis may be 1.

    `color` is a name of OKABE_ITO, `dash` as in DASHES; by default both follow from the place in the panel.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    color: str | None = None
    dash: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Points:
    """K markers; x and y as for Curve: one moving point is (*grid, 1). `marker` is a key of MARKERS."""

    label: str
    x: ArrayLike
    y: ArrayLike
    color: str | None = None
    marker: str = "circle"


@dataclass(frozen=True)
class Arrows:
    """A vector field: K arrows from (x, y) along (dx, dy), each (K,) or (*grid, K) as for Curve.

    An arrow is `scale` times (dx, dy) long, in the units of the axes; None makes the longest one anywhere span a cell
    of a 12 x 9 grid. One field a panel: two could be told apart by colour alone.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    dx: ArrayLike
    dy: ArrayLike
    scale: float | None = None
    color: str | None = None


@dataclass(frozen=True)
class Heat:
    """A heat map over the whole panel, with its scale above: `values` (rows, columns), or (*grid, rows, columns).

    Row 0 lies at the lower end of ylim, so at the bottom; a panel with a heat map may have its ylim reversed, as in
    (5, 0), which puts row 0 of a matrix on top. `limits`: what the ends of the scale stand for, by default the smallest
    and the largest value. `diverging`: for signed values; white is 0, and the limits are opposite numbers.
    """

    label: str
    values: ArrayLike
    limits: tuple[float, float] | None = None
    diverging: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `alt` says what it shows at the start, to readers who cannot see it; labels carry the units.

    Items are drawn in their order: a heat map first, what stands on it after.
    """

    title: str
    xlabel: str
    ylabel: str
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    items: Sequence[Curve | Points | Arrows | Heat]
    alt: str


@dataclass(frozen=True)
class Readout:
    """A number that follows the sliders: `values` (*grid), where an axis may be 1, shown as `format` and `unit`."""

    label: str
    values: ArrayLike
    unit: str = ""
    format: str = ".3f"


@dataclass(frozen=True)
class Explorable:
    """What `explorable` returns; a notebook shows `html`, a terminal the title and the description."""

    title: str
    description: str
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"{self.title}. {self.description}"


@dataclass(frozen=True)
class _Rows:
    """A row of entries for every position of the sliders: values (*grid, count), grid axes of size 1 not moving."""

    values: np.ndarray

    def at(self, positions: Sequence[int]) -> np.ndarray:
        return self.values[tuple(min(i, n - 1) for i, n in zip(positions, self.values.shape[:-1], strict=True))]

    def everywhere(self, grid: tuple[int, ...]) -> np.ndarray:
        """(number of positions, count)."""
        count = self.values.shape[-1]
        return np.broadcast_to(self.values, (*grid, count)).reshape(-1, count)

    def data(self) -> dict:
        """As the script reads it: numbers as base64 of int16 or uint8, texts as a list."""
        *grid, count = self.values.shape
        strides = [0 if n == 1 else math.prod(grid[axis + 1 :]) * count for axis, n in enumerate(grid)]
        texts = self.values.dtype.kind == "U"
        values = self.values.ravel().tolist() if texts else _base64(self.values.tobytes())
        return {"stride": strides, "count": count, "values": values}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


NOWHERE = _Rows(np.zeros((0, 2), "<i2"))


@dataclass(frozen=True)
class _Mark:
    """A curve, points or arrows in tenths of a unit of the plot, ready to draw. Of arrows, tails and tips alternate."""

    label: str
    x: _Rows
    y: _Rows
    between: str
    after: str
    look: str
    color: str
    sign: str  # its dash or marker
    place: _Rows  # the centre of its label

    @property
    def rim(self) -> int:
        return RIM if self.after else 1

    @property
    def rows(self) -> tuple[_Rows, ...]:
        return self.x, self.y

    def path(self, positions: Sequence[int]) -> str:
        pairs = list(zip(self.x.at(positions) / 10, self.y.at(positions) / 10, strict=True))
        if self.sign == ARROW:
            return "".join(_arrow(*tail, *tip) for tail, tip in zip(pairs[::2], pairs[1::2], strict=True))
        return "M" + self.between.join(f"{x:g},{y:g}" for x, y in pairs) + self.after

    def drawn(self, positions: Sequence[int], halo: str = "") -> str:
        return f'<path class="x-item" {self.look}{halo} d="{self.path(positions)}"/>'

    def labelled(self, positions: Sequence[int]) -> str:
        x, y = self.place.at(positions) / 10
        return (
            f'<text class="x-label" x="{x:g}" y="{y:g}" dy="4.5" text-anchor="middle" fill="{ink(self.color)}" '
            f'stroke="white" stroke-width="3" paint-order="stroke">{escape(self.label)}</text>'
        )

    def data(self) -> dict:
        rows = {"x": self.x.data(), "y": self.y.data(), "place": self.place.data()}
        return {
            "kind": "arrows" if self.sign == ARROW else "path",
            **rows,
            "between": self.between,
            "after": self.after,
        }


@dataclass(frozen=True)
class _Map:
    """A heat map: cells (*grid, rows * columns), each a place in `colors` (256, 3), from the top left, row by row."""

    label: str
    cells: _Rows
    columns: int
    colors: np.ndarray
    limits: tuple[float, float]

    rim = 0

    @property
    def rows(self) -> tuple[_Rows, ...]:
        return (self.cells,)

    def drawn(self, positions: Sequence[int], halo: str = "") -> str:
        box = (
            f'width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" preserveAspectRatio="none" style="image-rendering:pixelated"'
        )
        cells = self.cells.at(positions).reshape(-1, self.columns)
        return f'<image class="x-item" {box} href="{_png(self.colors[cells])}"/>'

    def labelled(self, positions: Sequence[int]) -> str:
        return '<text class="x-label"/>'  # the scale names it; the script counts on a label for every item

    def scale(self) -> str:
        """Label and lower end, a bar of the colours, upper end: above the plot, at its right."""
        right, (low, high) = LEFT + PLOT_WIDTH, (_number(limit, ".3g") for limit in self.limits)
        bar = f'x="{right - 108}" y="25" width="64" height="10"'
        return (
            f'<text x="{right - 114}" y="34" text-anchor="end">{escape(self.label)} {low}</text>'
            f'<image {bar} preserveAspectRatio="none" href="{_png(self.colors[None])}"/>'
            f'<rect {bar} fill="none" stroke="#555" stroke-width=".5"/>'
            f'<text x="{right - 38}" y="34">{high}</text>'
        )

    def data(self) -> dict:
        colors = _base64(self.colors.tobytes())
        return {"kind": "map", "cells": self.cells.data(), "columns": self.columns, "colors": colors}


def _png(colors: np.ndarray) -> str:
    """(rows, columns, 3) as an address that holds the image itself."""
    file = io.BytesIO()
    Image.fromarray(colors).save(file, format="png")
    return "data:image/png;base64," + _base64(file.getvalue())


def _arrow(x0: float, y0: float, x1: float, y1: float) -> str:
    """Path of a shaft and two barbs."""
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy)
    h = min(5, length / 2) / (length or 1)
    tip = _point(x1, y1)
    left = _point(x1 - h * (dx + 0.6 * dy), y1 - h * (dy - 0.6 * dx))
    right = _point(x1 - h * (dx - 0.6 * dy), y1 - h * (dy + 0.6 * dx))
    return f"M{_point(x0, y0)}L{tip}M{left}L{tip}L{right}"


def _point(*coordinates: float) -> str:
    return ",".join(f"{math.floor(10 * v + 0.5) / 10:g}" for v in coordinates)  # rounded as the script rounds


def explorable(
    title: str,
    description: str,
    sliders: Sequence[Slider],
    panels: Sequence[Panel],
    readouts: Sequence[Readout] = (),
) -> Explorable:
    """Sliders over panels and numbers, for a grid of as many axes as there are sliders, in their order.

    `description` says in words what changes when a slider moves.

    Raises ValueError, naming the part, for: no slider or a slider with fewer than two values, a shape that does not fit
    the grid, a value that is not finite, a label used twice, two items of one panel with the same dash or marker, a
    colour or marker that does not exist, limits out of order, text too long for a phone, an alt or description that
    says nothing, and more than MAX_BYTES of HTML.
    """
    if not sliders:
        raise ValueError(f"explorable {title!r}: no sliders; for a still figure use plots.show")
    check_alt(description)
    _distinct("sliders", [slider.label for slider in sliders])
    _distinct("panels", [panel.title for panel in panels])
    _distinct("readouts", [readout.label for readout in readouts])
    steps = [_steps(slider) for slider in sliders]
    grid = tuple(len(texts) for texts in steps)
    start = tuple(_start(slider, n) for slider, n in zip(sliders, grid, strict=True))
    marks = [_marks(panel, grid) for panel in panels]
    numbers = [_readout(readout, grid) for readout in readouts]
    items = [mark.data() for each in marks for mark in each]
    data = {"sliders": steps, "items": items, "readouts": [rows.data() for rows in numbers]}
    stills = [_still(panel, each, start) for panel, each in zip(panels, marks, strict=True)]
    shown = [_output(readout, rows.at(start)[0]) for readout, rows in zip(readouts, numbers, strict=True)]

    def page(id: str) -> str:
        controls = [_control(id, k, slider, steps[k], start[k]) for k, slider in enumerate(sliders)]
        parts = {"controls": controls, "readouts": shown, "stills": stills}
        return _page(id, title, description, parts, data)

    html = page("x-" + hashlib.sha256(page("").encode()).hexdigest()[:10])
    _check_size(html, title, {(p.title, m.label): m for p, each in zip(panels, marks, strict=True) for m in each})
    return Explorable(title, description, html)


# ---- from what the author gives to rows of numbers and texts


def _distinct(kind: str, labels: Sequence[str]) -> None:
    for label in labels:
        if not label.strip():
            raise ValueError(f"one of the {kind} has an empty label")
        if labels.count(label) > 1:
            raise ValueError(f"two {kind} are called {label!r}: a reader could not tell them apart")


def _finite(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {np.sum(~np.isfinite(array))} of {array.size} values are not finite")
    return array


def _number(value: float, spec: str, unit: str = "") -> str:
    """The text for a number, with a real minus sign (screen readers skip the hyphen) and no negative zero."""
    text = format(float(value), spec)
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−") + (f" {unit}" if unit else "")


def _steps(slider: Slider) -> list[str]:
    """What the slider reads at each position."""
    values = _finite(f"slider {slider.label!r}", slider.values)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"slider {slider.label!r}: values have shape {values.shape}; expected (m,) with m at least 2")
    texts = [_number(value, slider.format, slider.unit) for value in values]
    if len(set(texts)) < len(texts):
        raise ValueError(f"slider {slider.label!r}: two positions read the same as {slider.format!r}; give more digits")
    return texts


def _start(slider: Slider, size: int) -> int:
    start = size // 2 if slider.start is None else slider.start
    if not 0 <= start < size:
        raise ValueError(f"slider {slider.label!r}: start {start} is not one of its {size} positions")
    return start


def _fit(name: str, values: ArrayLike, grid: tuple[int, ...]) -> np.ndarray:
    """`values` (T,) or (*grid, T) with size-1 axes as (*grid or ones, T)."""
    array = _finite(name, values)
    if array.ndim == 1:
        array = array.reshape((1,) * len(grid) + array.shape)
    fits = array.ndim == len(grid) + 1 and all(n in (1, m) for n, m in zip(array.shape, grid, strict=False))
    if not fits or array.shape[-1] == 0:
        expected = ", ".join(str(m) for m in grid)
        raise ValueError(
            f"{name} has shape {np.shape(values)}; expected (T,) or ({expected}, T), where a grid axis may be 1"
        )
    return array


def _readout(readout: Readout, grid: tuple[int, ...]) -> _Rows:
    values = _finite(f"readout {readout.label!r}", readout.values)
    if values.ndim != len(grid) or any(n not in (1, m) for n, m in zip(values.shape, grid, strict=True)):
        raise ValueError(f"readout {readout.label!r} has shape {values.shape}; expected {grid}, where an axis may be 1")
    texts = [_number(value, readout.format, readout.unit) for value in values.ravel()]
    return _Rows(np.array(texts).reshape(*values.shape, 1))


def _tenths(values: np.ndarray, low: float, high: float, size: float) -> _Rows:
    # Far outside the panel a path may end early: nothing of it is seen, and 16 bits are enough.
    tenths = np.round((values - low) / (high - low) * size * 10)
    return _Rows(np.clip(tenths, -30_000, 30_000).astype("<i2"))


def _marks(panel: Panel, grid: tuple[int, ...]) -> list[_Mark | _Map]:
    _check_panel(panel)
    maps = [_map(panel, item, grid) for item in panel.items if isinstance(item, Heat)]
    items = [item for item in panel.items if not isinstance(item, Heat)]
    marks = [_mark(panel, item, place, grid) for place, item in enumerate(items)]
    if len({mark.sign for mark in marks}) < len(marks) or len(maps) > 1:
        raise ValueError(
            f"panel {panel.title!r}: two items have the same dash or marker, or are fields or heat maps; only colour "
            "would tell them apart"
        )
    lines = [(mark.x.everywhere(grid) / 10, mark.y.everywhere(grid) / 10) for mark in marks]
    centres = place_labels([mark.label for mark in marks], lines, PLOT_WIDTH, PLOT_HEIGHT)
    placed = [
        replace(mark, place=_tenths(centre.reshape(*grid, 2), 0, 1, 1))
        for mark, centre in zip(marks, centres, strict=True)
    ]
    return [*maps, *placed]


def _check_panel(panel: Panel) -> None:
    check_alt(panel.alt)
    _distinct(f"items of panel {panel.title!r}", [item.label for item in panel.items])
    for text in (panel.title, panel.xlabel, panel.ylabel):
        if not 0 < len(text) <= MAX_TEXT:
            raise ValueError(
                f"panel {panel.title!r}: {text!r} has {len(text)} characters; a panel has room for 1 to {MAX_TEXT}"
            )
    heat = [item for item in panel.items if isinstance(item, Heat)]
    if heat and len(panel.ylabel + heat[0].label) > MAX_BESIDE_SCALE:
        raise ValueError(
            f"panel {panel.title!r}: ylabel and the label of the heat map share a line with its scale; together they "
            f"have {len(panel.ylabel + heat[0].label)} characters, and there is room for {MAX_BESIDE_SCALE}"
        )
    for name, (low, high) in (("xlim", panel.xlim), ("ylim", sorted(panel.ylim) if heat else panel.ylim)):
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"panel {panel.title!r}: {name} is ({low}, {high}); expected finite numbers, the lower first"
            )


def _mark(panel: Panel, item: Curve | Points | Arrows, place: int, grid: tuple[int, ...]) -> _Mark:
    name = f"panel {panel.title!r}, {type(item).__name__} {item.label!r}"
    x, y = _fit(f"{name}: x", item.x, grid), _fit(f"{name}: y", item.y, grid)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"{name}: x has {x.shape[-1]} points and y has {y.shape[-1]}")
    color = _choice(f"{name}: color", item.color or CYCLE[place % len(CYCLE)], OKABE_ITO)
    if isinstance(item, Arrows):
        x, y = _tails_and_tips(panel, item, name, grid, x, y)
    rows = _tenths(x, *panel.xlim, PLOT_WIDTH), _tenths(y, panel.ylim[1], panel.ylim[0], PLOT_HEIGHT)
    if isinstance(item, Points):
        shape = _choice(f"{name}: marker", item.marker, MARKERS)
        look = f'fill="{color}" stroke="{color if item.marker == "cross" else "white"}" stroke-width="1.5"'
        return _Mark(item.label, *rows, shape + "M", shape, look, color, item.marker, NOWHERE)
    if isinstance(item, Arrows):
        return _Mark(
            item.label, *rows, "", "", f'fill="none" stroke="{color}" stroke-width="1.3"', color, ARROW, NOWHERE
        )
    dash = DASHES[place % len(DASHES)] if item.dash is None else item.dash
    lengths = " ".join(f"{2 * length:g}" for length in dash) or "none"
    look = f'fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{lengths}"'
    return _Mark(item.label, *rows, " ", "", look, color, lengths, NOWHERE)


def _tails_and_tips(
    panel: Panel, item: Arrows, name: str, grid: tuple[int, ...], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """x and y (*grid or ones, 2K): the tail and the tip of each arrow in turn."""
    dx, dy = _fit(f"{name}: dx", item.dx, grid), _fit(f"{name}: dy", item.dy, grid)
    if {x.shape[-1]} != {dx.shape[-1], dy.shape[-1]}:
        raise ValueError(f"{name}: x has {x.shape[-1]} points, dx has {dx.shape[-1]} and dy has {dy.shape[-1]}")
    drawn = np.hypot(dx / np.ptp(panel.xlim) * PLOT_WIDTH, dy / np.ptp(panel.ylim) * PLOT_HEIGHT)
    scale = MAX_ARROW / (drawn.max() or 1.0) if item.scale is None else item.scale
    pairs = (np.stack(np.broadcast_arrays(tail, tail + scale * step), axis=-1) for tail, step in ((x, dx), (y, dy)))
    x, y = (pair.reshape(*pair.shape[:-2], -1) for pair in pairs)
    return x, y


def _map(panel: Panel, item: Heat, grid: tuple[int, ...]) -> _Map:
    name = f"panel {panel.title!r}, Heat {item.label!r}"
    shape = np.shape(item.values)
    moves = shape[:-2] or (1,) * len(grid)
    if (
        len(shape) < 2
        or 0 in shape
        or len(moves) != len(grid)
        or any(n not in (1, m) for n, m in zip(moves, grid, strict=True))
    ):
        expected = ", ".join(str(m) for m in grid)
        raise ValueError(f"{name} has shape {shape}; expected (rows, columns) or ({expected}, rows, columns)")
    flat = _fit(name, np.reshape(item.values, (*shape[:-2], -1)), grid)
    low, high = _limits(item, flat, name)
    cells = np.round(np.clip((flat - low) / (high - low), 0, 1) * 255).astype("u1")
    if panel.ylim[0] < panel.ylim[1]:  # row 0 lies at the bottom, and an image starts at the top
        cells = cells.reshape(*cells.shape[:-1], *shape[-2:])[..., ::-1, :].reshape(cells.shape)
    table = colormaps["PuOr_r" if item.diverging else "cividis"](np.arange(256), bytes=True)[:, :3]
    return _Map(item.label, _Rows(np.ascontiguousarray(cells)), shape[-1], np.ascontiguousarray(table), (low, high))


def _limits(item: Heat, values: np.ndarray, name: str) -> tuple[float, float]:
    """What the ends of the scale stand for; a constant map gets a scale around its value."""
    low, high = item.limits or (float(values.min()), float(values.max()))
    if item.diverging:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    if item.limits is None and low == high:
        low, high = low - 0.5, high + 0.5
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{name}: limits are ({low}, {high}); expected finite numbers, the lower first")
    return low, high


def _choice(name: str, key: str, choices: Mapping[str, str]) -> str:
    if key not in choices:
        raise ValueError(f"{name} {key!r} does not exist; there are {', '.join(choices)}")
    return choices[key]


# ---- SVG and HTML


def _still(panel: Panel, marks: Sequence[_Mark | _Map], start: tuple[int, ...]) -> str:
    # An image survives where scripts and SVG are stripped, as in an untrusted notebook. ASCII, so that atob reads it.
    svg = _svg(panel, marks, start).encode("ascii", "xmlcharrefreplace")
    return f'<img alt="{escape(panel.alt)}" width="{WIDTH}" src="data:image/svg+xml;base64,{_base64(svg)}">'


def _svg(panel: Panel, marks: Sequence[_Mark | _Map], start: tuple[int, ...]) -> str:
    new_line = "\n"
    maps = [mark for mark in marks if isinstance(mark, _Map)]
    halo = HALO if maps else ""
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"
  font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#222">
<title>{escape(panel.title)}</title><desc>{escape(panel.alt)}</desc>
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<text x="0" y="14" font-weight="bold" font-size="14">{escape(panel.title)}</text>
<text x="0" y="34">{escape(panel.ylabel)}</text>{"".join(mark.scale() for mark in maps)}
<text x="{LEFT + PLOT_WIDTH // 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(panel.xlabel)}</text>
{new_line.join(_axes(panel))}
{new_line.join(_plot(mark.drawn(start, halo), mark.rim) for mark in marks)}
{_plot(new_line.join(mark.labelled(start) for mark in marks), RIM)}
</svg>"""


def _plot(content: str, rim: int) -> str:
    # An inner svg clips what leaves the plot, without an id that two copies of one output would share.
    width, height = PLOT_WIDTH + 2 * rim, PLOT_HEIGHT + 2 * rim
    box = f'x="{LEFT - rim}" y="{TOP - rim}" width="{width}" height="{height}" viewBox="{-rim} {-rim} {width} {height}"'
    return f'<svg {box} style="overflow:hidden">{content}</svg>'


def _axes(panel: Panel) -> list[str]:
    """Grid lines, numbers and the two axes."""
    bottom, right = TOP + PLOT_HEIGHT, LEFT + PLOT_WIDTH
    parts = []
    for value in _ticks(*panel.xlim):
        x = LEFT + (value - panel.xlim[0]) / (panel.xlim[1] - panel.xlim[0]) * PLOT_WIDTH
        parts.append(f'<path d="M{x:.1f},{TOP}V{bottom + 4}" stroke="#E3E3E3"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_number(value, "g")}</text>')
    for value in _ticks(*sorted(panel.ylim)):
        y = bottom - (value - panel.ylim[0]) / (panel.ylim[1] - panel.ylim[0]) * PLOT_HEIGHT
        parts.append(f'<path d="M{LEFT - 4},{y:.1f}H{right}" stroke="#E3E3E3"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4.5:.1f}" text-anchor="end">{_number(value, "g")}</text>')
    return [*parts, f'<path d="M{LEFT},{TOP}V{bottom}H{right}" fill="none" stroke="#555"/>']


def _ticks(low: float, high: float) -> list[float]:
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(tick) for tick in ticks if low - slack <= tick <= high + slack]


def _control(id: str, axis: int, slider: Slider, texts: list[str], start: int) -> str:
    # JupyterLab takes the arrow keys from an input that does not refuse it; Firefox restores old positions on reload.
    text = escape(texts[start])
    return f"""\
<div class="x-slider"><label for="{id}-slider-{axis}-0">{escape(slider.label)}</label>
<input id="{id}-slider-{axis}-0" type="range" min="0" max="{len(texts) - 1}" value="{start}" aria-valuetext="{text}"
  aria-describedby="{id}-description" autocomplete="off" data-lm-suppress-shortcuts="true">
<span class="x-value" aria-hidden="true">{text}</span></div>"""


def _output(readout: Readout, text: str) -> str:
    return f'<span>{escape(readout.label)} <span class="x-readout">{escape(text)}</span></span>'


def _page(id: str, title: str, description: str, parts: dict[str, list[str]], data: dict) -> str:
    script, style = ((_HERE / f"_explorable.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    # A label "</script>" must not end the script.
    values = json.dumps(data).replace("<", "\\u003c")
    joined = {name: "\n".join(lines) for name, lines in parts.items()}
    return f"""\
<div class="x-explorable" id="{id}" role="group" aria-labelledby="{id}-title">
<style>
{style}</style>
<p class="x-title" id="{id}-title"><strong>{escape(title)}</strong></p>
<p id="{id}-description">{escape(description)}</p>
{joined["controls"]}
<output aria-live="polite">
{joined["readouts"]}
</output>
<div class="x-panels">
{joined["stills"]}
</div>
<p class="x-note">This is a still of the start position. The sliders move it where scripts run: on the course's page,
or in JupyterLab once the cell has been run or the notebook is trusted.</p>
<script>
(() => {{
{script}
explorable("{id}", {values});
}})();
</script>
</div>"""


def _check_size(html: str, title: str, marks: Mapping[tuple[str, str], _Mark | _Map]) -> None:
    size = len(html.encode())
    if size > MAX_BYTES:
        (panel, label), mark = max(marks.items(), key=lambda pair: sum(rows.values.nbytes for rows in pair[1].rows))
        shapes = " and ".join(str(rows.values.shape) for rows in mark.rows)
        raise ValueError(
            f"explorable {title!r} is {size:,} bytes, more than {MAX_BYTES:,}: use fewer points or slider positions, "
            f"or size-1 axes where a slider does not move an item; the largest is {label!r} in panel {panel!r} "
            f"with {shapes}"
        )
