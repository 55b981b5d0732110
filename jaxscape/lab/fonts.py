"""Signed distances to the digits of the fonts that matplotlib ships.

A signed distance field, positive inside the ink, can be sampled anywhere, and adding a constant to
it makes every stroke thicker by twice that constant: one master per digit serves every size, slant
or weight.
"""

import functools
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont

from jaxscape.types import InputError

NAMES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
"""Every shipped font whose digits are digits (the others hold symbols, or none)."""


SIZE = 96  # pixels along a side of a master


HEIGHT = 60  # pixels of a digit, the rest is margin


REACH = 8  # distances are right up to this many pixels, and cut there


@functools.cache
def masters() -> Float[np.ndarray, "fonts 10 size size"]:
    """Distance in pixels from each pixel to the nearest edge of the ink, positive inside it.

    Raises ``InputError`` where matplotlib lacks one of the fonts.
    """
    ink = np.stack([[_raster(name, digit) for digit in "0123456789"] for name in NAMES])
    field = _distance(~ink) - _distance(ink)
    return (field - np.sign(field) / 2).astype(np.float32)  # to the edge, not to the next centre


def _raster(name: str, digit: str) -> Bool[np.ndarray, "size size"]:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    if not path.is_file():
        raise InputError(f"expected matplotlib's font {path}, found none; reinstall matplotlib")
    font = ImageFont.truetype(str(path), 4 * HEIGHT)
    page = Image.new("L", (8 * HEIGHT, 8 * HEIGHT))
    ImageDraw.Draw(page).text((2 * HEIGHT, HEIGHT), digit, fill=255, font=font)
    page = page.crop(page.getbbox())
    width = round(page.width * HEIGHT / page.height)
    master = Image.new("L", (SIZE, SIZE))
    master.paste(page.resize((width, HEIGHT)), ((SIZE - width) // 2, (SIZE - HEIGHT) // 2))
    return np.asarray(master) > 127


def _distance(mask: Bool[np.ndarray, "... size size"]) -> Float[np.ndarray, "... size size"]:
    """Euclidean distance to the nearest pixel of ``mask``, at most ``REACH``, axis by axis."""
    squared = np.where(mask, 0.0, REACH**2).astype(np.float32)
    for axis in (-1, -2):
        pad = [(0, 0)] * squared.ndim
        pad[axis] = (REACH, REACH)
        padded = np.pad(squared, pad, constant_values=REACH**2)
        steps = range(-REACH, REACH + 1)
        shifted = (_window(padded, REACH + step, axis) + step**2 for step in steps)
        squared = functools.reduce(np.minimum, shifted)
    return np.sqrt(squared)


def _window(array: np.ndarray, start: int, axis: int) -> np.ndarray:
    """The ``SIZE`` entries of ``array`` along ``axis`` from ``start`` on."""
    return np.moveaxis(np.moveaxis(array, axis, 0)[start : start + SIZE], 0, axis)
