"""Forecasts of the k from which on refitted networks gain less than ε, and how far each misses.

The truth is the excess test loss, or error, of w*_k over w*_N, in the mean over the orders of the
samples, and the k of the grid between which it falls below ε for good; ε is a share of that of
w*_N. That forecasts fall with k as the excess does is no evidence, as any two falling curves do.
The evidence is the size: does the k agree, at every ε?
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import jaxscape as js
from experiments.common.tables import VERDICTS
from jaxscape.lab import learning_curve
from jaxscape.minimum import TakeuchiTrace

FACTOR = 2.0
"""How far K_ε may lie from the grid values of k between which the networks stop gaining."""


class Bracket(NamedTuple):
    """The last k of the grid that exceeds, 0 where none does, and the one after it."""

    low: int
    high: int


class Forecast(NamedTuple):
    """The k from which on networks gain less than each of t ε, from some of the samples."""

    name: str
    samples: int
    sizes: Float[np.ndarray, "orders 3 t"]
    """Between its 90 % limits, of each order that it was made from."""
    regime: str = ""
    """Whether the minimum's law holds, by its own signs."""
    of: str = "test loss"


def pilots(ks: Int[np.ndarray, "K"]) -> list[int]:
    """The rows of the pilots: k nearest to N/4, N/8, ... that have at least three smaller ones."""
    wanted = ks[-1] / 2.0 ** np.arange(2, 1 + np.log2(ks[-1] / ks[0]))
    nearest = {int(np.abs(np.log(ks / k)).argmin()) for k in wanted}
    return sorted(row for row in nearest if row >= 3)


def distances(
    losses: Float[np.ndarray, "m n"], order: Int[np.ndarray, "n"], ks: Int[np.ndarray, "K"]
) -> dict[str, Float[np.ndarray, "K"]]:
    """E_q[(L_n(w) − L_k(w))²] over the m points for each k, with L_k of the samples ``order[:k]``.

    ``distance``: the mean of the square, ``distance_sem`` its standard error over the points,
    ``distance_centered``: the variance over the points (m − 1 below), which a shift of the whole
    surface by a constant leaves alone. In float64, from ℓ_i(w) of all samples.
    """
    sums = np.cumsum(np.asarray(losses, np.float64)[:, order], axis=1)
    gap = sums[:, -1:] / len(order) - sums[:, ks - 1] / ks
    return {
        "distance": np.mean(gap**2, 0),
        "distance_sem": np.std(gap**2, 0, ddof=1) / np.sqrt(len(gap)),
        "distance_centered": np.var(gap, 0, ddof=1),
    }


def bracket(k: Int[np.ndarray, "K"], excess: Float[np.ndarray, "K"], epsilon: float) -> Bracket:
    """Between which values of k the excess falls below ε, to stay there; it is 0 at the last.

    Raises:
        InputError: an excess that is NaN, or one at the last k that is not below ε.
    """
    if np.isnan(excess).any():
        raise js.InputError(
            f"expected test losses that are numbers, found an excess of NaN at k = "
            f"{k[np.isnan(excess)].tolist()}; lower --learning-rate, or mend the test split"
        )
    if excess[-1] >= epsilon:
        raise js.InputError(
            f"expected an ε above the excess of the last k, {excess[-1]:g}, found {epsilon:g}; "
            "take a loss above 0"
        )
    last = np.flatnonzero(~(excess < epsilon))
    if not last.size:
        return Bracket(0, int(k[0]))
    return Bracket(int(k[last[-1]]), int(k[last[-1] + 1]))


def factor(size: int, where: Bracket) -> float:
    """By what ``size`` misses the bracket: 1 inside, above 1 beyond it, below 1 before it."""
    if where.low < size <= where.high:
        return 1.0
    return size / (where.high if size > where.high else where.low)


def k_epsilon(
    variance: Float[np.ndarray, "s 3"], epsilons: Float[np.ndarray, "t"], n: int
) -> Int[np.ndarray, "s t 3"]:
    """K_ε to all n samples, for the value of E_q S² between its limits; n for one not finite."""
    wanted = jnp.asarray(epsilons, jnp.float32)[None, :, None]
    found = js.distance_size(jnp.asarray(variance)[:, None], wanted, to=n)
    return np.where(found.reached, found.k, n)


def values_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Float[np.ndarray, "R K"]]:
    """What networks are judged by: the loss at the end, the lowest after any epoch, the error."""
    loss = arrays["test_loss"].astype(np.float64)
    found = {"test loss": loss[:, -1], "lowest test loss": loss.min(1)}
    if "test_accuracy" in arrays:
        found["test error"] = 1 - arrays["test_accuracy"][:, -1].astype(np.float64)
    return found


