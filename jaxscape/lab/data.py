"""The registry of data sets: what each name stands for, and where its arrays are looked for."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxscape.lab import glyphs, sums
from jaxscape.lab.readers import Arrays, CifarFiles, IdxFiles, check_labels, read_npz
from jaxscape.lab.stream import Mapped, blocks
from jaxscape.types import InputError

PUBLISHED: dict[str, IdxFiles | CifarFiles] = {
    **{name: IdxFiles(name) for name in ("mnist", "fashion_mnist", "kmnist")},
    "cifar10": CifarFiles(10, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    "cifar100": CifarFiles(100, "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
}
"""The reader of each data set that is published as files."""

TITLES = dict(
    zip(PUBLISHED, ("MNIST", "Fashion-MNIST", "KMNIST", "CIFAR-10", "CIFAR-100"), strict=True)
)
"""What data sets are called on figures and in reports."""

NAMES = ("auto", "glyphs", "sums", *PUBLISHED, "npz:PATH", "tfds:NAME")
Folder = str | os.PathLike | None

TIMEOUT = (5.0, 30.0)
"""Seconds that a download waits for a connection, and for the next bytes."""


class Unavailable(InputError):
    """A data set that cannot be had now."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named data set, ready for a network.

    ``inputs`` are float32, images [n, h, w, c] in [0, 1]; ``targets`` are int32 classes [n], or
    float32 values where ``num_classes`` is 0. Sequences are int32 tokens [n, t] with
    ``targets`` [n, a], what follows each of the last a ≤ t of them, −1 where it does not count;
    ``num_classes`` is then the number of different tokens. Of a training split that is
    memory-mapped, ``[rows]`` reads and converts the rows asked for. ``source`` says where the data
    came from, ``note`` in one line what the reader of a result should know of them, if anything.
    """

    name: str
    source: str
    train_inputs: Float[np.ndarray, "n ..."] | Int[np.ndarray, "n t"] | Mapped
    train_targets: Int[np.ndarray, "n *a"] | Float[np.ndarray, "n ..."] | Mapped
    test_inputs: Float[np.ndarray, "n_test ..."] | Int[np.ndarray, "n_test t"] | None
    test_targets: Int[np.ndarray, "n_test *a"] | Float[np.ndarray, "n_test ..."] | None
    num_classes: int
    note: str = ""

    @property
    def label(self) -> str:
        """The name, fit for a file name or a figure: of ``npz:PATH`` the file's stem."""
        kind, _, path = self.name.partition(":")
        return re.sub(r"[^\w.-]+", "-", Path(path).stem or kind) if path else kind

    @property
    def title(self) -> str:
        """What it is called on figures and in reports."""
        return TITLES.get(self.name, self.label)

    @property
    def has_tokens(self) -> bool:
        """Whether a sample is a sequence of tokens."""
        return np.issubdtype(self.train_inputs.dtype, np.integer)

    @functools.cached_property
    def sha256(self) -> dict[str, str]:
        """The SHA-256 of the raw bytes (C order) of each array that is there."""
        found = {}
        for field in Arrays._fields:
            if getattr(self, field) is not None:
                digest = hashlib.sha256()
                for block in blocks(getattr(self, field)):
                    digest.update(np.ascontiguousarray(block).data)
                found[field] = digest.hexdigest()
        return found


def build(name: str, source: str, arrays: Arrays, num_classes: int, note: str = "") -> Dataset:
    """A data set of ``arrays``: bytes scaled to [0, 1], other integers int32, the rest float32.

    A training split that is memory-mapped stays so.
    """
    found: dict[str, Any] = {field: _ready(field, each) for field, each in arrays._asdict().items()}
    return Dataset(name, source, **found, num_classes=num_classes, note=note)


