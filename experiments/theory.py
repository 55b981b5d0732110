"""Where the quadratic law of Δ_k holds: law against Monte-Carlo over a grid of sigma."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments.common import (
    cli,
    console,
    devices,
    law,
    prepare,
    run_folder,
    segments,
    tables,
)
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Kept, Record
from jaxscape import InputError
from jaxscape.lab import plot
from jaxscape.subspace import check_dim


@dataclass(frozen=True)
class TheoryConfig(ProblemConfig):
    """Where the quadratic law of Δ_k holds: law against Monte-Carlo over a grid of sigma.

    Trains a network, finds its top Hessian eigenvectors, and compares at every sigma the mean of
    Δ_k over k ≥ 100 by Monte-Carlo with that of the quadratic law and of its parts.

    Examples:
        python -m experiments.theory --dataset mnist
        python -m experiments.theory --dataset glyphs --k-max 3000 --num-sigmas 5  # a first look
    """

    dim: int = 10
    """Number of eigenvectors, at most 32."""
    sigma_min: float = 1e-4
    """Smallest standard deviation σ along each direction, in units of the parameters."""
    sigma_max: float = 10.0
    """Largest σ, in units of the parameters."""
    num_sigmas: int = 11
    """Number of values of σ, in equal ratios."""
    points: int = 64
    """Random points at each σ, at least 2."""
    out: Annotated[Path | None, default("runs/theory-<dataset>-<hash of the settings>")] = None
    """Run folder."""

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """See ``ProblemConfig.ranges``."""
        low, high = self.sigma_min, self.sigma_max
        return [
            *super().ranges(),
            ("dim", self.dim, 1 <= self.dim <= law.MAX_DIM, f"from 1 to {law.MAX_DIM}"),
            ("sigma-min", low, 0 < low < float("inf"), "a finite number above 0"),
            ("sigma-max", high, low < high < float("inf"), "a finite number above --sigma-min"),
            ("num-sigmas", self.num_sigmas, self.num_sigmas >= 2, "at least 2"),
            ("points", self.points, self.points >= 2, "at least 2"),
        ]


def run(config: TheoryConfig) -> Kept:
    """Compare, print the table, and write the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    config.check()
    problem = problems.load(config)
    check_dim(config.dim, problem.initial)
    console.problem(problem, config.order)
    found = run_folder.keep("theory", config, problem, lambda work: _find(problem, config, work))
    print(tables.as_text(table(found.summary["sigmas"])))
    print(f"\nfigure: {found.folder / 'figures' / 'agreement.png'}")
    return found


def _find(problem: Problem, config: TheoryConfig, work: Path) -> Record:
    arrays = _compare(problem, config, work / "checkpoint")
    late = tables.late(arrays["k"])
    entries = [
        {"sigma": float(sigma)} | law.agreement(arrays, index, late)
        for index, sigma in enumerate(arrays["sigma"])
    ]
    if not all("law_holds" in entry for entry in entries):
        raise InputError(
            "expected losses that differ between samples, found some Δ_k = 0 beyond k = 100; "
            "no ratio to it is defined"
        )
    ratio = "law_over_monte_carlo"
    sigma, mean, sem, median = (
        np.array([entry[name] for entry in entries])
        for name in ("sigma", ratio, f"{ratio}_sem", f"{ratio}_median")
    )
    parts = {name: np.array([entry["law_parts"][name] for entry in entries]) for name in law.PARTS}
    figure = plot.law_agreement(sigma, mean, sem, median, parts, **run_folder.marks(problem))
    return Record(arrays, {"sigmas": entries}, {"agreement": figure})


def _compare(problem: Problem, config: TheoryConfig, store: Path) -> dict[str, np.ndarray]:
    """The arrays that ``law.agreement`` reads, at every sigma."""
    sigmas = np.geomspace(config.sigma_min, config.sigma_max, config.num_sigmas)
    params, seconds = prepare.trained(problem, config, store)
    console.stage("trained", f"{config.epochs} epochs", seconds)
    mesh = devices.mesh(None, config.points)
    space, pairs, seconds = prepare.eigenspace(problem, params, config.dim, store, mesh)
    console.directions("hessian", pairs, seconds)
    probes = [prepare.probe(problem, params, space, config.points, sigma) for sigma in sigmas]
    curves, seconds = segments.run(
        problem, probes, store, checkpoint_every=float("inf"), precision="highest", mesh=mesh
    )
    console.stage("swept", f"{config.points} points at each of {len(sigmas)} σ", seconds)
    started = time.monotonic()
    laws = law.arrays_of(problem, space, sigmas.tolist(), mesh)
    console.stage("theory", "the quadratic law of every k", time.monotonic() - started)
    return {
        "k": np.asarray(curves[0].k),
        "sigma": sigmas.astype(np.float32),
        "delta": np.stack([curve.mean for curve in curves]),
        "delta_sem": np.stack([curve.sem for curve in curves]),
        **laws,
    }


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header; of each part its mean over that of Monte-Carlo."""
    verdicts = {True: "holds", False: "does not hold", None: "cannot tell"}
    rows = [["sigma", "law / Monte-Carlo", "median over k", *law.PARTS, "law"]]
    for entry in entries:
        ratio, error = entry["law_over_monte_carlo"], entry["law_over_monte_carlo_sem"]
        rows.append(
            [
                f"{entry['sigma']:.3g}",
                f"{ratio:.4g} ± {error:.1g}",
                f"{entry['law_over_monte_carlo_median']:.4g}",
                *(f"{entry['law_parts'][part] * ratio:.2g}" for part in law.PARTS),
                verdicts[entry["law_holds"]],
            ]
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("theory", TheoryConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
