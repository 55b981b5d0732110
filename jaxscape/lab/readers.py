"""Readers of data sets' files: IDX, the binary version of CIFAR, npz files and folders of npy."""

import gzip
import hashlib
import math
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped, UInt8

from jaxscape.lab.stream import blocks
from jaxscape.types import InputError


class Arrays(NamedTuple):
    """Inputs and targets as stored, one sample per row; there may be no test split."""

    train_inputs: Shaped[np.ndarray, "n ..."]
    train_targets: Shaped[np.ndarray, "n ..."]
    test_inputs: Shaped[np.ndarray, "n_test ..."] | None = None
    test_targets: Shaped[np.ndarray, "n_test ..."] | None = None


def check_labels(labels: Integer[np.ndarray, "n"], num_classes: int, where: str) -> None:
    """Raise ``InputError`` unless every label lies in 0 .. num_classes − 1."""
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        raise InputError(
            f"expected labels from 0 to {num_classes - 1} in {where}, found {low} to {high}; "
            "replace the altered data"
        )


# IDX: MNIST and its drop-in replacements

STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The four files of each such data set, in the order of ``Arrays``."""

SUMS = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
"""SHA-256 of the unzipped files, where it is known."""


@dataclass(frozen=True)
class IdxFiles:
    """Four IDX files of 28 by 28 grey images and their labels, plain or gzipped.

    IDX: two zero bytes, the type 8 (unsigned byte), the number of axes, each axis as a big-endian
    uint32, then the entries in C order (http://yann.lecun.com/exdb/mnist/). The gzip wrapper may be
    any. The unzipped contents must have the published SHA-256 (``SUMS``) where it is known, else
    the published number of samples.
    """

    name: str
    counts: tuple[int, int] = (60_000, 10_000)
    num_classes: ClassVar[int] = 10

    def read(self, folder: Path) -> Arrays | None:
        """Images [n, 28, 28, 1] with labels of both splits, in the published order.

        None where ``folder`` holds none of the four, under any of the names in use. Raises
        ``InputError`` naming the file that is missing, truncated or altered.
        """
        paths = [_find(stem, folder) for stem in STEMS]
        if not any(paths):
            return None
        if missing := [stem for stem, path in zip(STEMS, paths, strict=True) if path is None]:
            raise InputError(
                f"expected the four files of {self.name} in {folder}, found no "
                f"{', '.join(missing)} (plain or .gz); add it"
            )
        return Arrays(*(self._file(number, path) for number, path in enumerate(paths) if path))

    def _file(self, number: int, path: Path) -> UInt8[np.ndarray, "n ..."]:
        """One of the four, checked: images [n, 28, 28, 1] or labels [n]."""
        is_images, raw = number % 2 == 0, path.read_bytes()
        try:
            raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            said = f"expected {path} to be whole gzip data, found: {error}; get the file again"
            raise InputError(said) from error
        shape = (self.counts[number // 2], *((28, 28) if is_images else ()))
        header = np.array([0x800 + len(shape), *shape], ">u4").tobytes()
        size = len(header) + math.prod(shape)
        if not raw.startswith(header) or len(raw) != size:
            raise InputError(
                f"expected {path} to be an IDX file of bytes {list(shape)}, as {self.name} has, "
                f"{size} bytes from {header.hex()} on, found {len(raw)} bytes from "
                f"{raw[:16].hex()} on; get the file again, or give your own data as npz:PATH"
            )
        digest = hashlib.sha256(raw).hexdigest()
        owner = next((name for name, sums in SUMS.items() if digest in sums), None)
        known = SUMS.get(self.name)
        if owner != (self.name if known else None):
            wanted = f", SHA-256 {known[number]} when unzipped" if known else ""
            raise InputError(
                f"expected {path} to hold {self.name} as published{wanted}, found the contents of "
                f"{owner or 'no known data set'}, SHA-256 {digest}; get the file again"
            )
        array = np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)
        if is_images:
            return array[..., None]
        check_labels(array, self.num_classes, str(path))
        return array


def _find(stem: str, folder: Path) -> Path | None:
    dotted = stem.replace("-idx", ".idx")
    paths = [folder / name for name in (f"{stem}.gz", stem, f"{dotted}.gz", dotted)]
    return next(filter(Path.is_file, paths), None)


# CIFAR


@dataclass(frozen=True)
class CifarFiles:
    """The archive of the binary version of CIFAR-10 or CIFAR-100, as published.

    Records of a byte for the label (CIFAR-100: one for the coarse label before it), then 32 by 32
    red, green, blue bytes (https://www.cs.toronto.edu/~kriz/cifar.html).
    """

    num_classes: int
    sha256: str

    @property
    def archive(self) -> str:
        """Its name."""
        return f"cifar-{self.num_classes}-binary.tar.gz"

    def read(self, folder: Path) -> Arrays | None:
        """Images [n, 32, 32, 3] with labels, as ``IdxFiles.read``; None without the archive."""
        archive = folder / self.archive
        if not archive.is_file():
            return None
        with archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise InputError(
                f"expected {archive} as published, SHA-256 {self.sha256}, found SHA-256 {digest}: "
                "it is truncated or altered; get it again, or remove it"
            )
        with tarfile.open(archive) as tar:
            opened: Any = tar.extractfile
            names = sorted(name for name in tar.getnames() if name.endswith(".bin"))
            found = {name: opened(name).read() for name in names}
        splits, labels = [], 2 if self.num_classes == 100 else 1  # bytes
        for is_test in (False, True):
            raw = b"".join(found[name] for name in names if ("test" in name) == is_test)
            rows = np.frombuffer(raw, np.uint8).reshape(-1, labels + 3 * 32 * 32)
            images = rows[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            splits += [images, rows[:, labels - 1]]
        return Arrays(*splits)


# Arrays of the user's own

KEYS = ("inputs", "targets", "test_inputs", "test_targets")
"""Names of the user's arrays, in the order of ``Arrays``."""
ADVICE = "save plain arrays with np.savez(PATH, inputs=..., targets=...)"
DAMAGE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> tuple[Arrays, int]:
    """Arrays ``inputs`` with ``targets``, where present ``test_inputs`` with ``test_targets``.

    ``path`` is an npz file, or for data larger than memory a folder of ``inputs.npy``,
    ``targets.npy`` and so on, whose training split is memory-mapped.

    Inputs are bytes or finite floats, one sample per row. Targets are classes (integers from 0 on)
    or finite floats. Integers [n, t] with integers [n, a] are sequences: tokens, and what follows
    each of the last a ≤ t of them, −1 where it does not count; they are always in memory. Also
    returns the number of classes, the largest label or token + 1 over both splits; 0 for floats.

    Raises ``InputError`` for a file that is missing, damaged or pickled, and for arrays that are
    missing, empty, of unequal length, of another type, negative (labels) or not finite.
    """
    stored = _stored(path)
    needed = KEYS[:2] if stored.keys().isdisjoint(KEYS[2:]) else KEYS
    if not stored.keys() >= set(needed):
        wanted, found = ", ".join(needed), ", ".join(sorted(stored)) or "none of them"
        raise InputError(f"expected arrays {wanted} in {path}, found {found}; {ADVICE}")
    splits: list[Any] = [[stored[key] for key in pair] for pair in (needed[:2], needed[2:]) if pair]
    tokens = all(_are_tokens(*split) for split in splits)
    if tokens:
        splits = [[np.asarray(array, np.int64) for array in split] for split in splits]
    check: Any = _check_tokens if tokens else _check_values
    for split, where in zip(splits, (str(path), f"the test split of {path}"), strict=False):
        check(*split, where)
        _check_rows(split, splits[0], where)
    count = _num_classes(splits, tokens, path)
    arrays = [array.astype(np.int32) if tokens else array for split in splits for array in split]
    return Arrays(*arrays), count


def _stored(path: Path) -> dict[str, np.ndarray]:
    """Those of the arrays ``KEYS`` that ``path`` holds."""
    if not (path.is_dir() or zipfile.is_zipfile(path)):
        found = "something else" if path.exists() else "none"
        raise InputError(f"expected an npz file at {path}, found {found}; {ADVICE}")
    try:
        if not path.is_dir():
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in KEYS if key in arrays}
        there = {key: path / f"{key}.npy" for key in KEYS if (path / f"{key}.npy").exists()}
        return {key: np.load(at, None if "test" in key else "r") for key, at in there.items()}
    except DAMAGE as error:
        raise InputError(
            f"expected plain arrays in {path}, found: {error}; {ADVICE}, or where they do not fit "
            "into memory each with np.save in a folder, inputs.npy and targets.npy"
        ) from error


def _are_tokens(inputs: np.ndarray, targets: np.ndarray) -> bool:
    integers = inputs.dtype.kind in "iu" and targets.dtype.kind in "iu"
    return integers and inputs.ndim == targets.ndim == 2 and 0 < targets.shape[1] <= inputs.shape[1]


def _check_tokens(inputs: np.ndarray, targets: np.ndarray, where: str) -> None:
    low, least = inputs.min(initial=0), targets.min(initial=0)
    if low < 0 or least < -1:
        raise InputError(
            f"expected tokens from 0 and targets from -1 on in {where}, found {low} and {least}; "
            "number them 0, 1, 2, ..."
        )
    idle = np.flatnonzero((targets < 0).all(1))
    if idle.size:
        raise InputError(
            f"expected a target that counts in every sequence of {where}, found {idle.size} "
            f"with targets of -1 alone, the first at index {idle[0]}; leave them out"
        )


def _check_values(inputs: np.ndarray, targets: np.ndarray, where: str) -> None:
    """Inputs that are no tokens, with classes or values as targets."""
    if inputs.dtype != np.uint8 and inputs.dtype.kind != "f":
        raise InputError(
            f"expected bytes or floats as inputs of {where}, or tokens [n, t] with integer targets "
            f"[n, a] of the last a, found {inputs.dtype} of shape {inputs.shape}; convert them"
        )
    is_float = targets.dtype.kind == "f"
    if not is_float and (targets.dtype.kind not in "iu" or targets.ndim != 1):
        raise InputError(
            f"expected one integer class per sample, or floats, as targets of {where}, "
            f"found {targets.dtype} of shape {targets.shape}; convert them"
        )
    _check_finite(inputs, f"inputs of {where}")
    _check_finite(targets, f"targets of {where}")
    if targets.size and not is_float:
        check_labels(targets, np.iinfo(np.int32).max, f"targets of {where}")


def _check_finite(array: np.ndarray, where: str) -> None:
    if array.ndim == 0:
        raise InputError(f"expected one row per sample as {where}, found a single value; {ADVICE}")
    with np.errstate(over="ignore"):
        rows = (np.isfinite(block.astype(np.float32)) for block in blocks(array))
        each = [row.reshape(len(row), -1).all(1) for row in rows]
    finite = np.concatenate([np.zeros(0, bool), *each])
    if not finite.all():
        raise InputError(
            f"expected finite float32 values as {where}, found {np.sum(~finite)} samples with NaN "
            f"or infinity, the first at index {np.argmin(finite)}; leave them out"
        )


def _check_rows(split: list[np.ndarray], train: list[np.ndarray], where: str) -> None:
    """As many inputs as targets, each like those of the training split ``train``."""
    inputs, targets = split
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise InputError(
            f"expected as many inputs as targets, at least one, in {where}, "
            f"found {len(inputs)} inputs with {len(targets)} targets; give one target per input"
        )
    for one, array in zip(train, split, strict=True):
        if one.shape[1:] != array.shape[1:] or one.dtype.kind != array.dtype.kind:
            raise InputError(
                f"expected {where} to be like the training split, {one.dtype} {one.shape}, "
                f"found {array.dtype} {array.shape}; {ADVICE}"
            )


def _num_classes(splits: list[list[np.ndarray]], tokens: bool, path: Path) -> int:
    """The largest label or token + 1; 0 for a regression. More than samples are a mistake."""
    counted = [array for split in splits for array in (split if tokens else split[1:])]
    if counted[0].dtype.kind == "f":
        return 0
    count, number = 1 + max(int(array.max()) for array in counted), sum(a.size for a in counted)
    if count > max(number, 1000):
        raise InputError(
            f"expected labels in {path} below the number of {'tokens' if tokens else 'samples'}, "
            f"{number}, found {count - 1}; number them 0, 1, 2, ... (values are floats)"
        )
    return count
