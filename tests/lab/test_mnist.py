"""The four files of MNIST: every name in use, every way in which one can be wrong."""

import gzip
import hashlib

import files
import numpy as np
import pytest

from jaxscape.lab import mnist
from jaxscape.types import InputError

TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"


def check(read, arrays):
    images, labels, test_images, test_labels = arrays.values()
    np.testing.assert_array_equal(read.train_inputs, images[..., None])
    np.testing.assert_array_equal(read.train_targets, labels)
    np.testing.assert_array_equal(read.test_inputs, test_images[..., None])
    np.testing.assert_array_equal(read.test_targets, test_labels)


@pytest.mark.parametrize("name", list(mnist.CLASSES))
@pytest.mark.parametrize(("suffix", "dotted"), [("", False), ("", True), (".gz", True)])
def test_files_of_any_length_under_any_name(name, suffix, dotted, tmp_path):
    arrays = files.digits()
    files.lay_digits(tmp_path, arrays, suffix=suffix, dotted=dotted)
    assert mnist.present(name, tmp_path)
    check(mnist.read(name, tmp_path), arrays)


def test_published_files_must_be_the_published_ones(tmp_path, monkeypatch):
    arrays = files.digits()
    files.lay_digits(tmp_path, arrays, suffix=".gz")
    records = files.publish(monkeypatch, tmp_path)
    check(mnist.read("kmnist", tmp_path), arrays)
    name = f"{TEST_IMAGES}.gz"
    raw = bytearray((tmp_path / name).read_bytes())
    raw[9] ^= 1  # the header's operating system, which no reader of gzip looks at
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match="truncated or altered") as caught:
        mnist.read("kmnist", tmp_path)
    for part in (name, records[name].sha256, hashlib.sha256(raw).hexdigest()):
        assert part in str(caught.value)


def test_published_gzip_cut_short_is_refused(tmp_path, monkeypatch):
    files.lay_digits(tmp_path, files.digits(), suffix=".gz")
    files.publish(monkeypatch, tmp_path)
    path = tmp_path / f"{TRAIN_LABELS}.gz"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=rf"{TRAIN_LABELS}\.gz as published, \d+ bytes"):
        mnist.read("mnist", tmp_path)


def test_nothing_there(tmp_path):
    assert not mnist.present("mnist", tmp_path)
    assert not mnist.present("mnist", tmp_path / "nowhere")


@pytest.mark.parametrize("stem", list(mnist.PARTS))
def test_missing_one_of_four_is_named(stem, tmp_path):
    files.lay_digits(tmp_path, files.digits())
    (tmp_path / stem).unlink()
    assert mnist.present("mnist", tmp_path)
    with pytest.raises(InputError, match=f"four files of mnist in .*, found no {stem} "):
        mnist.read("mnist", tmp_path)


def spoilt(tmp_path, stem, array):
    arrays = files.digits()
    arrays[stem] = array(arrays[stem])
    return files.lay_digits(tmp_path, arrays)


@pytest.mark.parametrize(
    ("stem", "change", "message"),
    [
        (TRAIN_LABELS, lambda labels: labels[:-1], "20 inputs with 19 targets"),
        (TRAIN_LABELS, lambda labels: labels[:0], "20 inputs with 0 targets"),
        (TEST_IMAGES, lambda images: images[:0], "0 inputs with 10 targets"),
        (TRAIN_LABELS, lambda labels: labels + 10, "labels from 0 to 9"),
        (TRAIN_LABELS, lambda labels: labels[:, None], "with 1 axes"),
        (TEST_IMAGES, lambda images: images[:, :14], "28 by 28 pixels"),
    ],
)
def test_inconsistent_files_are_named(stem, change, message, tmp_path):
    folder = spoilt(tmp_path, stem, change)
    with pytest.raises(InputError, match=message) as caught:
        mnist.read("fashion_mnist", folder)
    assert stem in str(caught.value)


def test_no_samples_at_all(tmp_path):
    arrays = {stem: array[:0] for stem, array in files.digits().items()}
    with pytest.raises(InputError, match=r"at least one.*found 0 inputs"):
        mnist.read("mnist", files.lay_digits(tmp_path, arrays))


def full(tmp_path, monkeypatch):
    """Plain files of full length, of which those contents count as MNIST's."""
    arrays = files.digits(60_000, 10_000)
    for stem, array in arrays.items():
        monkeypatch.setitem(mnist.UNPACKED, stem, hashlib.sha256(files.idx(array)).hexdigest())
    return files.lay_digits(tmp_path, arrays), arrays


def test_plain_files_of_full_length_must_hold_mnist(tmp_path, monkeypatch):
    folder, arrays = full(tmp_path, monkeypatch)
    check(mnist.read("mnist", folder), arrays)
    path = folder / TRAIN_LABELS
    raw = bytearray(path.read_bytes())
    raw[-1] = (raw[-1] + 1) % 10
    path.write_bytes(raw)
    with pytest.raises(InputError, match=f"{TRAIN_LABELS} to hold mnist as published"):
        mnist.read("mnist", folder)


def test_mnist_is_not_taken_for_another_data_set(tmp_path, monkeypatch):
    folder, _ = full(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="to hold fashion_mnist as published"):
        mnist.read("fashion_mnist", folder)


def test_gzip_of_a_file_of_another_name_is_unpacked_before_it_is_judged(tmp_path):
    files.lay_digits(tmp_path, files.digits(), suffix=".gz", dotted=True)
    path = tmp_path / "train-labels.idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x09\x01" + b"\x00" * 30))
    with pytest.raises(InputError, match=r"train-labels\.idx1-ubyte\.gz to be an IDX file"):
        mnist.read("mnist", tmp_path)
