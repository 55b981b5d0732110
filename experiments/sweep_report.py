"""The figures of a sweep, with the report that holds them."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import report, summary
from experiments.report import Picture
from jaxscape.lab import plot

CAPTIONS = {
    "delta": "Δ_k against k, both logarithmic. Each value hangs on the one sample k+1, so single "
    "values scatter widely (pale); the line is the mean over k in bins of equal width in log k, "
    "the band its standard error.",
    "delta_k2": "Δ_k·k², flat wherever samples are exchangeable; dashed the order law, its mean "
    "over all orders of these samples.",
    "shape_part": "Δ_k beside its shape part, which leaves out shifts of the whole surface.",
    "eigenvalues": "The largest eigenvalues of the Hessian over all samples; error bars are "
    "residuals.",
}


def write(
    folder: Path,
    config: Any,
    arrays: dict[str, np.ndarray],
    found: dict[str, Any],
    facts: dict[str, Any],
) -> None:
    """``figures/*.png``, ``figures/*.pdf`` and ``report.html``."""
    fallback = bool(found["dataset_note"])
    name = found["dataset"]
    labels = [f"σ = {sigma:g}" for sigma in arrays["sigma"]]
    common = {"labels": labels, "dataset": name, "fallback": fallback, "unit": found["unit"]}
    figures = {
        "delta": plot.delta(arrays["k"], arrays["delta"], arrays["delta_sem"], **common),
        "delta_k2": plot.delta_k2(
            arrays["k"],
            arrays["delta"],
            arrays["delta_sem"],
            loss_variance=arrays["loss_variance"],
            **common,
        ),
        "shape_part": plot.shape_part(
            arrays["k"], arrays["delta"], arrays["delta_shape"], **common
        ),
    }
    if len(arrays["eigenvalues"]):
        figures["eigenvalues"] = plot.eigenvalues(
            arrays["eigenvalues"], arrays["eigenvalue_residuals"], dataset=name, fallback=fallback
        )
    for figure_name, figure in figures.items():
        plot.save(figure, folder / "figures", figure_name)
    pairs = zip(
        arrays["eigenvalues"],
        arrays["eigenvalue_residuals"],
        found["eigenvalues_converged"],
        strict=True,
    )
    report.write(
        folder,
        "report.html.j2",
        [Picture(figure_name, CAPTIONS[figure_name]) for figure_name in figures],
        notes=notes(found),
        what=what(config, found),
        unit=found["unit"],
        from_k=summary.FROM,
        table=summary.table(found["sigmas"], found["num_samples"]),
        eigenvalues=list(pairs),
        command=command(config),
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
    accuracy = found["test_accuracy"]
    tested = "" if accuracy is None else f" and test accuracy {accuracy:.2%}"
    return (
        f"A network of {found['num_parameters']:,} parameters ({config.model}, {config.layers} "
        f"hidden layers, width {config.hidden}) was trained for {config.epochs} epochs on "
        f"{found['num_samples']:,} samples of {found['dataset']}, to a training loss of "
        f"{found['train_loss']:.4g}{tested}. The losses of all samples were then evaluated at "
        f"{config.points} Gaussian points per σ {along}, with the samples in {config.order} order; "
        "Δ_k is the mean over the points of the squared change of the mean loss when sample k+1 "
        "joins the first k."
    )


def command(config: Any) -> str:
    """A command line that repeats the run."""
    words = ["python -m experiments.sweep"]
    for name, value in config.settings().items():
        if value is not None:
            text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words.append(f"--{name.replace('_', '-')} {text}")
    return " ".join(words)


def _flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in tree.items():
        label = f"{prefix}{name}"
        rows += _flat(value, f"{label}, ") if isinstance(value, dict) else [(label, value)]
    return rows
