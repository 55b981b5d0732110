"""Readers of files: whole, damaged, and of another kind than they should be."""

import dataclasses
import gzip
import hashlib

import files
import numpy as np
import pytest

from jaxscape.lab import data, readers
from jaxscape.types import InputError

TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
SMALL = readers.IdxFiles("small", counts=(20, 10))


def refused(message, read, *args):
    """``read(*args)`` ends with ``message`` in one line, which is returned."""
    with pytest.raises(InputError, match=message) as caught:
        read(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# IDX

GOOD_TEST = files.idx(files.digits()[TEST_IMAGES])


def test_idx_of_the_bytes_of_the_definition(tmp_path):
    """The header as its definition has it, written out."""
    folder = files.lay_digits(tmp_path, files.digits())
    header = bytes.fromhex("000008030000000a0000001c0000001c")
    (folder / TEST_IMAGES).write_bytes(header + bytes(range(245)) * 32)
    array = SMALL.read(folder).test_inputs
    np.testing.assert_array_equal(array.ravel(), np.arange(7840) % 245)
    assert array.dtype == np.uint8


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "found 0 bytes"),
        (GOOD_TEST[:9], "found 9 bytes from 00000803"),
        (b"\x00\x00\x0d\x03" + GOOD_TEST[4:], "from 00000803.* from 00000d03"),
        (b"\x00\x00\x08\x01" + GOOD_TEST[4:], "from 00000803.* from 00000801"),
        (GOOD_TEST[:-1], "7856 bytes.*found 7855"),
        (GOOD_TEST + b"\x00", "7856 bytes.*found 7857"),
        (GOOD_TEST[:4] + b"\xff" * 12, "found 16 bytes from 00000803ffff"),
    ],
    ids=["empty", "cut header", "floats", "one axis", "short", "long", "huge"],
)
def test_damaged_idx_is_named(raw, message, tmp_path):
    folder = files.lay_digits(tmp_path, files.digits())
    (folder / TEST_IMAGES).write_bytes(raw)
    assert TEST_IMAGES in refused(message, SMALL.read, folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:5],
        lambda raw: raw[:-1],
        lambda raw: b"\xff" + raw[1:],
        lambda raw: raw[:-8] + b"\xff" * 4 + raw[-4:],
    ],
    ids=["cut early", "cut late", "altered header", "altered checksum"],
)
def test_damaged_gzip_is_named(damage, tmp_path):
    path = files.lay_digits(tmp_path, files.digits(), suffix=".gz") / f"{TEST_IMAGES}.gz"
    path.write_bytes(damage(gzip.compress(GOOD_TEST)))
    refused(rf"{TEST_IMAGES}\.gz to be whole gzip data", SMALL.read, tmp_path)


