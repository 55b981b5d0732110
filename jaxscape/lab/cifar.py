"""The binary version of CIFAR-10, which CIFAR-100 shares.

Records of one label byte (CIFAR-100: a coarse one, then the fine one that is used), then 32 × 32
red, green, blue bytes: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxscape.lab import published
from jaxscape.lab.dataset import Arrays, check_labels
from jaxscape.types import InputError

PIXELS = 3 * 32 * 32


class Layout(NamedTuple):
    """The archive, the folder in it, the files of each split, the classes of each label byte."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: tuple[int, ...]


LAYOUTS = {
    "cifar10": Layout(
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test=("test_batch.bin",),
        classes=(10,),
    ),
    "cifar100": Layout(
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        classes=(20, 100),
    ),
}


CLASSES = {name: layout.classes[-1] for name, layout in LAYOUTS.items()}


def present(name: str, folder: Path) -> bool:
    """Whether ``folder`` holds the archive, or what is in it."""
    layout = LAYOUTS[name]
    return (folder / layout.archive).is_file() or _unpacked(layout, folder) is not None


def read(name: str, folder: Path) -> Arrays:
    """Images [n, 32, 32, 3] with (fine) labels of both splits, in the published order.

    The archive must have the published bytes; unpacked files are held to the format.

    Raises ``InputError`` naming the file that is missing, truncated or altered.
    """
    layout, archive = LAYOUTS[name], folder / LAYOUTS[name].archive
    if not archive.is_file():
        unpacked = _unpacked(layout, folder) or folder
        return _splits(layout, unpacked, lambda file: (unpacked / file).read_bytes())
    published.verify(archive, published.files(name)[archive.name])
    try:
        with tarfile.open(archive) as tar:
            return _splits(layout, archive, lambda file: _member(tar, f"{layout.folder}/{file}"))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(
            f"expected {archive} to be a gzipped tar file, found: {error}; get it again"
        ) from error


def _unpacked(layout: Layout, folder: Path) -> Path | None:
    places = (folder / layout.folder, folder)
    return next((place for place in places if (place / layout.test[0]).is_file()), None)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file.read()


def _splits(layout: Layout, place: Path, load: Callable[[str], bytes]) -> Arrays:
    """Both splits, each file's bytes as ``load`` finds them in ``place``."""
    return Arrays(
        *_split(layout, layout.train, place, load), *_split(layout, layout.test, place, load)
    )


def _split(
    layout: Layout, files: tuple[str, ...], place: Path, load: Callable[[str], bytes]
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], Int[np.ndarray, "n"]]:
    parts = []
    for file in files:
        try:
            raw = load(file)
        except (OSError, KeyError) as error:
            raise InputError(
                f"expected {file} in {place}, found: {error}; add it, or get the archive again"
            ) from error
        parts.append(_records(layout, raw, f"{place}/{file}"))
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return images, labels


def _records(layout: Layout, raw: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    width = len(layout.classes) + PIXELS
    if len(raw) == 0 or len(raw) % width:
        raise InputError(
            f"expected a multiple of {width} bytes in {where}, found {len(raw)}: it is empty or "
            "truncated; get it again"
        )
    rows = np.frombuffer(raw, np.uint8).reshape(-1, width)
    for labels, classes in zip(rows.T, layout.classes, strict=False):
        check_labels(labels, classes, where)
    pixels = rows[:, len(layout.classes) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return pixels, rows[:, len(layout.classes) - 1]