def forecasts(
    arrays: Mapping[str, np.ndarray],
    epsilons: Mapping[str, Float[np.ndarray, "t"]],
    weight_decay: float,
) -> list[Forecast]:
    """All of them: K_ε, the minimum's law, learning curves, and a guess that knows nothing.

    A learning curve is of one order alone, so of no more samples than it is said to be.
    """
    k, own = arrays["k"], epsilons["test loss"]
    n, rows = int(k[-1]), pilots(k)
    found: list[Forecast] = []
    for part, which in (("loss_variance", ""), ("fresh_variance", ", new samples")):
        for sigma, sizes in zip(arrays["sigma"], k_epsilon(arrays[part], own, n), strict=True):
            found.append(Forecast(f"K, σ = {sigma:.2g}{which}", n, sizes.T[None]))
    found += minimum_law(arrays, own, weight_decay)
    values = values_of(arrays)
    gap = np.maximum(values["test loss"] - arrays["train_loss"], 0)
    kinds: list[tuple[str, np.ndarray, float | None, str]]
    kinds = [("gap curve", gap, 0.0, "test loss")]
    for of, losses in values.items():
        kinds += [("learning curve", losses, None, of), ("learning curve, c = 0", losses, 0.0, of)]
    for name, losses, floor, of in kinds:
        for row in rows:
            used, ahead = slice(row + 1), []
            for order in losses[:, None, used]:
                curve = learning_curve.fit(jax.random.key(0), k[used], order, floor=floor)
                ahead.append(np.array([curve.within(e, of=n).interval for e in epsilons[of]]).T)
            found.append(Forecast(name, int(k[row]), np.stack(ahead), of=of))
    for row in rows:
        middle = np.full((1, 3, len(own)), np.sqrt(k[row] * n))
        found.append(Forecast("guess √(nN)", int(k[row]), middle))
    return found


def minimum_law(
    arrays: Mapping[str, np.ndarray], epsilons: Float[np.ndarray, "t"], weight_decay: float
) -> list[Forecast]:
    """From T of each network whose T is known, with its own verdict."""
    found, n = [], int(arrays["k"][-1])
    for place, row in enumerate(arrays["takeuchi_rows"]):
        trace = TakeuchiTrace(
            *(arrays[f"takeuchi_{name}"][place] for name in TakeuchiTrace._fields)
        )
        own = int(arrays["k"][row])
        holds, known = js.excess_law_holds(
            trace, own, arrays["gap"][row], gap_sem=arrays["gap_sem"][row],
            weight_decay=weight_decay,
        )  # fmt: skip
        error = 1.645 * trace.sem  # infinite where T overflows
        levels = np.maximum([trace.value - error, trace.value, trace.value + error], 0)
        size = js.excess_size(levels[:, None], np.asarray(epsilons, np.float32)[None], to=n)
        regime = VERDICTS[bool(holds) if known else None]
        sizes = np.where(size.reached, size.k, n)[None]
        found.append(Forecast("minimum's law", own, sizes, regime))
    return found


def truths(
    k: Int[np.ndarray, "K"], values: Float[np.ndarray, "R K"], shares: Sequence[float]
) -> list[dict[str, Any]]:
    """For each ε the k between which the networks stop gaining it: on average, in single orders."""
    excess, end, found = values - values[:, -1:], float(values[:, -1].mean()), []
    for share in shares:
        single = [bracket(k, one, share * end).high for one in excess]
        found.append({
            "share": share, "epsilon": share * end,
            "networks": list(bracket(k, excess.mean(0), share * end)),
            "networks_single": [min(single), max(single)],
        })  # fmt: skip
    return found


def score(forecast: Forecast, truth: Sequence[Mapping[str, Any]], n: int) -> dict[str, Any]:
    """By which factors it misses, over ε and orders; and how often its interval meets the truth.

    Counted are the ε of which the truth lies beyond the forecast's samples, but for those of all n,
    and within the grid: below its first k nothing is known, and at n all are 0 by definition.
    """
    least = forecast.samples if forecast.samples < n else 1
    factors, held = [], []
    for number, entry in enumerate(truth):
        where = Bracket(*entry["networks"])
        if least <= where.low and where.high < n:
            for low, size, high in forecast.sizes[:, :, number]:
                factors.append(factor(size, where))
                held.append(bool(low <= where.high and high > where.low))
    own = forecast._asdict() | {"factors": factors, "held": held}
    return {name: value for name, value in own.items() if name != "sizes"} | summary(factors, held)


def summary(factors: Sequence[float], held: Sequence[bool]) -> dict[str, float | None]:
    """The geometric mean of the misses, how many are within ``FACTOR``, and of intervals held."""
    if not factors:
        return {"miss": None, "within": None, "share_held": None}
    misses = np.abs(np.log(factors))
    return {
        "miss": float(np.exp(misses.mean())),
        "within": float(np.mean(misses <= np.log(FACTOR) + 1e-9)),
        "share_held": float(np.mean(held)),
    }
