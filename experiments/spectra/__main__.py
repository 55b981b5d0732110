"""How the leading curvature of the first k samples settles: spectra of H_k along k."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import stderr
from typing import Annotated, Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import cli, console, law, prepare, run_folder, tables
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Kept, Record
from experiments.spectra import measure, report
from jaxscape import batching
from jaxscape.prefix_spectra import PrefixSpectra, geometric
from jaxscape.subspace import check_dim

BATCH_SIZE = 1000
"""Samples per chunk of a Hessian product."""


@dataclass(frozen=True)
class SpectraConfig(ProblemConfig):
    """Spectra of H_k, the Hessian of the first k samples' mean loss, along k at one w*.

    Trains a network and solves for the top eigenpairs of H_k on a geometric grid of k; sets beside
    them the Ritz values in the top eigenvectors of H_N at every k, the overlap of the subspaces,
    and Theorem 1 of Nikitin et al. 2025 beside the quadratic law of Δ_k.

    Examples:
        python -m experiments.spectra --dataset mnist
        python -m experiments.spectra --dataset glyphs --k-max 3000 --num-ks 6  # a first look
    """

    dim: int = 10
    """Number of eigenpairs, at most 32."""
    num_ks: int = 24
    """Number of values of k; fewer where a short grid repeats itself."""
    pairs: int = 4
    """Number of those k at which k + 1 is solved for too, as Theorem 1 needs."""
    sigma: float = 0.01
    """Standard deviation σ along each direction, in units of the parameters."""
    out: Annotated[Path | None, default("runs/spectra-<dataset>-<hash of the settings>")] = None
    """Run folder."""

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """See ``ProblemConfig.ranges``."""
        pairs, sigma = self.pairs, self.sigma
        return [
            *super().ranges(),
            ("dim", self.dim, 1 <= self.dim <= law.MAX_DIM, f"from 1 to {law.MAX_DIM}"),
            ("num-ks", self.num_ks, self.num_ks >= 2, "at least 2"),
            ("pairs", pairs, 1 <= pairs < self.num_ks, "at least 1 and below --num-ks"),
            ("sigma", sigma, 0 < sigma < float("inf"), "a finite number above 0"),
        ]


def run(config: SpectraConfig) -> Kept:
    """Solve, print the tables, and write the run folder.

    Raises:
        InputError: settings or data that cannot be used.
    """
    config.check()
    problem = problems.load(config)
    check_dim(config.dim, problem.initial)
    console.problem(problem, config.order)
    found = run_folder.keep("spectra", config, problem, lambda work: _find(problem, config, work))
    print("\n" + tables.as_text(report.table(found.arrays)))
    print("\n" + tables.as_text(report.theorem_table(found.arrays, config.sigma)))
    print("\n".join(report.sentences(found.summary)))
    print(f"\nfigures: {found.folder / 'figures'}")
    return found


def grid(config: SpectraConfig) -> np.ndarray:
    """The values of k to solve for, increasing: a geometric grid, and successors of some."""
    ks = geometric(max(1, min(10, config.k_max // 2)), config.k_max, config.num_ks)
    chosen = np.rint(np.linspace(0, len(ks) - 2, config.pairs)).astype(int)
    return np.union1d(ks, ks[chosen] + 1)


def _find(problem: Problem, config: SpectraConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params, seconds = prepare.trained(problem, config, store)
    console.stage("trained", f"{config.epochs} epochs", seconds)
    space, pairs, seconds = prepare.eigenspace(problem, params, config.dim, store)
    console.directions("hessian", pairs, seconds)
    spectra = _solve(problem, space, grid(config), seconds)
    started = time.monotonic()
    model = js.project(problem.loss, space, problem.samples)
    theory = js.quadratic_delta(model, config.sigma)
    pair_k, theorem = measure.eigenvalue_delta(spectra, config.sigma)
    solved = {name: x for name, x in spectra._asdict().items() if x is not None}
    arrays = {
        "order": problem.order,
        **solved,
        "ritz_values": js.ritz_values(model.hessian),
        "pair_k": pair_k,
        "theorem1": theorem,
        "theorem1_error": report.theorem_error(spectra, theorem, config.sigma),
        **{f"law_{name}": getattr(theory, name) for name in ("curvature", "diagonal", "total")},
    }
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    console.stage("theory", "Ritz values and the law of every k", time.monotonic() - started)
    found = report.summarise(arrays) | {
        "sigma": config.sigma,
        "num_samples": len(problem.order),
    }
    return Record(arrays, found, _figures(problem, arrays, found))


def _solve(
    problem: Problem, space: js.Subspace, ks: np.ndarray, seconds_of_all: float
) -> PrefixSpectra:
    """Eigenpairs at each k, announced with the time that those of all samples foretell."""
    size = batching.cut(len(problem.order), BATCH_SIZE).size
    share = np.ceil(ks / size).sum() / np.ceil(len(problem.order) / size)
    print(
        f"spectra: eigenpairs of H_k at {len(ks)} values of k, about "
        f"{share * seconds_of_all:.0f} s ...",
        file=stderr,
    )
    started = time.monotonic()
    options = {"reference": space.basis}
    found = js.prefix_spectra(
        problem.keys["subspace"], problem.loss, space.origin, problem.samples, space.dim,
        ks=ks, batch_size=BATCH_SIZE, **options,
    )  # fmt: skip
    jax.block_until_ready(found)
    what = (
        f"{int(found.converged.sum()):,} of {found.converged.size:,} eigenpairs converged at "
        f"{len(ks)} values of k"
    )
    console.stage("spectra", what, time.monotonic() - started)
    return found


def _figures(
    problem: Problem, arrays: dict[str, np.ndarray], found: dict[str, Any]
) -> dict[str, Figure]:
    marks = run_folder.marks(problem)
    k, values, dim = arrays["k"], arrays["values"], arrays["values"].shape[1]
    theory = {
        "diagonal form": arrays["law_diagonal"],
        "curvature part": arrays["law_curvature"],
        "full law": arrays["law_total"],
    }
    every_k = np.arange(1, found["num_samples"])
    theorem = arrays["pair_k"], arrays["theorem1"], arrays["theorem1_error"]
    label = rf"$\sigma = {found['sigma']:g}$"
    share = report.captured(arrays)
    return {
        "eigenvalues": report.eigenvalues(
            k, values, arrays["residuals"], arrays["ritz_values"], **marks
        ),
        "overlap": report.overlap(k, arrays["overlap"], share, dim=dim, **marks),
        "theorem": report.theorem(every_k, theory, theorem, label, **marks),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    return cli.main("spectra", SpectraConfig, run, argv)


if __name__ == "__main__":
    cli.leave(main())
