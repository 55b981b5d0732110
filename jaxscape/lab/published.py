"""What TensorFlow Datasets records of the files in which a data set is published."""

import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

from jaxscape.types import InputError


class Published(NamedTuple):
    """Where a file is published, its size in bytes, the SHA-256 of its bytes."""

    url: str
    size: int
    sha256: str


@functools.cache
def files(name: str) -> dict[str, Published]:
    """The published files of data set ``name`` by file name."""
    import tensorflow_datasets as tfds  # slow to import; most runs do without

    records = tfds.builder_cls(name).url_infos
    return {
        url.rpartition("/")[2]: Published(url, int(record.size), record.checksum)
        for url, record in records.items()
    }


def matches(path: Path, record: Published) -> bool:
    """Whether ``path`` is a file with exactly the published bytes."""
    return path.is_file() and path.stat().st_size == record.size and sha256(path) == record.sha256


def verify(path: Path, record: Published) -> None:
    """Raise ``InputError`` unless ``path`` holds exactly the published bytes."""
    size, digest = path.stat().st_size, sha256(path)
    if (size, digest) != (record.size, record.sha256):
        raise InputError(
            f"expected {path} as published, {record.size} bytes with SHA-256 {record.sha256}, "
            f"found {size} bytes with SHA-256 {digest}: it is truncated or altered; "
            "get it again, or remove it"
        )


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
