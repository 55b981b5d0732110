"""The user's arrays: what is taken, what is refused in which words."""

import hashlib

import numpy as np
import pytest

from jaxscape.lab import npz
from jaxscape.lab.dataset import build
from jaxscape.lab.mapped import Mapped
from jaxscape.types import InputError

KEYS = npz.KEYS
RNG = np.random.default_rng(0)
GOOD = {
    "inputs": RNG.standard_normal((6, 3)),
    "targets": np.array([0, 1, 2, 2, 1, 0]),
    "test_inputs": RNG.standard_normal((2, 3)),
    "test_targets": np.array([4, 1]),
}


def write(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


def test_both_splits(tmp_path):
    arrays, num_classes = npz.read(write(tmp_path, **GOOD))
    for found, expected in zip(arrays, GOOD.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert num_classes == 5  # the largest label is in the test split


@pytest.mark.parametrize("way", ["folder", "stored", "compressed", "Fortran"])
def test_every_way_to_keep_them_gives_the_same_data_set(way, tmp_path):
    path = write(tmp_path, **GOOD)
    digests = build("mine", "", *npz.read(path)).sha256
    if way == "folder":
        path = tmp_path / "mine"
        path.mkdir()
        for name, array in GOOD.items():
            np.save(path / f"{name}.npy", array)
    elif way == "compressed":
        np.savez_compressed(path, **GOOD)
    elif way == "Fortran":
        write(tmp_path, **{name: np.asfortranarray(array) for name, array in GOOD.items()})
    found = build("mine", "", *npz.read(path))
    assert isinstance(found.train_inputs, Mapped) == (way in ("folder", "stored"))
    assert found.train_inputs.dtype == np.float32
    np.testing.assert_array_equal(found.train_inputs[:], GOOD["inputs"].astype(np.float32))
    np.testing.assert_array_equal(found.train_targets, GOOD["targets"])
    assert found.sha256 == digests
    assert found.sha256["train_inputs"] == (
        hashlib.sha256(GOOD["inputs"].astype(np.float32).tobytes()).hexdigest()
    )


def test_bytes_and_float_targets_are_mapped_too(tmp_path):
    pixels = RNG.integers(256, size=(6, 2, 2, 1), dtype=np.uint8)
    values = RNG.normal(size=(6, 2))
    found = build("mine", "", *npz.read(write(tmp_path, inputs=pixels, targets=values)))
    rows = np.array([4, 0])
    np.testing.assert_allclose(found.train_inputs[rows], pixels[rows] / 255, rtol=1e-7)
    np.testing.assert_array_equal(found.train_targets[1:3], values[1:3].astype(np.float32))


def test_a_folder_that_lacks_or_spoils_a_file(tmp_path):
    for name, array in GOOD.items():
        np.save(tmp_path / f"{name}.npy", array)
    whole = (tmp_path / "inputs.npy").read_bytes()
    for raw in (whole[:-1], whole[:50], b"", b"hello"):
        (tmp_path / "inputs.npy").write_bytes(raw)
        with pytest.raises(InputError, match=r"expected plain arrays in .*found: "):
            npz.read(tmp_path)
    (tmp_path / "inputs.npy").unlink()
    with pytest.raises(InputError, match="found targets, test_inputs, test_targets;"):
        npz.read(tmp_path)


def test_too_large_for_memory(tmp_path, monkeypatch):
    def read_array(*_, **__):
        raise MemoryError("Unable to allocate 1. TiB")

    monkeypatch.setattr(np.lib.format, "read_array", read_array)
    np.savez_compressed(tmp_path / "mine.npz", **GOOD)
    with pytest.raises(InputError, match=r"found: Unable .*; save them with np.savez, not comp"):
        npz.read(tmp_path / "mine.npz")


def test_without_a_test_split(tmp_path):
    arrays, num_classes = npz.read(write(tmp_path, inputs=GOOD["inputs"], targets=GOOD["targets"]))
    assert arrays.test_inputs is None
    assert arrays.test_targets is None
    assert num_classes == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64, ">i4"])
