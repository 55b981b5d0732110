"""How loose the published bounds are on a trained network."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Array

import jaxscape as js
from experiments.bounds import measure, published, report
from experiments.bounds.published import Bound, NetworkConstants, SampleConstants
from experiments.common import cli, console, law, prepare, run_folder, tables
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Kept, Record
from jaxscape.subspace import check_dim
from jaxscape.types import InputError, Params


@dataclass(frozen=True)
class BoundsConfig(ProblemConfig):
    """The published bounds on one sample's effect, and how loose each is.

    Trains an mlp, measures the constants of the Hessian-norm bound and the loss-difference bound
    of Kiselev and Grabovoy 2024 and of the rate bound of Kiselev and Grabovoy 2026, and sets each
    bound beside what it bounds.

    Examples:
        python -m experiments.bounds --dataset mnist
        python -m experiments.bounds --dataset glyphs --k-max 3000 --norms 3000  # a first look
    """

    dim: int = 10
    """Number of eigenvectors, at most 32."""
    sigma: float = 0.01
    """Standard deviation σ along each direction, in units of the parameters."""
    points: int = 64
    """Random points at which losses are evaluated, at least 2."""
    norms: int = 60_000
    """Samples whose Gauss-Newton norm is computed, at most k_max."""
    out: Annotated[Path | None, default("runs/bounds-<dataset>-<hash of the settings>")] = None
    """Run folder."""

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """See ``ProblemConfig.ranges``."""
        return [
            *super().ranges(),
            ("model", self.model, self.model == "mlp", "mlp, the bounds being of dense layers"),
            ("dim", self.dim, 1 <= self.dim <= law.MAX_DIM, f"from 1 to {law.MAX_DIM}"),
            ("sigma", self.sigma, 0 < self.sigma < float("inf"), "a finite number above 0"),
            ("points", self.points, self.points >= 2, "at least 2"),
            ("norms", self.norms, self.norms >= 1, "at least 1"),
        ]


def run(config: BoundsConfig) -> Kept:
    """Measure, print the table, and write the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    config.check()
    problem = problems.load(config)
    if not problem.dataset.num_classes:
        raise InputError(
            "expected classes as targets, found numbers to be predicted; the bounds are of the "
            "cross-entropy, so take a data set of classes"
        )
    check_dim(config.dim, problem.initial)
    console.problem(problem, config.order)
    found = run_folder.keep("bounds", config, problem, lambda work: _find(problem, config, work))
    print("\n" + tables.as_text(report.table(found.summary["bounds"])))
    print("\n".join(report.sentences(found.summary)))
    print(f"\nfigures: {found.folder / 'figures'}")
    return found


def _find(problem: Problem, config: BoundsConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params, seconds = prepare.trained(problem, config, store)
    console.stage("trained", f"{config.epochs} epochs", seconds)
    space, pairs, seconds = prepare.eigenspace(problem, params, config.dim, store)
    console.directions("hessian", pairs, seconds)
    measured, radius = measure.steps(problem, space, config.points, config.sigma, store)
    started = time.monotonic()
    model = js.project(problem.loss, space, problem.samples)
    sample = published.sample_constants(model)
    measured["law_total"] = js.quadratic_delta(model, config.sigma).total
    console.stage("theory", "the quadratic law of every k", time.monotonic() - started)
    measured |= measure.norms(problem, params, config.norms)
    network = published.network_constants(layers_of(params), problem.samples["inputs"])
    measured["order"] = problem.order
    arrays = measured | evaluate(measured["k"], network, sample, radius, config.sigma)
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    found = {
        "num_samples": len(problem.order),
        "norms": len(arrays["norm_samples"]),
        "sigma": config.sigma,
        "radius": radius,
        "network": jax.tree.map(float, dataclasses.asdict(network)),
        "sample": jax.tree.map(float, dataclasses.asdict(sample)),
        "bounds": report.compare(arrays),
    }
    return Record(arrays, found, _figures(problem, arrays, found))


def layers_of(params: Params) -> list[tuple[Array, Array]]:
    """Weight and bias of each dense layer of an mlp of ``models.build``, first to last."""
    layers = [params[f"Dense_{index}"] for index in range(len(params))]
    return [(layer["kernel"], layer["bias"]) for layer in layers]


def evaluate(
    k: Array, network: NetworkConstants, sample: SampleConstants, radius: float, sigma: float
) -> dict[str, np.ndarray]:
    """log10 of each bound, published then corrected: [2], and [2, n-1] where it depends on k."""
    norm = published.log_hessian_norm(network)
    # within R of w* a layer's spectral norm is at most M_W + R, and the curvature off kinks with it
    wider = dataclasses.replace(network, weight_norm=network.weight_norm + radius)
    over_ball = Bound(norm.published, published.log_hessian_norm(wider).corrected)
    found = {
        "bound_norm": np.stack(norm),
        "bound_step_at_origin": _steps_within(k, sample, norm, 0.0),
        "bound_step_in_probe": _steps_within(k, sample, over_ball, radius),
        "bound_rate": np.log(np.stack(published.rate(k, sigma, sample))),
    }
    return {name: values / np.log(10) for name, values in found.items()}


def _steps_within(k: Array, sample: SampleConstants, log_norms: Bound, radius: float) -> np.ndarray:
    forms = [published.log_loss_step(k, sample.loss, norm, radius) for norm in log_norms]
    return np.stack(forms)


def _figures(problem: Problem, arrays: dict[str, np.ndarray], found: dict[str, Any]) -> dict:
    marks = run_folder.marks(problem)
    curves = {
        "at $w^*$": ("step_at_origin", "bound_step_at_origin"),
        "within $R$": ("step_in_probe", "bound_step_in_probe"),
    }
    steps = {label: (arrays[one], arrays[bound]) for label, (one, bound) in curves.items()}
    measured = {"Monte-Carlo": arrays["delta"], "quadratic law": arrays["law_total"]}
    label = rf"$\sigma = {found['sigma']:g}$"
    return {
        "looseness": report.looseness(found["bounds"], **marks),
        "step": report.step(arrays["k"], steps, found["radius"], **marks),
        "rate": report.rate(arrays["k"], measured, arrays["bound_rate"], label, **marks),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("bounds", BoundsConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
