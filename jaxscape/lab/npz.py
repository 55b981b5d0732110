"""The user's own arrays in an npz file, or in a folder of npy files."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxscape.lab import mapped
from jaxscape.lab.dataset import Arrays, check_labels, check_lengths
from jaxscape.types import InputError

KEYS = ("inputs", "targets", "test_inputs", "test_targets")  # in the order of Arrays


ADVICE = "save plain arrays with np.savez(PATH, inputs=..., targets=...)"


DAMAGE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read(path: str | os.PathLike) -> tuple[Arrays, int]:
    """Arrays ``inputs`` with ``targets``, where present ``test_inputs`` with ``test_targets``.

    They are the arrays of an npz file, or the files ``inputs.npy`` and so on in a folder. Those of
    the training split are memory-mapped, unless they are compressed, in Fortran order, or tokens.

    Inputs are bytes or finite floats, one sample per row. Targets are classes (integers from 0 on)
    or finite floats. Integers [n, t] with integers [n, a] are sequences: tokens, and what follows
    each of the last a ≤ t of them, −1 where it does not count. Also returns the number of
    classes, the largest label or token + 1 over both splits; 0 for targets that are floats.

    Raises ``InputError`` for a file that is missing, damaged or pickled, and for arrays that are
    missing, empty, of unequal length, of another type, negative (labels) or not finite.
    """
    path = Path(path).expanduser()
    stored = _stored(path)
    needed = KEYS[:2] if stored.keys().isdisjoint(KEYS[2:]) else KEYS
    if not stored.keys() >= set(needed):
        raise InputError(
            f"expected arrays {', '.join(needed)} in {path}, "
            f"found {', '.join(sorted(stored)) or 'none of them'}; {ADVICE}"
        )
    arrays = Arrays(stored["inputs"], stored["targets"], *(stored.get(key) for key in KEYS[2:]))
    pairs = zip(needed[::2], needed[1::2], strict=True)
    if all(_are_tokens(stored[inputs], stored[targets]) for inputs, targets in pairs):
        return _tokens(arrays, path)
    for key in needed:
        check = _check_inputs if key.endswith("inputs") else _check_targets
        check(stored[key], f"{key} of {path}")
    check_lengths(arrays.train_inputs, arrays.train_targets, str(path))
    if arrays.test_inputs is None or arrays.test_targets is None:
        return arrays, _num_classes([arrays.train_targets], path)
    check_lengths(arrays.test_inputs, arrays.test_targets, f"the test split of {path}")
    for train, test in zip(arrays[:2], (arrays.test_inputs, arrays.test_targets), strict=True):
        _check_alike(train, test, path)
    return arrays, _num_classes([arrays.train_targets, arrays.test_targets], path)


def _are_tokens(inputs: np.ndarray, targets: np.ndarray) -> bool:
    integers = inputs.dtype.kind in "iu" and targets.dtype.kind in "iu"
    return integers and inputs.ndim == targets.ndim == 2 and 0 < targets.shape[1] <= inputs.shape[1]


def _tokens(arrays: Arrays, path: Path) -> tuple[Arrays, int]:
    """Sequences as int32, all in memory, and the number of different tokens."""
    given = [mapped.read(x, slice(None)).astype(np.int64) for x in arrays if x is not None]
    splits = list(zip(given[::2], given[1::2], strict=True))
    for inputs, targets in splits:
        _check_alike(splits[0][0], inputs, path)
        _check_alike(splits[0][1], targets, path)
        check_lengths(inputs, targets, str(path))
        if inputs.min() < 0 or targets.min() < -1:
            raise InputError(
                f"expected tokens from 0 and targets from -1 on in {path}, found "
                f"{inputs.min()} and {targets.min()}; number them 0, 1, 2, ..."
            )
        idle = np.flatnonzero((targets < 0).all(1))
        if idle.size:
            raise InputError(
                f"expected a target that counts in every sequence of {path}, found {idle.size} "
                f"with targets of -1 alone, the first at index {idle[0]}; leave them out"
            )
    count = _num_classes([array.ravel() for array in given], path, "tokens")
    found = [array.astype(np.int32) for array in given]
    return Arrays(*found[:2], *(found[2:] or (None, None))), count


def _check_alike(train: np.ndarray, test: np.ndarray, path: Path) -> None:
    if train.shape[1:] != test.shape[1:] or train.dtype.kind != test.dtype.kind:
        raise InputError(
            f"expected the test split of {path} to be like the training split, {train.dtype} "
            f"{train.shape}, found {test.dtype} {test.shape}; {ADVICE}"
        )


def _stored(path: Path) -> dict[str, np.ndarray]:
    """Those of the arrays ``KEYS`` that ``path`` holds, of the training split as maps if it can."""
    is_folder = path.is_dir()
    if not (is_folder or zipfile.is_zipfile(path)):
        found = "something else" if path.exists() else "none"
        raise InputError(f"expected an npz file at {path}, found {found}; {ADVICE}")
    try:
        return _from_folder(path) if is_folder else _from_file(path)
    except DAMAGE as error:
        raise InputError(f"expected plain arrays in {path}, found: {error}; {ADVICE}") from error
    except MemoryError as error:
        raise InputError(
            f"expected arrays in {path} that fit into memory, found: {error}; save them with "
            "np.savez, not compressed, to have the training split read piece by piece"
        ) from error


def _from_folder(path: Path) -> dict[str, np.ndarray]:
    found = {}
    for key in KEYS:
        file = path / f"{key}.npy"
        if file.exists():
            array = None if key.startswith("test") else mapped.of_npy(file)
            found[key] = np.load(file, allow_pickle=False) if array is None else array
    return found


def _from_file(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for key in KEYS:
            if f"{key}.npy" in archive.namelist():
                found[key] = _member(path, archive, key)
    return found


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    member = archive.getinfo(f"{key}.npy")
    if member.compress_type == zipfile.ZIP_STORED and not key.startswith("test"):
        with archive.open(member) as file:
            while file.read(mapped.PIECE):  # to its end, where zipfile compares the checksum
                pass
        with path.open("rb") as file:
            start = mapped.member_start(file, member)
        array = mapped.of_npy(path, start, member.file_size)
        if array is not None:
            return array
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check_inputs(inputs: np.ndarray, where: str) -> None:
    if inputs.dtype != np.uint8 and inputs.dtype.kind != "f":
        raise InputError(
            f"expected bytes or floats as {where}, or tokens [n, t] with integer targets [n, a] of "
            f"the last a of them, found {inputs.dtype} of shape {inputs.shape}; convert them"
        )
    _check_finite(inputs, where)


def _check_targets(targets: np.ndarray, where: str) -> None:
    if targets.dtype.kind not in "iuf" or (targets.dtype.kind != "f" and targets.ndim != 1):
        raise InputError(
            f"expected one integer class per sample, or floats, as {where}, "
            f"found {targets.dtype} of shape {targets.shape}; convert them"
        )
    if targets.dtype.kind != "f" and targets.size:
        check_labels(targets, np.iinfo(np.int32).max, where)
    _check_finite(targets, where)


def _check_finite(array: np.ndarray, where: str) -> None:
    if array.ndim == 0:
        raise InputError(f"expected one row per sample as {where}, found a single value; {ADVICE}")
    with np.errstate(over="ignore"):
        finite = np.concatenate([np.zeros(0, bool), *map(_are_finite, mapped.blocks(array))])
    if not finite.all():
        raise InputError(
            f"expected finite float32 values as {where}, found {np.sum(~finite)} samples with NaN "
            f"or infinity, the first at index {np.argmin(finite)}; leave them out"
        )


def _are_finite(rows: np.ndarray) -> np.ndarray:
    """Which rows are finite as float32."""
    return np.asarray(np.isfinite(rows.astype(np.float32)).all(tuple(range(1, rows.ndim))))


def _num_classes(splits: list[np.ndarray], path: Path, of: str = "samples") -> int:
    """The largest label + 1; 0 for a regression. More classes than labels are a mistake."""
    if splits[0].dtype.kind == "f":
        return 0
    count, number = 1 + max(int(labels.max()) for labels in splits), sum(map(len, splits))
    if count > max(number, 1000):
        other = ", or give float targets for a regression" if of == "samples" else ""
        raise InputError(
            f"expected labels in {path} below the number of {of}, {number}, found {count - 1}; "
            f"number them 0, 1, 2, ...{other}"
        )
    return count
