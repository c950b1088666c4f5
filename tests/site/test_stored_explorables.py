"""Numbers in stored figures, computed again by another hand."""

import json
import re

import nbformat
import numpy as np

from tools import site
from tools.notebooks import ROOT


def stored(stem, number=0):
    """The sliders' values (m,) each, and the readouts {label: values (*grid)}, of a figure of a lecture."""
    html = list(site.explorables_in(nbformat.read(ROOT / f"lectures/{stem}.ipynb", 4)))[number]
    data = json.loads(re.search(r'explorable\("x-\w+", (.*)\);\n\}\)', html)[1])
    labels = re.findall(r'<span>([^<]*) <span class="x-readout">', html)
    sliders = [np.array([numbered(text) for text in texts]) for texts in data["sliders"]]
    readouts = [np.array([numbered(text) for text in rows["values"]]) for rows in data["readouts"]]
    grid = [len(values) for values in sliders]
    shapes = [[m if stride else 1 for m, stride in zip(grid, rows["stride"], strict=True)] for rows in data["readouts"]]
    return sliders, {label: v.reshape(shape) for label, v, shape in zip(labels, readouts, shapes, strict=True)}


def numbered(text):
    return float(text.split()[0].replace("−", "-"))


def test_lecture_01_divergence_and_its_quadratic():
    """KL(N(0, 1) || N(dμ, exp(ds)²)) by a sum over a fine grid of y, and ½ dᵀFd with F = diag(1, 2)."""
    (d_mu, d_s), readouts = stored("01_likelihood_score_fisher")
    y = np.linspace(-12, 12, 4001)
    p = np.exp(-0.5 * y**2) / np.sqrt(2 * np.pi)
    mu, s = d_mu[:, None, None], d_s[None, :, None]
    log_ratio = -0.5 * y**2 + 0.5 * ((y - mu) / np.exp(s)) ** 2 + s
    kl = np.sum(p * log_ratio, axis=-1) * (y[1] - y[0])
    quadratic = 0.5 * (d_mu[:, None] ** 2 + 2 * d_s[None, :] ** 2)
    rounding = 0.00051  # three decimals
    np.testing.assert_allclose(readouts["KL"], kl, atol=rounding)
    np.testing.assert_allclose(readouts["½ dᵀFd"], np.broadcast_to(quadratic, kl.shape), atol=rounding)
    np.testing.assert_allclose(readouts["difference"], kl - quadratic, atol=rounding)
