"""Δ_k of every k: how much one more sample changes a trained network's loss landscape."""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import tyro

from experiments.common import cli, console, devices, law, prepare, run_folder, segments
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig, default
from experiments.common.problem import Problem
from experiments.sweep import report
from experiments.sweep.measure import Result, arrays_of, read, summary_of, write
from jaxscape.lanczos import Eigenpairs
from jaxscape.probes import RANDOMISATIONS, fits
from jaxscape.reductions import Delta
from jaxscape.subspace import check_dim
from jaxscape.types import Params, Probe


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
        python -m experiments.sweep --hosts 2 --host 0 --coordinator 10.0.0.1:1234   # first of two
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
    """Number of devices that share the work, those of all hosts together."""
    hosts: int = 1
    """Number of hosts that share the work, each with this command."""
    host: int = 0
    """Which of the hosts this is, from 0; only host 0 prints and writes."""
    coordinator: Annotated[str | None, default("none: one host")] = None
    """Host 0 as HOST:PORT, or auto in a cluster that JAX knows (TPU pods, Slurm, Open MPI)."""
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
            *devices.ranges(self.hosts, self.host, self.coordinator),
        ]

    def _drawn(self) -> tuple[bool, str]:
        """Whether the points can be drawn so, and what it takes."""
        nets = fits(self.points) and self.subspace != "isotropic"
        takes = f"--points {RANDOMISATIONS} times a power of two, --subspace not isotropic"
        return nets or self.points_from == "gaussian", f"gaussian; sobol takes {takes}"


class Found(NamedTuple):
    """What all hosts work at."""

    params: Params  #: w*
    pairs: Eigenpairs | None
    probes: list[Probe]
    curves: list[Delta]
    laws: dict[str, np.ndarray]


def run(config: SweepConfig) -> Result | None:
    """Do the run, or find it finished where ``config.resume`` is set; None but on the first host.

    Raises:
        InputError: settings or data that cannot be used; nothing is left half-written.
    """
    config.check()
    devices.join(config.hosts, config.host, config.coordinator)
    with devices.quiet():
        return _run(config)


def _run(config: SweepConfig) -> Result | None:
    mesh = devices.together(lambda: devices.mesh(config.devices, config.points))
    started = time.monotonic()
    problem = devices.together(lambda: problems.load(config))
    if config.subspace != "isotropic":
        check_dim(config.dim, problem.initial)
    seconds = {"data": time.monotonic() - started}
    console.problem(problem, config.order)
    name = f"sweep-{problem.dataset.label}-{config.short_hash()}"
    out = run_folder.absolute(config.out or Path("runs") / name)
    settings = _settings(problem, config)
    versions = jax.__version__, jax.devices()[0].device_kind
    alike = [settings, config.devices, config.resume, versions]
    devices.check_alike(json.dumps(alike, sort_keys=True))
    if config.resume and devices.decide(lambda: run_folder.is_finished(out, settings)):
        return _on_first(lambda: _tell(read(out), out, "finished before, left as it is"))
    with contextlib.ExitStack() as stack:
        staged = run_folder.staged(out, settings, resume=config.resume)
        work = _on_first(lambda: stack.enter_context(staged))
        found = _compute(problem, config, mesh, work and work / "checkpoint", seconds)
        result = _on_first(lambda: _write(problem, config, found, work, seconds))
    return _tell(result._replace(folder=out), out, "report") if result else None


def _settings(problem: Problem, config: SweepConfig) -> dict[str, Any]:
    return config.settings() | {"data_sha256": problem.dataset.sha256}


def _on_first(find: Any) -> Any:
    """What the first host alone does; bad input or output there ends all."""
    return devices.together(lambda: find() if devices.first() else None)


def _tell(result: Result, out: Path, where: str) -> Result:
    report.tell(result.summary, out, where)
    return result


def _compute(
    problem: Problem, config: SweepConfig, mesh: Any, store: Path, seconds: dict[str, float]
) -> Found:
    params, spent = devices.from_first(
        lambda: prepare.trained(problem, config, store), (problem.initial, np.float32(0))
    )
    seconds["train"] = float(spent)
    console.stage("trained", f"{config.epochs} epochs", seconds["train"])
    space, pairs, seconds["subspace"] = prepare.directions(
        problem, params, config.subspace, config.dim, store, mesh
    )
    console.directions(config.subspace, pairs, seconds["subspace"])
    problem.release()  # what follows reads them segment by segment
    probes = [
        prepare.probe(problem, params, space, config.points, sigma, config.points_from)
        for sigma in config.sigmas
    ]
    curves, seconds["sweep"] = segments.run(
        problem,
        probes,
        store,
        checkpoint_every=config.checkpoint_every,
        precision=config.precision,
        mesh=mesh,
    )
    console.stage("swept", f"{config.points} points at each of {len(probes)} σ", seconds["sweep"])
    started = time.monotonic()
    laws = law.arrays_of(problem, space, config.sigmas, mesh)
    seconds["theory"] = time.monotonic() - started
    console.stage("theory", "the quadratic law of every k", seconds["theory"])
    return Found(params, pairs, probes, curves, laws)


def _write(
    problem: Problem, config: SweepConfig, found: Found, work: Path, seconds: dict[str, float]
) -> Result:
    """The files of the run folder ``work``."""
    params, pairs = found.params, found.pairs
    arrays = arrays_of(problem, params, pairs, config.sigmas, found.probes, found.curves)
    arrays |= found.laws
    summary = summary_of(problem, params, pairs, arrays, config.tolerances, seconds)
    result = Result(work, arrays, summary)
    facts = run_folder.facts_of(problem.dataset, config, _settings(problem, config))
    run_folder.write_json(work / run_folder.CONFIG, facts)
    write(work, result)
    report.write(work, config, arrays, summary, facts)
    return result


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "none"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("sweep", SweepConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
