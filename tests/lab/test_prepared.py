"""A folder as TensorFlow Datasets prepares it, read where TensorFlow is not installed."""

import subprocess
import sys

import files
import numpy as np
import pytest
from test_tfrecord import write as write_tfrecord

from jaxscape.lab import prepared
from jaxscape.types import InputError


def write_array_record(path, records):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


WRITERS = {"tfrecord": write_tfrecord, "array_record": write_array_record}


def prepare(root, file_format="tfrecord", version="3.0.1", **settings):
    arrays = files.digits(num=5, num_test=4)
    folder = root / "mnist" / version
    files.prepare(folder, arrays, WRITERS[file_format], file_format, **settings)
    return folder, arrays


@pytest.mark.parametrize("file_format", list(WRITERS))
def test_both_formats(file_format, tmp_path):
    folder, arrays = prepare(tmp_path, file_format)
    read = prepared.read(folder, 10)
    images, labels, test_images, test_labels = arrays.values()
    np.testing.assert_array_equal(read.train_inputs, images[..., None])
    np.testing.assert_array_equal(read.train_targets, labels)
    np.testing.assert_array_equal(read.test_inputs, test_images[..., None])
    np.testing.assert_array_equal(read.test_targets, test_labels)
    assert read.train_inputs.dtype == np.uint8


def test_neither_tensorflow_nor_a_word_on_the_streams(tmp_path):
    folder, _ = prepare(tmp_path)
    code = (
        "import pathlib, sys;"
        "from jaxscape.lab import prepared;"
        f"assert len(prepared.read(pathlib.Path({str(folder)!r}), 10).train_inputs) == 5;"
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_highest_version_is_found(tmp_path):
    for version in ("3.0.1", "10.0.0", "9.1.0"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").touch()
    (tmp_path / "mnist" / "11.0.0").mkdir()  # being prepared
    (tmp_path / "mnist" / "12.0.0.incomplete").mkdir()
    assert prepared.find("mnist", tmp_path) == tmp_path / "mnist" / "10.0.0"


def test_none_is_found(tmp_path):
    assert prepared.find("mnist", tmp_path) is None
    assert prepared.find("mnist", tmp_path / "nowhere") is None


def test_default_root(alone, monkeypatch, tmp_path):
    assert prepared.default_root() == alone / "tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert prepared.default_root() == tmp_path


@pytest.mark.parametrize("file_format", list(WRITERS))
def test_a_truncated_shard_is_refused(file_format, tmp_path):
    folder, _ = prepare(tmp_path, file_format)
    shard = folder / f"mnist-test.{file_format}-00001-of-00002"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(InputError, match=str(folder)) as caught:
        prepared.read(folder, 10)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_refused(tmp_path):
    folder, _ = prepare(tmp_path)
    (folder / "mnist-train.tfrecord-00000-of-00002").unlink()
    with pytest.raises(InputError, match=r"mnist-train\.tfrecord-00000-of-00002"):
        prepared.read(folder, 10)


def test_fewer_samples_than_recorded_are_refused(tmp_path):
    folder, _ = prepare(tmp_path, counts={"test": [3, 2]})
    with pytest.raises(InputError, match=r"expected 5 samples in split test of .*found 4"):
        prepared.read(folder, 10)


def test_labels_out_of_range_are_refused(tmp_path):
    folder, _ = prepare(tmp_path)
    with pytest.raises(InputError, match="labels from 0 to 1 in split train"):
        prepared.read(folder, 2)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("text", ["", "{", "{}"])
def test_broken_metadata_are_refused(name, text, tmp_path):
    folder, _ = prepare(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=str(folder)) as caught:
        prepared.read(folder, 10)
    assert "\n" not in str(caught.value)


def test_another_format_is_refused(tmp_path):
    folder, _ = prepare(tmp_path)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"parquet"'))
    with pytest.raises(InputError, match="tfrecord or array_record, found parquet"):
        prepared.read(folder, 10)
