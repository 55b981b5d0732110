"""Δ_k of every k: how much one more sample changes a trained network's loss landscape."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from experiments.common import cli, devices, prepare, run_folder, segments
from experiments.common.config import HOLDOUT, RunConfig, above, at_least, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from experiments.sweep import measure, report
from jaxscape import InputError
from jaxscape.batching import host
from jaxscape.probes import RANDOMISATIONS, fits


@dataclass(frozen=True)
class SweepConfig(RunConfig):
    """Δ_k of every k: how much one more sample changes a trained network's loss landscape.

    Trains a network on the first k_max samples, finds directions through its parameters,
    evaluates every sample's loss at random points along them, and writes Δ_k = E[(L_{k+1} −
    L_k)²] of every k < k_max with figures and a report into a run folder.

    With --distributed every process of a cluster that JAX detects runs this command, on a file
    system that all share. Elsewhere JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say which they are.

    Examples:
        python -m experiments.sweep --k-max 60000               # MNIST where it can be had
        python -m experiments.sweep --dataset glyphs --k-max 3000 --epochs 2      # a first look
        python -m experiments.sweep --dataset npz:mine.npz --k-max 5000           # your own data
        python -m experiments.sweep --k-max 60000 --resume      # go on after an interruption
        python -m experiments.sweep --k-max 60000 --distributed          # in every process of many
    """

    subspace: Literal["hessian", "influence", "random", "filter", "unit-filter", "isotropic"] = (
        "hessian"
    )
    """Directions: top Hessian eigenvectors, those along which other samples move the minimum most
    (influence functions), random (norm 1; filters as in w*; both), or all."""
    dim: Annotated[int, at_least(1)] = 10
    """Number of directions; isotropic takes all and does not use it."""
    sigmas: Annotated[tuple[float, ...], at_least(0)] = (0.01, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: Annotated[int | None, at_least(2), default("128 of sobol, 256 of gaussian")] = None
    """Random points at each σ, at least 2."""
    points_from: Annotated[
        Literal["sobol", "gaussian"] | None, default("sobol where it can, else gaussian")
    ] = None
    """8 scrambled Sobol' nets (8 times a power of two; not isotropic), or independent points."""
    tolerances: Annotated[tuple[float, ...], above(0)] = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    """Tolerances of Δ_k for which K is reported, in nats² (squared units of the loss)."""
    holdout: Annotated[int, HOLDOUT] = 0
    """Samples after the first k_max that stand for new ones; 0: the test split does."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on with an interrupted run; a finished one is left as it is."""
    checkpoint_every: Annotated[float, at_least(0)] = 10.0
    """Time between two saves of the sweep, in seconds."""
    devices: Annotated[int | None, default("all that JAX sees")] = None
    """Number of devices that share the work, those of all processes together."""
    distributed: tyro.conf.FlagCreatePairsOff[bool] = False
    """Share the work with the other processes of a cluster, each started with this command."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Precision of matrix products on a GPU or TPU; highest is float32."""

    def __post_init__(self) -> None:
        """See ``ProblemConfig``."""
        super().__post_init__()
        kind = self.points_from or ("sobol" if self._nets else "gaussian")
        object.__setattr__(self, "points_from", kind)
        if self.points is None:
            object.__setattr__(self, "points", 128 if kind == "sobol" else 256)

    @property
    def _nets(self) -> bool:
        """Whether the points can be Sobol' nets."""
        return self.subspace != "isotropic" and (self.points is None or fits(self.points))

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if self.points_from == "sobol" and not self._nets:
            raise InputError(
                f"expected for --points-from sobol --points {RANDOMISATIONS} times a power of two "
                f"and --subspace not isotropic, found {self.points} and {self.subspace}; change it"
            )


def run(config: SweepConfig) -> Record:
    """Do the run, or find it finished where ``config.resume`` is set."""
    config.check()
    if config.distributed:
        devices.initialize()
    with devices.quiet():
        find = partial(_find, mesh=devices.mesh(config.devices, config.points or 1))
        more: dict[str, Any] = {"tell": report.tell, "report": report.write}
        return run_folder.run("sweep", find, config, check=_check, **more)


def _check(problem: Problem, config: SweepConfig) -> None:
    """Raise an ``InputError`` unless all processes have the same to do."""
    settings = run_folder.settings_of(config, problem)
    alike = [settings, config.devices, config.resume, jax.__version__, jax.devices()[0].device_kind]
    devices.check_alike(json.dumps(alike, sort_keys=True))


def _find(problem: Problem, config: SweepConfig, work: Path, mesh: Mesh | None) -> Record:
    """Train, find the directions, sweep and compute the law; the record of the run."""
    assert config.points
    assert config.points_from
    store = work / "checkpoint"
    params = prepare.trained(problem, config, store)
    if jax.process_count() > 1:  # which may have rounded differently
        params = multihost_utils.broadcast_one_to_all(params)
    space, pairs = None, None
    if config.subspace != "isotropic":
        space, pairs = prepare.directions(
            problem, params, config.subspace, config.dim, store, mesh, config.weight_decay
        )
    problem.release()  # what follows reads them segment by segment
    draw = partial(prepare.probe, problem, params, space, config.points)
    probes = [draw(sigma, config.points_from) for sigma in config.sigmas]
    sweep = partial(
        segments.run, probes=probes, store=store, precision=config.precision, mesh=mesh,
        length=segments.length_of(problem, config.points), checkpoint_every=config.checkpoint_every,
    )  # fmt: skip
    swept, laws, fresh = sweep(problem), segments.law(problem, space, config.sigmas, mesh), None
    if problem.fresh:
        try:
            fresh = sweep(problem.fresh, name="fresh")
        except InputError as error:
            raise InputError(f"of the samples that w* has not seen, {error}") from error
    arrays = measure.arrays_of(problem, params, pairs, config.sigmas, probes, swept, fresh) | laws
    summary = measure.summary_of(problem, params, pairs, arrays, config.tolerances)
    with host():
        return Record(arrays, summary, report.figures_of(arrays, summary))


main = partial(cli.main, "sweep", SweepConfig, run)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
