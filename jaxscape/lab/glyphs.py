"""The embedded data set: distorted digits of the fonts that matplotlib ships.

Each font's digit is a signed distance field (its master), positive inside the ink. Such a field can
be sampled anywhere, and adding a constant to it makes every stroke thicker by twice that constant:
one master per digit serves every size, slant or weight.
"""

import functools
import hashlib
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from jaxscape.lab.readers import Arrays
from jaxscape.types import InputError

SIDE = 28  # pixels along a side of an image
HEIGHT = 18.0  # pixels of an undistorted digit
KNOTS = 5  # control points of the elastic distortion along a side
CHUNK = 500  # samples drawn at once, few enough for a processor's cache

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
"""Every shipped font whose digits are digits (the others hold symbols, or none)."""

MASTER_SIZE = 96  # pixels along a side of a master
MASTER_HEIGHT = 60  # pixels of its digit, the rest is margin
REACH = 8  # distances are right up to this many pixels, and cut there


def split() -> Arrays:
    """60,000 training and 10,000 test glyphs, as ``draw`` makes them."""
    return Arrays(*draw(60_000, [0, 0]), *draw(10_000, [0, 1]))


def recipe() -> str:
    """16 letters that stand for all that ``split`` depends on: versions and this file."""
    versions = f"{np.__version__} {PIL.__version__} {matplotlib.__version__}"
    return hashlib.sha256(versions.encode() + Path(__file__).read_bytes()).hexdigest()[:16]


def draw(
    num: int, seed: int | list[int]
) -> tuple[UInt8[np.ndarray, "n 28 28 1"], Int[np.ndarray, "n"]]:
    """``num`` grey images of digits with their labels 0..9, in equal numbers and random order.

    Each image is a random font's digit under a random rotation, shear, scale, shift and smooth
    elastic displacement, with a random stroke weight, contrast and additive Gaussian noise. The
    same seed gives the same arrays with the same versions of NumPy, Pillow and matplotlib.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(num).astype(np.int32) % 10
    images = np.empty((num, SIDE, SIDE, 1), np.uint8)
    for start in range(0, num, CHUNK):
        n = min(CHUNK, num - start)
        which = rng.integers(len(FONTS), size=n) * 10 + labels[start : start + n]
        distance = _sample(which, _affine(rng, n) + _elastic(rng, n))
        thickening = rng.uniform(-0.8, 3.0, (n, 1, 1))  # of each edge, in pixels of the master
        softness = rng.uniform(3.0, 5.0, (n, 1, 1))  # width of an edge; one image pixel is 3.3
        ink = np.clip(0.5 + (distance + thickening) / softness, 0, 1)
        ink *= rng.uniform(0.5, 1, (n, 1, 1))
        noise = rng.uniform(0, 0.12, (n, 1, 1)) * rng.standard_normal((n, SIDE, SIDE))
        images[start : start + n, ..., 0] = np.rint(255 * np.clip(ink + noise, 0, 1))
    return images, labels


def _affine(rng: np.random.Generator, n: int) -> Float[np.ndarray, "2 n 28 28"]:
    """Where in the master (x, y from its centre) each image pixel looks, before distortion."""
    angle = rng.normal(0, np.radians(10), (n, 1, 1))
    shear = rng.normal(0, 0.15, (n, 1, 1))
    scale = MASTER_HEIGHT / HEIGHT * np.exp(rng.normal(0, 0.12, (2, n, 1, 1)))
    shift = rng.uniform(-2.5, 2.5, (2, n, 1, 1))
    centred = np.arange(SIDE) - (SIDE - 1) / 2
    x, y = centred - shift[0], centred[:, None] - shift[1]
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    return np.stack([scale[0] * (x + shear * y), scale[1] * y])


def _elastic(rng: np.random.Generator, n: int) -> Float[np.ndarray, "2 n 28 28"]:
    """Smooth displacements: random knots under a Gaussian kernel one knot spacing wide."""
    offset = np.linspace(0, KNOTS - 1, SIDE)[:, None] - np.arange(KNOTS)
    kernel = np.exp(-(offset**2))
    amplitude = rng.uniform(0, 4.0, (n, 1, 1))  # pixels of the master
    return kernel @ (amplitude * rng.standard_normal((2, n, KNOTS, KNOTS))) @ kernel.T


def _sample(
    which: Int[np.ndarray, "n"], position: Float[np.ndarray, "2 n 28 28"]
) -> Float[np.ndarray, "n 28 28"]:
    """Bilinear values of the masters ``which`` at ``position``, in pixels from their centres."""
    values, size = masters().ravel(), MASTER_SIZE
    x, y = np.clip(position + (size - 1) / 2, 0, size - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    x, y = (x - column).astype(np.float32), (y - row).astype(np.float32)
    corner = (which[:, None, None] * size + row) * size + column
    left = values[corner] * (1 - y) + values[corner + size] * y
    right = values[corner + 1] * (1 - y) + values[corner + size + 1] * y
    return left * (1 - x) + right * x


@functools.cache
def masters() -> Float[np.ndarray, "fonts 10 size size"]:
    """Distance in pixels from each pixel to the nearest edge of the ink, positive inside it.

    Raises ``InputError`` where matplotlib lacks one of the fonts.
    """
    return np.stack([[_master(font, digit) for digit in "0123456789"] for font in FONTS])


def _master(name: str, digit: str) -> Float[np.ndarray, "size size"]:
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    if not path.is_file():
        raise InputError(f"expected matplotlib's font {path}, found none; reinstall matplotlib")
    font = ImageFont.truetype(str(path), 4 * MASTER_HEIGHT)
    page = Image.new("L", (8 * MASTER_HEIGHT, 8 * MASTER_HEIGHT))
    ImageDraw.Draw(page).text((2 * MASTER_HEIGHT, MASTER_HEIGHT), digit, fill=255, font=font)
    page = page.crop(page.getbbox())
    width = round(page.width * MASTER_HEIGHT / page.height)
    drawn = Image.new("L", (MASTER_SIZE, MASTER_SIZE))
    corner = (MASTER_SIZE - width) // 2, (MASTER_SIZE - MASTER_HEIGHT) // 2
    drawn.paste(page.resize((width, MASTER_HEIGHT)), corner)
    ink = np.asarray(drawn) > 127
    inside, outside = (ndimage.distance_transform_edt(mask) for mask in (ink, ~ink))
    field = np.clip(inside - outside, -REACH, REACH).astype(np.float32)
    return field - np.sign(field) / 2  # to the edge, not to the centre of the next pixel
