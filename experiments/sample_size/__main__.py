"""The sample size that suffices as pilots of few samples foretell it, against all samples."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Array, Float

import jaxscape as js
from experiments.common import cli, console, prepare, run_folder, tables
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Kept, Record
from experiments.common.tables import as_text
from experiments.sample_size import measure, report
from experiments.sample_size.measure import Answer, Question
from experiments.sample_size.report import NAMES, answers_of, sentence, table
from jaxscape import InputError, reductions
from jaxscape.probes import Probe
from jaxscape.subspace import check_dim


@dataclass(frozen=True)
class SampleSizeConfig(ProblemConfig):
    """The sample size that suffices as pilots of few samples foretell it, against all samples.

    Trains a network, evaluates every sample's loss at random points along its top Hessian
    eigenvectors, and asks pilots of n = 250, 500, 1000, ... samples, each at a few of the points,
    how many samples suffice: once along the order of the data, then over many random orders, to
    see how often their 90 % intervals are right.

    Examples:
        python -m experiments.sample_size --dataset mnist
        python -m experiments.sample_size --dataset glyphs --k-max 3000 --trials 20  # a first look
    """

    dim: int = 10
    """Number of eigenvectors."""
    sigmas: tuple[float, ...] = (0.01, 1.0)
    """Standard deviations σ along each direction, in units of the parameters."""
    points: int = 512
    """Random points at each σ, at which all samples are what pilots are held against."""
    pilot_points: int = 64
    """Points of each pilot, drawn from those of --points."""
    first_pilot: int = 250
    """Samples of the smallest pilot; each next has twice as many, up to half of k_max."""
    trials: int = 200
    """Number of random orders over which the coverage of the intervals is counted."""
    tolerance: float = 1e-6
    """Tolerance of Δ_k, in nats² (squared units of the loss)."""
    epsilon: float = 0.01
    """Root mean square distance to the population's landscape, in nats (units of the loss)."""
    out: Annotated[Path | None, default("runs/sample_size-<dataset>-<hash of the settings>")] = None
    """Run folder."""

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """See ``ProblemConfig.ranges``."""
        finite = all(0 <= sigma < float("inf") for sigma in self.sigmas)
        words = " ".join(f"{sigma:g}" for sigma in self.sigmas) or "none"
        most = self.k_max // 2
        few, many = self.pilot_points, self.points
        positive = [
            (name, value, 0 < value < float("inf"), "a finite number above 0")
            for name, value in (("tolerance", self.tolerance), ("epsilon", self.epsilon))
        ]
        return [
            *super().ranges(),
            ("dim", self.dim, self.dim >= 1, "at least 1"),
            (
                "sigmas",
                words,
                bool(self.sigmas) and finite,
                "one or more finite numbers of at least 0",
            ),
            ("points", many, many >= 2, "at least 2"),
            ("pilot-points", few, 2 <= few <= many, f"from 2 to {many}, the points"),
            (
                "first-pilot",
                self.first_pilot,
                2 <= self.first_pilot <= most,
                f"from 2 to {most}, half of --k-max",
            ),
            ("trials", self.trials, self.trials >= 1, "at least 1"),
            *positive,
        ]


