"""What pilots of a few samples say of the sample size that suffices, and how often they are right.

A pilot is the first n samples of some order at a few random points. It is compared with all samples
at all points. Every array starts with an axis (Δ, centered Δ); those of intervals end in an axis
(low, value, high).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

import jaxscape as js
from experiments.common.tables import LEVEL
from jaxscape import prefix
from jaxscape.loss_variance import Evidence, estimate_loss_variance, evidence_of, extend, start
from jaxscape.sample_size import SufficientSize

Said = dict[str, Array]
"""``loss_variance``, ``law``, ``distance``, ``exceedance`` [*r, 3]; ``effective``, ``trend``."""


class Question(NamedTuple):
    """What is asked of a pilot."""

    tolerance: float  #: of Δ_k, in units of the loss squared
    epsilon: float  #: root mean square distance to the population's landscape, units of the loss
    run: int  #: samples of the run whose K by Definition 4 is predicted


def arrays_of(losses: Float[Array, "M n"], config: Any) -> dict[str, np.ndarray]:
    """The arrays of results.npz at one sigma.

    ``own_*`` are pilots along the order of the data, ``trial_*`` those of random orders, ``true_*``
    what all samples at all points say: E_q S² (``loss_variance``), its effective sample size, K of
    the order law, K_ε (``distance``) and K of Definition 4 in a run (``exceedance``, the value its
    median). A K beyond all numbers is infinite. ``own_k``, ``trial_k`` and ``true_k`` are
    Definition 4's K of each order run to its end, n where it is not reached. ``held_*`` is whether
    a trial's interval held what it predicts: E_q S² of all, and ``trial_k`` for Definition 4.
    """
    n = losses.shape[1]
    question = Question(config.tolerance, config.epsilon, n)
    found = ask(
        jax.random.key(config.seed),
        losses,
        doubling(config.first_pilot, n),
        num_points=min(config.pilot_points, len(losses)),
        num_trials=config.trials,
        question=question,
    )
    own, trial = ({name: x[rows] for name, x in found.items()} for rows in (0, slice(1, None)))
    true = of_all(losses, question)
    wanted = {"loss_variance": true["loss_variance"][1], "exceedance": trial["k"][:, None]}
    arrays = {
        f"{whose}_{name}": values
        for whose, said in (("own", own), ("trial", trial), ("true", true))
        for name, values in said.items()
    }
    for name, value in wanted.items():
        low, _, high = jnp.moveaxis(trial[name], -1, 0)
        arrays[f"held_{name}"] = (low <= value) & (value <= high)
    return {name: np.asarray(values) for name, values in arrays.items()}


@partial(jax.jit, static_argnames=("sizes", "num_points", "num_trials", "question"))
def ask(
    key: Key[Array, ""],
    losses: Float[Array, "M n"],
    sizes: tuple[int, ...],
    *,
    num_points: int,
    num_trials: int,
    question: Question,
) -> Said:
    """Pilots of each of ``sizes`` in R = ``num_trials`` + 1 orders, at ``num_points`` points each.

    The first keeps the order of the samples and takes the first points, the others draw both.
    ``sizes`` are ``doubling``. r = (R, sizes); ``k`` [R] is ``last_exceedance``.
    """
    total, n = losses.shape

    def trial(index: Int[Array, ""]) -> Said:
        for_points, for_samples = jax.random.split(jax.random.fold_in(key, index))
        points = jax.random.choice(for_points, total, (num_points,), replace=False)
        points = jnp.where(index > 0, points, jnp.arange(num_points))
        order = jnp.where(index > 0, jax.random.permutation(for_samples, n), jnp.arange(n))
        rows = losses[points][:, order]
        k = last_exceedance(rows, question.tolerance)
        return jax.vmap(partial(_answer, question))(_states(rows, sizes)) | {"k": k}

    return jax.lax.map(trial, jnp.arange(num_trials + 1))


@partial(jax.jit, static_argnames="question")
def of_all(losses: Float[Array, "M n"], question: Question) -> Said:
    """What all samples at all points say; r is empty. ``k`` is ``last_exceedance``."""
    k = last_exceedance(losses, question.tolerance)
    return _answer(question, evidence_of(losses)) | {"k": k}


def last_exceedance(losses: Float[Array, "m n"], tolerance: float) -> Float[Array, ""]:
    """K by Definition 4 of this order; n where it is not reached."""
    size = js.sufficient_size(jnp.mean(prefix.increments(losses) ** 2, 0), tolerance)
    return jnp.where(size.reached, size.k, losses.shape[1]).astype(jnp.float32)


def doubling(first: int, n: int) -> tuple[int, ...]:
    """first, 2·first, 4·first, ..., up to half of n: more would hardly be a pilot."""
    return tuple(first << j for j in range((n // (2 * first)).bit_length()))


def _states(losses: Float[Array, "m n"], sizes: tuple[int, ...]) -> Evidence:
    """The evidence after each of ``sizes``, by steps of the smallest, so of one program."""
    step, m = sizes[0], losses.shape[0]
    segments = losses[:, : sizes[-1]].reshape(m, -1, step).swapaxes(0, 1)

    def more(state: Evidence, segment: Float[Array, "m b"]) -> tuple[Evidence, Evidence]:
        state = extend(state, segment)
        return state, state

    states = jax.lax.scan(more, start(m), segments)[1]
    return jax.tree.map(lambda leaf: leaf[np.array(sizes) // step - 1], states)


def _answer(question: Question, state: Evidence) -> Said:
    found = estimate_loss_variance(state, level=LEVEL)
    levels = jnp.stack(found.interval)
    terms, num = state.delta.largest, state.prefix.num_samples - 1
    last = js.exceedance_size(terms, num, question.tolerance, level=LEVEL, within=question.run)
    return {
        "loss_variance": levels,
        "effective": found.effective,
        "trend": found.trend,
        "law": _number(js.increment_size(levels, question.tolerance)),
        "distance": _number(js.distance_size(levels, question.epsilon)),
        "exceedance": jnp.stack([_number(size) for size in last]),
    }


def _number(size: SufficientSize) -> Float[Array, "*t"]:
    return jnp.where(size.reached, size.k, jnp.inf)
