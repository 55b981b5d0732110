"""Δ_k of every k: how much one more sample changes a trained network's loss landscape."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import cli, environment, law, monte_carlo, prepare, run_folder, say, sweep_report
from experiments import problem as problems
from experiments.manual import default
from experiments.problem import Problem, ProblemConfig
from experiments.sweep_result import Result, arrays_of, read, summary_of, write
from jaxscape.sobol import RANDOMISATIONS, fits
from jaxscape.subspace import check_dim


@dataclass(frozen=True)
class SweepConfig(ProblemConfig):
    """Δ_k of every k: how much one more sample changes a trained network's loss landscape.

    Trains a network on the first k_max samples, finds directions through its parameters,
    evaluates every sample's loss at random points along them, and writes Δ_k = E[(L_{k+1} −
    L_k)²] of every k < k_max with figures and a report into a run folder.

    Examples:
        python -m experiments.sweep --k-max 60000               # MNIST where it can be had
        python -m experiments.sweep --dataset glyphs --k-max 3000 --epochs 2      # a first look
        python -m experiments.sweep --dataset npz:mine.npz --k-max 5000           # your own data
        python -m experiments.sweep --k-max 60000 --resume      # carry on what was interrupted
    """

    subspace: Literal["hessian", "random", "filter", "isotropic"] = "hessian"
    """Directions: top Hessian eigenvectors, random (unit norm or filter-normalised), or all."""
    dim: int = 10
    """Number of directions; isotropic takes all and does not use it."""
    sigmas: tuple[float, ...] = (0.01, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: int = 256
    """Random points at each σ, at least 2."""
    points_from: Literal["gaussian", "sobol"] = "gaussian"
    """Independent points, or 8 scrambled Sobol' nets: smaller errors; 8 times a power of two."""
    tolerances: tuple[float, ...] = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    """Tolerances of Δ_k for which K is reported, in nats² (squared units of the loss)."""
    out: Annotated[Path | None, default("runs/sweep-<dataset>-<hash of the settings>")] = None
    """Run folder."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Carry on an interrupted run; a finished one is left as it is."""
    checkpoint_every: float = 10.0
    """Time between two saves of the sweep, in seconds."""
    devices: Annotated[int | None, default("all that JAX sees")] = None
    """Number of devices to spread the points over."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Precision of matrix products on a GPU or TPU; highest is float32."""

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """See ``ProblemConfig.ranges``."""
        finite = lambda values: all(0 <= v < float("inf") for v in values)  # noqa: E731
        return [
            *super().ranges(),
            ("dim", self.dim, self.dim >= 1, "at least 1"),
            (
                "sigmas",
                _words(self.sigmas),
                bool(self.sigmas) and finite(self.sigmas),
                "one or more finite numbers of at least 0",
            ),
            ("points", self.points, self.points >= 2, "at least 2"),
            ("points-from", self.points_from, *self._drawn()),
            (
                "tolerances",
                _words(self.tolerances),
                bool(self.tolerances) and finite(self.tolerances) and min(self.tolerances) > 0,
                "one or more finite numbers above 0",
            ),
            ("checkpoint-every", self.checkpoint_every, self.checkpoint_every >= 0, "at least 0"),
        ]

    def _drawn(self) -> tuple[bool, str]:
        """Whether the points can be drawn so, and what it takes."""
        nets = fits(self.points) and self.subspace != "isotropic"
        takes = f"--points {RANDOMISATIONS} times a power of two, --subspace not isotropic"
        return nets or self.points_from == "gaussian", f"gaussian; sobol takes {takes}"


def run(config: SweepConfig) -> Result:
    """Do the run, or find it finished where ``config.resume`` is set.

    Raises:
        InputError: settings or data that cannot be used; nothing is left half-written.
    """
    config.check()
    mesh = monte_carlo.mesh_of(config.devices)
    started = time.monotonic()
    problem = problems.load(config)
    if config.subspace != "isotropic":
        check_dim(config.dim, problem.initial)
    seconds = {"data": time.monotonic() - started}
    say.problem(problem, config.order)
    name = f"sweep-{problem.dataset.label}-{config.short_hash()}"
    out = run_folder.absolute(config.out or Path("runs") / name)
    settings = config.settings() | {"data_sha256": problem.dataset.sha256}
    if config.resume and run_folder.is_finished(out, settings):
        result = read(out)
        say.result(result.summary, out, "finished before, left as it is")
        return result
    with run_folder.staged(out, settings, resume=config.resume) as work:
        result = _compute(problem, config, mesh, work, seconds)
        facts = environment.facts(problem.dataset, config, settings)
        run_folder.write_json(work / run_folder.CONFIG, facts)
        write(work, result)
        sweep_report.write(work, config, result.arrays, result.summary, facts)
    say.result(result.summary, out, "report")
    return result._replace(folder=out)


def _compute(
    problem: Problem, config: SweepConfig, mesh: Any, work: Path, seconds: dict[str, float]
) -> Result:
    store = work / "checkpoint"
    params, seconds["train"] = prepare.trained(problem, config, store)
    say.stage("trained", f"{config.epochs} epochs", seconds["train"])
    space, pairs, seconds["subspace"] = prepare.directions(
        problem, params, config.subspace, config.dim, store
    )
    say.directions(config.subspace, pairs, seconds["subspace"])
    problem.release()  # what follows reads them segment by segment
    probes = [
        prepare.probe(problem, params, space, config.points, sigma, config.points_from)
        for sigma in config.sigmas
    ]
    curves, seconds["sweep"] = monte_carlo.run(
        problem,
        probes,
        store,
        checkpoint_every=config.checkpoint_every,
        precision=config.precision,
        mesh=mesh,
    )
    say.stage("swept", f"{config.points} points at each of {len(probes)} σ", seconds["sweep"])
    started = time.monotonic()
    arrays = arrays_of(problem, params, pairs, config.sigmas, probes, curves)
    arrays |= law.arrays_of(problem, space, config.sigmas)
    seconds["theory"] = time.monotonic() - started
    say.stage("theory", "the quadratic law of every k", seconds["theory"])
    summary = summary_of(problem, params, pairs, arrays, config.tolerances, seconds)
    return Result(work, arrays, summary)


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "none"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("sweep", SweepConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
