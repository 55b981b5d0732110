"""Figures drawn coarsely, since most of the time goes into the fonts of a PDF; curves to draw."""

from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from jaxscape.lab import plot


def heavy_tailed(n=3000, s=2):
    """Values like those of a sweep: 1/k² times something that spans decades."""
    draw = np.random.default_rng(0)
    k = np.arange(1, n)
    curves = 10 ** draw.normal(-2, 1.5, (s, n - 1)) / (k * (k + 1))
    return k, curves, 0.1 * curves


def coarsely():
    """A context in which figures are drawn, so that errors show, but coarsely and without a PDF."""
    return mock.patch.object(plot, "save", _coarse)


def nothing():
    """A context in which a single pixel takes the place of every figure."""
    return mock.patch.object(plot, "save", _blank)


def drawn(out):
    """The names of the figures of a run folder."""
    found = {path.stem: Image.open(path).size for path in (out / "figures").glob("*.png")}
    return {name for name, size in found.items() if size > (1, 1)}


def _coarse(figure, folder, name):
    _blank(figure, folder, name)
    figure.savefig(Path(folder) / f"{name}.png", dpi=20)


def _blank(figure, folder, name):
    folder.mkdir(exist_ok=True)
    for kind in ("png", "pdf"):
        Image.new("L", (1, 1)).save(folder / f"{name}.{kind}")
