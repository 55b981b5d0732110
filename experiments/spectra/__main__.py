"""The command ``spectra``: the leading eigenpairs of H_k along k."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments.common import cli, prepare, segments, tables
from experiments.common.config import RunConfig, above, at_least, between
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from experiments.spectra import measure, report


@dataclass(frozen=True)
class SpectraConfig(RunConfig):
    """Spectra of H_k, the Hessian of the first k samples' mean loss, along k at one w*.

    Trains a network and solves for the top eigenpairs of H_k on a geometric grid of k; sets beside
    them the Ritz values in the top eigenvectors of H_N at every k, the overlap of the subspaces,
    and Theorem 1 of Nikitin et al. 2025 beside the quadratic law of Δ_k.

    Examples:
        python -m experiments.spectra --dataset mnist
        python -m experiments.spectra --dataset glyphs --k-max 3000 --num-ks 6  # a first look
    """

    dim: Annotated[int, between(1, segments.MAX_LAW_DIM)] = 10
    """Number of eigenpairs, at most 32."""
    num_ks: Annotated[int, at_least(2)] = 24
    """Number of values of k, at four of which k + 1 is solved for too, as Theorem 1 needs."""
    sigma: Annotated[float, above(0)] = 0.01
    """Standard deviation σ along each direction, in units of the parameters."""


def _find(problem: Problem, config: SpectraConfig, work: Path) -> Record:
    store = work / "checkpoint"
    params = prepare.trained(problem, config, store)
    space, _ = prepare.eigenspace(problem, params, config.dim, store)
    ks = measure.grid(config.k_max, config.num_ks)
    arrays = measure.arrays_of(problem, space, ks, config.sigma)
    found = report.summarise(arrays)
    found |= {"sigma": config.sigma, "num_samples": len(problem.order)}
    figures = report.figures_of(arrays, found, problem.unit)
    rows = report.table(arrays), report.theorem_table(arrays), report.verdicts(found)
    text = "\n\n".join([*map(tables.as_text, rows), report.WORDS])
    return Record(arrays, found, figures, text)


main = cli.command("spectra", SpectraConfig, _find)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
