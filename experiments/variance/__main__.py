"""The command ``variance``: how many points each estimator of Δ_k needs for an error of 1 %."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from experiments.common import cli, console, prepare, tables
from experiments.common.config import Range, RunConfig, above, at_least
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from experiments.variance import report
from experiments.variance.measure import NETS, measure
from jaxscape.probes import fits

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
    entries = report.entries_of(arrays)
    figures = {"points": report.points_needed(entries)}
    text = f"{tables.as_text(report.table(entries))}\n{report.WORDS}"
    return Record(arrays, {"sigmas": entries}, figures, text)


main = cli.command("variance", VarianceConfig, _find)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
