"""Tiny data sets in the formats in which the real ones are published."""

import gzip
import hashlib
import io
import json
import struct
import tarfile

import numpy as np

from jaxscape.lab.published import Published


def idx(array):
    """The bytes of an IDX file of ``array``."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def digits(num=20, num_test=10, seed=0):
    """Random images with labels: the contents of the four files of MNIST by their stems."""
    rng = np.random.default_rng(seed)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (num, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, num, np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (num_test, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, num_test, np.uint8),
    }


def lay_digits(folder, arrays, *, suffix="", dotted=False):
    """Write the four files into ``folder``, plain or gzipped, under either kind of name."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in arrays.items():
        name = (stem.replace("-idx", ".idx") if dotted else stem) + suffix
        (folder / name).write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    return folder


def record(path, url="http://127.0.0.1:9/"):
    """What would be published of the file at ``path``."""
    raw = path.read_bytes()
    return Published(url + path.name, len(raw), hashlib.sha256(raw).hexdigest())


def publish(monkeypatch, folder):
    """Let the files of ``folder`` count as the published ones of every data set."""
    records = {path.name: record(path) for path in sorted(folder.iterdir())}
    monkeypatch.setattr("jaxscape.lab.published.files", lambda name: records)
    return records


def tarball(path, members):
    """Write a .tar.gz of the files ``members`` (name -> bytes)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))


def prepare(folder, arrays, frame, file_format="tfrecord", counts=None):
    """Write a folder as TensorFlow Datasets prepares MNIST; ``frame(path, records)`` each shard."""
    import tensorflow_datasets as tfds

    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    features.save_config(folder)
    images, labels, test_images, test_labels = arrays.values()
    splits = []
    for split, pair in (("train", (images, labels)), ("test", (test_images, test_labels))):
        records = [example(image, label) for image, label in zip(*pair, strict=True)]
        halves = records[: len(records) // 2], records[len(records) // 2 :]
        for number, half in enumerate(halves):
            frame(folder / f"mnist-{split}.{file_format}-{number:05}-of-00002", half)
        lengths = (counts or {}).get(split) or [len(half) for half in halves]
        splits.append({"name": split, "shardLengths": [str(length) for length in lengths]})
        splits[-1]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits[-1]["numBytes"] = "1"
    info = {"name": "mnist", "version": folder.name, "fileFormat": file_format, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def example(image, label):
    """A serialised tf.train.Example of an image as PNG with its label."""
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    png = io.BytesIO()
    Image.fromarray(image).save(png, "png")
    message = tf_example_pb2.Example()
    message.features.feature["image"].bytes_list.value.append(png.getvalue())
    message.features.feature["label"].int64_list.value.append(int(label))
    return message.SerializeToString()
