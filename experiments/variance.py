"""The command ``variance``: how many points each estimator of Δ_k needs for an error of 1 %.

A pool of points that were drawn one way holds the values whose mean is wanted,
``[groups, size, q]``. Groups are independent of each other; the points of a group are not. 2^j of
its points in a row, from a multiple of 2^j on, are as good as its first 2^j.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import cli, console, prepare, tables
from experiments.common.config import Range, RunConfig, above, at_least
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from jaxscape import InputError, reductions
from jaxscape.lab.style import canvas, curve, legend
from jaxscape.probes import RANDOMISATIONS, fits
from jaxscape.types import Probe

ERROR = 0.01
"""Standard error that is asked for, as a share of the mean."""

NETS = 16
"""Sobol' nets of the pool."""

ESTIMATORS = {"independent": 1, "antithetic pairs": 2, "Sobol'": 1}
"""Ways to draw points, and the points of the smallest group."""

WORDS = """\
Points for a standard error of 1 % of Δ_k and of its centered part (medians over k), and of E S²,
extrapolated from those of the run."""
"""What the columns mean."""

PARTS = {
    "delta": r"$\Delta_k$, median over $k$",
    "centered": r"centered $\tilde\Delta_k$, median over $k$",
    "level": r"$\mathrm{E}_q S^2$",
}

POWER = Range(lambda m: m >= 128 and fits(m, NETS), "a power of two of at least 128")
"""Of the number of points: nets of Sobol' points have as many."""


