"""A data set that TensorFlow Datasets has prepared on disk, read without TensorFlow."""

import io
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from jaxscape.lab import tfrecord
from jaxscape.lab.dataset import Arrays, check_labels, check_lengths
from jaxscape.types import InputError


def default_root() -> Path:
    """Where TensorFlow Datasets keeps what it has prepared."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(name: str, root: Path) -> Path | None:
    """The folder ``root/name/VERSION`` of the highest version, None where there is none."""
    folders = [info.parent for info in root.glob(f"{name}/*.*.*/dataset_info.json")]
    return max(folders, key=_version, default=None)


def read(folder: Path, num_classes: int) -> Arrays:
    """Images [n, h, w, c] with labels of both splits, in the order in which they were prepared.

    Raises ``InputError`` naming the folder or file where either is incomplete, of another format
    than array_record or tfrecord, or altered.
    """
    try:
        return _read(folder, num_classes)
    except InputError:
        raise
    except Exception as error:  # whatever three libraries raise on altered files
        raise InputError(
            f"expected a data set that TensorFlow Datasets prepared in {folder}, found: "
            f"{' '.join(str(error).split())}; prepare it again, or remove the folder"
        ) from error


def _version(folder: Path) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in folder.name.split(".")]


def _read(folder: Path, num_classes: int) -> Arrays:
    import tensorflow_datasets as tfds  # slow to import; most runs do without

    builder = tfds.builder_from_directory(folder)
    undecoded = {"image": tfds.decode.SkipDecoding()}  # its own decoder warns without OpenCV
    splits = []
    for split in ("train", "test"):
        examples = (
            builder.info.features.deserialize_example_np(record, decoders=undecoded)
            for record in _records(builder, split)
        )
        images, labels = _stack(examples)
        where = f"split {split} of {folder}"
        if len(images) != builder.info.splits[split].num_examples:
            raise InputError(
                f"expected {builder.info.splits[split].num_examples} samples in {where}, "
                f"found {len(images)}; prepare it again, or remove the folder"
            )
        check_lengths(images, labels, where)
        check_labels(labels, num_classes, where)
        splits += [images, labels]
    return Arrays(*splits)


def _records(builder, split: str) -> Iterable[bytes]:
    import tensorflow_datasets as tfds

    file_format = builder.info.file_format.value
    if file_format == "tfrecord":
        for path in builder.info.splits[split].filepaths:
            yield from tfrecord.read(Path(path))
    elif file_format == "array_record":
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        yield from builder.as_data_source(split, deserialize_method=raw)
    else:
        raise InputError(
            f"expected {builder.data_dir} in format tfrecord or array_record, found {file_format}; "
            "prepare it in one of those"
        )


def _stack(
    examples: Iterable[dict],
) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, "n"]]:
    images, labels = [], []
    for example in examples:
        with Image.open(io.BytesIO(example["image"])) as image:
            images.append(np.atleast_3d(np.asarray(image)))
        labels.append(example["label"])
    return np.stack(images), np.array(labels)
