"""The four IDX files in which MNIST is published, as are its drop-in replacements."""

import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxscape.lab import idx, published
from jaxscape.lab.dataset import Arrays, check_labels, check_lengths
from jaxscape.types import InputError

CLASSES = {"mnist": 10, "fashion_mnist": 10, "kmnist": 10}


PARTS = {
    "train-images-idx3-ubyte": 3,
    "train-labels-idx1-ubyte": 1,
    "t10k-images-idx3-ubyte": 3,
    "t10k-labels-idx1-ubyte": 1,
}
"""Stem and number of axes of each file, in the order of ``Arrays``."""


UNPACKED = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of MNIST's files once unpacked, taken from the published files."""


def present(name: str, folder: Path) -> bool:
    """Whether ``folder`` holds any of the four files, under any of the names in use."""
    return any(_find(stem, folder) for stem in PARTS)


def read(name: str, folder: Path) -> Arrays:
    """Images [n, 28, 28, 1] with labels of both splits, in the published order.

    A file that bears its published name, ``<stem>.gz``, must have the published bytes. Plain files
    are held to the format, MNIST's of the published length to the published contents as well, so
    that a user may lay a part or a variant there.

    Raises ``InputError`` naming the file that is missing, truncated, altered or inconsistent.
    """
    paths = {stem: path for stem in PARTS if (path := _find(stem, folder)) is not None}
    missing = [stem for stem in PARTS if stem not in paths]
    if missing:
        raise InputError(
            f"expected the four files of {name} in {folder}, found no {', '.join(missing)} "
            "(plain or .gz); add it"
        )
    images, labels, test_images, test_labels = (
        _verified(name, stem, path) for stem, path in paths.items()
    )
    where = [str(path) for path in paths.values()]
    _check(images, labels, CLASSES[name], *where[:2])
    _check(test_images, test_labels, CLASSES[name], *where[2:])
    return Arrays(images[..., None], labels, test_images[..., None], test_labels)


def _find(stem: str, folder: Path) -> Path | None:
    dotted = stem.replace("-idx", ".idx")
    names = (f"{stem}.gz", stem, f"{dotted}.gz", dotted)
    return next((folder / file for file in names if (folder / file).is_file()), None)


def _verified(name: str, stem: str, path: Path) -> np.ndarray:
    if path.name == f"{stem}.gz":
        published.verify(path, published.files(name)[path.name])
    raw = idx.contents(path)
    array = idx.decode(raw, PARTS[stem], path)
    _check_contents(name, stem, path, len(array), hashlib.sha256(raw).hexdigest())
    return array


def _check_contents(name: str, stem: str, path: Path, length: int, digest: str) -> None:
    """The one check a well-formed plain file can still fail: all of MNIST, but not its bytes."""
    full = length == (60_000 if stem.startswith("train") else 10_000)
    is_mnist = digest == UNPACKED[stem]
    if full and is_mnist != (name == "mnist"):
        raise InputError(
            f"expected {path} to hold {name} as published, found SHA-256 {digest} of its contents, "
            f"where mnist has {UNPACKED[stem]}; get the file again"
        )


def _check(
    images: np.ndarray, labels: Int[np.ndarray, "n"], classes: int, images_at: str, labels_at: str
) -> None:
    if images.shape[1:] != (28, 28):
        raise InputError(
            f"expected images of 28 by 28 pixels in {images_at}, found shape {images.shape}; "
            "give images of another size as npz:PATH"
        )
    check_lengths(images, labels, f"{images_at} with {labels_at}")
    check_labels(labels, classes, labels_at)
