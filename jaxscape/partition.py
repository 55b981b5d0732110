"""Parameters in two parts, of which only one is looked at."""

from typing import Any

import jax

from jaxscape.types import Params


def partition(params: Params, mask: Any) -> tuple[Params, Params]:
    """The leaves of ``params`` where ``mask`` is True, and the others; ``None`` takes their place.

    ``mask`` is a pytree of Booleans, each for a leaf or for all leaves below it. ``combine`` puts
    the parts together again, so that a loss sees a network of which some parameters are frozen:
    ``jax.tree_util.Partial(lambda rest, part, batch: loss(combine(part, rest), batch), rest)``.
    """
    mask = jax.tree.broadcast(mask, params)
    part = jax.tree.map(lambda leaf, own: leaf if own else None, params, mask)
    rest = jax.tree.map(lambda leaf, own: None if own else leaf, params, mask)
    return part, rest


def combine(part: Params, rest: Params) -> Params:
    """Undo ``partition``, perhaps with other values in ``part``."""
    return jax.tree.map(
        lambda own, other: other if own is None else own, part, rest, is_leaf=lambda x: x is None
    )
