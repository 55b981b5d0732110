"""The command ``sample_size``: what pilots of a few samples predict, against all samples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from experiments.common import cli, console, prepare, segments, tables
from experiments.common.config import HOLDOUT, RunConfig, above, at_least
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from experiments.sample_size import measure, report
from jaxscape import InputError


@dataclass(frozen=True)
class SampleSizeConfig(RunConfig):
    """The sample size that suffices as pilots of a few new samples predict it, against many.

    Trains a network on k_max samples and evaluates the loss of samples that it has not seen (the
    test split, or --holdout) at random points along its top Hessian eigenvectors. Asks pilots of
    n = 250, 500, 1000, ... of them, each at a few of the points, how many samples suffice: once
    along the order of the data, then over many random orders, to see how often their 90 %
    intervals are right.

    Examples:
        python -m experiments.sample_size --dataset mnist
        python -m experiments.sample_size --dataset mnist --k-max 30000 --holdout 30000
        python -m experiments.sample_size --dataset glyphs --k-max 3000 --trials 20  # a first look
    """

    holdout: Annotated[int, HOLDOUT] = 0
    """Samples after the first k_max that stand for new ones; 0: the test split does."""
    dim: Annotated[int, at_least(1)] = 10
    """Number of eigenvectors."""
    sigmas: Annotated[tuple[float, ...], at_least(0)] = (0.01, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 512
    """Random points at each σ, at which pilots are compared with all samples."""
    pilot_points: Annotated[int, at_least(2)] = 64
    """Points of each pilot, drawn from those of --points; all where these are fewer."""
    first_pilot: Annotated[int, at_least(2)] = 250
    """Samples of the smallest pilot; each next has twice as many, up to half of all."""
    trials: Annotated[int, at_least(1)] = 200
    """Number of random orders over which the coverage of the intervals is counted."""
    tolerance: Annotated[float, above(0)] = 1e-6
    """Tolerance of Δ_k, in nats² (squared units of the loss)."""
    epsilon: Annotated[float, above(0)] = 0.01
    """Root mean square distance to the population's landscape, in nats (units of the loss)."""


def _check(problem: Problem, config: SampleSizeConfig) -> None:
    if problem.fresh is None:
        raise InputError(
            "expected samples that w* has not seen, found no test split in "
            f"{problem.dataset.name}; give --holdout, or another data set"
        )
    num = len(problem.fresh.order)
    if config.first_pilot > num // 2:
        raise InputError(
            f"expected --first-pilot of at most {num // 2}, half of {num:,} new samples, found "
            f"{config.first_pilot}; lower it"
        )


def _find(problem: Problem, config: SampleSizeConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params = prepare.trained(problem, config, store)
    space, _ = prepare.eigenspace(problem, params, config.dim, store)
    fresh, by_sigma = problem.fresh or problem, []  # ``_check`` has seen to it
    for sigma in config.sigmas:
        probe = prepare.probe(problem, params, space, config.points, sigma)
        with console.timed(f"pilots, σ = {sigma:g}", f"{config.trials} random orders"):
            by_sigma.append(measure.arrays_of(segments.losses_at(fresh, probe), config))
    num = len(fresh.order)
    arrays = tables.stacked(by_sigma) | {
        "sigma": np.asarray(config.sigmas, np.float32),
        "pilot": np.asarray(measure.doubling(config.first_pilot, num)),
    }
    summary = {
        "num_samples": num,
        "tolerance": config.tolerance,
        "epsilon": config.epsilon,
        "answers": [report.answer_of(arrays, row, num) for row in range(len(by_sigma))],
    }
    figure = report.pilots(summary, problem.unit)
    return Record(arrays, summary, {"pilots": figure}, report.text(summary))


main = cli.command("sample_size", SampleSizeConfig, _find, check=_check)

if __name__ == "__main__":
    cli.leave(main())
