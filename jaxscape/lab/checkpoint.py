"""Named pytrees of arrays on disk, each replaced atomically (Orbax).

Of several processes (``jax.distributed``) every one calls these functions with the same arguments:
Orbax lets process 0 write and the others wait for it.
"""

import contextlib
import gc
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


def save(folder: str | Path, name: str, tree: Any) -> None:
    """Write ``tree`` as the item ``name`` of ``folder``, in place of what had that name.

    Returns once the arrays are on disk. The new version is written beside the old one, which is
    removed when it is complete: a process killed at any instant leaves one of the two whole.

    Args:
        folder: made where it is missing; an ``OSError`` where it cannot be written (a full disk).
        tree: JAX or NumPy arrays with at least one entry each, which every process has whole;
            random keys as ``jax.random.key_data``.
    """
    try:
        if jax.process_count() > 1:
            tree = jax.device_get(tree)  # Orbax expects a JAX array to be spread over all processes
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

    Args:
        folder, name: as it was saved; an ``InputError`` where it is missing or cannot be read.
        like: a pytree of arrays or ``jax.ShapeDtypeStruct`` with the structure, shapes and dtypes
            that are expected, else an ``InputError`` (a checkpoint of other settings); where a
            leaf has a sharding, the array is placed by it.
    """
    if not exists(folder, name):
        raise InputError(f"expected a checkpoint {name!r} in {folder}, found none; save it first")
    expected = _flat(name, like)
    with _manager(folder, name, read_only=True) as manager:
        step = manager.latest_step()
        try:
            stored = manager.item_metadata(step).tree
            kind = lambda leaf: f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"  # noqa: E731
            for path in expected | stored:
                pair = expected.get(path), stored.get(path)
                wanted, found = ("absent" if leaf is None else kind(leaf) for leaf in pair)
                if wanted != found:
                    said = f"expected {path} to be {wanted}, found {found} in {name!r} of {folder}"
                    where = "a checkpoint of other settings; use those settings or another folder"
                    raise InputError(f"{said}, {where}")
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            abstract = {
                path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))
                for path, x in expected.items()
            }
            arguments = ocp.args.StandardRestore(abstract, fallback_sharding=device)
            found = manager.restore(step, args=arguments)
        except InputError:
            raise
        except Exception as error:  # Orbax raises a bare Exception for an unreadable array
            said = f"expected a readable checkpoint {name!r} in {folder}, found: {_reason(error)}"
            raise InputError(f"{said}; remove the folder to start afresh") from error
    return jax.tree.unflatten(jax.tree.structure(like), [found[path] for path in expected])


def _flat(name: str, tree: Any) -> dict[str, Any]:
    """Leaves by path: so any registered pytree goes through Orbax, and a difference has a name."""
    leaves = jax.tree_util.tree_leaves_with_path({name: tree})
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _reason(error: Exception) -> str:
    """One short line; of TensorStore's long ones the system's own words."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if number := int(code[1]) if code else getattr(error, "errno", None):
        return os.strerror(number)
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def _manager(folder: str | Path, name: str, *, read_only: bool) -> Iterator[ocp.CheckpointManager]:
    """One item's versions, numbered. Orbax and asyncio log nothing: what fails is raised as well.

    A save that failed closes its event loop while other arrays are still being written. Each of
    these then fails in a thread or a task where nobody can catch that.
    """
    path, handler = Path(folder).resolve() / name, ocp.StandardCheckpointHandler()
    hook, level = sys.unraisablehook, logging.root.manager.disable
    late = lambda found: str(found.exc_value) == "Event loop is closed"  # noqa: E731
    sys.unraisablehook = lambda found: None if late(found) else hook(found)
    logging.disable()
    try:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False, create=False,
            cleanup_tmp_directories=not read_only, read_only=read_only,
        )  # fmt: skip
        with ocp.CheckpointManager(path, options=options, item_handlers=handler) as manager:
            yield manager
    except Exception:
        time.sleep(0.2)  # in which the other writes end
        gc.collect()  # a task that nobody awaited reports when it is collected
        raise
    finally:
        sys.unraisablehook = hook
        logging.disable(level)
