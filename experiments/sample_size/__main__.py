"""The command ``sample_size``: what pilots of a few samples predict, against all samples."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np

from experiments.common import cli, console, prepare, run_folder, segments, tables
from experiments.common.config import RunConfig, above, at_least
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from experiments.sample_size import measure, report
from jaxscape import InputError


@dataclass(frozen=True)
class SampleSizeConfig(RunConfig):
    """The sample size that suffices as pilots of a few samples predict it, against all samples.

    Trains a network, evaluates every sample's loss at random points along its top Hessian
    eigenvectors, and asks pilots of n = 250, 500, 1000, ... samples, each at a few of the points,
    how many samples suffice: once along the order of the data, then over many random orders, to
    see how often their 90 % intervals are right.

    Examples:
        python -m experiments.sample_size --dataset mnist
        python -m experiments.sample_size --dataset glyphs --k-max 3000 --trials 20  # a first look
    """

    dim: Annotated[int, at_least(1)] = 10
    """Number of eigenvectors."""
    sigmas: Annotated[tuple[float, ...], at_least(0)] = (0.01, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 512
    """Random points at each σ, at which pilots are compared with all samples."""
    pilot_points: Annotated[int, at_least(2)] = 64
    """Points of each pilot, drawn from those of --points."""
    first_pilot: Annotated[int, at_least(2)] = 250
    """Samples of the smallest pilot; each next has twice as many, up to half of k_max."""
    trials: Annotated[int, at_least(1)] = 200
    """Number of random orders over which the coverage of the intervals is counted."""
    tolerance: Annotated[float, above(0)] = 1e-6
    """Tolerance of Δ_k, in nats² (squared units of the loss)."""
    epsilon: Annotated[float, above(0)] = 0.01
    """Root mean square distance to the population's landscape, in nats (units of the loss)."""

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        for flag, value, most, what in (
            ("pilot-points", self.pilot_points, self.points, "--points"),
            ("first-pilot", self.first_pilot, self.k_max // 2, "half of --k-max"),
        ):
            if value > most:
                raise InputError(f"expected --{flag} of at most {most}, {what}, found {value}")


def _find(problem: Problem, config: SampleSizeConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params = prepare.trained(problem, config, store)
    space, _ = prepare.eigenspace(problem, params, config.dim, store)
    by_sigma = []
    for sigma in config.sigmas:
        probe = prepare.probe(problem, params, space, config.points, sigma)
        what = f"{config.points} points, {config.trials} orders at {config.pilot_points} of them"
        with console.timed(f"pilots, σ = {sigma:g}", what):
            by_sigma.append(measure.arrays_of(segments.losses_at(problem, probe), config))
    arrays = {name: np.stack([arrays[name] for arrays in by_sigma]) for name in by_sigma[0]}
    arrays["sigma"] = np.asarray(config.sigmas, np.float32)
    arrays["pilot"] = np.asarray(measure.doubling(config.first_pilot, len(problem.order)))
    summary = {
        "num_samples": len(problem.order),
        "level": tables.LEVEL,
        "answers": report.answers_of(arrays),
    }
    figures = {
        "pilots": report.pilots(summary, config.tolerance, problem.unit),
        "coverage": report.coverage(summary, config.trials),
    }
    return Record(arrays, summary, figures, report.text(summary))


run = partial(run_folder.run, "sample_size", _find)
"""The whole command, from its settings; see ``run_folder.run``."""

main = partial(cli.main, "sample_size", SampleSizeConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