@pytest.mark.parametrize(
    ("suffix", "dotted"), [("", False), ("", True), (".gz", False), (".gz", True)]
)
def test_digits_under_any_name(suffix, dotted, tmp_path):
    arrays = files.digits()
    assert SMALL.read(tmp_path) is None
    files.lay_digits(tmp_path, arrays, suffix=suffix, dotted=dotted)
    images, labels, test_images, test_labels = arrays.values()
    expected = images[..., None], labels, test_images[..., None], test_labels
    for found, wanted in zip(SMALL.read(tmp_path), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("level", [1, 9])
def test_any_gzip_of_the_published_contents_will_do_and_no_other_contents(
    level, tmp_path, monkeypatch
):
    arrays = files.digits()
    sums = [hashlib.sha256(files.idx(array)).hexdigest() for array in arrays.values()]
    monkeypatch.setitem(readers.SUMS, "known", sums)
    known = readers.IdxFiles("known", counts=(20, 10))
    for stem, array in arrays.items():
        (tmp_path / f"{stem}.gz").write_bytes(gzip.compress(files.idx(array), level))
    known.read(tmp_path)
    arrays[TRAIN_LABELS][3] ^= 1
    (tmp_path / f"{TRAIN_LABELS}.gz").write_bytes(gzip.compress(files.idx(arrays[TRAIN_LABELS])))
    message = refused(r"to hold known as published, SHA-256 .* unzipped", known.read, tmp_path)
    assert f"{TRAIN_LABELS}.gz" in message
    assert sums[1] in message
    assert hashlib.sha256(files.idx(arrays[TRAIN_LABELS])).hexdigest() in message


def test_mnist_is_not_taken_for_a_set_of_unknown_sums(tmp_path, monkeypatch):
    arrays = files.digits()
    files.lay_digits(tmp_path, arrays)
    digest = hashlib.sha256(files.idx(arrays[TEST_IMAGES])).hexdigest()
    monkeypatch.setitem(readers.SUMS, "mnist", (digest,))
    refused("to hold small as published, found the contents of mnist", SMALL.read, tmp_path)


@pytest.mark.parametrize("stem", readers.STEMS)
def test_missing_one_of_four_is_named(stem, tmp_path):
    files.lay_digits(tmp_path, files.digits())
    (tmp_path / stem).unlink()
    refused(f"four files of small in .*, found no {stem} ", SMALL.read, tmp_path)


@pytest.mark.parametrize(
    ("stem", "change", "message"),
    [
        (TRAIN_LABELS, lambda labels: labels[:-1], r"bytes \[20\], .* 28 bytes .* found 27"),
        (TEST_IMAGES, lambda images: images[:, :14], r"\[10, 28, 28\], .* found 3936"),
        (TRAIN_LABELS, lambda labels: labels + 10, "labels from 0 to 9"),
        (TRAIN_LABELS, lambda labels: labels[:, None], "from 00000801.* from 00000802"),
    ],
)
def test_files_of_another_content_are_named(stem, change, message, tmp_path):
    arrays = files.digits()
    arrays[stem] = change(arrays[stem])
    assert stem in refused(message, SMALL.read, files.lay_digits(tmp_path, arrays))


# CIFAR

CIFAR = {name: data.PUBLISHED[name] for name in ("cifar10", "cifar100")}


@pytest.mark.parametrize("name", list(CIFAR))
def test_cifar_archive_with_the_published_bytes(name, tmp_path):
    members, splits = files.cifar(CIFAR[name])
    archive = tmp_path / CIFAR[name].archive
    assert CIFAR[name].read(tmp_path) is None
    files.tarball(archive, members)
    whole = archive.read_bytes()
    small = dataclasses.replace(CIFAR[name], sha256=hashlib.sha256(whole).hexdigest())
    for found, expected in zip(small.read(tmp_path), splits, strict=True):
        np.testing.assert_array_equal(found, expected)
    archive.write_bytes(whole[:-20])
    message = refused("truncated or altered", small.read, tmp_path)
    assert small.sha256 in message
    assert str(archive) in message


# npz files and folders of npy

KEYS = readers.KEYS
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


def lay(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize("way", ["stored", "compressed", "Fortran", "folder", "Fortran folder"])
def test_every_way_to_keep_arrays_gives_the_same(way, tmp_path):
    arrays = GOOD
    if "Fortran" in way:
        arrays = {name: np.asfortranarray(array) for name, array in GOOD.items()}
    path = lay(tmp_path / "mine", **arrays) if "folder" in way else write(tmp_path, **arrays)
    if way == "compressed":
        np.savez_compressed(path, **GOOD)
    arrays, num_classes = readers.read_npz(path)
    assert num_classes == 5  # the largest label is in the test split
    for found, expected in zip(arrays, GOOD.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    mapped = [isinstance(array, np.memmap) for array in arrays]
    assert mapped == ([True, True, False, False] if "folder" in way else [False] * 4)


def test_a_folder_that_lacks_or_spoils_a_file(tmp_path):
    whole = (lay(tmp_path, **GOOD) / "inputs.npy").read_bytes()
    for raw in (whole[:-1], whole[:50], b"", b"hello"):
        (tmp_path / "inputs.npy").write_bytes(raw)
        refused("expected plain arrays in .*found: ", readers.read_npz, tmp_path)
    np.save(tmp_path / "inputs.npy", np.array([{}, {}]))
    refused("expected plain arrays in .*found: ", readers.read_npz, tmp_path)
    (tmp_path / "inputs.npy").unlink()
    refused("found targets, test_inputs, test_targets;", readers.read_npz, tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, ">i4"])
def test_every_integer_type_of_labels(dtype, tmp_path):
    path = write(tmp_path, inputs=GOOD["inputs"], targets=GOOD["targets"].astype(dtype))
    arrays, num_classes = readers.read_npz(path)
    assert num_classes == 3
    assert arrays.test_inputs is arrays.test_targets is None
    np.testing.assert_array_equal(arrays.train_targets, GOOD["targets"])


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_float_targets_have_no_classes(shape, tmp_path):
    targets = RNG.standard_normal(shape)
    arrays, num_classes = readers.read_npz(write(tmp_path, inputs=GOOD["inputs"], targets=targets))
    assert num_classes == 0
    np.testing.assert_array_equal(arrays.train_targets, targets)


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
    "infinite": ({"test_inputs": GOOD["test_inputs"] * np.inf}, "the test split.*found 2 samples"),
    "beyond float32": ({"inputs": poked(GOOD["inputs"], 1e39)}, "found 1 samples.*index 3"),
    "NaN target": ({"targets": poked(GOOD["targets"], np.nan)}, "as targets of .*found 1 samples"),
    "negative": ({"targets": poked(GOOD["targets"], -1)}, "found -1 to 2"),
    "huge label": ({"targets": poked(GOOD["targets"], 2**31)}, "found 0 to 2147483648"),
    "many classes": ({"targets": poked(GOOD["targets"], 10**8)}, "samples, 8, found 100000000"),
    "one-hot": ({"targets": np.eye(6, dtype=int)}, "one integer class per sample"),
    "texts": ({"targets": np.array(list("abcdef"))}, "found <U1"),
    "integer inputs": ({"inputs": np.ones((6, 3), int)}, "bytes or floats as inputs .*int64"),
    "single value": ({"inputs": np.float64(3)}, "a single value"),
    "other width": ({"test_inputs": np.ones((2, 4))}, r"found float64 \(2, 4\)"),
    "other kind": ({"test_targets": np.ones(2)}, "test split of .* to be like"),
    "pickles": ({"inputs": np.array([{}] * 6, object)}, "plain arrays in"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_bad_arrays_are_refused(case, tmp_path):
    change, message = BAD[case]
    arrays = {key: array for key, array in (GOOD | change).items() if array is not None}
    assert "mine.npz" in refused(message, readers.read_npz, write(tmp_path, **arrays))


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
    arrays, num_tokens = readers.read_npz(write(tmp_path, **given))
    assert num_tokens == 1 + max(array.max() for array in given.values())
    for key, found in zip(KEYS, arrays, strict=True):
        assert (found is None) == (key not in keys)
        if key in keys:
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, given[key])


def test_bytes_with_rows_of_integer_targets_are_tokens(tmp_path):
    """A text as bytes is not scaled to [0, 1]."""
    text = np.frombuffer(b"to be or not to be", np.uint8).reshape(3, 6)
    arrays, num_tokens = readers.read_npz(write(tmp_path, inputs=text[:, :-1], targets=text[:, 1:]))
    assert arrays.train_inputs.dtype == np.int32
    np.testing.assert_array_equal(arrays.train_inputs, text[:, :-1])
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
    "of no length": (
        {key: np.zeros((3, 0), int) for key in KEYS}, r"found int64 of shape \(3, 0\)"
    ),
    "test of classes": ({"test_targets": np.zeros(2, int)}, "tokens .* found int64"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD_TOKENS))
def test_bad_tokens_are_refused(case, tmp_path):
    change, message = BAD_TOKENS[case]
    assert "mine.npz" in refused(message, readers.read_npz, write(tmp_path, **TOKENS | change))


@pytest.mark.parametrize("raw", [None, b"", b"hello", b"\x93NUMPY\x01\x00"])
def test_no_file_or_another_kind_of_file(raw, tmp_path):
    if raw is not None:
        (tmp_path / "other.npz").write_bytes(raw)
    found = "none" if raw is None else "something else"
    refused(rf"other\.npz, found {found}", readers.read_npz, tmp_path / "other.npz")


def test_a_truncated_or_altered_npz_is_named(tmp_path):
    path = write(tmp_path, **GOOD)
    raw = path.read_bytes()
    path.write_bytes(raw[:-30])
    refused(r"mine\.npz", readers.read_npz, path)
    path.write_bytes(raw.replace(GOOD["inputs"].tobytes(), GOOD["inputs"][::-1].tobytes()))
    refused(r"plain arrays in .*mine\.npz.*CRC", readers.read_npz, path)
