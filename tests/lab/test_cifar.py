"""CIFAR's binary version: archive or unpacked, whole or damaged."""

import files
import numpy as np
import pytest

from jaxscape.lab import cifar
from jaxscape.types import InputError


def contents(name, per_file=4, seed=0):
    """Random records of every file, with images [n, 32, 32, 3] and labels of both splits."""
    layout, rng = cifar.LAYOUTS[name], np.random.default_rng(seed)
    members, splits = {}, []
    for split in (layout.train, layout.test):
        images = rng.integers(0, 256, (len(split) * per_file, 32, 32, 3), np.uint8)
        labels = np.stack([rng.integers(0, c, len(images)) for c in layout.classes], 1)
        for number, file in enumerate(split):
            raw = b""
            for i in range(number * per_file, (number + 1) * per_file):
                planes = [images[i, :, :, colour].tobytes() for colour in range(3)]
                raw += bytes(labels[i].tolist()) + b"".join(planes)
            members[f"{layout.folder}/{file}"] = raw
        splits += [images, labels[:, -1]]
    return members, splits


def unpack(members, folder, flat=False):
    for name, raw in members.items():
        path = folder / (name.split("/")[1] if flat else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


def check(read, splits):
    for found, expected in zip(read, splits, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", list(cifar.LAYOUTS))
@pytest.mark.parametrize("flat", [True, False])
def test_unpacked(name, flat, tmp_path):
    members, splits = contents(name)
    unpack(members, tmp_path, flat)
    assert cifar.present(name, tmp_path)
    check(cifar.read(name, tmp_path), splits)


@pytest.mark.parametrize("name", list(cifar.LAYOUTS))
def test_archive_with_the_published_bytes(name, tmp_path, monkeypatch):
    members, splits = contents(name)
    archive = tmp_path / cifar.LAYOUTS[name].archive
    files.tarball(archive, members)
    records = files.publish(monkeypatch, tmp_path)
    assert cifar.present(name, tmp_path)
    check(cifar.read(name, tmp_path), splits)
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(InputError, match="truncated or altered") as caught:
        cifar.read(name, tmp_path)
    assert records[archive.name].sha256 in str(caught.value)
    assert str(archive) in str(caught.value)


def test_nothing_there(tmp_path):
    assert not cifar.present("cifar10", tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(b"")
    assert not cifar.present("cifar100", tmp_path)


def test_a_missing_batch_is_named(tmp_path):
    unpack(contents("cifar10")[0], tmp_path)
    (tmp_path / "cifar-10-batches-bin/data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"expected data_batch_3\.bin in"):
        cifar.read("cifar10", tmp_path)


def test_a_batch_missing_from_the_archive_is_named(tmp_path, monkeypatch):
    members, _ = contents("cifar100")
    del members["cifar-100-binary/train.bin"]
    files.tarball(tmp_path / "cifar-100-binary.tar.gz", members)
    files.publish(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=r"expected train\.bin in .*cifar-100-binary\.tar\.gz"):
        cifar.read("cifar100", tmp_path)


@pytest.mark.parametrize("raw", [b"not a tar file", b""])
def test_an_archive_that_is_none_is_named(raw, tmp_path, monkeypatch):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(raw)
    files.publish(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz to be a gzipped tar file"):
        cifar.read("cifar10", tmp_path)


@pytest.mark.parametrize("cut", [1, 3072, 4 * 3073])
def test_a_cut_batch_is_named(cut, tmp_path):
    unpack(contents("cifar10")[0], tmp_path)
    path = tmp_path / "cifar-10-batches-bin/test_batch.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"multiple of 3073 bytes in .*test_batch\.bin"):
        cifar.read("cifar10", tmp_path)


@pytest.mark.parametrize(("position", "label"), [(0, 20), (1, 100)])
def test_coarse_or_fine_labels_out_of_range_are_named(position, label, tmp_path):
    members, _ = contents("cifar100")
    raw = bytearray(members["cifar-100-binary/test.bin"])
    raw[3074 + position] = label
    members["cifar-100-binary/test.bin"] = bytes(raw)
    unpack(members, tmp_path)
    with pytest.raises(InputError, match=rf"labels from 0 to {label - 1} in .*test\.bin"):
        cifar.read("cifar100", tmp_path)
