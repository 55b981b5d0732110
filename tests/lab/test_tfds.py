"""Data sets that TensorFlow Datasets has prepared, or prepares."""

import importlib.util

import files
import numpy as np
import pytest

from jaxscape.lab import data
from jaxscape.types import InputError

pytestmark = pytest.mark.usefixtures("alone")


without_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)


def test_shards_of_array_records_in_the_default_place(alone, no_network):
    arrays = files.digits()
    folder = files.prepare(alone / "tensorflow_datasets", arrays)
    for name in ("mnist", "tfds:mnist"):
        dataset = data.load(name)
        files.check(dataset, arrays)
        assert (dataset.name, dataset.label, dataset.num_classes) == (name, "mnist", 10)
        assert str(folder) in dataset.source
        assert "order" in dataset.source
    assert no_network == []


@without_tensorflow
def test_records_that_need_tensorflow_say_so_where_it_is_missing(alone):
    files.prepare(alone / "tensorflow_datasets", files.digits(), "tfrecord")
    with pytest.raises(InputError, match=r"expected TensorFlow, .*pip install '\.\[tfds\]'"):
        data.load("mnist")


@pytest.mark.parametrize(
    ("file", "keep"),
    [
        ("mnist-test.array_record-00000-of-00001", -50),
        ("dataset_info.json", 5),
        ("features.json", 5),
    ],
)
def test_a_truncated_preparation_is_refused(file, keep, tmp_path):
    path = files.prepare(tmp_path, files.digits()) / file
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"mnist in {tmp_path}.*prepare it again") as caught:
        data.load("mnist", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_the_highest_version_counts(tmp_path):
    for seed, version in ((1, "9.1.0"), (2, "10.0.0")):
        folder = files.prepare(tmp_path, files.digits(seed=seed))
        folder.rename(folder.with_name(version))
    (tmp_path / "mnist" / "11.0.0.incomplete").mkdir()
    files.check(data.load("mnist", data_dir=tmp_path), files.digits(seed=2))


def test_an_unknown_name_of_tensorflow_datasets(no_network):
    with pytest.raises(InputError, match=r"no_such_set not found.*check the name") as caught:
        data.load("tfds:no_such_set")
    assert "\n" not in str(caught.value)
    assert no_network == []


@pytest.mark.slow
def test_tensorflow_datasets_prepares_and_reads(alone, no_network, monkeypatch):
    pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install '.[tfds]'")
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 6, 5, 3), np.uint8), rng.integers(0, 4, 40)

    class LittleImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "picture": tfds.features.Image(shape=(6, 5, 3)),
                "kind": tfds.features.ClassLabel(num_classes=4),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("picture", "kind"),
            )

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(0, 30),
                "test": self._generate_examples(30, 40),
            }

        def _generate_examples(self, start, stop):
            for index in range(start, stop):
                yield index, {"picture": images[index], "kind": int(labels[index])}

    monkeypatch.setenv("JAXSCAPE_OFFLINE", "0")  # nobody knows that this one needs no network
    found = data.load("tfds:little_images")
    assert (found.num_classes, found.label) == (4, "little_images")
    for rows, inputs, targets in (
        (slice(0, 30), found.train_inputs, found.train_targets),
        (slice(30, 40), found.test_inputs, found.test_targets),
    ):
        given = {
            image.tobytes(): label for image, label in zip(images[rows], labels[rows], strict=True)
        }
        stored = np.rint(255 * inputs).astype(np.uint8)
        assert len(stored) == len(given)
        assert {i.tobytes(): label for i, label in zip(stored, targets, strict=True)} == given
    monkeypatch.setenv("JAXSCAPE_OFFLINE", "1")
    assert data.load("tfds:little_images").sha256 == found.sha256
    (shard,) = (alone / "tensorflow_datasets").rglob("*train.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"little_images in .*prepare it again") as caught:
        data.load("tfds:little_images")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="expected images with one class each in imdb_reviews"):
        data.load("tfds:imdb_reviews")
    assert no_network == []
