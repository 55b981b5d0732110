"""Waiting for a device in a way that Ctrl-C can break off."""

import time
from typing import Any

import jax


def wait(tree: Any) -> None:
    """Return once all arrays of ``tree`` are there; ``jax.block_until_ready`` hears no signal."""
    pause = 1e-4
    for leaf in jax.tree.leaves(tree):
        while isinstance(leaf, jax.Array) and not leaf.is_ready():
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
