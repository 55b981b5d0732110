"""Waiting for a device in a way that Ctrl-C can break off."""

import time
from typing import Any

import jax


def wait(tree: Any) -> None:
    """Return once all arrays of ``tree`` are there; ``jax.block_until_ready`` hears no signal."""
    pause = 1e-4
    arrays = (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array))
    for leaf in arrays:
        while not leaf.is_ready():  # type: ignore[attr-defined]  # missing in JAX's stubs
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
