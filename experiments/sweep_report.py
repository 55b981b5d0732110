"""The figures of a sweep, with the report that holds them."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np

import jaxscape as js
from experiments import law, report, summary
from experiments.report import Picture
from jaxscape.lab import plot, plot_theory

PARTS = ("offset", "gradient", "curvature", "mixed")
CAPTIONS = {
    "delta": "Δ_k against k, both logarithmic. Each value hangs on the one sample k+1, so single "
    "values scatter widely: dots are the extremes of narrow bins, the line the mean over k in "
    "bins of equal width in log k, the band its standard error.",
    "delta_k2": "Δ_k·k²; dashed the order law, its mean over all orders of these samples, which is "
    "flat. The curve of the one order that was run may lie far below it until the few samples "
    "arrive that carry the variance of the loss.",
    "shape_part": "Δ_k beside its shape part, which leaves out shifts of the whole surface.",
    "sizes": "K against tolerance: markers one past the last exceedance in this order "
    "(Definition 4), lines the order law, which is the mean over orders and so comes earlier.",
    "law": "Monte-Carlo beside the quadratic law, in full and as published (Figure 9 of Nikitin et "
    "al. 2025). Where the full law lies on the measured curve, the points stay where the loss is "
    "quadratic.",
    "law_parts": "The parts of the quadratic law as shares of their sum: offset a², gradient "
    "σ²‖b‖², curvature, mixed σ² a tr A, which may be negative. They explain Δ_k only where the "
    "law holds.",
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
    name = found["dataset_label"]
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
    if "law_total" in arrays:
        theory = {
            "full law": arrays["law_total"],
            "curvature part (Theorem 1)": arrays["law_curvature"],
            "its diagonal form (published)": arrays["law_diagonal"],
        }
        parts = {name: arrays[f"law_{name}"] for name in PARTS}
        figures["law"] = plot_theory.law(arrays["k"], arrays["delta"], theory, **common)
        del common["unit"]
        figures["law_parts"] = plot_theory.parts(arrays["k"], parts, **common)
    figures["sizes"] = _sizes(arrays, found, labels, name, fallback)
    if len(arrays["eigenvalues"]):
        figures["eigenvalues"] = plot.eigenvalues(
            arrays["eigenvalues"],
            arrays["eigenvalue_residuals"],
            dataset=name,
            fallback=fallback,
            unit=found["unit"].removesuffix("²"),
        )
    for figure_name, figure in figures.items():
        plot.save(figure, folder / "figures", figure_name)
    pairs = zip(
        arrays["eigenvalues"],
        arrays["eigenvalue_residuals"],
        found["eigenvalues_converged"],
        strict=True,
    )
    rows = summary.sizes_table(found["sigmas"], found["num_samples"])
    report.write(
        folder,
        "report.html.j2",
        [Picture(figure_name, CAPTIONS[figure_name]) for figure_name in figures],
        notes=notes(found),
        what=what(config, found),
        unit=found["unit"],
        from_k=summary.FROM,
        table=rows,
        levels=summary.levels_table(found["sigmas"]),
        marked=summary.is_marked(rows),
        mark=summary.MARK,
        sentences=[law.sentence(entry) for entry in found["sigmas"]],
        eigenvalues=list(pairs),
        command=command(config, found["dataset"]),
        facts=_flat(facts) + [(f"seconds, {k}", v) for k, v in found["seconds"].items()],
        config=facts,
    )


def _sizes(
    arrays: dict[str, np.ndarray],
    found: dict[str, Any],
    labels: list[str],
    name: str,
    fallback: bool,
) -> Any:
    """K against tolerance, over all tolerances that the measured curves meet."""
    delta = arrays["delta"]
    if not (delta > 0).any():
        delta = np.ones_like(delta)
    tolerances = np.geomspace(delta[delta > 0].min(), delta.max(), 80).astype(np.float32)
    measured = [np.asarray(js.sufficient_size(row, tolerances).k) for row in arrays["delta"]]
    law = [
        np.asarray(js.increment_size(value, tolerances).k, np.float64)
        for value in arrays["loss_variance"]
    ]
    law = [np.where(row > 0, row, np.nan) for row in law]
    return plot_theory.sizes(
        tolerances,
        np.stack(measured),
        np.stack(law),
        found["num_samples"],
        labels,
        dataset=name,
        fallback=fallback,
        unit=found["unit"],
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