def load(name: str, *, data_dir: Folder = None) -> Dataset:
    """The data set ``name``, one of ``NAMES``; ``npz:PATH`` as ``readers.read_npz`` explains.

    A published data set is looked for as its published files in ``data_dir/name``, then in
    ``data_dir`` (by default $JAXSCAPE_DATA_DIR), then as a folder that TensorFlow Datasets has
    prepared in ``data_dir`` or in its default place, then among earlier downloads in
    ``cache_folder()``. If it is nowhere, it is downloaded, with the checksums that TensorFlow
    Datasets records. JAXSCAPE_OFFLINE=1 forbids the download; JAXSCAPE_MIRROR names another server.

    ``tfds:NAME`` is an image classification data set that TensorFlow Datasets has prepared in
    ``data_dir`` or in its default place, or else prepares there.

    ``auto`` is MNIST where it can be had, else ``glyphs`` with a ``note`` that says why. No other
    name is ever replaced by another data set.

    Raises ``InputError`` for an unknown name, a folder or file that cannot be read, and data that
    are missing, truncated, altered or inconsistent.

    >>> load("sums").train_inputs.shape
    (60000, 11)
    """
    kind, _, rest = name.partition(":")
    try:
        if name in PUBLISHED:
            return _published(name, data_dir)
        if name == "glyphs":
            return _glyphs()
        if name == "sums":
            source = "sums of two numbers, made on the fly"
            return build(name, source, sums.draw(), len(sums.CHARACTERS))
        if name == "auto":
            try:
                return _published("mnist", data_dir)
            except Unavailable as error:
                return _glyphs(f"glyphs in place of mnist, which could not be had: {error}")
        if kind == "npz" and rest:
            return build(name, f"arrays in {rest}", *read_npz(Path(rest).expanduser()))
        if kind == "tfds" and rest and (found := _of_tfds(name, data_dir, prepare=True)):
            return found
    except OSError as error:
        said = f"expected data that can be read, found: {error}; check the permissions"
        raise InputError(said) from error
    known = ", ".join(NAMES)
    raise InputError(f"expected one of the data sets {known}, found {name!r}; choose one of them")


def is_offline() -> bool:
    """Whether JAXSCAPE_OFFLINE forbids every network use."""
    return os.environ.get("JAXSCAPE_OFFLINE", "0") not in ("", "0")


def records(name: str) -> dict[str, str]:
    """URL and SHA-256 of each file of a published data set, as TensorFlow Datasets records them."""
    import tensorflow_datasets as tfds  # slow to import; most runs do without

    return {url: info.checksum for url, info in tfds.builder_cls(name).url_infos.items()}


def fetch(url: str, path: Path, sha256: str) -> None:
    """Download ``url`` to ``path``, unless it holds exactly the published bytes already.

    Raises ``Unavailable`` where JAXSCAPE_OFFLINE forbids it, the server does not deliver, the bytes
    have another SHA-256, or ``path`` cannot be written. What was there then stays.
    """
    import pooch

    def download(*where: Any) -> None:
        if is_offline():
            raise OSError("no whole file there while JAXSCAPE_OFFLINE is set; unset it")
        pooch.HTTPDownloader(timeout=TIMEOUT)(*where)

    pooch.get_logger().setLevel("WARNING")  # it would tell of every file on stderr
    try:
        pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=download)
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"expected to download {url} to {path}, found: {_reason(error)}; check the network and "
            "the folder, or get the file elsewhere and name its folder as data directory"
        ) from error


def _published(name: str, data_dir: Folder) -> Dataset:
    files = PUBLISHED[name]
    root = _root(data_dir)
    for folder in [root / name, root] if root else []:
        if arrays := files.read(folder):
            return build(name, f"files in {folder}", arrays, files.num_classes)
    if prepared := _of_tfds(name, data_dir, prepare=False):
        return prepared
    folder, server = cache_folder() / name, ""
    for url, sha256 in records(name).items():
        server, _, file = url.rpartition("/")
        server = (os.environ.get("JAXSCAPE_MIRROR") or server).rstrip("/")
        fetch(f"{server}/{file}", folder / file, sha256)
    fetched: Any = files.read(folder)
    return build(name, f"downloaded from {server}, kept in {folder}", fetched, files.num_classes)


def _of_tfds(name: str, data_dir: Folder, *, prepare: bool) -> Dataset | None:
    """Data set ``name`` as TensorFlow Datasets has prepared it, or prepares it now, else None."""
    import tensorflow_datasets as tfds

    plain = name.removeprefix("tfds:")
    default = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    places = [place for place in (_root(data_dir), default) if place]
    try:
        for place in places:
            with contextlib.suppress(tfds.core.DatasetNotFoundError):
                builder = tfds.core.read_only_builder.builder_from_files(plain, data_dir=str(place))
                return _images_of(builder, name)
        if not prepare:
            return None
        builder = tfds.builder(plain, data_dir=default)
        if not builder.is_prepared():
            _image_and_label(builder)
            if is_offline():
                raise Unavailable(
                    f"expected {plain} prepared in {' or '.join(map(str, places))}, found none "
                    "while JAXSCAPE_OFFLINE is set; unset it to have it prepared"
                )
            _import_tensorflow()
            builder.download_and_prepare()
        return _images_of(builder, name)
    except InputError:
        raise
    except Exception as error:  # TensorFlow Datasets and TensorFlow raise errors of their own
        raise InputError(
            f"expected a data set that TensorFlow Datasets prepares, or has prepared whole, as "
            f"{plain} in {place}, found: {_reason(error)}; check the name, or prepare it again"
        ) from error


