"""Tiny data sets in the formats in which the real ones are published."""

import gzip
import io
import json
import struct
import tarfile

import numpy as np


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


def check(dataset, arrays):
    """That a data set holds these four arrays."""
    images, labels, test_images, test_labels = arrays.values()
    np.testing.assert_array_equal(dataset.train_inputs, np.float32(images[..., None]) / 255)
    np.testing.assert_array_equal(dataset.train_targets, labels)
    np.testing.assert_array_equal(dataset.test_inputs, np.float32(test_images[..., None]) / 255)
    np.testing.assert_array_equal(dataset.test_targets, test_labels)


FOLDERS = {
    10: ("cifar-10-batches-bin", [f"data_batch_{n}.bin" for n in range(1, 6)], ["test_batch.bin"]),
    100: ("cifar-100-binary", ["train.bin"], ["test.bin"]),
}
"""What is in the archive: its folder, the files of both splits; by the number of classes."""


def cifar(reader, per_file=4, seed=0):
    """Random records of every file (name -> bytes), images and labels of both splits."""
    rng = np.random.default_rng(seed)
    folder, *files = FOLDERS[reader.num_classes]
    members, splits = {f"{folder}/batches.meta.txt": b"names"}, []
    for split in files:
        images = rng.integers(0, 256, (len(split) * per_file, 32, 32, 3), np.uint8)
        label_bytes = 2 if reader.num_classes == 100 else 1
        labels = rng.integers(0, reader.num_classes, (len(images), label_bytes))
        for number, file in enumerate(split):
            raw = b""
            for i in range(number * per_file, (number + 1) * per_file):
                planes = [images[i, :, :, colour].tobytes() for colour in range(3)]
                raw += bytes(labels[i].tolist()) + b"".join(planes)
            members[f"{folder}/{file}"] = raw
        splits += [images, labels[:, -1]]
    return members, splits


def tarball(path, members):
    """Write a .tar.gz of the files ``members`` (name -> bytes)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))


def prepare(root, arrays, file_format="array_record"):
    """Write ``root/mnist/3.0.1`` as TensorFlow Datasets prepares it; shards as array_record."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    folder = root / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(28, 28, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    features.save_config(folder)
    splits, values = [], list(arrays.values())
    for split, pair in (("train", values[:2]), ("test", values[2:])):
        writer = ArrayRecordWriter(
            str(folder / f"mnist-{split}.{file_format}-00000-of-00001"), "group_size:1"
        )
        for image, label in zip(*pair, strict=True):
            writer.write(_example(image, label))
        writer.close()
        splits.append({"name": split, "shardLengths": [str(len(pair[0]))], "numBytes": "1"})
        splits[-1]["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "mnist", "version": folder.name, "fileFormat": file_format, "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def _example(image, label):
    """A serialised tf.train.Example of an image as PNG with its label."""
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    png = io.BytesIO()
    Image.fromarray(image).save(png, "png")
    message = tf_example_pb2.Example()
    message.features.feature["image"].bytes_list.value.append(png.getvalue())
    message.features.feature["label"].int64_list.value.append(int(label))
    return message.SerializeToString()
