"""The look-up: every place in turn, nothing in place of what was asked for."""

import os
import socket
from pathlib import Path

import files
import numpy as np
import pytest
from test_cifar import contents, unpack
from test_prepared import prepare

from jaxscape.lab import cifar, data, glyphs
from jaxscape.lab.dataset import Arrays
from jaxscape.types import InputError

# Read before any fixture hides it.
REAL = os.environ.get("JAXSCAPE_DATA_DIR")
needs_mnist = pytest.mark.skipif(
    not (REAL and (Path(REAL) / "mnist" / "train-images-idx3-ubyte.gz").is_file()),
    reason="needs MNIST's four files in $JAXSCAPE_DATA_DIR/mnist",
)

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def small_glyphs(monkeypatch):
    """Twelve glyphs in place of 70,000."""
    arrays = Arrays(*glyphs.draw(10, 0), *glyphs.draw(2, 1))
    monkeypatch.setattr(glyphs, "load", lambda **_: arrays)
    return arrays


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to reach anything is noted, then fails."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def check(dataset, arrays):
    images, labels, test_images, test_labels = arrays.values()
    np.testing.assert_array_equal(dataset.train_inputs, np.float32(images[..., None]) / 255)
    np.testing.assert_array_equal(dataset.train_targets, labels)
    np.testing.assert_array_equal(dataset.test_inputs, np.float32(test_images[..., None]) / 255)
    np.testing.assert_array_equal(dataset.test_targets, test_labels)


@pytest.mark.parametrize("name", ["", "MNIST", "imagenet", "npz:", "npz", "glyphs:x"])
def test_unknown_names_are_answered_with_the_known_ones(name):
    with pytest.raises(InputError, match=r"auto, glyphs, sums, mnist, .*cifar100, npz:PATH, found"):
        data.load(name)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
@pytest.mark.parametrize("subfolder", [True, False])
@pytest.mark.parametrize("named", ["argument", "variable"])
def test_files_in_the_data_folder(name, subfolder, named, tmp_path, monkeypatch):
    arrays = files.digits()
    folder = files.lay_digits(tmp_path / name if subfolder else tmp_path, arrays)
    if named == "variable":
        monkeypatch.setenv("JAXSCAPE_DATA_DIR", str(tmp_path))
    dataset = data.load(name, data_dir=tmp_path if named == "argument" else None)
    check(dataset, arrays)
    assert (dataset.name, dataset.num_classes, dataset.note) == (name, 10, "")
    assert str(folder) in dataset.source