def _images_of(builder: Any, name: str) -> Dataset:
    """The splits of a prepared data set, in the order in which they were prepared."""
    import tensorflow_datasets as tfds

    image, label = _image_and_label(builder)
    num_classes = builder.info.features[label].num_classes
    tests = [split for split in ("test", "validation") if split in builder.info.splits]
    found: list[Any] = []
    for split in ("train", *tests[:1]):
        if builder.info.file_format.value == "array_record":  # read without TensorFlow
            examples = builder.as_data_source(split)
        else:
            _import_tensorflow()
            in_turn = tfds.ReadConfig(interleave_cycle_length=1)
            examples = tfds.as_numpy(builder.as_dataset(split=split, read_config=in_turn))
        pairs = [(each[image], each[label]) for each in examples]
        where, sizes = f"split {split} of {builder.data_path}", {x.shape for x, _ in pairs}
        if len(sizes) != 1 or pairs[0][0].dtype != np.uint8:
            raise InputError(
                f"expected images of bytes and of one size in {where}, found {len(pairs)} "
                f"images of {len(sizes)} sizes; save them alike as npz:PATH"
            )
        images, labels = map(np.stack, zip(*pairs, strict=True))
        check_labels(labels, num_classes, where)
        found += [images, labels]
    source = f"{builder.data_path}, prepared by TensorFlow Datasets in an order of its own"
    return build(name, source, Arrays(*found), num_classes)


def _image_and_label(builder: Any) -> tuple[str, str]:
    """The names of what is classified and of its class."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    image, label = builder.info.supervised_keys or ("image", "label")
    if not (
        {image, label} <= set(features)
        and isinstance(features[image], tfds.features.Image)
        and isinstance(features[label], tfds.features.ClassLabel)
    ):
        raise InputError(
            f"expected images with one class each in {builder.name}, found "
            f"{', '.join(features)}; choose an image classification data set"
        )
    return image, label


def _import_tensorflow() -> None:
    """Import it without a GPU, of whose memory it would leave none to JAX."""
    try:
        import tensorflow
    except ImportError as error:
        raise Unavailable(
            "expected TensorFlow, by which TensorFlow Datasets prepares and reads data, found "
            f"none ({_reason(error)}); pip install '.[tfds]'"
        ) from error
    tensorflow.config.set_visible_devices([], "GPU")


def _glyphs(note: str = "") -> Dataset:
    """Glyphs from the cache, drawn where they are not there."""
    path = cache_folder() / "glyphs" / f"{glyphs.recipe()}.npz"
    # A cache that is absent, damaged or unwritable only costs the drawing.
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = Arrays(*(stored[field] for field in Arrays._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        arrays = glyphs.split()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **arrays._asdict())
    return build("glyphs", "drawn from matplotlib's fonts", arrays, 10, note)


def _root(data_dir: Folder) -> Path | None:
    """The folder of the user's data, None where none is named."""
    given = data_dir or os.environ.get("JAXSCAPE_DATA_DIR")
    if not given:
        return None
    root = Path(given).expanduser()
    if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK)):
        found = "one that cannot be read" if root.is_dir() else "none"
        wanted = f"expected a data folder at {root}, found {found}"
        raise InputError(f"{wanted}; check --data-dir or JAXSCAPE_DATA_DIR")
    return root


def cache_folder() -> Path:
    """Where downloads and drawn glyphs are kept: jaxscape under $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "jaxscape").expanduser()


def _reason(error: Exception) -> str:
    """The cause in one line; a failed request wraps it in several layers of its own."""
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause)).split("\n")[0] or type(error).__name__


def _ready(field: str, array: np.ndarray | None) -> np.ndarray | Mapped | None:
    """The array in the type that a network takes; values of a map are converted when read."""

    def convert(rows: np.ndarray) -> np.ndarray:
        if rows.dtype == np.uint8 and field.endswith("inputs"):
            return np.divide(rows, 255, dtype=np.float32)
        return rows.astype(np.int32 if np.issubdtype(rows.dtype, np.integer) else np.float32)

    if isinstance(array, np.memmap) and convert(array[:0]).dtype != np.int32:
        return Mapped(array, convert)
    return None if array is None else convert(array)
