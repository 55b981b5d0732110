"""Figures in less time than users wait for them: most of it goes into the fonts of a PDF."""

from pathlib import Path
from unittest import mock

from PIL import Image

from jaxscape.lab import plot


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
