"""The figures of a sweep, each with its caption.

The report of a sweep.
"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import law, report, tables
from experiments.common.report import Picture
from jaxscape.lab import plot


def tell(found: dict[str, Any], out: Path, where: str) -> None:
    """The network, the table of K, and where the rest is."""
    print(
        f"\n{found['num_parameters']:,} parameters, training loss {found['train_loss']:.4g}"
        f"{tables.tested(found, ', ')}; Δ and tolerances in {found['unit']}"
    )
    print(tables.as_text(tables.levels_table(found["sigmas"])))
    rows = tables.sizes_table(found["sigmas"], found["num_samples"])
    print("\n" + tables.as_text(rows))
    if tables.is_marked(rows):
        print(tables.MARK)
    for entry in found["sigmas"]:
        print(law.sentence(entry))
    print(f"\n{where}: {out / 'report.html'}")


PARTS = ("offset", "gradient", "curvature", "mixed")


CAPTIONS = {
    "delta": "Δ_k against k, both logarithmic. Each value hangs on the one sample k+1, so single "
    "values scatter widely: dots are the extremes of narrow bins, the line the mean over k in "
    "bins of equal width in log k, the band its standard error.",
    "delta_k2": "Δ_k·k²; dashed the order law, its mean over all orders of these samples, which is "
    "flat. The curve of the one order that was run may lie far below it until the few samples "
    "arrive that carry the variance of the loss.",
    "centered": "Δ_k beside its centered part, which leaves out shifts of the whole surface.",
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


def figures_of(arrays: dict[str, np.ndarray], found: dict[str, Any]) -> dict[str, Figure]:
    """From the arrays of results.npz and the summary; those that there is something to show in."""
    marks = {"dataset": found["dataset_label"], "fallback": bool(found["dataset_note"])}
    labels = [f"σ = {sigma:g}" for sigma in arrays["sigma"]]
    common = {"labels": labels, "unit": found["unit"], **marks}
    k, delta, sem = arrays["k"], arrays["delta"], arrays["delta_sem"]
    figures = {
        "delta": plot.delta(k, delta, sem, **common),
        "delta_k2": plot.delta_k2(k, delta, sem, loss_variance=arrays["loss_variance"], **common),
        "centered": plot.centered(k, delta, arrays["delta_centered"], **common),
        "sizes": _sizes(arrays, found["num_samples"], common),
    }
    if "law_total" in arrays:
        theory = {
            "full law": arrays["law_total"],
            "curvature part (Theorem 1)": arrays["law_curvature"],
            "its diagonal form (published)": arrays["law_diagonal"],
        }
        parts = {part: arrays[f"law_{part}"] for part in PARTS}
        figures["law"] = plot.law(k, delta, theory, **common)
        figures["law_parts"] = plot.law_parts(k, parts, labels, **marks)
    if len(arrays["eigenvalues"]):
        figures["eigenvalues"] = plot.eigenvalues(
            arrays["eigenvalues"],
            arrays["eigenvalue_residuals"],
            unit=found["unit"].removesuffix("²"),
            **marks,
        )
    return figures


def _sizes(arrays: dict[str, np.ndarray], num_samples: int, common: dict[str, Any]) -> Figure:
    """K against tolerance, over all tolerances that the measured curves meet."""
    positive = arrays["delta"][arrays["delta"] > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    tolerances = np.geomspace(low, high, 80).astype(np.float32)
    measured = np.asarray(js.sufficient_size(arrays["delta"][:, None], tolerances).k)
    law = js.increment_size(arrays["loss_variance"][:, None], tolerances)
    predicted = np.where(law.reached, law.k, np.nan)
    return plot.sufficient_sizes(tolerances, measured, predicted, num_samples, **common)


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
    rows = tables.sizes_table(found["sigmas"], found["num_samples"])
    report.write(
        folder,
        "report.html.j2",
        [Picture(name, CAPTIONS[name]) for name in figures],
        notes=notes(found),
        what=what(config, found),
        unit=found["unit"],
        from_k=tables.FROM,
        table=rows,
        levels=tables.levels_table(found["sigmas"]),
        marked=tables.is_marked(rows),
        mark=tables.MARK,
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
        f"{found['train_loss']:.4g}{tables.tested(found, ' and ')}. "
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
