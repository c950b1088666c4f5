"""Where the names of moving lines go: each beside its own line, at every position of the sliders."""

from collections.abc import Sequence

import numpy as np

CHARACTER, LINE = 6.8, 14  # size of a letter in the plot's units, for a font of 13
SAMPLES = 48  # points at which a line is looked at
HIDDEN = -1000.0  # score and coordinates of a label whose line is nowhere in the plot
Track = tuple[np.ndarray, np.ndarray]


def place_labels(labels: Sequence[str], lines: Sequence[Track], width: float, height: float) -> list[np.ndarray]:
    """The centres (positions, 2) of each label, inside (0, width) x (0, height) where its line is; else out of sight.

    `lines` holds x and y, each (positions, T). Places are tried above, below and beside points of the line. The one
    that is best on average is kept wherever it is clear, so that a label jumps only to get out of the way.
    """
    tracks = [_resample(x, y, width, height) for x, y in lines]
    boxes: dict[int, tuple[Track, float]] = {}
    # The shortest line has the fewest places to choose from, a single point only four: it chooses first.
    for i in np.argsort([np.ptp(x, axis=1).mean() + np.ptp(y, axis=1).mean() for x, y in tracks], kind="stable"):
        half = CHARACTER * len(labels[i]) / 2 + 2
        tried = _candidates(tracks[i], half)
        others = tracks[:i] + tracks[i + 1 :]
        placed = list(boxes.values())
        scores = np.array([_score(*each, half, tracks[i], others, placed, width, height) for each in tried])
        usual = np.maximum(scores, -20).mean(axis=1, keepdims=True)
        best = np.argmax(scores + 0.7 * usual, axis=0)[None]
        seen = np.take_along_axis(scores, best, axis=0)[0] > HIDDEN / 2
        centres = np.array([box for _, box in tried])  # (candidates, 2, positions)
        x, y = np.where(seen, np.take_along_axis(centres, best[:, None], axis=0)[0], HIDDEN)
        boxes[i] = (x, y), half
    return [np.stack(boxes[i][0], axis=-1) for i in range(len(labels))]


def _resample(x: np.ndarray, y: np.ndarray, width: float, height: float) -> Track:
    """(positions, T) to (positions, SAMPLES), evenly along the part of the line that can be seen."""
    x, y = np.clip(x, -20, width + 20), np.clip(y, -20, height + 20)
    x, y = np.broadcast_arrays(x, y)
    lengths = np.cumsum(np.hypot(np.diff(x, prepend=x[:, :1]), np.diff(y, prepend=y[:, :1])), axis=1)
    at = [np.linspace(0, length[-1], SAMPLES) for length in lengths]
    rows = [[np.interp(a, s, v) for a, s, v in zip(at, lengths, values, strict=True)] for values in (x, y)]
    return np.array(rows[0]), np.array(rows[1])


def _candidates(track: Track, half: float) -> list[tuple[Track, Track]]:
    """Pairs of a point of the line and the centre of a label beside it."""
    away = LINE / 2 + 7, half + 7
    shifts = ((0, -away[0]), (0, away[0]), (away[1], 0), (-away[1], 0))
    anchors = [(track[0][:, k], track[1][:, k]) for k in range(2, SAMPLES, 4)]
    return [((x, y), (x + dx, y + dy)) for x, y in anchors for dx, dy in shifts]


def _gap(point: Track, track: Track, half_width: float, half_height: float) -> np.ndarray:
    """From a box around the point to the nearest sample of the track, negative where one lies inside."""
    dx = np.abs(track[0] - point[0][:, None]) - half_width
    dy = np.abs(track[1] - point[1][:, None]) - half_height
    return np.maximum(dx, dy).min(axis=1)


def _score(anchor, box, half, own, others, boxes, width, height) -> np.ndarray:
    """(positions,): clear of every line and label, inside the plot, and at a place where the line is alone."""
    clear = np.minimum(_gap(box, own, half, LINE / 2), 5)
    alone = np.full_like(clear, 20)
    for other in others:
        clear = np.minimum(clear, _gap(box, other, half, LINE / 2))
        alone = np.minimum(alone, _gap(anchor, other, 0, 0))
    for (x, y), other_half in boxes:
        clear = np.minimum(clear, 10 * _gap(box, (x[:, None], y[:, None]), half + other_half, LINE))
    outside = (np.abs(anchor[0] - width / 2) > width / 2 + 1) | (np.abs(anchor[1] - height / 2) > height / 2 + 1)
    margin = np.minimum(np.minimum(box[0], width - box[0]) - half, np.minimum(box[1], height - box[1]) - LINE / 2)
    return np.where(outside, HIDDEN, np.minimum(clear, 10 * margin) + 0.2 * alone)
