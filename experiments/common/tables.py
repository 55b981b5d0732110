"""The numbers that summarise curves Δ_k over k, and tables of them in text."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.common.run_folder import plain
from jaxscape.loss_variance import two_sided

Arrays = dict[str, np.ndarray]
"""Those of results.npz by name."""

FROM = 100
"""Averages over k leave out the first values, which depend on a handful of samples."""

LEVEL = 0.9
"""Of the intervals of K and of E_q S²."""

PARTS = ("offset", "mixed", "gradient", "curvature")

AGREES = 0.1
"""Ratios of law to Monte-Carlo that are this close to 1 count as agreement."""

LAW_WORDS = """\
The quadratic law is Δ_k of second-order Taylor expansions at w*. Its ratio to Monte-Carlo, with
its effective samples, is over k ≥ 100 (half of a shorter run), weighted by k(k+1); the median is of
the ratios at each k. Parts, over Monte-Carlo: offset (the loss at w*), mixed (offset by curvature),
gradient, curvature (Theorem 1 of Nikitin et al.). It holds where ratio and median are within 10 %
of 1, allowing for the error; "cannot tell": the error reaches both sides of that."""

VERDICTS = {True: "holds", False: "does not hold", None: "cannot tell", "": "not computed"}
"""Whether the quadratic law holds at a sigma: ``law_holds`` of ``agreement``, "" without one."""


def late(k: Int[np.ndarray, "K"]) -> Bool[np.ndarray, "K"]:
    """Which k averages are taken over: from ``FROM`` on, or the later half of fewer than 200."""
    return k >= min(FROM, (k[-1] + 1) // 2)


def level(delta: Float[np.ndarray, "*r K"]) -> Float[Any, "*r"]:
    """The mean of Δ_k·k² over late k of k = 1..K, of each curve."""
    k = np.arange(1, delta.shape[-1] + 1)
    chosen = late(k)
    return np.mean(delta[..., chosen].astype(np.float64) * k[chosen] ** 2.0, -1)


class Decay(NamedTuple):
    """α of E y_k = C k^−α, with its standard error."""

    exponent: Float[Array, ""]
    sem: Float[Array, ""]


@jax.jit
def decay_exponent(k: Int[Array, "K"], y: Float[Array, "K"]) -> Decay:
    """Fit E y_k = C k^−α to y ≥ 0 with equal weight for every k.

    Quasi-likelihood with a log link and a standard deviation in proportion to the mean
    (McCullagh and Nelder 1989, chapter 8), so that the many small and few huge values of a
    heavy-tailed y, whose logarithms would mislead a straight line, enter as they are. The error
    is the sandwich estimate for independent y_k: consistent as the number of values grows where
    their variance is finite, too small where a few values dominate the sum. NaN where fewer than
    three values, or none above 0, are given, or the fit does not converge.
    """
    x = jnp.log(k.astype(jnp.float32))
    x = jnp.stack([jnp.ones_like(x), x - x.mean()], -1)
    flat = y * jnp.asarray(k, jnp.float32) ** 2  # near-constant at α = 2, where the fit starts
    flat = flat / jnp.where(flat.mean() > 0, flat.mean(), 1)
    information = jnp.linalg.inv(jnp.matmul(x.T, x, precision="highest"))

    def residual(beta: Float[Array, "2"]) -> Float[Array, "K"]:
        return flat * jnp.exp(-jnp.matmul(x, beta, precision="highest")) - 1

    def step(_: int, beta: Float[Array, "2"]) -> Float[Array, "2"]:
        score = jnp.matmul(x.T, residual(beta), precision="highest")
        return beta + jnp.clip(jnp.matmul(information, score, precision="highest"), -1, 1)

    beta = jax.lax.fori_loop(0, 100, step, jnp.zeros(2, jnp.float32))
    converged = jnp.abs(step(0, beta) - beta).max() < 1e-4
    scores = x * residual(beta)[:, None]
    middle = jnp.matmul(scores.T, scores, precision="highest")
    covariance = information @ middle @ information
    known = (k.shape[0] >= 3) & (flat > 0).any() & converged
    return Decay(*jnp.where(known, jnp.stack([2 - beta[1], jnp.sqrt(covariance[1, 1])]), jnp.nan))


def theorem1(steps: Float[Any, "*c d"], sigma: float) -> Float[Any, "*c"]:
    """(σ⁴/4)(2 Σ_j(Δλ_j)² + (Σ_j Δλ_j)²) of ``steps`` Δλ_j, arrays of NumPy or of JAX.

    Nikitin et al. 2025, Theorem 1, which its authors use as an upper bound on Δ_k.
    """
    return sigma**4 / 4 * (2 * (steps**2).sum(-1) + steps.sum(-1) ** 2)


def agreement(
    arrays: Arrays, index: int, chosen: Bool[np.ndarray, "K"], num_points: float = np.inf
) -> dict[str, Any]:
    """Law over Monte-Carlo at one sigma over the chosen k: of means, of each part, median over k.

    Δ_k falls as 1/k², so each k counts k(k+1) times: the ratio is that of Σ k(k+1) Δ_k. Its error
    adds that over the points, which all k share, and that over the samples, one for each k; the
    effective sample size says how many samples Monte-Carlo's sum comes from. The law holds where
    ratio and median are within ``AGREES`` of 1 for every value inside the 95 % interval of the
    ratio, does not hold where they are so for none; else it cannot be told. Empty without a law,
    and where all Δ_k are 0.
    """
    if "law_total" not in arrays:
        return {}
    k = arrays["k"][chosen].astype(np.float64)
    weighted = lambda name: k * (k + 1) * arrays[name][index][chosen]  # noqa: E731
    law, measured = weighted("law_total"), weighted("delta")
    whole = measured.sum()
    if not (whole > 0 and np.isfinite(law).all()):
        return {}
    ratio, effective = law.sum() / whole, whole**2 / np.sum(measured**2)
    scatter = len(k) / max(len(k) - 1, 1) * np.sum((law - ratio * measured) ** 2)
    error = np.hypot(ratio * weighted("delta_sem").sum(), np.sqrt(scatter)) / whole
    error = error if len(k) > 1 else np.inf  # one sample has no scatter
    middle = float(np.median((law / np.where(measured > 0, measured, np.nan))[measured > 0]))
    groups = arrays.get("point_groups")  # of Sobol' points, whose errors come from few nets
    freedom = min(effective, num_points if groups is None else groups) - 1
    margin = error * float(two_sided(0.95, freedom))
    off = max(abs(ratio - 1), abs(middle - 1))
    return {
        "law_over_monte_carlo": float(ratio),
        "law_over_monte_carlo_sem": plain(error),
        "law_over_monte_carlo_effective": float(effective),
        "law_over_monte_carlo_median": middle,
        "law_parts": {part: float(weighted(f"law_{part}").sum() / law.sum()) for part in PARTS},
        "law_holds": True if off + margin <= AGREES else False if off - margin > AGREES else None,
    }


def law_table(entries: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The numbers of ``agreement`` per sigma; of each part its mean over that of Monte-Carlo."""
    rows = [["sigma", "law / Monte-Carlo", "effective samples", "median over k", *PARTS]]
    rows[0].append("quadratic law")
    for entry in entries:
        cells = ["-"] * 7
        if "law_holds" in entry:
            ratio, error = entry["law_over_monte_carlo"], entry["law_over_monte_carlo_sem"]
            cells = [plus_minus(ratio, math.inf if error is None else error)]
            cells.append(f"{entry['law_over_monte_carlo_effective']:,.0f}")
            cells.append(f"{entry['law_over_monte_carlo_median']:.3g}")
            cells += [f"{entry['law_parts'][part] * ratio:.2g}" for part in PARTS]
        rows.append([f"{entry['sigma']:.3g}", *cells, VERDICTS[entry.get("law_holds", "")]])
    return rows


def stacked(rows: Sequence[dict[str, Any]]) -> Arrays:
    """Arrays of the same names, stacked along a new first axis."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def short(value: np.floating) -> float:
    """A float32 as the shortest decimal that stands for it: 0.01, not 0.009999999776482582."""
    return float(str(np.float32(value)))


def cell(value: float | None, style: str) -> str:
    """A number as a table shows it, "-" where there is none."""
    return "-" if value is None else f"{value:{style}}"


def plus_minus(value: float, error: float | None) -> str:
    """A value with its error, both to the second digit of the error; alone where that is None."""
    if error is None:
        return f"{value:.3g}"
    if not 1e-3 < abs(value) < 1e5 or not 0 < error < np.inf:
        return f"{value:.3g} ± {error:.2g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def count(k: float | None, never: str = "beyond 2^31") -> str:
    """K in words, ``never`` where it is None, beyond every number considered."""
    return never if k is None else f"{k:,.0f}"


def between(limits: Sequence[float | None], never: str = "beyond 2^31") -> str:
    """An interval of K in words."""
    return " to ".join(dict.fromkeys(count(k, never) for k in limits))


def as_text(rows: list[list[str]]) -> str:
    """The table, its first row the header, in columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
