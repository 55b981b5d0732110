"""The command ``bounds``: how loose the published bounds are on a trained network."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import numpy as np

import jaxscape as js
from experiments.bounds import measure, report
from experiments.common import bounds, cli, console, prepare, run_folder, segments, tables
from experiments.common.config import RunConfig, above, at_least, between
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from jaxscape.types import InputError


@dataclass(frozen=True)
class BoundsConfig(RunConfig):
    """The published bounds on one sample's effect, and how loose each is.

    Trains an mlp, measures the constants of the Hessian-norm bound and the loss-difference bound
    of Kiselev and Grabovoy 2024 and of the rate bound of Kiselev and Grabovoy 2026, and sets each
    bound beside what it bounds.

    Examples:
        python -m experiments.bounds --dataset mnist
        python -m experiments.bounds --dataset glyphs --k-max 3000 --norms 3000  # a first look
    """

    dim: Annotated[int, between(1, segments.MAX_LAW_DIM)] = 10
    """Number of eigenvectors, at most 32."""
    sigma: Annotated[float, above(0)] = 0.01
    """Standard deviation σ along each direction, in units of the parameters."""
    points: Annotated[int, at_least(2)] = 64
    """Random points at which losses are evaluated, at least 2."""
    norms: Annotated[int, at_least(1)] = 60_000
    """Samples whose Gauss-Newton norm is computed, at most k_max."""

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if self.model != "mlp":
            wanted = "--model mlp, which the bounds are of"
            raise InputError(f"expected {wanted}, found {self.model}; change it")


def _check(problem: Problem, config: BoundsConfig) -> None:
    del config
    if not problem.dataset.num_classes:
        raise InputError(
            "expected classes as targets, found numbers to be predicted; the bounds are of the "
            "cross-entropy, so take a data set of classes"
        )


def _find(problem: Problem, config: BoundsConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params = prepare.trained(problem, config, store)
    space, _ = prepare.eigenspace(problem, params, config.dim, store)
    measured, radius = measure.steps(problem, space, config.points, config.sigma, store)
    with console.timed("theory", "the quadratic law of every k"):
        model = js.project(problem.loss, space, problem.samples)
        sample = bounds.sample_constants(model)
        measured["law_total"] = js.quadratic_delta(model, config.sigma).total
    measured |= measure.norms(problem, params, config.norms)
    layers = bounds.layers_of(params)
    network = bounds.network_constants(layers, problem.samples["inputs"])
    measured["order"] = problem.order
    constants = layers, network, sample, radius, config.sigma
    arrays = measured | bounds.bounds_of(measured["k"], *constants)
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    found = {
        "num_samples": len(problem.order),
        "norms": len(arrays["norm_samples"]),
        "sigma": config.sigma,
        "radius": radius,
        "network": jax.tree.map(float, dataclasses.asdict(network)),
        "sample": jax.tree.map(float, dataclasses.asdict(sample)),
        "bounds": bounds.compare(arrays),
    }
    figures = report.figures_of(arrays, found, problem.unit)
    both = map(tables.as_text, (report.table(found["bounds"]), report.constants_table(found)))
    text = "\n\n".join([*both, f"{report.NOTE}\n{report.verdict(found)}"])
    return Record(arrays, found, figures, text)


run = partial(run_folder.run, "bounds", _find, check=_check)
"""The whole command, from its settings; see ``run_folder.run``."""

main = partial(cli.main, "bounds", BoundsConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
