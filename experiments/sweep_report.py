"""The report of a sweep."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from experiments import law, report, summary
from experiments.report import Picture
from experiments.sweep_figures import CAPTIONS, figures_of
from jaxscape.lab import plot


def write(
    folder: Path,
    config: Any,
    arrays: dict[str, np.ndarray],
    found: dict[str, Any],
    facts: dict[str, Any],
) -> None:
    """``figures/*.png``, ``figures/*.pdf`` and ``report.html``."""
    figures = figures_of(arrays, found)
    for name, figure in figures.items():
        plot.save(figure, folder / "figures", name)
    values, residuals = arrays["eigenvalues"], arrays["eigenvalue_residuals"]
    rows = summary.sizes_table(found["sigmas"], found["num_samples"])
    report.write(
        folder,
        "report.html.j2",
        [Picture(name, CAPTIONS[name]) for name in figures],
        notes=notes(found),
        what=what(config, found),
        unit=found["unit"],
        from_k=summary.FROM,
        table=rows,
        levels=summary.levels_table(found["sigmas"]),
        marked=summary.is_marked(rows),
        mark=summary.MARK,
        sentences=[law.sentence(entry) for entry in found["sigmas"]],
        eigenvalues=list(zip(values, residuals, found["eigenvalues_converged"], strict=True)),
        command=command(config, found["dataset"]),
        facts=_flat(facts) + [(f"seconds, {k}", v) for k, v in found["seconds"].items()],
        config=facts,
    )


def notes(found: dict[str, Any]) -> list[str]:
    """What the reader must know before the numbers."""
    lines = [found["dataset_note"]] if found["dataset_note"] else []
    lost = found["eigenvalues_converged"].count(False)
    if lost:
        lines.append(
            f"{lost} of {len(found['eigenvalues'])} eigenpairs did not converge: the directions "
            "are approximate."
        )
    return lines


def what(config: Any, found: dict[str, Any]) -> str:
    """One paragraph on the run."""
    along = {
        "hessian": f"along the top {config.dim} Hessian eigenvectors",
        "random": f"along {config.dim} random directions of unit norm",
        "filter": f"along {config.dim} filter-normalised random directions",
        "isotropic": "over all parameters at once",
    }[config.subspace]
    drawn = {"gaussian": "Gaussian", "sobol": "scrambled Sobol' (Gaussian)"}[config.points_from]
    layers = "block" if config.model == "transformer" else "hidden layer"
    layers += "s" if config.layers != 1 else ""
    return (
        f"A network of {found['num_parameters']:,} parameters ({config.model}, {config.layers} "
        f"{layers}, width {config.hidden}) was trained for {config.epochs} epochs on "
        f"{found['num_samples']:,} samples of {found['dataset']}, to a training loss of "
        f"{found['train_loss']:.4g}{summary.tested(found, ' and ')}. "
        f"The losses of all samples were then evaluated at {config.points} {drawn} points per σ "
        f"{along}, with the samples in {config.order} order; Δ_k is the mean over the points of "
        "the squared change of the mean loss when sample k+1 joins the first k."
    )


def command(config: Any, dataset: str) -> str:
    """A command line that repeats the run."""
    words = ["python", "-m", "experiments.sweep"]
    given = {**config.settings(), "dataset": dataset, "data_dir": config.data_dir}
    for name, value in given.items():
        if value is not None:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in tree.items():
        label = f"{prefix}{name}"
        rows += _flat(value, f"{label}, ") if isinstance(value, dict) else [(label, value)]
    return rows
