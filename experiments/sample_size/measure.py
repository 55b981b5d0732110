"""What pilots of a few samples say of the sample size that suffices, and how often they are right.

A pilot is the first n samples of some order, met at a few random points; what it says is held
against all samples at all points. Arrays that hold an interval end in an axis (low, value, high),
those that hold both parts start with (Δ, centered delta).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

import jaxscape as js
from jaxscape import prefix
from jaxscape.loss_variance import Evidence, estimate_loss_variance, evidence_of, extend, start
from jaxscape.sample_size import SufficientSize

PARTS = ("delta", "centered")


class Question(NamedTuple):
    """What is asked of a pilot."""

    tolerance: float  #: of Δ_k, in units of the loss squared
    epsilon: float  #: root mean square distance to the population's landscape, units of the loss
    level: float  #: of every interval
    run: int  #: samples of the run whose K by Definition 4 is foretold


class Answer(NamedTuple):
    """What a pilot says, ``[2, *r, 3]``; a K is infinite where it is beyond all numbers."""

    loss_variance: Float[Array, "2 *r 3"]  #: E_q S²
    effective: Float[Array, "2 *r"]  #: by how many samples it is carried
    law: Float[Array, "2 *r 3"]  #: K of the order law
    distance: Float[Array, "2 *r 3"]  #: K_ε to the population
    exceedance: Float[Array, "2 *r 3"]  #: K of Definition 4 in a run, its value the median


class Trials(NamedTuple):
    """Pilots of R orders."""

    answer: Answer  #: r = (R, sizes)
    exceedance: Float[Array, "2 R"]  #: K by Definition 4 of each whole order; n: not reached


@partial(jax.jit, static_argnames=("sizes", "num_points", "num_trials", "question"))
def ask(
    key: Key[Array, ""],
    losses: Float[Array, "M n"],
    sizes: tuple[int, ...],
    *,
    num_points: int,
    num_trials: int,
    question: Question,
) -> Trials:
    """Pilots of each of ``sizes`` in R = ``num_trials`` + 1 orders, at ``num_points`` points each.

    The first keeps the order of the samples and takes the first points, the others draw both.
    ``sizes`` are ``doubling``.
    """
    total, n = losses.shape

    def trial(index: Int[Array, ""]) -> Trials:
        for_points, for_samples = jax.random.split(jax.random.fold_in(key, index))
        points = jax.random.choice(for_points, total, (num_points,), replace=False)
        points = jnp.where(index > 0, points, jnp.arange(num_points))
        order = jnp.where(index > 0, jax.random.permutation(for_samples, n), jnp.arange(n))
        rows = losses[points][:, order]
        said = _answers(_states(rows, sizes), question)
        return Trials(said, last_exceedance(rows, question.tolerance))

    found = jax.lax.map(trial, jnp.arange(num_trials + 1))
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), found)


@partial(jax.jit, static_argnames="question")
def of_all(losses: Float[Array, "M n"], question: Question) -> Answer:
    """What all samples at all points say; r is empty."""
    states = jax.tree.map(lambda leaf: leaf[None], evidence_of(losses))
    return jax.tree.map(lambda leaf: leaf[:, 0], _answers(states, question))


def last_exceedance(losses: Float[Array, "m n"], tolerance: float) -> Float[Array, "2"]:
    """K by Definition 4 of this order, for Δ and for centered delta; n where it is not reached."""
    m = losses.shape[0]
    centred = np.sqrt(m / (m - 1)) * (losses - losses.mean(0))
    curves = [jnp.mean(prefix.increments(rows) ** 2, 0) for rows in (losses, centred)]
    size = js.sufficient_size(jnp.stack(curves), tolerance)
    return jnp.where(size.reached, size.k, losses.shape[1]).astype(jnp.float32)


def held(trials: Trials, truth: Answer) -> dict[str, Bool[np.ndarray, "2 R sizes"]]:
    """Whether each pilot's interval holds what it is about.

    E_q S² and both K that follow from it are held against ``truth``, those of all samples at all
    points; Definition 4's K against that of the pilot's own order, once run to its end.
    """
    said = trials.answer
    return {
        "loss_variance": _inside(said.loss_variance, truth.loss_variance[:, None, None, 1]),
        "law": _inside(said.law, truth.law[:, None, None, 1]),
        "distance": _inside(said.distance, truth.distance[:, None, None, 1]),
        "exceedance": _inside(said.exceedance, trials.exceedance[..., None]),
    }


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


def _answers(states: Evidence, question: Question) -> Answer:
    parts = [jax.vmap(partial(_answer, part, question))(states) for part in PARTS]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def _answer(part: str, question: Question, state: Evidence) -> Answer:
    tolerance, epsilon, level, run = question
    found = estimate_loss_variance(state, part, level=level)
    levels = jnp.stack(found.interval)
    terms = getattr(state, part).largest
    count = state.prefix.num_samples - 1
    last = js.exceedance_size(terms, count, tolerance, level=level, within=run)
    return Answer(
        levels,
        found.effective,
        _number(js.increment_size(levels, tolerance)),
        _number(js.distance_size(levels, epsilon)),
        jnp.stack([_number(size) for size in last]),
    )


def _number(size: SufficientSize) -> Float[Array, "*t"]:
    return jnp.where(size.reached, size.k, jnp.inf)


def _inside(interval: Float[Array, "2 R sizes 3"], value: Array) -> Bool[np.ndarray, "2 R sizes"]:
    low, _, high = np.moveaxis(np.asarray(interval), -1, 0)
    return (low <= np.asarray(value)) & (np.asarray(value) <= high)