@pytest.mark.parametrize(("name", "num_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_in_the_data_folder(name, num_classes, tmp_path):
    members, splits = contents(name)
    unpack(members, tmp_path / name)
    dataset = data.load(name, data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.train_inputs, np.float32(splits[0]) / 255)
    np.testing.assert_array_equal(dataset.test_targets, splits[3])
    assert dataset.num_classes == num_classes


def test_the_argument_comes_before_the_variable(tmp_path, monkeypatch):
    first, second = files.digits(seed=1), files.digits(seed=2)
    files.lay_digits(tmp_path / "argument", first)
    files.lay_digits(tmp_path / "variable", second)
    monkeypatch.setenv("JAXSCAPE_DATA_DIR", str(tmp_path / "variable"))
    check(data.load("mnist", data_dir=tmp_path / "argument"), first)


def test_its_own_folder_comes_first_then_files_then_prepared(tmp_path):
    _, ready = prepare(tmp_path)
    check(data.load("mnist", data_dir=tmp_path), ready)
    loose, own = files.digits(seed=1), files.digits(seed=2)
    files.lay_digits(tmp_path, loose)
    check(data.load("mnist", data_dir=tmp_path), loose)
    files.lay_digits(tmp_path / "mnist", own)
    check(data.load("mnist", data_dir=tmp_path), own)


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_prepared_in_its_default_place(file_format, alone, no_network):
    folder, arrays = prepare(alone / "tensorflow_datasets", file_format)
    dataset = data.load("mnist")
    check(dataset, arrays)
    assert str(folder) in dataset.source
    assert "order" in dataset.source
    assert no_network == []


def test_a_data_folder_that_is_not_there(tmp_path, monkeypatch):
    for name in ("mnist", "auto"):
        with pytest.raises(InputError, match=r"data folder at .*nowhere, found none"):
            data.load(name, data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("JAXSCAPE_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="JAXSCAPE_DATA_DIR"):
        data.load("mnist")


def test_a_data_folder_that_cannot_be_read(tmp_path, monkeypatch):
    """By the answer of the system, since the superuser may read everything."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InputError, match="found one that cannot be read"):
        data.load("mnist", data_dir=tmp_path)


def test_a_subfolder_that_cannot_be_read(tmp_path, monkeypatch):
    def is_file(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", is_file)
    with pytest.raises(InputError, match=r"can be read, found: .*Permission denied.*mnist"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_damaged_files_are_an_error_even_for_auto(name, tmp_path, small_glyphs):
    folder = files.lay_digits(tmp_path / "mnist", files.digits())
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match="found no train-labels-idx1-ubyte"):
        data.load(name, data_dir=tmp_path)


@pytest.mark.parametrize("name", list(data.PUBLISHED))
def test_a_named_data_set_is_never_replaced(name, tmp_path, small_glyphs, no_network):
    with pytest.raises(InputError, match="JAXSCAPE_OFFLINE") as caught:
        data.load(name, data_dir=tmp_path, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert no_network == []


def test_auto_offline_is_glyphs_and_says_why(tmp_path, small_glyphs, no_network):
    dataset = data.load("auto", cache_dir=tmp_path)
    assert dataset.name == "glyphs"
    assert dataset.note.startswith("glyphs in place of mnist")
    assert "JAXSCAPE_OFFLINE" in dataset.note
    assert "\n" not in dataset.note
    assert no_network == []
    np.testing.assert_array_equal(dataset.train_targets, small_glyphs.train_targets)


def test_auto_without_a_network_is_glyphs_and_says_why(
    tmp_path, small_glyphs, no_network, monkeypatch
):
    monkeypatch.delenv("JAXSCAPE_OFFLINE")
    dataset = data.load("auto", cache_dir=tmp_path)
    assert dataset.name == "glyphs"
    assert "expected to download https://" in dataset.note
    assert no_network != []


def test_auto_takes_mnist_from_disk(tmp_path, no_network):
    arrays = files.digits()
    files.lay_digits(tmp_path, arrays)
    dataset = data.load("auto", data_dir=tmp_path)
    assert (dataset.name, dataset.note) == ("mnist", "")
    check(dataset, arrays)


def test_glyphs_asked_for_by_name(small_glyphs):
    dataset = data.load("glyphs")
    assert (dataset.name, dataset.num_classes, dataset.note) == ("glyphs", 10, "")
    assert "matplotlib" in dataset.source
    assert dataset.train_inputs.shape == (10, 28, 28, 1)
    assert set(dataset.sha256) == set(Arrays._fields)


def test_own_arrays(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, inputs=np.full((3, 2), 51, np.uint8), targets=np.array([2, 0, 1]))
    dataset = data.load(f"npz:{path}")
    np.testing.assert_allclose(dataset.train_inputs, np.full((3, 2), 0.2), rtol=1e-6)
    assert (dataset.name, dataset.num_classes) == (f"npz:{path}", 3)
    assert dataset.test_inputs is None
    assert set(dataset.sha256) == {"train_inputs", "train_targets"}


@pytest.fixture
def served(tmp_path, serve, monkeypatch):
    """Small MNIST files that count as published, on a mirror."""
    arrays = files.digits()
    folder = files.lay_digits(tmp_path / "remote", arrays, suffix=".gz")
    files.publish(monkeypatch, folder)
    url, asked = serve(folder)
    monkeypatch.setenv("JAXSCAPE_MIRROR", url)
    return folder, arrays, url, asked


def test_download_then_cache(served, tmp_path, monkeypatch):
    _, arrays, url, asked = served
    dataset = data.load("kmnist", cache_dir=tmp_path / "cache")
    check(dataset, arrays)
    assert url.rstrip("/") in dataset.source
    assert len(asked) == 4
    monkeypatch.setenv("JAXSCAPE_OFFLINE", "1")
    check(data.load("kmnist", cache_dir=tmp_path / "cache"), arrays)
    assert len(asked) == 4


@pytest.mark.parametrize("damage", [b"", b"other"])
def test_a_damaged_earlier_download_is_fetched_again(damage, served, tmp_path):
    _, arrays, _, asked = served
    data.load("mnist", cache_dir=tmp_path / "cache")
    path = tmp_path / "cache" / "mnist" / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(damage)
    check(data.load("mnist", cache_dir=tmp_path / "cache"), arrays)
    assert asked[4:] == ["/t10k-labels-idx1-ubyte.gz"]


def test_a_download_broken_off_is_taken_up_where_it_ended(served, tmp_path):
    folder, arrays, _, asked = served
    hidden = folder / "t10k-labels-idx1-ubyte.gz"
    raw = hidden.read_bytes()
    hidden.unlink()
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte\.gz, found: 404"):
        data.load("mnist", cache_dir=tmp_path / "cache")
    before = len(asked)
    hidden.write_bytes(raw)
    check(data.load("mnist", cache_dir=tmp_path / "cache"), arrays)
    assert len(asked) - before < 4


def test_cifar_downloaded(tmp_path, serve, monkeypatch):
    members, splits = contents("cifar100")
    (tmp_path / "remote").mkdir()
    files.tarball(tmp_path / "remote" / cifar.LAYOUTS["cifar100"].archive, members)
    files.publish(monkeypatch, tmp_path / "remote")
    monkeypatch.setenv("JAXSCAPE_MIRROR", serve(tmp_path / "remote")[0])
    dataset = data.load("cifar100", cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(dataset.train_inputs, np.float32(splits[0]) / 255)
    np.testing.assert_array_equal(dataset.train_targets, splits[1])


@needs_mnist
def test_real_mnist_through_the_real_download(tmp_path, serve, monkeypatch):
    monkeypatch.setenv("JAXSCAPE_MIRROR", serve(Path(REAL) / "mnist")[0])
    fetched = data.load("auto", cache_dir=tmp_path)
    assert (fetched.name, fetched.note) == ("mnist", "")
    assert fetched.train_inputs.shape == (60_000, 28, 28, 1)
    # Facts known of MNIST: its first labels, how often each digit occurs, its mean grey.
    assert fetched.train_targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert np.bincount(fetched.test_targets).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    assert abs(fetched.train_inputs.mean(dtype=float) - 0.1307) < 5e-5
    assert data.load("mnist", data_dir=REAL).sha256 == fetched.sha256


@needs_mnist
def test_real_mnist_with_one_byte_altered_is_refused(tmp_path, serve, monkeypatch):
    remote = tmp_path / "remote"
    remote.mkdir()
    for path in sorted((Path(REAL) / "mnist").glob("*.gz")):
        (remote / path.name).write_bytes(path.read_bytes())
    spoilt = remote / "t10k-images-idx3-ubyte.gz"
    raw = bytearray(spoilt.read_bytes())
    raw[len(raw) // 2] ^= 1
    spoilt.write_bytes(raw)
    checksums = (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        files.record(spoilt).sha256,
    )
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz as published") as on_disk:
        data.load("mnist", data_dir=remote)
    monkeypatch.setenv("JAXSCAPE_MIRROR", serve(remote)[0])
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz with 1648877") as fetched:
        data.load("mnist", cache_dir=tmp_path / "cache")
    for checksum in checksums:
        assert checksum in str(on_disk.value)
        assert checksum in str(fetched.value)
    assert not (tmp_path / "cache" / "mnist" / spoilt.name).exists()
