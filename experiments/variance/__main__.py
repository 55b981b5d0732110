"""What makes fewer points do: the number that each estimator of Δ_k needs for an error of 1 %."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

import jaxscape as js
from experiments.common import cli, console, prepare, run_folder, segments, tables
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Kept, Record
from experiments.variance import report
from experiments.variance.measure import ESTIMATORS, NETS, measure
from jaxscape.probes import fits
from jaxscape.subspace import check_dim

PREFIXES = 300
"""Values of k that are looked at."""


@dataclass(frozen=True)
class VarianceConfig(ProblemConfig):
    """What makes fewer points do: the number that each estimator of Δ_k needs for an error of 1 %.

    Trains a network, evaluates every sample's loss at independent points along its top Hessian
    eigenvectors, at their mirror images, and at scrambled Sobol' points, and counts how many of
    them it takes until the standard error is 1 % of Δ_k (in the median over k ≥ 100), of its shape
    part, and of E S², the level of the order law; also with the per-sample quadratic model as a
    control variate, whose mean is known.

    Examples:
        python -m experiments.variance --dataset mnist --k-max 6000
        python -m experiments.variance --dataset glyphs --k-max 1000 --points 1024  # a first look
    """

    dim: int = 10
    """Number of eigenvectors, at most 32."""
    sigmas: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: int = 8192
    """Points of each kind at each σ, at least 128 and a power of two."""
    out: Annotated[Path | None, default("runs/variance-<dataset>-<hash of the settings>")] = None
    """Run folder."""

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """See ``ProblemConfig.ranges``."""
        words = " ".join(f"{sigma:g}" for sigma in self.sigmas) or "none"
        good = bool(self.sigmas) and all(0 < sigma < float("inf") for sigma in self.sigmas)
        enough = self.points >= 128 and fits(self.points, NETS)
        return [
            *super().ranges(),
            (
                "dim",
                self.dim,
                1 <= self.dim <= segments.MAX_LAW_DIM,
                f"from 1 to {segments.MAX_LAW_DIM}",
            ),
            ("sigmas", words, good, "one or more finite numbers above 0"),
            ("points", self.points, enough, "a power of two of at least 128"),
        ]


def run(config: VarianceConfig) -> Kept:
    """Measure, print the table, and write the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    config.check()
    problem = problems.load(config)
    check_dim(config.dim, problem.initial)
    console.problem(problem, config.order)
    found = run_folder.keep("variance", config, problem, lambda work: _find(problem, config, work))
    print(tables.as_text(table(found.summary["sigmas"])))
    print(f"\nfigure: {found.folder / 'figures' / 'points.png'}")
    return found


def _find(problem: Problem, config: VarianceConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params, seconds = prepare.trained(problem, config, store)
    console.stage("trained", f"{config.epochs} epochs", seconds)
    space, pairs, seconds = prepare.eigenspace(problem, params, config.dim, store)
    console.directions("hessian", pairs, seconds)
    started = time.monotonic()
    model = js.project(problem.loss, space, problem.samples)
    console.stage("model", "the quadratic model of every sample", time.monotonic() - started)
    k = np.arange(1, len(problem.order))
    k = k[tables.late(k)]
    k = k[np.unique(np.linspace(0, len(k) - 1, PREFIXES).astype(int))]
    found = []
    for sigma in config.sigmas:
        started = time.monotonic()
        found.append(measure(problem, space, model, k, sigma, config.points))
        what = f"{config.points} of each kind, σ = {sigma:g}"
        console.stage("points", what, time.monotonic() - started)
    arrays = {name: np.stack([entry[name] for entry in found]) for name in found[0]}
    arrays |= {"k": k, "sigma": np.asarray(config.sigmas, np.float32)}
    entries = entries_of(arrays)
    figure = report.points_needed(entries, **run_folder.marks(problem))
    return Record(arrays, {"sigmas": entries}, {"points": figure})


def entries_of(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One entry per sigma: of each estimator the points it needs, and how often it was right.

    Those of Δ_k and its centered part are medians over k, coverage is the mean over k.
    """
    return [
        {
            "sigma": float(sigma),
            "estimators": [
                {
                    "name": estimator.name,
                    "delta": float(np.median(arrays["needed_delta"][index, row])),
                    "centered": float(np.median(arrays["needed_centered"][index, row])),
                    "level": float(arrays["needed_level"][index, row]),
                    "held": float(np.mean(arrays["held_delta"][index, row])),
                    "held_level": float(arrays["held_level"][index, row]),
                }
                for row, estimator in enumerate(ESTIMATORS)
            ],
        }
        for index, sigma in enumerate(arrays["sigma"])
    ]


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header: points for an error of 1 %, coverage of 90 %."""
    rows = [["sigma", "points", "for Δ_k", "centered part", "E S²", "held Δ_k", "E S²"]]
    for entry in entries:
        for found in entry["estimators"]:
            needed = (f"{max(found[part], 1):,.0f}" for part in ("delta", "centered", "level"))
            held = (f"{found[part]:.0%}" for part in ("held", "held_level"))
            rows.append([f"{entry['sigma']:g}", found["name"], *needed, *held])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("variance", VarianceConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
