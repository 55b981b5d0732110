"""The record of published files, read from TensorFlow Datasets as it is installed."""

import hashlib

import pytest

from jaxscape.lab import cifar, mnist, published
from jaxscape.types import InputError


@pytest.mark.parametrize("name", list(mnist.CLASSES))
def test_the_four_files_are_recorded(name):
    assert set(published.files(name)) == {f"{stem}.gz" for stem in mnist.PARTS}


@pytest.mark.parametrize("name", list(cifar.CLASSES))
def test_the_binary_archive_is_recorded(name):
    assert set(published.files(name)) == {cifar.LAYOUTS[name].archive}


def test_mnist_is_the_one_everybody_knows():
    labels = published.files("mnist")["t10k-labels-idx1-ubyte.gz"]
    assert labels.size == 4542
    assert labels.sha256 == "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    assert labels.url.startswith("https://")


def test_verification(tmp_path):
    path = tmp_path / "file"
    record = published.Published("http://x/file", 3, hashlib.sha256(b"abc").hexdigest())
    assert not published.matches(path, record)
    path.write_bytes(b"abc")
    assert published.matches(path, record)
    published.verify(path, record)
    for raw in (b"abd", b"ab", b"abcd", b""):
        path.write_bytes(raw)
        assert not published.matches(path, record)
        with pytest.raises(InputError, match=f"found {len(raw)} bytes") as caught:
            published.verify(path, record)
        for part in (str(path), record.sha256, hashlib.sha256(raw).hexdigest()):
            assert part in str(caught.value)
