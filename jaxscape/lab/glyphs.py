"""The embedded data set: distorted digits of the fonts that matplotlib ships."""

import contextlib
import hashlib
import os
import zipfile
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from jaxtyping import Float, Int, UInt8

from jaxscape.lab import cache, fonts
from jaxscape.lab.dataset import Arrays
from jaxscape.types import InputError

SIDE = 28  # pixels along a side of an image


KNOTS = 5  # control points of the elastic distortion along a side


CHUNK = 500  # samples drawn at once, few enough for a processor's cache


HEIGHT = 18.0  # pixels of an undistorted digit


def load(*, seed: int = 0, cache_dir: str | os.PathLike | None = None) -> Arrays:
    """60,000 training and 10,000 test glyphs, from the cache where they have been drawn before."""
    versions = f"{np.__version__} {PIL.__version__} {matplotlib.__version__}"
    code = Path(__file__).read_bytes() + Path(fonts.__file__).read_bytes()
    recipe = hashlib.sha256(f"{seed} {versions} ".encode() + code).hexdigest()
    path = cache.folder("glyphs", cache_dir) / f"{recipe[:16]}.npz"
    # A cache that is absent, damaged or unwritable only costs the drawing.
    with (
        contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
        path.open("rb") as file,  # NumPy would leave a damaged one open
        np.load(file, allow_pickle=False) as stored,
    ):
        return Arrays(*(stored[field] for field in Arrays._fields))
    arrays = Arrays(*draw(60_000, [seed, 0]), *draw(10_000, [seed, 1]))
    with contextlib.suppress(OSError), cache.replacing(path) as new:
        np.savez(new, **arrays._asdict())
    return arrays


def draw(
    num: int, seed: int | list[int]
) -> tuple[UInt8[np.ndarray, "n 28 28 1"], Int[np.ndarray, "n"]]:
    """``num`` grey images of digits with their labels 0..9, in equal numbers and random order.

    Each image is a random font's digit under a random rotation, shear, scale, shift and smooth
    elastic displacement, with a random stroke weight, contrast and additive Gaussian noise. The
    same seed gives the same arrays with the same versions of NumPy, Pillow and matplotlib.

    Raises ``InputError`` for ``num`` < 1.
    """
    if num < 1:
        raise InputError(f"expected at least one glyph to draw, found {num}; raise it")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(num).astype(np.int32) % 10
    images = np.empty((num, SIDE, SIDE, 1), np.uint8)
    for start in range(0, num, CHUNK):
        stop = min(start + CHUNK, num)
        images[start:stop, ..., 0] = _images(rng, labels[start:stop])
    return images, labels


def _images(rng: np.random.Generator, labels: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n 28 28"]:
    n = len(labels)
    masters = fonts.masters()
    font = rng.integers(len(masters), size=n)
    distance = _sample(masters, font * 10 + labels, _affine(rng, n) + _elastic(rng, n))
    thickening = rng.uniform(-0.8, 3.0, (n, 1, 1))  # of each edge, in pixels of the master
    softness = rng.uniform(3.0, 5.0, (n, 1, 1))  # width of an edge; one image pixel is 3.3
    ink = np.clip(0.5 + (distance + thickening) / softness, 0, 1) * rng.uniform(0.5, 1, (n, 1, 1))
    noise = rng.uniform(0, 0.12, (n, 1, 1)) * rng.standard_normal((n, SIDE, SIDE))
    return np.rint(255 * np.clip(ink + noise, 0, 1)).astype(np.uint8)


def _affine(rng: np.random.Generator, n: int) -> Float[np.ndarray, "2 n 28 28"]:
    """Where in the master (x, y from its centre) each image pixel looks, before distortion."""
    angle = rng.normal(0, np.radians(10), (n, 1, 1))
    shear = rng.normal(0, 0.15, (n, 1, 1))
    scale = fonts.HEIGHT / HEIGHT * np.exp(rng.normal(0, 0.12, (2, n, 1, 1)))
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
    masters: Float[np.ndarray, "fonts 10 size size"],
    which: Int[np.ndarray, "n"],
    position: Float[np.ndarray, "2 n 28 28"],
) -> Float[np.ndarray, "n 28 28"]:
    """Bilinear values of ``masters`` at ``position``, measured in pixels from their centres."""
    size = masters.shape[-1]
    x, y = np.clip(position + (size - 1) / 2, 0, size - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    x, y = (x - column).astype(np.float32), (y - row).astype(np.float32)
    corner = (which[:, None, None] * size + row) * size + column
    values = masters.ravel()
    left = values[corner] * (1 - y) + values[corner + size] * y
    right = values[corner + 1] * (1 - y) + values[corner + size + 1] * y
    return left * (1 - x) + right * x
