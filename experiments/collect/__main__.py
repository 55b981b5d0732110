"""The command ``collect``: samples arrive until the monitor of the landscape says stop."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from experiments.collect import measure, report
from experiments.common import cli
from experiments.common import problem as problems
from experiments.common.config import RunConfig, above, at_least, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from jaxscape.trees import num_parameters
from jaxscape.types import InputError


@dataclass(frozen=True)
class CollectConfig(RunConfig):
    """Effective training: samples arrive until the monitor of the landscape says that they suffice.

    Samples arrive batch by batch, up to k_max. After each arrival the network takes the same number
    of Adam steps, each on samples drawn uniformly, with replacement, from all met so far. From time
    to time, before the network trains on what has just arrived, the monitor looks at the losses of
    these new samples at random points around the network as it is then. It predicts from which K
    on Δ_k, the mean squared change of the mean loss by one more sample, stays below the tolerance.
    Once that many are met, it says stop. The network
    that stopped then trains on without new samples, so that it takes the same number of steps in
    total as the one that meets all; both are compared on the test split. The monitor knows nothing
    of the test split: whether stopping cost accuracy is what the command finds out.

    K grows about as 1/√tolerance, which says how still the landscape is, not how good the network.
    At σ = 1 most samples contribute to Δ_k. At 0.01 a few of large loss dominate it; the monitor
    goes on until it has met enough of them.

    Examples:
        python -m experiments.collect --dataset mnist
        python -m experiments.collect --dataset glyphs --k-max 5000 --tolerance 1e-3  # a first look
    """

    k_max: Annotated[int, at_least(2)] = 60_000
    """Samples, at least 2, that arrive unless the monitor stops them."""
    epochs: Annotated[int, at_least(1)] = 10
    """Training, in passes over k_max samples, in equal parts after each arrival."""
    arrivals: Annotated[int | None, at_least(2), default("1000, at most a tenth of k_max")] = None
    """Samples that arrive at a time, at least 2: the monitor judges by those that just arrived."""
    growth: Annotated[float, at_least(1)] = 1.25
    """The monitor looks again at this many times the samples of its last look; 1: always."""
    subspace: Literal["hessian", "random", "filter", "unit-filter"] = "hessian"
    """Directions: top Hessian eigenvectors, or random (norm 1; filters as in w*; both)."""
    dim: Annotated[int, at_least(1)] = 10
    """Number of directions."""
    hessian_samples: Annotated[int, at_least(1)] = 2000
    """Samples, of those met, whose Hessian the eigenvectors are of."""
    sigma: Annotated[float, above(0)] = 1.0
    """Standard deviation σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 64
    """Random points around the network, at least 2."""
    tolerance: Annotated[float, above(0)] = 1e-5
    """The monitor stops once Δ_k stays below it, in nats² (squared units of the loss)."""
    at_least: Annotated[int, above(0)] = 1000
    """Fewest samples at which the monitor may stop."""

    def __post_init__(self) -> None:
        """See ``ProblemConfig``."""
        super().__post_init__()
        if self.arrivals is None:
            object.__setattr__(self, "arrivals", max(2, min(1000, self.k_max // 10)))

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if self.finish or self.schedule != "constant":
            raise InputError(
                "expected training at a constant rate while samples arrive, found --schedule or "
                "--finish; leave them out"
            )


def _find(problem: Problem, config: CollectConfig, work: Path) -> Record:
    arrays = measure.measure(problem, config, work / "checkpoint")
    found = {
        "num_parameters": num_parameters(problem.initial),
        "steps_per_arrival": measure.steps(problem, config),
        "tolerance": config.tolerance,
        "unit": problem.unit,
        **report.summarise(arrays, config.tolerance),
    }
    figures = {"monitor": report.monitor(arrays, config.tolerance)}
    for metric, name in (("test_loss", "test_loss"), ("test_accuracy", "test_error")):
        if metric in arrays:
            figures[name] = report.network(arrays, metric, problem.unit)
    return Record(arrays, found, figures, report.text(found))


main = cli.command("collect", CollectConfig, _find, check=problems.check_test_split)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