@dataclass(frozen=True)
class VarianceConfig(RunConfig):
    """What makes fewer points do: the number that each estimator of Δ_k needs for an error of 1 %.

    Trains a network, evaluates every sample's loss at independent points along its top Hessian
    eigenvectors, at their mirror images, and at scrambled Sobol' points, and counts how many of
    them it takes until the standard error is 1 % of Δ_k (in the median over k ≥ 100), of its
    centered part, and of E S², the level of the order law.

    Examples:
        python -m experiments.variance --dataset mnist --k-max 6000
        python -m experiments.variance --dataset glyphs --k-max 1000 --points 1024  # a first look
    """

    dim: Annotated[int, at_least(1)] = 10
    """Number of eigenvectors."""
    sigmas: Annotated[tuple[float, ...], above(0)] = (0.01, 0.1, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: Annotated[int, POWER] = 8192
    """Points of each kind at each σ, at least 128 and a power of two."""


def _find(problem: Problem, config: VarianceConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params = prepare.trained(problem, config, store)
    space, _ = prepare.eigenspace(problem, params, config.dim, store)
    k = np.arange(1, len(problem.order))
    k = k[tables.late(k)]
    k = k[np.unique(np.linspace(0, len(k) - 1, 300).astype(int))]  # as many as a median needs
    found = []
    for sigma in config.sigmas:
        with console.timed("points", f"{config.points} of each kind, σ = {sigma:g}"):
            found.append(measure(problem, space, k, sigma, config.points))
    arrays = tables.stacked(found)
    arrays |= {"k": k, "sigma": np.asarray(config.sigmas, np.float32)}
    entries = entries_of(arrays)
    figures = {"points": _draw(entries)}
    text = f"{tables.as_text(table(entries))}\n{WORDS}"
    return Record(arrays, {"sigmas": entries}, figures, text)


def points_needed(
    values: Float[np.ndarray, "g size q"], mean: Float[np.ndarray, "q"], least: int
) -> Float[np.ndarray, "q"]:
    """The number of points whose mean has a standard error of ``ERROR`` times ``mean``.

    That of n points has the variance of the mean over a group, divided by the number of groups:
    ``RANDOMISATIONS`` of any size, or as many as it takes where a group has its ``least`` size
    only. Between measured sizes it is interpolated, beyond the largest the error is taken to fall
    as that of independent groups of this size would.
    """
    sizes = least << np.arange((values.shape[1] // least).bit_length())
    needed = np.stack([_variance(values, size) * size for size in sizes]) / (ERROR * mean) ** 2
    if len(sizes) == 1:
        return needed[0]
    have = np.log(RANDOMISATIONS * sizes)
    found = [_crossing(have, np.log(column)) for column in needed.T]
    return np.exp(np.array(found))


def _variance(values: Float[np.ndarray, "g size q"], size: int) -> Float[np.ndarray, "q"]:
    """The variance of the mean over a group of ``size`` points."""
    means = values.reshape(len(values), -1, size, values.shape[-1]).mean(2)
    whole = values.mean(1)
    # what the scatter around the mean of all groups leaves out is the variance of that mean
    return means.var((0, 1)) + whole.var(0, ddof=1) / len(whole)


def _crossing(have: Float[np.ndarray, "sizes"], needed: Float[np.ndarray, "sizes"]) -> float:
    """The logarithm of the number of points that is as many as needed."""
    enough = np.flatnonzero(have >= needed)
    if not enough.size or enough[0] == 0:
        return needed[0 if enough.size else -1]
    at = enough[0]
    gap = (needed - have)[at - 1 : at + 1]
    return have[at - 1] + (have[at] - have[at - 1]) * gap[0] / (gap[0] - gap[1])


def measure(
    problem: Problem, space: js.Subspace, k: Int[np.ndarray, "K"], sigma: float, num_points: int
) -> dict[str, np.ndarray]:
    """Numbers of points at one sigma, in the order of ``ESTIMATORS``.

    ``needed_delta`` and ``needed_centered`` are [e, K], ``needed_level`` is [e].

    Raises:
        InputError: a loss that is NaN or infinite, or that is the same for all samples.
    """
    for_pairs, for_nets = jax.random.split(problem.keys["probe"])
    half = js.gaussian(for_pairs, space, num_points // 2, sigma).coordinates
    pairs = jnp.stack([half, -half], 1).reshape(num_points, space.dim)
    nets = js.sobol(for_nets, space, num_points, sigma, randomisations=NETS).coordinates
    sobol, centre = _squares(problem, js.points(space, nets), k)
    paired, _ = _squares(problem, js.points(space, pairs), k, centre)
    for values in (sobol, paired):
        if not np.isfinite(values).all():
            raise InputError("expected finite losses, found NaN or infinity; lower --sigmas")
        if not values.any(0).all():
            raise InputError(
                "expected losses that differ between samples and points, found a Δ_k of 0; raise "
                "--sigmas, or change --dataset"
            )
    of_pairs = paired.reshape(num_points // 2, 2, -1)
    pools = of_pairs[:, :1], of_pairs, sobol.reshape(NETS, num_points // NETS, -1)
    mean = sobol.mean(0)  # of all it has the smallest error, or nearly so
    needed = np.stack([
        points_needed(pool, mean, least)
        for pool, least in zip(pools, ESTIMATORS.values(), strict=True)
    ])  # fmt: skip
    delta, centered, level = np.split(needed, [len(k), 2 * len(k)], axis=1)
    return {"needed_delta": delta, "needed_centered": centered, "needed_level": level[:, 0]}


def _squares(
    problem: Problem,
    probe: Probe,
    k: Int[np.ndarray, "K"],
    centre: Float[np.ndarray, "K"] | None = None,
) -> tuple[Float[np.ndarray, "m q"], Float[np.ndarray, "K"]]:
    """δ_k², (δ_k − centre)² and S² at every point; the centre, by default the mean of δ_k."""
    found = js.evaluate(problem.loss, probe, problem.samples, _kept(tuple(k.tolist())))
    steps, level = (np.asarray(x.T, np.float64) for x in found)
    centre = steps.mean(0) if centre is None else centre
    return np.concatenate([steps**2, (steps - centre) ** 2, level[:, None]], axis=1), centre


@functools.lru_cache
def _kept(ks: tuple[int, ...]) -> js.Reduction:
    """The increments at ``ks``, and S²(w)."""
    rows = reductions.surface(ks)
    return rows._replace(
        finalize=lambda by_point, by_sample, prefix: (
            rows.finalize(by_point, by_sample, prefix).increment,
            prefix.variance,
        )
    )


def entries_of(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One entry per sigma: of each estimator the points it needs, at least 1."""
    needed = {
        "delta": np.median(arrays["needed_delta"], -1),
        "centered": np.median(arrays["needed_centered"], -1),
        "level": arrays["needed_level"],
    }
    return [
        {"sigma": tables.short(sigma)}
        | {"estimators": [
            {"name": name} | {key: max(float(x[index, row]), 1) for key, x in needed.items()}
            for row, name in enumerate(ESTIMATORS)
        ]}
        for index, sigma in enumerate(arrays["sigma"])
    ]  # fmt: skip


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    rows = [["sigma", "points", "for Δ_k", "centered part", "E S²"]]
    for entry in entries:
        for found in entry["estimators"]:
            needed = (f"{found[part]:,.0f}" for part in PARTS)
            rows.append([f"{entry['sigma']:g}", found["name"], *needed])
    return rows


def _draw(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Points for a standard error of 1 % by each estimator, a panel per entry."""
    title = "Points for a standard error of 1 %"
    panels = [rf"$\sigma$ = {entry['sigma']:g}" for entry in entries]
    figure, every = canvas(title, "points", "", panels)
    for axes, entry in zip(every, entries, strict=True):
        for row, (part, label) in enumerate(PARTS.items()):
            beside = np.arange(len(ESTIMATORS)) + 0.2 * (row - 1)
            needed = [found[part] for found in entry["estimators"]]
            axes.plot(needed, beside, label=label, **curve(row, ms=6, lw=0))
        axes.set_yticks(range(len(ESTIMATORS)), [*ESTIMATORS])
        axes.set_xscale("log")
    every[0].invert_yaxis()  # shared by all panels
    legend(figure, "")
    return figure


main = cli.command("variance", VarianceConfig, _find)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
