"""The quadratic law of every Δ_k at the sweep's sigmas, with how far it agrees with Monte-Carlo."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import jaxscape as js
from experiments.common import segments
from experiments.common.problem import Problem
from jaxscape import quadratic
from jaxscape.lab import stream
from jaxscape.loss_variance import two_sided
from jaxscape.quadratic import QuadraticDelta

MAX_DIM = 32
"""Second derivatives cost d² forward passes; of a larger subspace the law is left out."""


PARTS = ("offset", "mixed", "gradient", "curvature")


AGREES = 0.1
"""Ratios of law to Monte-Carlo that are this close to 1 count as agreement."""


def arrays_of(
    problem: Problem,
    space: js.Subspace | None,
    sigmas: Sequence[float],
    mesh: Mesh | None = None,
) -> dict[str, np.ndarray]:
    """``law_*`` of results.npz, [s, K]; empty for all parameters at once or a dim above 32."""
    if space is None or space.dim > MAX_DIM:
        return {}
    wanted, carry, found = np.asarray(sigmas, np.float32), quadratic.begin(space.dim), []
    for segment in segments.of(problem, segments.SIZE):
        model = js.project(problem.loss, space, segment.samples, mesh=mesh)
        carry, law = quadratic.advance(carry, model, wanted, segment.skip)
        stream.wait(law)
        found.append(jax.tree.map(lambda x, skip=segment.skip: np.asarray(x)[:, skip:], law))
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, 1)[:, 1:], *found)
    return {f"law_{name}": values for name, values in whole._asdict().items()}


def agreement(arrays: dict[str, np.ndarray], index: int, late: np.ndarray) -> dict[str, Any]:
    """Law over Monte-Carlo at one sigma over the chosen k: of means, of each part, median over k.

    All k share their points, so the error of the ratio of means is that of one k on average. The
    law holds where both ratios, give or take two such errors, are within ``AGREES`` of 1, does not
    where they are not, and else cannot be told.
    """
    if "law_total" not in arrays:
        return {}
    measured = arrays["delta"][index][late].astype(np.float64)
    sem = arrays["delta_sem"][index][late].astype(np.float64)
    parts = {
        name: arrays[f"law_{name}"][index][late].astype(np.float64)
        for name in QuadraticDelta._fields
    }
    if not (measured.all() and np.isfinite(parts["total"]).all()):
        return {}
    ratio = parts["total"].mean() / measured.mean()
    error = ratio * sem.mean() / measured.mean()
    middle = float(np.median(parts["total"] / measured))
    off = max(abs(ratio - 1), abs(middle - 1))
    groups = arrays.get("point_groups")  # of Sobol' points, whose errors come from few nets
    margin = error * (2 if groups is None else float(two_sided(0.95, groups - 1)))
    holds = True if off + margin <= AGREES else False if off - margin > AGREES else None
    return {
        "law_over_monte_carlo": float(ratio),
        "law_over_monte_carlo_sem": float(error),
        "law_over_monte_carlo_median": middle,
        "law_curvature_over_monte_carlo": float(parts["curvature"].mean() / measured.mean()),
        "law_parts": {name: float(parts[name].mean() / parts["total"].mean()) for name in PARTS},
        "law_holds": holds,
    }


def sentence(entry: dict[str, Any]) -> str:
    """What the numbers of ``agreement`` say, in one line."""
    if "law_holds" not in entry:
        return f"σ = {entry['sigma']:g}: no quadratic law was computed"
    verdicts = {True: "holds", False: "does NOT hold", None: "may hold, too few points to tell"}
    verdict = verdicts[entry["law_holds"]]
    return (
        f"σ = {entry['sigma']:g}: the quadratic law {verdict}; law / Monte-Carlo is "
        f"{entry['law_over_monte_carlo']:.3g} ± {entry['law_over_monte_carlo_sem']:.1g} in the "
        f"mean over k, {entry['law_over_monte_carlo_median']:.3g} in the median; its curvature "
        f"part alone (Theorem 1) {entry['law_curvature_over_monte_carlo']:.2g}"
    )
