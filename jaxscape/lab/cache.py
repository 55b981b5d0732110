"""Files that can be made again: where they are kept, each one whole or absent."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def folder(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """``<cache_dir>/<name>``; the default is ``jaxscape`` under $XDG_CACHE_HOME or ~/.cache."""
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "jaxscape")
    return Path(cache_dir).expanduser() / name


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file open for writing that takes the name ``path`` if the block ends well, else vanishes.

    Raises ``OSError`` where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
