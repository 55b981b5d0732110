"""The command ``refit``: what predicts where more data stops paying?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from experiments.common import cli
from experiments.common.config import HOLDOUT, RunConfig, above, at_least
from experiments.common.problem import Problem, check_test_split
from experiments.common.run_folder import Record
from experiments.refit import measure, prediction, report
from jaxscape.types import InputError


@dataclass(frozen=True)
class RefitConfig(RunConfig):
    """What predicts where more data stops paying: forecasts beside networks refitted on k samples.

    Trains a network on the first k samples for each of a geometric grid of k, from one
    initialisation. All take the same number of optimiser steps, epochs · k_max / batch_size; each
    step draws its samples uniformly, with replacement, from the network's k. A network is judged by
    its test loss and error at the end, and by its lowest test loss after any epoch. The k from
    which on it is within ε of that of all samples is forecast by K of the landscape around w*_N, by
    the minimum's law T = tr(H⁻¹C) of pilots and of w*_N, and by learning curves c + a·k^(−b)
    through the pilots' losses, and through the gap between test and training losses, where c = 0.

    Examples:
        python -m experiments.refit --dataset mnist
        python -m experiments.refit --weight-decay 1e-3 --schedule cosine --finish 50
        python -m experiments.refit --dataset glyphs --k-max 3000 --num-ks 4 --repeats 1
    """

    holdout: Annotated[int, HOLDOUT] = 0
    """Samples after the first k_max that stand for new ones; 0: the test split does."""
    epochs: Annotated[int, at_least(1)] = 5
    """Training budget of every network, in passes over all k_max samples."""
    k_min: Annotated[int, at_least(0)] = 0
    """Fewest samples that a network is refitted on; 0: 250, or k_max / 32 where that is less."""
    num_ks: Annotated[int, at_least(2)] = 12
    """Number of values of k, from k_min to k_max in equal ratios."""
    repeats: Annotated[int, at_least(1)] = 3
    """Number of times all are refitted, with other minibatches and another shuffled order."""
    starts: Annotated[int, at_least(2)] = 24
    """Gradients of test samples from which T = tr(H⁻¹C) is estimated."""
    lanczos_steps: Annotated[int, at_least(1)] = 48
    """Lanczos steps from each of them: products with the Hessian."""
    dim: Annotated[int, at_least(1)] = 10
    """Number of eigenvectors that K looks along, of the Hessian over all samples at w*_N."""
    sigmas: Annotated[tuple[float, ...], above(0)] = (0.01, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 64
    """Random points at each σ, at least 2."""
    shares: Annotated[tuple[float, ...], above(0)] = (5.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.1)
    """Targets of the excess test loss, as multiples of the final test loss."""

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if self.k_min >= self.k_max:
            raise InputError(f"expected --k-min below --k-max, {self.k_max}, found {self.k_min}")


def _find(problem: Problem, config: RefitConfig, work: Path) -> Record:
    arrays = measure.measure(problem, config, work / "checkpoint")
    n, values = len(problem.order), prediction.values_of(arrays)
    truth = {of: prediction.truths(arrays["k"], v, config.shares) for of, v in values.items()}
    epsilons = {of: np.array([entry["epsilon"] for entry in v]) for of, v in truth.items()}
    made = prediction.forecasts(arrays, epsilons, config.weight_decay)
    found: dict[str, Any] = {
        "num_samples": n,
        "weight_decay": config.weight_decay,
        "dataset": problem.dataset.name,
        "networks": report.networks(arrays),
        "truth": truth,
        "forecasts": [prediction.score(one, truth[one.of], n) for one in made],
    }
    figures = {
        "networks": report.networks_figure(found["networks"], problem.unit),
        "forecasts": report.forecasts(found["forecasts"]),
    }
    return Record(arrays, found, figures, report.text(found))


main = cli.command("refit", RefitConfig, _find, check=check_test_split)

if __name__ == "__main__":
    cli.leave(main())
