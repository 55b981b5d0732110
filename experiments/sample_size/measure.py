"""What pilots of a few samples say of the sample size that suffices, and how often they are right.

A pilot is the first n samples of some order at a few random points. It is compared with all samples
at all points. Arrays of intervals end in an axis (low, value, high).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import jaxscape as js
from experiments.common.tables import LEVEL
from jaxscape import prefix
from jaxscape.loss_variance import Evidence, estimate_loss_variance, evidence_of, extend, start
from jaxscape.sample_size import SufficientSize

Said = dict[str, Array]
"""``loss_variance``, ``law``, ``distance``, ``exceedance`` [*r, 3]; ``effective``, ``trend``."""


def arrays_of(losses: Float[Array, "M n"], config: Any) -> dict[str, np.ndarray]:
    """The arrays of results.npz at one sigma.

    ``own_*`` are pilots along the order of the data, ``trial_*`` those of random orders, ``true_*``
    what all samples at all points say: E_q S² (``loss_variance``), its effective sample size, K of
    the order law, K_ε (``distance``) and K of Definition 4 in a run (``exceedance``). A K beyond
    all numbers is infinite. ``*_k`` are Definition 4's K of each order run to its end, n where it
    is not reached. ``held_*``: whether a trial's interval held E_q S² of all, or ``trial_k``.
    """
    found, n = pilots(losses, config), losses.shape[1]
    true = jax.jit(lambda x: _answer(config, n, evidence_of(x)) | _last(config, x))(losses)
    own, trial = ({name: x[rows] for name, x in found.items()} for rows in (0, slice(1, None)))
    arrays = {
        f"{whose}_{name}": np.asarray(values)
        for whose, said in (("own", own), ("trial", trial), ("true", true))
        for name, values in said.items()
    }
    wanted = {"loss_variance": true["loss_variance"][1], "exceedance": trial["k"][:, None]}
    for name, value in wanted.items():
        low, _, high = jnp.moveaxis(trial[name], -1, 0)
        arrays[f"held_{name}"] = np.asarray((low <= value) & (value <= high))
    return arrays


@partial(jax.jit, static_argnames="config")
def pilots(losses: Float[Array, "M n"], config: Any) -> Said:
    """What pilots of each size say in R = ``config.trials`` + 1 orders; r = (R, sizes).

    The first keeps the order of the samples and takes the first points, the others draw both.
    """
    total, n = losses.shape
    num, sizes = min(config.pilot_points, total), doubling(config.first_pilot, n)

    def trial(index: Int[Array, ""]) -> Said:
        key = jax.random.fold_in(jax.random.key(config.seed), index)
        for_points, for_samples = jax.random.split(key)
        points = jax.random.choice(for_points, total, (num,), replace=False)
        points = jnp.where(index > 0, points, jnp.arange(num))
        order = jnp.where(index > 0, jax.random.permutation(for_samples, n), jnp.arange(n))
        rows = losses[points][:, order]
        said = jax.vmap(partial(_answer, config, n))(_states(rows, sizes))
        return said | _last(config, rows)

    return jax.lax.map(trial, jnp.arange(config.trials + 1))


def _last(config: Any, losses: Float[Array, "m n"]) -> Said:
    """K by Definition 4 of this order; n where it is not reached."""
    size = js.sufficient_size(jnp.mean(prefix.increments(losses) ** 2, 0), config.tolerance)
    return {"k": jnp.where(size.reached, size.k, losses.shape[1]).astype(jnp.float32)}


def doubling(first: int, n: int) -> tuple[int, ...]:
    """first, 2·first, 4·first, ..., up to half of n: more would hardly be a pilot."""
    return tuple(first << j for j in range((n // (2 * first)).bit_length()))


def _states(losses: Float[Array, "m n"], sizes: tuple[int, ...]) -> Evidence:
    """The evidence after each of ``sizes``, by steps of the smallest, so of one program."""
    step, m = sizes[0], losses.shape[0]
    segments = losses[:, : sizes[-1]].reshape(m, -1, step).swapaxes(0, 1)
    more = lambda state, segment: (extend(state, segment),) * 2  # noqa: E731
    states = jax.lax.scan(more, start(m), segments)[1]
    return jax.tree.map(lambda leaf: leaf[np.array(sizes) // step - 1], states)


def _answer(config: Any, n: int, state: Evidence) -> Said:
    """What the evidence says of Δ_k; K of Definition 4 in a run of n samples."""

    def number(size: SufficientSize) -> Float[Array, "*t"]:
        return jnp.where(size.reached, size.k, jnp.inf)

    found = estimate_loss_variance(state, level=LEVEL)
    levels = jnp.stack(found.interval)
    terms, num = state.delta.largest, state.prefix.num_samples - 1
    last = js.exceedance_size(terms, num, config.tolerance, level=LEVEL, within=n)
    return {
        "loss_variance": levels,
        "effective": found.effective,
        "trend": found.trend,
        "law": number(js.increment_size(levels, config.tolerance)),
        "distance": number(js.distance_size(levels, config.epsilon)),
        "exceedance": jnp.stack([number(size) for size in last]),
    }
