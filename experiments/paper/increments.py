"""Δ_k along random directions and Hessian eigenvectors, Nikitin et al., figures 4, 5 and 8."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxscape as js
from experiments.common import tables
from experiments.common.run_folder import Record
from experiments.paper import published
from experiments.paper.bench import SIGMAS, Bench, leading, level, lines, record, row_of, scaled
from jaxscape import prefix
from jaxscape.lab.style import PREFIX
from jaxscape.reductions import Delta

DIM = 10  # directions of figures 8 and 9
DIMS = (2, 16, 64, 256)  # directions of figure 5
RANDOM = "random filter-normalised directions of unit norm"
PANELS = {
    "delta": "as it should be:\nall directions, k in samples",
    "published_delta": "as published:\nfirst direction, k in batches of 64",
}
COLUMNS = {
    "delta": "Δ_k·k²",
    "published_delta": "as published",
    "all_directions_delta": "same, all directions",
}
LEVEL = 2.4  # Δ_k·k² of the published curve of figure 8 on MNIST, in batches


class Case(NamedTuple):
    """A curve: its name, its subspace, σ."""

    label: str
    space: js.Subspace
    sigma: float


def fig4(bench: Bench) -> Record:
    """Δ_k at four σ along two random filter-normalised directions of unit norm."""
    space = bench.directions("unit-filter", 2)
    cases = [Case(f"σ = {sigma:g}", space, sigma) for sigma in (0.1, 1.0, 5.0, 10.0)]
    return _record(f"2 {RANDOM}", cases, _measured(bench, cases))


def fig5(bench: Bench) -> Record:
    """Δ_k in four dimensions at σ = 1, random filter-normalised directions of unit norm."""
    space = bench.directions("unit-filter", max(DIMS))
    cases = [Case(f"d = {dim}", leading(space, dim), 1.0) for dim in DIMS]
    return _record(f"{RANDOM}, σ = 1", cases, _measured(bench, cases))


def fig8(bench: Bench) -> Record:
    """Δ_k along the top ten Hessian eigenvectors, close to w* and far from it."""
    notes = [f"published on MNIST, σ = 1: {LEVEL}", *bench.inexact()]
    where, measured = f"top {DIM} Hessian eigenvectors", along_eigenvectors(bench)
    return _record(where, _leading(bench), measured, notes)


@functools.lru_cache(maxsize=2)
def along_eigenvectors(bench: Bench) -> dict[str, np.ndarray]:
    """Δ_k along the top ten Hessian eigenvectors at both ``SIGMAS``, for figures 8 and 9."""
    return _measured(bench, _leading(bench))


def _leading(bench: Bench) -> list[Case]:
    space = bench.directions("hessian", DIM)
    return [Case(f"σ = {sigma:g}", space, sigma) for sigma in SIGMAS]


def _measured(bench: Bench, cases: Sequence[Case]) -> dict[str, np.ndarray]:
    return tables.stacked([measure(bench, case, row) for row, case in enumerate(cases)])


def measure(bench: Bench, case: Case, row: int) -> dict[str, np.ndarray]:
    """Δ_k with its error, E S², and Δ_k as published along one and along all directions.

    Published curves of different ``row`` have different orders of samples.
    """
    points = case.sigma * bench.normals(bench.config.points, case.space.dim)
    key = jax.random.fold_in(bench.problem.keys["order"], row)
    losses = bench.losses_at(case.space, points)
    first = bench.losses_at(leading(case.space, 1), points[:, :1])
    curve = curve_of(losses)
    return {
        "delta": np.asarray(curve.mean),
        "delta_sem": np.asarray(curve.sem),
        "loss_variance": np.mean(curve.loss_variance),
        "published_delta": np.asarray(published.delta(key, first)),
        "all_directions_delta": np.asarray(published.delta(key, losses)),
    }


@jax.jit
def curve_of(losses: Float[Array, "m n"]) -> Delta:
    """What ``js.delta`` gives, from stored per-sample losses at m points."""
    m, n = losses.shape
    whole, steps = prefix.extend(prefix.start(m), losses, jnp.ones(n, bool))
    reduction = js.reductions.delta
    state = reduction.update(reduction.init(m, n), steps, jnp.arange(m), jnp.ones(m, losses.dtype))
    return reduction.finalize(*state, whole)


def _record(
    where: str, cases: Sequence[Case], measured: dict[str, np.ndarray], notes: Sequence[str] = ()
) -> Record:
    """The figure of ``cases`` and the levels of its curves."""
    labels = [case.label for case in cases]
    arrays = measured | {
        "sigma": np.asarray([case.sigma for case in cases], np.float32),
        "dim": np.asarray([case.space.dim for case in cases]),
    }
    rows = [["", *COLUMNS.values(), "order law"]]
    for row, label in enumerate(labels):
        levels = [level(measured[name][row]) for name in COLUMNS]
        rows.append(row_of(label, [*levels, measured["loss_variance"][row]]))
    notes = [
        f"mean of Δ_k·k² over late k along the {where}, in nats²",
        "k in batches of 64 alone makes the published level 64 times lower",
        *notes,
    ]
    panels = {
        title: {n: scaled(x) for n, x in zip(labels, measured[name], strict=True)}
        for name, title in PANELS.items()
    }
    ylabel, note = r"$\Delta_k \cdot k^2$   (nats²)", "mean per logarithmic bin of k"
    figure = lines(where, PREFIX, ylabel, panels, note)
    return record(arrays, rows, notes, {"delta_k2": figure})
