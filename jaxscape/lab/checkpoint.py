"""Named pytrees of arrays on disk, each replaced atomically (Orbax).

Orbax sees a flat dictionary from path to array, so any registered pytree (NamedTuple, dataclass,
Flax parameters) goes through, and a difference from what is expected has a name.
"""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxscape.types import InputError

LATE = 0.2
"""Seconds in which the other writes of a save that failed come to their end."""


def save(folder: str | Path, name: str, tree: Any) -> None:
    """Write ``tree`` as the item ``name`` of ``folder``, in place of what had that name.

    Returns once the arrays are on disk. The new version is written beside the old one, renamed
    into place when complete, and only then is the old one removed: a process killed at any
    instant leaves one of the two whole.

    ``tree`` holds JAX or NumPy arrays with at least one entry each; random keys go through
    ``jax.random.key_data``. With several processes (``jax.distributed``) all of them save and
    restore the same arrays together, in a folder that they share; process 0 writes. Raises
    ``OSError`` where it cannot be written (a full disk, an unwritable folder), with the last good
    version left as it was.
    """
    try:
        if jax.process_count() > 1:
            tree = jax.device_get(tree)  # Orbax takes a JAX array for one spread over processes
        Path(folder).resolve().joinpath(name).mkdir(parents=True, exist_ok=True)
        with _manager(folder, name, read_only=False) as manager:
            last = manager.latest_step()
            arguments = ocp.args.StandardSave(_flat(name, tree))
            manager.save(0 if last is None else last + 1, args=arguments)
    except Exception as error:  # TensorStore reports a full disk as a bare ValueError
        raise OSError(
            f"expected to write checkpoint {name!r} in {folder}, found: {_reason(error)}; "
            "free some space or choose a writable folder (the last good checkpoint is kept)"
        ) from error


def exists(folder: str | Path, name: str) -> bool:
    """Whether ``folder`` holds a whole item ``name``."""
    item = Path(folder) / name  # Orbax gives a version its number once it is whole
    return item.is_dir() and any(path.name.isdigit() for path in item.iterdir())


def restore(folder: str | Path, name: str, like: Any) -> Any:
    """The item ``name`` of ``folder``, bit-identical to what was saved.

    ``like`` is a pytree of arrays or ``jax.ShapeDtypeStruct`` with the structure, shapes and dtypes
    that are expected; where a leaf has a sharding, the array is placed by it.

    Raises ``InputError`` where there is no such item, where it differs from ``like`` (a
    checkpoint of other settings), and where it cannot be read.
    """
    if not exists(folder, name):
        raise InputError(f"expected a checkpoint {name!r} in {folder}, found none; save it first")
    expected = _flat(name, jax.tree.map(_abstract, like))
    with _manager(folder, name, read_only=True) as manager:
        step = manager.latest_step()
        try:
            stored = manager.item_metadata(step).tree
            _check(folder, name, _kinds(stored), _kinds(expected))
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            arguments = ocp.args.StandardRestore(expected, fallback_sharding=device)
            found = manager.restore(step, args=arguments)
        except InputError:
            raise
        except Exception as error:  # Orbax raises a bare Exception for an unreadable array
            raise InputError(
                f"expected a readable checkpoint {name!r} in {folder}, found: {_reason(error)}; "
                "remove the folder to start afresh"
            ) from error
    return jax.tree.unflatten(jax.tree.structure(like), [found[path] for path in expected])


def _check(folder: str | Path, name: str, stored: dict, expected: dict) -> None:
    different = [p for p in (expected | stored) if stored.get(p) != expected.get(p)]
    if different:
        path = different[0]
        raise InputError(
            f"expected {path} to be {expected.get(path, 'absent')}, found "
            f"{stored.get(path, 'absent')} in checkpoint {name!r} of {folder}, a checkpoint of "
            "other settings; use those settings or another folder"
        )


def _flat(name: str, tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path({name: tree})
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))


def _kinds(flat: dict[str, Any]) -> dict[str, str]:
    return {path: f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for path, leaf in flat.items()}


def _reason(error: Exception) -> str:
    """One short line; of TensorStore's long ones the system's own words."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(code[1]) if code else getattr(error, "errno", None)
    if number:
        return os.strerror(number)
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def _manager(folder: str | Path, name: str, *, read_only: bool) -> Iterator[ocp.CheckpointManager]:
    """One item's versions, numbered; what is logged on the way is silenced, errors are raised."""
    logger, told = logging.getLogger("absl"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda found: None if _is_late(found.exc_value) else told(found)
    try:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=False,
        )
        with ocp.CheckpointManager(
            Path(folder).resolve() / name,
            options=options,
            item_handlers=ocp.StandardCheckpointHandler(),
        ) as manager:
            yield manager
    except Exception:
        time.sleep(LATE)
        raise
    finally:
        logger.setLevel(level)
        sys.unraisablehook = told


def _is_late(error: BaseException | None) -> bool:
    """Whether a write reports to Orbax, which has ended its save because of another one."""
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
