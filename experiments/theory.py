"""Where the quadratic law of Δ_k holds: law against Monte-Carlo over a grid of sigma."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments.common import cli, devices, prepare, segments, tables
from experiments.common.config import RunConfig, above, at_least, between
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from jaxscape import InputError
from jaxscape.lab import plot


@dataclass(frozen=True)
class TheoryConfig(RunConfig):
    """Where the quadratic law of Δ_k holds: law against Monte-Carlo over a grid of sigma.

    Trains a network, finds its top Hessian eigenvectors, and compares at every sigma the mean of
    Δ_k over k ≥ 100, each weighted by k(k+1), by Monte-Carlo with that of the quadratic law and of
    its parts.

    Examples:
        python -m experiments.theory --dataset mnist
        python -m experiments.theory --dataset glyphs --k-max 3000 --num-sigmas 5  # a first look
    """

    dim: Annotated[int, between(1, segments.MAX_LAW_DIM)] = 10
    """Number of eigenvectors, at most 32."""
    sigma_min: Annotated[float, above(0)] = 1e-4
    """Smallest standard deviation σ along each direction, in units of the parameters."""
    sigma_max: Annotated[float, above(0)] = 10.0
    """Largest σ, in units of the parameters."""
    num_sigmas: Annotated[int, at_least(2)] = 11
    """Number of values of σ, in equal ratios."""
    points: Annotated[int, at_least(2)] = 64
    """Random points at each σ, at least 2."""

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if self.sigma_max <= self.sigma_min:
            raise InputError(
                f"expected --sigma-max above --sigma-min {self.sigma_min:g}, found "
                f"{self.sigma_max:g}; change it"
            )


def _find(problem: Problem, config: TheoryConfig, work: Path) -> Record:
    store, mesh = work / "checkpoint", devices.mesh(None, config.points)
    sigmas = np.geomspace(config.sigma_min, config.sigma_max, config.num_sigmas)
    params = prepare.trained(problem, config, store)
    space, _ = prepare.eigenspace(problem, params, config.dim, store, mesh)
    probes = [prepare.probe(problem, params, space, config.points, sigma) for sigma in sigmas]
    curves = segments.run(problem, probes, store, mesh=mesh)
    arrays: dict[str, Any] = {
        "k": curves.k[0],
        "sigma": sigmas.astype(np.float32),
        "delta": curves.mean,
        "delta_sem": curves.sem,
        **segments.law(problem, space, sigmas.tolist(), mesh),
    }
    late = tables.late(arrays["k"])
    entries = [
        {"sigma": tables.short(sigma)} | tables.agreement(arrays, index, late, config.points)
        for index, sigma in enumerate(arrays["sigma"])
    ]
    if not all("law_holds" in entry for entry in entries):
        raise InputError(
            "expected losses that differ between samples, found some Δ_k = 0 beyond k = 100; "
            "no ratio to it is defined"
        )
    names = ("sigma", *(f"law_over_monte_carlo{end}" for end in ("", "_sem", "_median")))
    sigma, mean, sem, median = (np.array([e[name] for e in entries], float) for name in names)
    shares = {part: np.array([e["law_parts"][part] for e in entries]) for part in tables.PARTS}
    figure = plot.law_agreement(sigma, mean, sem, median, shares)
    text = f"{tables.as_text(tables.law_table(entries))}\n{tables.LAW_WORDS}"
    return Record(arrays, {"sigmas": entries}, {"agreement": figure}, text)


main = cli.command("theory", TheoryConfig, _find)

if __name__ == "__main__":
    cli.leave(main())
