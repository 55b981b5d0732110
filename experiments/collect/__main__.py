"""The command ``collect``: samples arrive until the learning curve forecasts no gain worth them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from experiments.collect import measure, report
from experiments.common import cli
from experiments.common.config import RunConfig, above, at_least, default
from experiments.common.problem import Problem, check_test_split
from experiments.common.run_folder import Record
from jaxscape.types import InputError


@dataclass(frozen=True)
class CollectConfig(RunConfig):
    """Effective training: samples arrive until those still to come are forecast to gain too little.

    At looks, whose k grow by a ratio, networks are trained from scratch on the first k samples,
    several times, all in the same number of optimiser steps. What arrives next validates them and
    those of fewer samples. The learning curve E(k) = c + a·k^(−b) through the losses of the five
    largest k forecasts E(k) − E(k_max), what all samples would still gain. The rule stops once the
    upper limit of that is below the price.

    The command trains on past the stop, up to all samples, to see on the test split, which no rule
    sees, what it really cost. Beside it stand a random k, the monitor, which stops once Δ_k, the
    mean squared change of the mean loss by one more sample, stays below the tolerance, and the rule
    of Nikitin et al., both around the first network of each look.

    Examples:
        python -m experiments.collect --dataset mnist
        python -m experiments.collect --dataset glyphs --k-max 5000 --hidden 64  # a first look
    """

    k_max: Annotated[int, at_least(10)] = 60_000
    """Samples, at least 10, that arrive unless a rule stops them."""
    epochs: Annotated[int, at_least(1)] = 5
    """Training budget of every network, in passes over all k_max samples."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """The learning rate stays as it is, or falls to 0 at the last step as half a cosine does."""
    repeats: Annotated[int, at_least(1)] = 3
    """Networks of each k: other minibatches, and below the first look other samples."""
    price: Annotated[float, above(0)] = 0.05
    """Test loss, in nats (units of the loss), that the samples not collected may be worth."""
    growth: Annotated[float, above(1)] = 1.5
    """Ratio of the samples of a look to those of the one before."""
    validation: Annotated[int | None, at_least(2), default("1000, at most k_max / 8")] = None
    """Samples, at least 2, that arrive after those trained on, by which a look judges."""
    dim: Annotated[int, at_least(1)] = 10
    """The monitor: number of top Hessian eigenvectors."""
    sigma: Annotated[float, above(0)] = 1.0
    """The monitor: standard deviation σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 64
    """The monitor: random points around the network, at least 2."""
    tolerance: Annotated[float, above(0)] = 1e-5
    """The monitor: it stops once Δ_k stays below this, in nats² (squared units of the loss)."""
    at_least: Annotated[int | None, above(7), default("1000, at most k_max / 8")] = None
    """Samples of the first look, at least 8; its curve also has an eighth, a quarter, a half."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("at_least", 8), ("validation", 2)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, max(least, min(1000, self.k_max // 8)))

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        first, new = self.at_least or 0, self.validation or 0
        if first + new > self.k_max:
            raise InputError(
                f"expected room for a first look, --k-max of at least {first} + {new} samples, "
                f"found {self.k_max}; lower --at-least or --validation"
            )


def _find(problem: Problem, config: CollectConfig, work: Path) -> Record:
    arrays = measure.measure(problem, config, work / "checkpoint")
    found = report.summarise(arrays, config.price, config.tolerance) | {"unit": problem.unit}
    ahead, watched = report.forecast(arrays, found), report.monitor(arrays, config.tolerance)
    return Record(arrays, found, {"forecast": ahead, "monitor": watched}, report.text(found))


main = cli.command("collect", CollectConfig, _find, check=check_test_split)

if __name__ == "__main__":
    cli.leave(main())
