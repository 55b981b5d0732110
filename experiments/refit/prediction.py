"""Forecasts of the k from which on refitted networks gain less than ε, and how far each misses.

The truth is the excess test loss, or error, of w*_k over w*_N, in the mean over the orders of the
samples, and the k of the grid between which it falls below ε for good; ε is a share of that of
w*_N. That forecasts fall with k as the excess does is no evidence, as any two falling curves do.
The evidence is the size: does the k agree, at every ε?
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

import jaxscape as js
from experiments.common.tables import VERDICTS, Arrays
from jaxscape.lab import learning_curve
from jaxscape.minimum import TakeuchiTrace

FACTOR = 2.0  # how far a forecast may lie from the k between which the networks stop gaining


class Forecast(NamedTuple):
    """The k from which on networks gain less than each of t ε, from some of the samples."""

    name: str
    samples: int
    sizes: Float[np.ndarray, "orders t 3"]  #: low, value, high of its 90 % interval
    regime: str = ""  #: whether the minimum's law holds, by its own signs
    of: str = "test loss"


def pilots(ks: Int[np.ndarray, "K"]) -> list[int]:
    """The rows of the pilots: k nearest to N/4, N/8, ... that have at least three smaller ones."""
    wanted = ks[-1] / 2.0 ** np.arange(2, 1 + np.log2(ks[-1] / ks[0]))
    nearest = {int(np.abs(np.log(ks / k)).argmin()) for k in wanted}
    return sorted(row for row in nearest if row >= 3)


def bracket(
    k: Int[np.ndarray, "K"], excess: Float[np.ndarray, "K"], epsilon: float
) -> tuple[int, int]:
    """The last k of the grid at which the excess is not below ε, 0 where there is none; the next k.

    An excess that is NaN, or at the last k, where it is 0, not below ε, is an ``InputError``.
    """
    if np.isnan(excess).any() or excess[-1] >= epsilon:
        raise js.InputError(
            f"expected test losses that are numbers above 0, found excesses {excess.tolist()} at "
            f"k = {k.tolist()} and ε = {epsilon:g}; lower --learning-rate, or mend the test split"
        )
    last = np.flatnonzero([True, *(excess >= epsilon)])[-1]
    low, high = np.array([0, *k])[last : last + 2].tolist()
    return low, high


def factor(size: float, low: int, high: int) -> float:
    """By what ``size`` misses the bracket: 1 inside, above 1 beyond it, below 1 before it."""
    if low < size <= high:
        return 1.0
    return size / (high if size > high else low)


def values_of(arrays: Arrays) -> dict[str, Float[np.ndarray, "R K"]]:
    """What networks are judged by: the loss at the end, the lowest after any epoch, the error."""
    loss = arrays["test_loss"].astype(np.float64)
    found = {"test loss": loss[:, -1], "lowest test loss": loss.min(1)}
    if "test_accuracy" in arrays:
        found["test error"] = 1 - arrays["test_accuracy"][:, -1].astype(np.float64)
    return found


def forecasts(
    arrays: Arrays, epsilons: Mapping[str, Float[np.ndarray, "t"]], weight_decay: float
) -> list[Forecast]:
    """All of them: K_ε, the minimum's law, learning curves, and a guess that knows nothing.

    A learning curve is of one order alone, so of no more samples than it is said to be.
    """
    k, own, values = arrays["k"], epsilons["test loss"], values_of(arrays)
    n, rows, found = int(k[-1]), pilots(k), []
    for part, which in (("loss_variance", ""), ("fresh_variance", ", new samples")):
        for sigma, levels in zip(arrays["sigma"], arrays[part], strict=True):
            size = js.distance_size(levels, own.astype(np.float32)[:, None], to=n)
            sizes = np.where(size.reached, size.k, n)[None]  # n where a level is not finite
            found.append(Forecast(f"K, σ = {sigma:.2g}{which}", n, sizes))
    found += minimum_law(arrays, own, weight_decay)
    gap = np.maximum(values["test loss"] - arrays["train_loss"], 0)
    kinds: list[tuple[str, np.ndarray, float | None, str]] = [("gap curve", gap, 0.0, "test loss")]
    for of, losses in values.items():
        kinds += [("learning curve", losses, None, of), ("learning curve, c = 0", losses, 0.0, of)]
    for (name, losses, floor, of), row in itertools.product(kinds, rows):
        ahead = []
        for order in losses[:, None, : row + 1]:
            curve = learning_curve.fit(jax.random.key(0), k[: row + 1], order, floor=floor)
            ahead.append([curve.within(epsilon, of=n).interval for epsilon in epsilons[of]])
        found.append(Forecast(name, int(k[row]), np.array(ahead), of=of))
    for row in rows:
        middle = np.full((1, len(own), 3), np.sqrt(k[row] * n))
        found.append(Forecast("guess √(nN)", int(k[row]), middle))
    return found


def minimum_law(
    arrays: Arrays, epsilons: Float[np.ndarray, "t"], weight_decay: float
) -> list[Forecast]:
    """From T of each network whose T is known, with its own verdict."""
    found, n = [], int(arrays["k"][-1])
    for place, row in enumerate(arrays["takeuchi_rows"]):
        fields = (arrays[f"takeuchi_{name}"][place] for name in TakeuchiTrace._fields)
        trace, own = TakeuchiTrace(*fields), int(arrays["k"][row])
        holds, known = js.excess_law_holds(
            trace, own, arrays["gap"][row], gap_sem=arrays["gap_sem"][row],
            weight_decay=weight_decay,
        )  # fmt: skip
        error = 1.645 * trace.sem  # infinite where T overflows
        levels = np.maximum([trace.value - error, trace.value, trace.value + error], 0)
        size = js.excess_size(levels, epsilons.astype(np.float32)[:, None], to=n)
        sizes = np.where(size.reached, size.k, n)[None]
        regime = VERDICTS[bool(holds) if known else None]
        found.append(Forecast("minimum's law", own, sizes, regime))
    return found


def truths(
    k: Int[np.ndarray, "K"], values: Float[np.ndarray, "R K"], shares: Sequence[float]
) -> list[dict[str, Any]]:
    """For each ε, a share of the value at the end, the k between which networks stop gaining it."""
    excess, end = (values - values[:, -1:]).mean(0), float(values[:, -1].mean())
    return [
        {"share": x, "epsilon": x * end, "networks": bracket(k, excess, x * end)} for x in shares
    ]


def score(forecast: Forecast, truth: Sequence[Mapping[str, Any]], n: int) -> dict[str, Any]:
    """By which factors it misses, over ε and orders; and how often its interval meets the truth.

    Counted are the ε of which the truth lies beyond the forecast's samples, but for those of all n,
    and within the grid: below its first k nothing is known, and at n all are 0 by definition.
    """
    least = forecast.samples if forecast.samples < n else 1
    factors, held = [], []
    for number, entry in enumerate(truth):
        first, last = entry["networks"]
        if least <= first and last < n:
            for low, size, high in forecast.sizes[:, number]:
                factors.append(factor(size, first, last))
                held.append(bool(low <= last and high > first))
    own = {name: x for name, x in forecast._asdict().items() if name != "sizes"}
    return own | pooled([own | {"factors": factors, "held": held}])


def pooled(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores as one: ``ratio`` and ``miss`` are geometric means, of how far off and by how much."""
    factors, held = ([x for one in scores for x in one[name]] for name in ("factors", "held"))
    regime = ", ".join(sorted({one["regime"] for one in scores}))
    found = {"factors": factors, "held": held, "regime": regime}
    if not factors:
        return found | dict.fromkeys(("ratio", "miss", "within", "share_held"))
    logs = np.log(factors)
    return found | {
        "ratio": float(np.exp(logs.mean())),
        "miss": float(np.exp(np.abs(logs).mean())),
        "within": float(np.mean(np.abs(logs) <= np.log(FACTOR) + 1e-9)),
        "share_held": float(np.mean(held)),
    }
