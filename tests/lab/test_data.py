"""The registry: types, every place in turn, downloads, nothing in place of what was asked for."""

import dataclasses
import gzip
import hashlib
import os
import socket
import threading
from pathlib import Path

import files
import numpy as np
import pytest

from jaxscape.lab import data, glyphs, readers
from jaxscape.lab.readers import STEMS, Arrays, IdxFiles
from jaxscape.lab.stream import Mapped
from jaxscape.types import InputError

# Read before any fixture hides it.
REAL = os.environ.get("JAXSCAPE_DATA_DIR")
needs_mnist = pytest.mark.skipif(
    not (REAL and all((Path(REAL) / name).is_dir() for name in ("mnist", "fashion_mnist"))),
    reason="needs the folders mnist and fashion_mnist in $JAXSCAPE_DATA_DIR",
)

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def small_glyphs(monkeypatch):
    """Twelve glyphs in place of 70,000, which are drawn again and again."""
    arrays, drawn = Arrays(*glyphs.draw(10, 0), *glyphs.draw(2, 1)), []
    monkeypatch.setattr(glyphs, "split", lambda: drawn.append(arrays) or arrays)
    return drawn


@pytest.fixture
def small_digits(monkeypatch):
    """Data sets of 20 and 10 images count as complete, and as published whatever they hold."""
    monkeypatch.setattr(readers, "SUMS", {})
    for name in ("mnist", "fashion_mnist", "kmnist"):
        monkeypatch.setitem(data.PUBLISHED, name, IdxFiles(name, counts=(20, 10)))


# Types


def test_bytes_are_scaled_to_the_unit_interval():
    inputs = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    built = data.build("x", "y", Arrays(inputs, np.arange(4), inputs[:2], np.arange(2)), 4, "z")
    for found, size in ((built.train_inputs, 4), (built.test_inputs, 2)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, inputs[:size].astype(float) / 255, rtol=1e-7)
    assert built.train_inputs.max() == 1
    assert built.train_targets.dtype == built.test_targets.dtype == np.int32
    assert (built.name, built.source, built.num_classes, built.note) == ("x", "y", 4, "z")
    assert not built.has_tokens


def test_other_integers_are_tokens_and_the_rest_is_float32():
    inputs, targets = np.array([[3, 0, 1], [1, 2, 1]]), np.array([[-1, 1], [2, 0]], np.int8)
    built = data.build("x", "y", Arrays(inputs, targets, inputs, targets), 4)
    assert built.has_tokens
    for found, given in ((built.train_inputs, inputs), (built.test_targets, targets)):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, given)
    values = np.array([[-3.5], [1e30]])
    built = data.build("x", "y", Arrays(values, np.array([0.25, 2]), None, None), 0)
    np.testing.assert_array_equal(built.train_inputs, values.astype(np.float32))
    np.testing.assert_array_equal(built.train_targets, np.array([0.25, 2], np.float32))
    assert built.test_inputs is None


def test_checksums_are_those_of_the_bytes():
    inputs = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    built = data.build("x", "y", Arrays(inputs, np.array([1, 0]), None, None), 2)
    raw = b"".join(np.float32(value).tobytes() for value in range(6))
    assert built.sha256 == {
        "train_inputs": hashlib.sha256(raw).hexdigest(),
        "train_targets": hashlib.sha256(np.int32([1, 0]).tobytes()).hexdigest(),
    }


def test_own_arrays_from_a_file_and_mapped_from_a_folder(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"inputs": rng.integers(256, size=(6, 4, 4, 1), dtype=np.uint8),
              "targets": rng.normal(size=(6, 2))}  # fmt: skip
    np.savez(tmp_path / "mine.npz", **arrays)
    (tmp_path / "mine").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "mine" / f"{name}.npy", array)
    rows = np.array([4, 0])
    for path in (tmp_path / "mine.npz", tmp_path / "mine"):
        found = data.load(f"npz:{path}")
        assert isinstance(found.train_inputs, Mapped) == path.is_dir()
        np.testing.assert_allclose(found.train_inputs[rows], arrays["inputs"][rows] / 255, 1e-7)
        np.testing.assert_array_equal(
            found.train_targets[1:3], arrays["targets"][1:3].astype(np.float32)
        )
        assert found.sha256 == data.load(f"npz:{tmp_path / 'mine.npz'}").sha256
        assert (found.name, found.label, found.num_classes) == (f"npz:{path}", "mine", 0)
        assert found.test_inputs is None


