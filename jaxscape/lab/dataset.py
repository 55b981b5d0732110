"""A data set, in memory or in a file that is mapped into it."""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxscape.lab.mapped import Mapped, blocks
from jaxscape.types import InputError


class Arrays(NamedTuple):
    """Inputs with targets as they were stored, one sample per row; the test split may lack."""

    train_inputs: Shaped[np.ndarray, "n ..."]
    train_targets: Shaped[np.ndarray, "n ..."]
    test_inputs: Shaped[np.ndarray, "n_test ..."] | None
    test_targets: Shaped[np.ndarray, "n_test ..."] | None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named data set, ready for a network, that knows where it came from.

    ``inputs`` are float32, images [n, h, w, c] in [0, 1]; ``targets`` are int32 classes [n], or
    float32 values where ``num_classes`` is 0. Sequences are int32 tokens [n, t] with
    ``targets`` [n, a], what follows each of the last a ≤ t of them, −1 where it does not count;
    ``num_classes`` is then the number of different tokens. Of a training split that is
    memory-mapped, ``[rows]`` reads and converts the rows asked for. ``note`` says in one line what
    the reader of a result should know of the data, and is empty where there is nothing to say.
    """

    name: str
    source: str
    train_inputs: Float[np.ndarray, "n ..."] | Int[np.ndarray, "n t"] | Mapped
    train_targets: Int[np.ndarray, "n *a"] | Float[np.ndarray, "n ..."] | Mapped
    test_inputs: Float[np.ndarray, "n_test ..."] | Int[np.ndarray, "n_test t"] | None
    test_targets: Int[np.ndarray, "n_test *a"] | Float[np.ndarray, "n_test ..."] | None
    num_classes: int
    note: str = ""

    @property
    def label(self) -> str:
        """The name, fit for a file name or a figure: of ``npz:PATH`` the file's stem."""
        kind, _, path = self.name.partition(":")
        return re.sub(r"[^\w.-]+", "-", Path(path).stem or kind) if path else kind

    @property
    def has_tokens(self) -> bool:
        """Whether a sample is a sequence of tokens."""
        return np.issubdtype(self.train_inputs.dtype, np.integer)

    @functools.cached_property
    def sha256(self) -> dict[str, str]:
        """The SHA-256 of the raw bytes (C order) of each array that is there."""
        arrays = {field: getattr(self, field) for field in Arrays._fields}
        return {field: _digest(array) for field, array in arrays.items() if array is not None}


def build(name: str, source: str, arrays: Arrays, num_classes: int, note: str = "") -> Dataset:
    """A data set of ``arrays``: bytes scaled to [0, 1], other integers int32, the rest float32.

    A training split that is memory-mapped stays so.
    """
    inputs, targets, test_inputs, test_targets = arrays
    return Dataset(
        name=name,
        source=source,
        train_inputs=_when_read(_inputs, inputs),
        train_targets=_when_read(_plain, targets),
        test_inputs=None if test_inputs is None else _inputs(test_inputs),
        test_targets=None if test_targets is None else _plain(test_targets),
        num_classes=num_classes,
        note=note,
    )


def check_lengths(inputs: np.ndarray, targets: np.ndarray, where: str) -> None:
    """Raise ``InputError`` unless both hold the same number of samples, at least one."""
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise InputError(
            f"expected as many inputs as targets, at least one, in {where}, "
            f"found {len(inputs)} inputs with {len(targets)} targets; give one target per input"
        )


def check_labels(labels: Int[np.ndarray, "n"], num_classes: int, where: str) -> None:
    """Raise ``InputError`` unless every label lies in 0 .. num_classes − 1."""
    low, high = labels.min(), labels.max()
    if low < 0 or high >= num_classes:
        raise InputError(
            f"expected labels from 0 to {num_classes - 1} in {where}, found {low} to {high}; "
            "replace the altered data"
        )


def _digest(array: np.ndarray | Mapped) -> str:
    digest = hashlib.sha256()
    for block in blocks(array):
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def _when_read(
    convert: Callable[[np.ndarray], np.ndarray], array: np.ndarray
) -> np.ndarray | Mapped:
    """Values of a map are converted row by row; classes, 4 bytes each, at once."""
    if isinstance(array, np.memmap) and convert(array[:0]).dtype != np.int32:
        return Mapped(array, convert)
    return convert(array)


def _inputs(inputs: np.ndarray) -> np.ndarray:
    if inputs.dtype == np.uint8:
        return np.divide(inputs, 255, dtype=np.float32)
    return _plain(inputs)


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype(np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32)
