"""The look-up of a data set by its name."""

import os
from pathlib import Path

from jaxscape.lab import cache, cifar, download, glyphs, mnist, npz, prepared, published, sums
from jaxscape.lab.dataset import Dataset, build
from jaxscape.types import InputError

PUBLISHED = {name: family for family in (mnist, cifar) for name in family.CLASSES}
"""The reader of each data set that is published as files."""


NAMES = ("auto", "glyphs", "sums", *PUBLISHED, "npz:PATH")


def load(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """The data set ``name``, one of ``NAMES``.

    A published data set is looked for as its published files in ``data_dir/name``, then
    ``data_dir`` (default: $JAXSCAPE_DATA_DIR), as a folder prepared by TensorFlow Datasets there or
    in its default place, then among earlier downloads in ``cache_dir`` (default: jaxscape under
    $XDG_CACHE_HOME or ~/.cache); at last it is downloaded, with the sizes and checksums that
    TensorFlow Datasets records. JAXSCAPE_OFFLINE=1 forbids the download; JAXSCAPE_MIRROR names
    another server for it.

    ``auto`` is MNIST where it can be had, else ``glyphs`` with a ``note`` that says why. No other
    name is ever replaced by another data set.

    Raises ``InputError`` for an unknown name, a folder or file that cannot be read, and data that
    are missing, truncated, altered or inconsistent.
    """
    try:
        return _load(name, data_dir, cache_dir)
    except OSError as error:
        raise InputError(
            f"expected data that can be read, found: {error}; check the permissions"
        ) from error


def _load(
    name: str, data_dir: str | os.PathLike | None, cache_dir: str | os.PathLike | None
) -> Dataset:
    if name == "glyphs":
        return _glyphs(cache_dir)
    if name == "sums":
        source = "sums of two numbers, made on the fly"
        return build(name, source, sums.draw(), len(sums.CHARACTERS))
    if name == "auto":
        try:
            return _published("mnist", data_dir, cache_dir)
        except download.Unavailable as error:
            return _glyphs(cache_dir, f"glyphs in place of mnist, which could not be had: {error}")
    if name in PUBLISHED:
        return _published(name, data_dir, cache_dir)
    kind, _, path = name.partition(":")
    if kind == "npz" and path:
        return build(name, f"arrays in {path}", *npz.read(path))
    raise InputError(
        f"expected one of the data sets {', '.join(NAMES)}, found {name!r}; choose one of them"
    )


def _published(
    name: str, data_dir: str | os.PathLike | None, cache_dir: str | os.PathLike | None
) -> Dataset:
    family = PUBLISHED[name]
    num_classes = family.CLASSES[name]
    root = _root(data_dir)
    for folder in [root / name, root] if root else []:
        if family.present(name, folder):
            return build(name, f"files in {folder}", family.read(name, folder), num_classes)
    for place in [root, prepared.default_root()] if root else [prepared.default_root()]:
        if found := prepared.find(name, place):
            source = f"{found}, prepared by TensorFlow Datasets in an order of its own"
            return build(name, source, prepared.read(found, num_classes), num_classes)
    folder = cache.folder(name, cache_dir)
    records = published.files(name)
    for file, record in records.items():
        if not published.matches(folder / file, record):
            download.fetch(record, folder / file)
    server = download.address(next(iter(records.values()))).rpartition("/")[0]
    source = f"downloaded from {server}, kept in {folder}"
    return build(name, source, family.read(name, folder), num_classes)


def _glyphs(cache_dir: str | os.PathLike | None, note: str = "") -> Dataset:
    arrays = glyphs.load(cache_dir=cache_dir)
    return build("glyphs", "drawn from matplotlib's fonts", arrays, 10, note)


def _root(data_dir: str | os.PathLike | None) -> Path | None:
    """The folder of the user's data, None where none is named."""
    given = data_dir or os.environ.get("JAXSCAPE_DATA_DIR")
    if not given:
        return None
    root = Path(given).expanduser()
    if not (root.is_dir() and os.access(root, os.R_OK | os.X_OK)):
        found = "one that cannot be read" if root.is_dir() else "none"
        raise InputError(
            f"expected a data folder at {root}, found {found}; "
            "check --data-dir or JAXSCAPE_DATA_DIR"
        )
    return root