# The look-up


@pytest.mark.parametrize("name", ["", "MNIST", "imagenet", "npz:", "npz", "tfds:", "glyphs:x"])
def test_unknown_names_are_answered_with_the_known_ones(name):
    with pytest.raises(
        InputError, match=r"auto, glyphs, sums, mnist, .*cifar100, npz:PATH, tfds:NAME, found"
    ):
        data.load(name)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
@pytest.mark.parametrize("subfolder", [True, False])
@pytest.mark.parametrize("named", ["argument", "variable"])
def test_files_in_the_data_folder(name, subfolder, named, tmp_path, monkeypatch, small_digits):
    arrays = files.digits()
    folder = files.lay_digits(tmp_path / name if subfolder else tmp_path, arrays)
    if named == "variable":
        monkeypatch.setenv("JAXSCAPE_DATA_DIR", str(tmp_path))
    dataset = data.load(name, data_dir=tmp_path if named == "argument" else None)
    files.check(dataset, arrays)
    assert (dataset.name, dataset.num_classes, dataset.note) == (name, 10, "")
    assert str(folder) in dataset.source


@pytest.mark.parametrize(("name", "num_classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_in_the_data_folder(name, num_classes, tmp_path, monkeypatch):
    members, splits = files.cifar(data.PUBLISHED[name])
    (tmp_path / name).mkdir()
    archive = tmp_path / name / data.PUBLISHED[name].archive
    files.tarball(archive, members)
    small = dataclasses.replace(data.PUBLISHED[name], sha256=sha256(archive))
    monkeypatch.setitem(data.PUBLISHED, name, small)
    dataset = data.load(name, data_dir=tmp_path)
    np.testing.assert_array_equal(dataset.train_inputs, np.float32(splits[0]) / 255)
    np.testing.assert_array_equal(dataset.test_targets, splits[3])
    assert dataset.num_classes == num_classes


def test_the_argument_comes_before_the_variable(tmp_path, monkeypatch, small_digits):
    first, second = files.digits(seed=1), files.digits(seed=2)
    files.lay_digits(tmp_path / "argument", first)
    files.lay_digits(tmp_path / "variable", second)
    monkeypatch.setenv("JAXSCAPE_DATA_DIR", str(tmp_path / "variable"))
    files.check(data.load("mnist", data_dir=tmp_path / "argument"), first)


def test_its_own_folder_comes_first_then_files_then_prepared(tmp_path, small_digits):
    loose, own, ready = (files.digits(seed=seed) for seed in (1, 2, 3))
    files.prepare(tmp_path, ready)
    files.check(data.load("mnist", data_dir=tmp_path), ready)
    files.lay_digits(tmp_path, loose)
    files.check(data.load("mnist", data_dir=tmp_path), loose)
    files.lay_digits(tmp_path / "mnist", own)
    files.check(data.load("mnist", data_dir=tmp_path), own)


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


@pytest.mark.parametrize("name", [*data.PUBLISHED, "tfds:mnist"])
def test_a_named_data_set_is_never_replaced(name, tmp_path, small_glyphs, no_network):
    with pytest.raises(data.Unavailable, match="JAXSCAPE_OFFLINE") as caught:
        data.load(name, data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert no_network == []


def test_auto_is_glyphs_where_mnist_cannot_be_had_and_says_why(
    small_glyphs, no_network, monkeypatch
):
    dataset = data.load("auto")
    assert (dataset.name, dataset.num_classes) == ("glyphs", 10)
    assert dataset.note.startswith("glyphs in place of mnist")
    assert "JAXSCAPE_OFFLINE" in dataset.note
    assert "\n" not in dataset.note
    assert no_network == []
    np.testing.assert_array_equal(dataset.train_targets, small_glyphs[0].train_targets)
    monkeypatch.delenv("JAXSCAPE_OFFLINE")
    dataset = data.load("auto")
    assert dataset.name == "glyphs"
    assert "expected to download https://" in dataset.note
    assert no_network != []


def test_auto_takes_mnist_from_disk(tmp_path, no_network, small_digits):
    arrays = files.digits()
    files.lay_digits(tmp_path, arrays)
    dataset = data.load("auto", data_dir=tmp_path)
    assert (dataset.name, dataset.note) == ("mnist", "")
    files.check(dataset, arrays)


# Glyphs and their cache


def test_glyphs_are_drawn_once_then_read_from_the_cache(small_glyphs, alone):
    first, second = data.load("glyphs"), data.load("glyphs")
    assert len(small_glyphs) == 1
    assert (first.name, first.num_classes, first.note) == ("glyphs", 10, "")
    assert "matplotlib" in first.source
    assert first.train_inputs.shape == (10, 28, 28, 1)
    assert first.sha256 == second.sha256
    assert set(first.sha256) == set(Arrays._fields)
    assert len(list((alone / ".cache" / "jaxscape" / "glyphs").iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None], ids=["empty", "stub", "halved"])
def test_a_damaged_cache_is_drawn_again(damage, small_glyphs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = data.load("glyphs")
    (path,) = (tmp_path / "jaxscape" / "glyphs").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert data.load("glyphs").sha256 == first.sha256
    assert len(small_glyphs) == 2
    assert path.stat().st_size == len(whole)


def test_a_cache_that_cannot_be_written_is_no_error(small_glyphs, alone):
    (alone / ".cache").write_text("not a folder")
    assert len(data.load("glyphs").train_inputs) == 10


# Downloads


@pytest.mark.parametrize("name", list(data.PUBLISHED))
def test_the_record_is_that_of_the_files_that_are_read(name):
    recorded = {url.rpartition("/")[2]: sha256 for url, sha256 in data.records(name).items()}
    reader = data.PUBLISHED[name]
    if isinstance(reader, IdxFiles):
        assert set(recorded) == {f"{stem}.gz" for stem in STEMS}
    else:
        assert recorded == {reader.archive: reader.sha256}
    if name == "mnist":
        digest = "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        assert recorded["t10k-labels-idx1-ubyte.gz"] == digest


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def served(tmp_path, serve, small_digits, monkeypatch):
    """Small digits that count as published, on a mirror: folder, arrays, URL, paths asked for."""
    arrays = files.digits()
    folder = files.lay_digits(tmp_path / "remote", arrays, suffix=".gz")
    records = {f"http://127.0.0.1:9/far/{p.name}": sha256(p) for p in sorted(folder.iterdir())}
    monkeypatch.setattr(data, "records", lambda name: records)
    url, asked = serve(folder)
    monkeypatch.setenv("JAXSCAPE_MIRROR", url)
    return folder, arrays, url, asked


def test_download_then_cache(served, monkeypatch, capfd):
    _, arrays, url, asked = served
    dataset = data.load("kmnist")
    files.check(dataset, arrays)
    assert url.rstrip("/") in dataset.source
    assert len(asked) == 4
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("JAXSCAPE_OFFLINE", "1")
    files.check(data.load("kmnist"), arrays)
    assert len(asked) == 4
    assert len(list((data.cache_folder() / "kmnist").iterdir())) == 4


def test_what_is_missing_or_damaged_is_fetched_again(served):
    folder, arrays, _, asked = served
    hidden = folder / "train-images-idx3-ubyte.gz"
    raw = hidden.read_bytes()
    hidden.unlink()
    with pytest.raises(data.Unavailable, match=r"train-images-idx3-ubyte\.gz .*found: 404"):
        data.load("mnist")
    hidden.write_bytes(raw)
    (data.cache_folder() / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"other")
    del asked[:]
    files.check(data.load("mnist"), arrays)
    assert sorted(asked) == [
        f"/{name}.gz"
        for name in ("t10k-labels-idx1-ubyte", "train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    ]


@pytest.fixture
def remote(tmp_path, serve):
    """A file on a server: the file, its URL, its SHA-256, the paths asked for."""
    path = tmp_path / "remote" / "data.gz"
    path.parent.mkdir()
    path.write_bytes(bytes(range(256)) * 1000)
    url, asked = serve(path.parent)
    return path, f"{url}data.gz", sha256(path), asked


@pytest.fixture(params=[None, b"old"], ids=["nothing there", "a file there"])
def refused(request, tmp_path):
    """``fetch`` fails with a message in one line and leaves its folder as it was."""
    target = tmp_path / "cache" / "data.gz"
    target.parent.mkdir()
    if request.param:
        target.write_bytes(request.param)
    before = list(target.parent.iterdir())

    def check(url, digest, message):
        with pytest.raises(data.Unavailable, match=message) as caught:
            data.fetch(url, target, digest)
        assert "\n" not in str(caught.value)
        assert list(target.parent.iterdir()) == before
        assert not before or target.read_bytes() == request.param
        return str(caught.value)

    return check


@pytest.mark.parametrize("damage", ["altered", "short", "absent"])
def test_a_file_that_is_not_the_published_one_is_refused(damage, remote, refused):
    path, url, digest, _ = remote
    raw = path.read_bytes()
    if damage == "absent":
        path.unlink()
        refused(url, digest, "404.*check the network")
        return
    path.write_bytes(raw[:-1] + (b"\x00" if damage == "altered" else b""))
    assert sha256(path) in refused(url, digest, f"to download {url} to .*{digest}")


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\nContent-Length: 256000\r\n\r\nhalf"])
def test_a_server_that_stalls_or_hangs_up_half_way(answer, remote, refused, monkeypatch):
    monkeypatch.setattr(data, "TIMEOUT", (5.0, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        if answer:
            threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/data.gz"
        refused(url, remote[2], "broken|timed out")


def test_no_server_or_no_address(remote, refused):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused(f"http://127.0.0.1:{port}/data.gz", remote[2], "[Cc]onnection refused")
    refused("nowhere/data.gz", remote[2], "nowhere/data.gz")


def test_five_seconds_to_connect(remote, refused, monkeypatch):
    """The limit is handed on; waiting it out would be a timed test."""
    seen = []

    def get(url, timeout, **_):
        seen.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr("requests.get", get)
    refused(remote[1], remote[2], "timed out")
    assert seen == [(5.0, 30.0)]


def test_a_cache_folder_that_cannot_be_written(remote, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(data.Unavailable, match=r"to .*file.*data\.gz, found: .*the folder"):
        data.fetch(remote[1], tmp_path / "file" / "data.gz", remote[2])


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("yes", True), ("0", False), ("", 0)])
def test_offline_asks_nobody(value, offline, remote, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSCAPE_OFFLINE", value)
    if offline:
        with pytest.raises(data.Unavailable, match="while JAXSCAPE_OFFLINE is set; unset it"):
            data.fetch(remote[1], tmp_path / "data.gz", remote[2])
    else:
        data.fetch(remote[1], tmp_path / "data.gz", remote[2])
    assert len(remote[3]) == (not offline)


# The real files


@needs_mnist
def test_real_mnist_through_the_real_download(serve, monkeypatch):
    monkeypatch.setenv("JAXSCAPE_MIRROR", serve(Path(REAL) / "mnist")[0])
    fetched = data.load("auto")
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
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_files_altered_truncated_or_of_another_set_are_refused(name, tmp_path):
    """One pixel altered and zipped again; a file cut short; the other set's file in its place."""
    file = "t10k-images-idx3-ubyte.gz"
    for path in (Path(REAL) / name).glob("*.gz"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / file).unlink()
    whole = (Path(REAL) / name / file).read_bytes()
    raw = bytearray(gzip.decompress(whole))
    raw[5000] ^= 1
    other = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}[name]
    for spoilt, message in (
        (gzip.compress(raw, 1), f"to hold {name} as published.* no known data set"),
        (whole[:-1000], "to be whole gzip data"),
        ((Path(REAL) / other / file).read_bytes(), f"found the contents of {other}"),
    ):
        (tmp_path / file).write_bytes(spoilt)
        with pytest.raises(InputError, match=message) as caught:
            data.load(name, data_dir=tmp_path)
        assert str(tmp_path / file) in str(caught.value)


@needs_mnist
def test_real_fashion_mnist_in_other_wrappers():
    found = data.load("fashion_mnist", data_dir=REAL)
    assert found.train_targets[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert np.bincount(found.train_targets).tolist() == [6000] * 10
    assert abs(found.train_inputs.mean(dtype=float) - 0.2860) < 5e-5
