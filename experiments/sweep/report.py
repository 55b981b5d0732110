"""The report of a sweep: tables, figures with captions, report.html."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import report, tables
from experiments.common.report import Picture
from experiments.common.run_folder import Record
from jaxscape.lab import plot

LATE = 0.95

MARK = "* within the last 5 % of the samples: too few follow to tell whether it lasts"

CAPTIONS = {
    "delta": "Δ_k against k, both logarithmic. Each value depends on the one sample k+1, so single "
    "values scatter widely: dots are the extremes of narrow bins, the line the mean over k in "
    "bins of equal width in log k, the band its standard error.",
    "delta_k2": "Δ_k·k²; dashed the order law, its mean over all orders of these samples, which is "
    "flat. The curve of a single order may lie far below it until the few samples arrive that "
    "dominate the variance of the loss.",
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


def tell(found: dict[str, Any]) -> None:
    """Print the summary: the network, and the tables."""
    print("\n" + ", ".join(f"{name} {value}" for name, value in network(found)))
    for rows in tables_of(found):
        print("\n" + tables.as_text(rows))
        if is_marked(rows):
            print(MARK)


def network(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The trained network: how large it is, how well it does."""
    rows = [
        ("parameters", f"{found['num_parameters']:,}"),
        ("training loss", f"{found['train_loss']:.4g}"),
        ("unit of Δ_k and tolerances", found["unit"]),
    ]
    if found["test_accuracy"] is not None:
        of = " of whole sequences" if found["whole_sequences"] else ""
        rows.insert(2, (f"test accuracy{of}", f"{found['test_accuracy']:.2%}"))
    return rows


def tables_of(found: dict[str, Any]) -> list[list[list[str]]]:
    """The level of Δ_k·k² at each sigma, K, and the law beside Monte-Carlo."""
    entries, n = found["sigmas"], found["num_samples"]
    return [levels_table(entries), sizes_table(entries, n), tables.law_table(entries)]


def levels_table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """The level of Δ_k·k² at each sigma, the order law, and the decay of Δ_k."""
    rows = [["sigma", "mean Δ_k·k²", "order law", "90 %", "effective samples", "decay exponent"]]
    for entry in entries:
        exponent = entry["decay_exponent"]
        fitted = "-" if exponent["value"] is None else f"{exponent['value']:.3f}"
        if exponent["sem"] is not None:
            fitted += f" ± {exponent['sem']:.3f}"
        limits = ["any" if x is None else f"{x:.3g}" for x in entry["order_law_k2_ci"]]
        effective = entry["effective_samples"]
        rows.append([
            f"{entry['sigma']:g}", f"{entry['mean_delta_k2']:.4g}", f"{entry['order_law_k2']:.4g}",
            " to ".join(limits), "-" if effective is None else f"{effective:,.0f}", fitted,
        ])  # fmt: skip
    return rows


def sizes_table(entries: list[dict[str, Any]], k_max: int) -> list[list[str]]:
    """K per sigma and tolerance, with its intervals; a star where it is near the last k."""
    rows = [["sigma", "tolerance", "K, this order", "any order, 90 %", "K, order law", "90 %"]]
    for entry in entries:
        for size in entry["sufficient_size"]:
            star = "*" if size["reached"] and size["k"] > LATE * k_max else ""
            own = f"{size['k']:,}{star}" if size["reached"] else f"not by {k_max:,}"
            law = tables.count(size["law_k"]), tables.between(size["law_ci"])
            cells = [own, tables.between(size["ci"]), *law]
            rows.append([f"{entry['sigma']:g}", f"{size['tolerance']:g}", *cells])
    return rows


def is_marked(rows: list[list[str]]) -> bool:
    """Whether a K of the table has the star that ``MARK`` explains."""
    return any(cell.endswith("*") for row in rows for cell in row)


def figures_of(arrays: dict[str, np.ndarray], found: dict[str, Any]) -> dict[str, Figure]:
    """From the arrays of results.npz and the summary; without those that would be empty."""
    labels = [f"σ = {sigma:g}" for sigma in arrays["sigma"]]
    common = {"labels": labels, "unit": found["unit"]}
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
        parts = {p: arrays[f"law_{p}"] for p in ("offset", "gradient", "curvature", "mixed")}
        figures["law"] = plot.law(k, delta, theory, **common)
        figures["law_parts"] = plot.law_parts(k, parts, labels)
    if len(arrays["eigenvalues"]):
        pairs = arrays["eigenvalues"], arrays["eigenvalue_residuals"]
        unit = found["unit"].removesuffix("²")
        figures["eigenvalues"] = plot.eigenvalues(*pairs, unit=unit)
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


def write(config: Any, folder: Path, record: Record, facts: dict[str, Any]) -> None:
    """``report.html``, from the figures in ``folder`` and the content of config.json."""
    found, arrays = record.summary, record.arrays
    levels, sizes, laws = tables_of(found)
    values, residuals = arrays["eigenvalues"], arrays["eigenvalue_residuals"]
    spent = [(f"seconds, {stage}", value) for stage, value in found["seconds"].items()]
    report.write(
        folder, "report.html.j2", [Picture(name, CAPTIONS[name]) for name in record.figures],
        dataset=found["dataset"], notes=notes(found), unit=found["unit"], from_k=tables.FROM,
        sizes=sizes, levels=levels, laws=laws, mark=MARK if is_marked(sizes) else "",
        eigenvalues=list(zip(values, residuals, found["eigenvalues_converged"], strict=True)),
        command=command(config, found["dataset"]),
        facts=[*network(found), *_flat(facts), *spent],
    )  # fmt: skip


def notes(found: dict[str, Any]) -> list[str]:
    """What the reader must know before the numbers."""
    lost, num = found["eigenvalues_converged"].count(False), len(found["eigenvalues"])
    inexact = f"{lost} of {num} eigenpairs did not converge: the directions are approximate."
    return [line for line in (found["dataset_note"], inexact if lost else "") if line]


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