def test_every_integer_type_of_labels(dtype, tmp_path):
    path = write(tmp_path, inputs=GOOD["inputs"], targets=GOOD["targets"].astype(dtype))
    arrays, num_classes = npz.read(path)
    assert num_classes == 3
    assert build("mine", "", arrays, num_classes).train_targets.dtype == np.int32


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_float_targets_have_no_classes(shape, tmp_path):
    targets = RNG.standard_normal(shape)
    arrays, num_classes = npz.read(write(tmp_path, inputs=GOOD["inputs"], targets=targets))
    assert num_classes == 0
    built = build("mine", "", arrays, num_classes)
    np.testing.assert_array_equal(built.train_targets, targets.astype(np.float32))
    assert built.train_targets.dtype == np.float32


def poked(array, value):
    array = np.array(array, np.result_type(array, type(value)))
    array[3] = value
    return array


BAD = {
    "no targets": ({"targets": None, "test_inputs": None, "test_targets": None}, "found inputs;"),
    "no inputs": ({"inputs": None}, "expected arrays inputs, targets, test_inputs, test_targets"),
    "half a test split": ({"test_targets": None}, "found inputs, targets, test_inputs;"),
    "unequal": ({"targets": GOOD["targets"][:-1]}, "6 inputs with 5 targets"),
    "unequal test": ({"test_inputs": GOOD["inputs"]}, "the test split.*6 inputs with 2 targets"),
    "empty": ({"inputs": np.zeros((0, 3)), "targets": np.zeros(0, int)}, "at least one"),
    "empty test": (
        {"test_inputs": np.zeros((0, 3)), "test_targets": np.zeros(0, int)},
        "at least one, in the test split",
    ),
    "NaN": ({"inputs": poked(GOOD["inputs"], np.nan)}, "found 1 samples with NaN.*index 3"),
    "infinite": ({"test_inputs": GOOD["test_inputs"] * np.inf}, "test_inputs of .*found 2 samples"),
    "beyond float32": ({"inputs": poked(GOOD["inputs"], 1e39)}, "found 1 samples.*index 3"),
    "NaN target": ({"targets": poked(GOOD["targets"], np.nan)}, "as targets of .*found 1 samples"),
    "negative": ({"targets": poked(GOOD["targets"], -1)}, "found -1 to 2"),
    "huge label": ({"targets": poked(GOOD["targets"], 2**31)}, "found 0 to 2147483648"),
    "one-hot": ({"targets": np.eye(6, dtype=int)}, "one integer class per sample"),
    "texts": ({"targets": np.array(list("abcdef"))}, "found <U1"),
    "integer inputs": ({"inputs": np.ones((6, 3), int)}, "bytes or floats as inputs .*int64"),
    "single value": ({"inputs": np.float64(3)}, "a single value"),
    "other width": ({"test_inputs": np.ones((2, 4))}, r"found float64 \(2, 4\)"),
    "other kind": ({"test_targets": np.ones(2)}, "test split of .* to be like"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_arrays_are_refused(case, tmp_path):
    change, message = BAD[case]
    arrays = {key: array for key, array in (GOOD | change).items() if array is not None}
    with pytest.raises(InputError, match=message) as caught:
        npz.read(write(tmp_path, **arrays))
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


TOKENS = {
    "inputs": RNG.integers(9, size=(6, 4)),
    "targets": np.where(RNG.random((6, 3)) < 0.3, -1, 3),
    "test_inputs": np.full((2, 4), 11),
    "test_targets": RNG.integers(9, size=(2, 3)),
}


@pytest.mark.parametrize("dtype", [np.int64, np.int8, ">i2"])
@pytest.mark.parametrize("keys", [KEYS[:2], KEYS])
def test_tokens(dtype, keys, tmp_path):
    given = {key: TOKENS[key].astype(dtype) for key in keys}
    arrays, num_tokens = npz.read(write(tmp_path, **given))
    assert num_tokens == 1 + max(array.max() for array in given.values())
    for key, found in zip(KEYS, arrays, strict=True):
        assert (found is None) == (key not in keys)
        if key in keys:
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, given[key])


def test_bytes_with_rows_of_integer_targets_are_tokens(tmp_path):
    """A text as bytes is not scaled to [0, 1]."""
    text = np.frombuffer(b"to be or not to be", np.uint8).reshape(3, 6)
    arrays, num_tokens = npz.read(write(tmp_path, inputs=text[:, :-1], targets=text[:, 1:]))
    built = build("mine", "", arrays, num_tokens)
    np.testing.assert_array_equal(built.train_inputs, text[:, :-1])
    assert built.has_tokens
    assert num_tokens == ord("t") + 1


BAD_TOKENS = {
    "negative": ({"inputs": poked(TOKENS["inputs"], -1)}, "found -1 and -1"),
    "below -1": ({"targets": poked(TOKENS["targets"], -2)}, "and -2;"),
    "none counts": ({"targets": poked(TOKENS["targets"], -1)}, "found 1 with.*index 3"),
    "none counts in the test": (
        {"test_targets": poked(np.zeros((4, 3), int), -1), "test_inputs": np.zeros((4, 4), int)},
        "found 1 with.*index 3",
    ),
    "longer": ({"test_inputs": np.zeros((2, 5), int)}, r"test split of .* to be like"),
    "of more answers": ({"test_targets": np.zeros((2, 4), int)}, r"test split of .* to be like"),
    "more targets than tokens": ({"targets": np.zeros((6, 5), int)}, "tokens .* found int64"),
    "huge": ({"inputs": poked(TOKENS["inputs"], 10**12)}, "found 1000000000000"),
    "empty": ({"inputs": np.zeros((0, 4), int), "targets": np.zeros((0, 3), int)}, "at least one"),
    "fewer": ({"inputs": np.zeros((5, 4), int)}, "as many inputs as targets"),
    "empty test": (
        {"test_inputs": np.zeros((0, 4), int), "test_targets": np.zeros((0, 3), int)},
        "at least one",
    ),
    "of no length": (
        {key: np.zeros((3, 0), int) for key in KEYS}, r"found int64 of shape \(3, 0\)"
    ),
    "classes": ({"targets": np.zeros(6, int)}, "tokens .* found int64"),
    "test of classes": ({"test_targets": np.zeros(2, int)}, "tokens .* found int64"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD_TOKENS))
def test_bad_tokens_are_refused(case, tmp_path):
    change, message = BAD_TOKENS[case]
    with pytest.raises(InputError, match=message) as caught:
        npz.read(write(tmp_path, **TOKENS | change))
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_are_not_opened(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, inputs=np.array([{}, {}], object), targets=np.array([0, 1]))
    with pytest.raises(InputError, match=r"plain arrays in .*mine\.npz"):
        npz.read(path)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"npz file at .*none\.npz, found none"):
        npz.read(tmp_path / "none.npz")


@pytest.mark.parametrize("raw", [b"", b"hello", b"\x93NUMPY\x01\x00"])
def test_another_kind_of_file(raw, tmp_path):
    path = tmp_path / "other.npz"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"other\.npz, found something else"):
        npz.read(path)


def test_truncated(tmp_path):
    path = write(tmp_path, **GOOD)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"mine\.npz"):
        npz.read(path)


def test_altered(tmp_path):
    path = write(tmp_path, **GOOD)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(GOOD["inputs"].tobytes(), GOOD["inputs"][::-1].tobytes()))
    with pytest.raises(InputError, match=r"plain arrays in .*mine\.npz.*CRC"):
        npz.read(path)


def test_more_classes_than_samples_are_refused(tmp_path):
    path = write(tmp_path, inputs=GOOD["inputs"], targets=np.array([0, 10**8, 1, 1, 0, 0]))
    with pytest.raises(InputError, match="below the number of samples, 6, found 100000000"):
        npz.read(path)
