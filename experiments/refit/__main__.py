"""The command ``refit``: does K predict where more data stops paying?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from experiments.common import cli
from experiments.common import problem as problems
from experiments.common.config import HOLDOUT, RunConfig, above, at_least, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from experiments.refit import measure, prediction, report
from jaxscape.trees import num_parameters
from jaxscape.types import InputError


@dataclass(frozen=True)
class RefitConfig(RunConfig):
    """Whether K predicts where more data stops paying: networks refitted on the first k samples.

    Trains a network on the first k samples for each of a geometric grid of k, from one
    initialisation. All take the same number of optimiser steps, epochs · k_max / batch_size; each
    step draws its samples uniformly, with replacement, from the network's k. So a network of few
    samples sees each more often, and overfits: its test loss is reported at the end, by which it
    is judged, and at its lowest after any epoch, with the accuracy. Sets the excess test loss over
    the network of all samples beside the distance of L_k's landscape from that of all samples.

    Examples:
        python -m experiments.refit --dataset mnist
        python -m experiments.refit --dataset glyphs --k-max 3000 --num-ks 4 --repeats 1
    """

    holdout: Annotated[int, HOLDOUT] = 0
    """Samples after the first k_max that stand for new ones; 0: the test split does."""
    epochs: Annotated[int, at_least(1)] = 5
    """Training budget of every network, in passes over all k_max samples."""
    k_min: Annotated[int | None, at_least(1), default("250, at most k_max / 16")] = None
    """Fewest samples that a network is refitted on."""
    num_ks: Annotated[int, at_least(2)] = 12
    """Number of values of k, from k_min to k_max in equal ratios."""
    repeats: Annotated[int, at_least(1)] = 3
    """Number of times all are refitted, with other minibatches and another shuffled order."""
    together: Annotated[int | None, at_least(1), default("1 on a CPU, else all")] = None
    """Number of networks trained side by side, under one vmap."""
    dim: Annotated[int, at_least(1)] = 10
    """Number of eigenvectors, of the Hessian over all samples at their network."""
    sigmas: Annotated[tuple[float, ...], above(0)] = (0.01, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 64
    """Random points at each σ, at least 2."""
    shares: Annotated[tuple[float, ...], above(0)] = (10.0, 5.0, 2.0, 1.0, 0.5)
    """Targets of the excess test loss, as multiples of the final test loss."""

    def __post_init__(self) -> None:
        """See ``ProblemConfig``."""
        super().__post_init__()
        if self.k_min is None:
            object.__setattr__(self, "k_min", max(1, min(250, self.k_max // 16)))

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if self.k_min is not None and self.k_min >= self.k_max:
            raise InputError(f"expected --k-min below --k-max, {self.k_max}, found {self.k_min}")


def _find(problem: Problem, config: RefitConfig, work: Path) -> Record:
    arrays = measure.measure(problem, config, work / "checkpoint")
    lowest = {"test_loss": arrays["test_loss"].min(1, keepdims=True)}
    fresh = {"loss_variance": arrays["fresh_variance"]}
    found: dict[str, Any] = {
        "num_samples": len(problem.order),
        "num_parameters": num_parameters(problem.initial),
        "unit": problem.unit,
        "repeats": config.repeats,
        "dim": config.dim,
        "steps": measure.steps(problem, config) * config.epochs,
        "networks": report.networks(arrays),
        "sigmas": prediction.per_sigma(arrays, config.shares),
        "sigmas_lowest": prediction.per_sigma(arrays | lowest, config.shares),
        "sigmas_fresh": prediction.per_sigma(arrays | fresh, config.shares),
    }
    figures = {
        "networks": report.networks_figure(arrays, problem.unit),
        "distance": report.distance(arrays, problem.unit),
        "sizes": report.sizes(found, problem.unit),
        "overlap": report.overlaps(arrays),
    }
    return Record(arrays, found, figures, report.text(found))


main = cli.command("refit", RefitConfig, _find, check=problems.check_test_split)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
