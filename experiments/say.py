"""What a command tells on stdout while it runs."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import law, summary
from experiments.problem import Problem
from jaxscape.lanczos import Eigenpairs


def problem(found: Problem, order: str) -> None:
    """The data; first of all, what stands in for what."""
    dataset = found.dataset
    if dataset.note:
        print(f"note: {dataset.note}")
    print(
        f"data: {dataset.name}, {len(found.order):,} of {len(dataset.train_inputs):,} samples, "
        f"{order} order ({dataset.source})",
        flush=True,
    )


def stage(name: str, what: str, seconds: float) -> None:
    """A stage that is done."""
    print(f"{name}: {what}, {seconds:.1f} s", flush=True)


def directions(kind: str, pairs: Eigenpairs | None, seconds: float) -> None:
    """The subspace; of eigenpairs, whether they can be trusted."""
    what = kind
    if pairs is not None:
        # an eigenvalue below 1 % of the largest is known to float32 no better than that part of it
        size, good = np.abs(pairs.values), np.asarray(pairs.converged)
        floor = max(0.01 * size.max(), np.finfo(np.float32).tiny)
        relative = np.divide(pairs.residuals, np.maximum(size, floor)).max()
        what = (
            f"{good.sum()} of {good.size} eigenpairs converged, "
            f"{int(pairs.matvecs)} Hessian products, largest relative residual {relative:.1e}"
        )
    stage("directions", what, seconds)


def result(found: dict[str, Any], out: Path, where: str) -> None:
    """The network, the table of K, and where the rest is."""
    print(
        f"\n{found['num_parameters']:,} parameters, training loss {found['train_loss']:.4g}"
        f"{summary.tested(found, ', ')}; Δ and tolerances in {found['unit']}"
    )
    print(summary.as_text(summary.levels_table(found["sigmas"])))
    rows = summary.sizes_table(found["sigmas"], found["num_samples"])
    print("\n" + summary.as_text(rows))
    if summary.is_marked(rows):
        print(summary.MARK)
    for entry in found["sigmas"]:
        print(law.sentence(entry))
    print(f"\n{where}: {out / 'report.html'}")