def run(config: SampleSizeConfig) -> Kept:
    """Ask the pilots, print the tables, and write the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    config.check()
    problem = problems.load(config)
    check_dim(config.dim, problem.initial)
    console.problem(problem, config.order)
    found = run_folder.keep(
        "sample_size", config, problem, lambda work: _find(problem, config, work)
    )
    for entry in found.summary["answers"]:
        print(f"\nσ = {entry['sigma']:g}, {NAMES[entry['part']]}")
        print(as_text(table(entry, found.arrays["pilot"].tolist(), found.summary["num_samples"])))
        print(sentence(entry))
    print(f"\nfigures: {found.folder / 'figures'}")
    return found


def _find(problem: Problem, config: SampleSizeConfig, work: Path) -> Record:
    params, seconds = prepare.trained(problem, config, work / "checkpoint")
    console.stage("trained", f"{config.epochs} epochs", seconds)
    found = prepare.eigenspace(problem, params, config.dim, work / "checkpoint")
    console.directions("hessian", found.pairs, found.seconds)
    by_sigma = []
    for sigma in config.sigmas:
        started = time.monotonic()
        probe = prepare.probe(problem, params, found.space, config.points, sigma)
        losses = per_sample_losses(problem, probe)
        console.stage(
            f"losses, σ = {sigma:g}", f"{config.points} points", time.monotonic() - started
        )
        started = time.monotonic()
        by_sigma.append(ask(losses, config))
        what = f"{config.trials} orders at {config.pilot_points} points each"
        console.stage(f"pilots, σ = {sigma:g}", what, time.monotonic() - started)
    arrays = {name: np.stack([arrays[name] for arrays in by_sigma]) for name in by_sigma[0]}
    n = len(problem.order)
    arrays |= {
        "sigma": np.asarray(config.sigmas, np.float32),
        "pilot": np.asarray(measure.doubling(config.first_pilot, n)),
    }
    answers = answers_of(arrays)
    unit = "nats" if problem.dataset.num_classes else "loss"
    about = {"tolerance": config.tolerance, "unit": unit, **run_folder.marks(problem)}
    figures = {
        "pilots": report.pilots(answers, arrays["pilot"], n, **about),
        "coverage": report.coverage(
            answers, arrays["pilot"], tables.LEVEL, config.trials, **run_folder.marks(problem)
        ),
    }
    return Record(arrays, {"num_samples": n, "level": tables.LEVEL, "answers": answers}, figures)


def per_sample_losses(problem: Problem, probe: Probe) -> Float[Array, "m n"]:
    """ℓ_i(w) of every sample at every point.

    Raises:
        InputError: a loss that is NaN or infinite.
    """
    keep = reductions.losses(probe.num_points)
    losses = js.evaluate(problem.loss, probe, problem.samples, keep)
    bad = np.flatnonzero(~np.isfinite(losses).all(0))
    if bad.size:
        raise InputError(
            f"expected finite losses, found NaN or infinity for {bad.size} of {losses.shape[1]} "
            f"samples, the first at position {bad[0]}; lower --sigmas"
        )
    return losses


def ask(losses: Float[Array, "M n"], config: SampleSizeConfig) -> dict[str, np.ndarray]:
    """The arrays of results.npz at one sigma.

    ``own_*`` are pilots along the order of the data, ``trial_*`` those of random orders, ``true_*``
    what all samples at all points say, for both parts as in ``pilots``; ``own_k``, ``trial_k``
    and, at all points, ``true_k`` are Definition 4's K of each order run to its end, n where it is
    not reached; ``held_*`` is whether a trial's interval held.
    """
    n = losses.shape[1]
    question = Question(config.tolerance, config.epsilon, tables.LEVEL, n)
    found = measure.ask(
        jax.random.key(config.seed),
        losses,
        measure.doubling(config.first_pilot, n),
        num_points=config.pilot_points,
        num_trials=config.trials,
        question=question,
    )
    truth = measure.of_all(losses, question)
    own = jax.tree.map(lambda leaf: leaf[:, 0], found)
    trials = jax.tree.map(lambda leaf: leaf[:, 1:], found)
    arrays = {
        **_named("own", own.answer),
        **_named("trial", trials.answer),
        **_named("true", truth),
        **{f"held_{what}": hits for what, hits in measure.held(trials, truth).items()},
        "own_k": own.exceedance,
        "trial_k": trials.exceedance,
        "true_k": measure.last_exceedance(losses, config.tolerance),
    }
    return {name: np.asarray(values) for name, values in arrays.items()}


def _named(prefix: str, answer: Answer) -> dict[str, Array]:
    return {f"{prefix}_{name}": values for name, values in answer._asdict().items()}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("sample_size", SampleSizeConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
