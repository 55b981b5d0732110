"""Download of a published file, checked before it takes its name."""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import requests

from jaxscape.lab import cache
from jaxscape.lab.published import Published
from jaxscape.types import InputError

CONNECT = 5.0  # seconds to wait for a connection


STALL = 30.0  # seconds to wait for the next bytes


BLOCK = 1 << 16  # bytes written at once


class Unavailable(InputError):
    """A published file that cannot be had now."""


def address(record: Published) -> str:
    """Where to fetch a file: as recorded, or under the URL in $JAXSCAPE_MIRROR if that is set."""
    mirror = os.environ.get("JAXSCAPE_MIRROR")
    return f"{mirror.rstrip('/')}/{record.url.rpartition('/')[2]}" if mirror else record.url


def fetch(record: Published, path: Path) -> None:
    """Download a published file to ``path``, which holds exactly the published bytes or nothing.

    Raises ``Unavailable`` where JAXSCAPE_OFFLINE forbids it, the server does not deliver, the bytes
    are not the published ones, or ``path`` cannot be written.
    """
    url = address(record)
    if os.environ.get("JAXSCAPE_OFFLINE", "0") not in ("", "0"):
        raise Unavailable(
            f"expected {path.name} on disk, found none while JAXSCAPE_OFFLINE is set; "
            f"unset it, or get {url} elsewhere and name its folder as data directory"
        )
    try:
        with (
            cache.replacing(path) as file,
            requests.get(url, stream=True, timeout=(CONNECT, STALL)) as response,
        ):
            response.raise_for_status()
            _receive(response, file, record, url)
    except requests.RequestException as error:
        raise Unavailable(
            f"expected to download {url}, found: {_reason(error)}; "
            "check the network, or get the file elsewhere and name its folder as data directory"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"expected to write {path}, found: {error.strerror}; name a writable cache folder"
        ) from error


def _receive(response: requests.Response, file: BinaryIO, record: Published, url: str) -> None:
    """Copy the response into ``file``; ``Unavailable`` where it is not what is recorded."""
    digest, size = hashlib.sha256(), 0
    for block in response.iter_content(BLOCK):
        file.write(block)
        digest.update(block)
        size += len(block)
        if size > record.size:
            break
    if (size, digest.hexdigest()) != (record.size, record.sha256):
        found = f"over {record.size}" if size > record.size else size
        raise Unavailable(
            f"expected {url} with {record.size} bytes of SHA-256 {record.sha256}, "
            f"found {found} bytes of SHA-256 {digest.hexdigest()}: it is truncated or altered; "
            "try again, or name another server in JAXSCAPE_MIRROR"
        )


def _reason(error: requests.RequestException) -> str:
    """The cause in a few words; requests wraps it in several layers of its own."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT:g} s"
    cause = error.args[0] if error.args else error
    return " ".join(str(getattr(cause, "reason", cause)).split())
