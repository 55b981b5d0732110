"""Tables and figures of networks refitted on the first k samples, from arrays."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import run_folder
from experiments.common.tables import as_text
from experiments.refit import prediction
from jaxscape.lab.style import PREFIX, canvas, colour, curve, legend

Arrays = Mapping[str, np.ndarray]


def networks(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One entry per k: losses in the mean over the repeats, with standard errors."""
    each = {name: arrays[name] for name in ("train_loss", "full_loss")}
    each["lowest_test_loss"] = arrays["test_loss"].min(1)
    tests = ("test_loss", "test_accuracy")
    each |= {name: arrays[name][:, -1] for name in tests if name in arrays}
    columns = {name: arrays[name] for name in ("overlap_refitted", "overlap_fixed")}
    for name, values in each.items():
        columns[name] = values.mean(0, dtype=np.float64)
        if len(values) > 1:
            error = values.astype(np.float64).std(0, ddof=1) / math.sqrt(len(values))
            columns[f"{name}_sem"] = error
    for name in ("distance", "distance_centered"):
        columns[f"rms_{name}"] = np.sqrt(arrays[name].mean(1)).T
    k, variance = arrays["k"], arrays["loss_variance"][:, 1].astype(np.float64)
    columns["rms_law"] = np.sqrt(np.outer(1 / k - 1 / k[-1], variance))
    return [
        {"k": int(k)} | {name: run_folder.plain(values[row]) for name, values in columns.items()}
        for row, k in enumerate(k)
    ]


def text(found: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    unit, sigmas = found["unit"], found["sigmas"]
    parts = [
        f"means over {found['repeats']} repeats, in {unit}; distance: √E(L_N − L_k)² around w*_N;",
        f"overlap: of the {found['dim']} leading eigenvectors of H_k with those of H_N at w*_N",
        as_text(_networks_table(found["networks"], [entry["sigma"] for entry in sigmas])),
        "",
        f"ε: share of the test loss of w*_N, in {unit}; networks: the values of k between which",
        "their excess test loss falls below ε for good; each: in single repeats; K_ε: the law's",
        as_text(_sizes_table(sigmas)),
        "",
        as_text(verdict_table(found)),
    ]
    return "\n".join(parts)


def _networks_table(entries: list[dict[str, Any]], sigmas: list[float]) -> list[list[str]]:
    """A row per k."""
    rows = [["k", "L_k(w*_k)", "test loss", "lowest", "accuracy"]]
    for sigma in sigmas:
        rows[0] += [f"distance, σ={sigma:g}", "law"]
    rows[0] += ["overlap, at w*_k", "at w*_N"]
    for entry in entries:
        error = f" ± {entry['test_loss_sem']:.1g}" if "test_loss_sem" in entry else ""
        both = zip(entry["rms_distance"], entry["rms_law"], strict=True)
        rows.append([
            f"{entry['k']:,}", f"{entry['train_loss']:.2g}", f"{entry['test_loss']:.4f}{error}",
            f"{entry['lowest_test_loss']:.4f}",
            f"{entry['test_accuracy']:.2%}" if "test_accuracy" in entry else "-",
            *(f"{value:.2g}" for pair in both for value in pair),
            f"{entry['overlap_refitted']:.2f}", f"{entry['overlap_fixed']:.2f}",
        ])  # fmt: skip
    return rows


def _sizes_table(sigmas: list[dict[str, Any]]) -> list[list[str]]:
    """A row per σ and ε."""
    rows = [["sigma", "share", "ε", "networks", "each", "K_ε", "90 %", "K_ε / k"]]
    for sigma, size in ((entry["sigma"], size) for entry in sigmas for size in entry["sizes"]):
        low, high = size["networks"]
        spans = (size["networks_single"], size["k_epsilon_ci"])
        single, limits = (" to ".join(f"{k:,}" for k in span) for span in spans)
        rows.append([
            f"{sigma:g}", f"{size['share']:g}", f"{size['epsilon']:.3g}",
            f"{low:,} to {high:,}" if low else f"up to {high:,}", single,
            f"{size['k_epsilon']:,}", limits,
            "-" if size["factor"] is None else f"{size['factor']:.2g}",
        ])  # fmt: skip
    return rows


def verdict_table(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text, the first one the header: at how many ε each σ predicts where networks stop."""
    rows = [["sigma", "test loss", "K_ε / k", f"within a factor {prediction.FACTOR:g}", "predicts"]]
    for key, when in (
        ("sigmas", "at the end"),
        ("sigmas_lowest", "lowest"),
        ("sigmas_fresh", "at the end, E S² of new samples"),
    ):
        for entry in found[key]:
            factors = [size["factor"] for size in entry["sizes"] if size["factor"] is not None]
            right = sum(1 / prediction.FACTOR <= x <= prediction.FACTOR for x in factors)
            rows.append([
                f"{entry['sigma']:g}", when,
                f"{min(factors):.2g} to {max(factors):.2g}" if factors else "-",
                f"{right} of {len(factors)} ε",
                {True: "yes", False: "no", None: "cannot tell"}[entry["predicts"]],
            ])  # fmt: skip
    return rows


def networks_figure(arrays: Arrays, unit: str) -> Figure:
    """Losses of w*_k against k: on the test split at the end and at its lowest, L_N and L_k."""
    title = "Networks refitted on the first k samples"
    figure, (axes,) = canvas(title, PREFIX, f"mean loss of $w^*_k$ ({unit})")
    curves = {
        "test split, at the end": arrays["test_loss"][:, -1],
        "its lowest": arrays["test_loss"].min(1),
        r"all samples, $L_N$": arrays["full_loss"],
        r"its own, $L_k$": arrays["train_loss"],
    }
    for row, (name, values) in enumerate(curves.items()):
        _draw(axes, row, arrays["k"], values, name)
    axes.set(xscale="log", yscale="log")
    legend(figure, "line: mean over the repeats; band: from the least to the largest")
    return figure


def distance(arrays: Arrays, unit: str) -> Figure:
    """√E_q(L_N − L_k)² beside its law and its centered part, and the excess test loss of w*_k.

    A panel per σ. Points at k = N, where all are 0, are not drawn; nor is a negative excess.
    """
    title = "Distance of the landscape, excess test loss of the network"
    ylabel = rf"$\sqrt{{\mathrm{{E}}_q(L_N - L_k)^2}}$, excess ({unit})"
    sigmas, k = arrays["sigma"], arrays["k"].astype(float)[:-1]
    figure, panels = canvas(title, PREFIX, ylabel, [rf"$\sigma$ = {s:g}" for s in sigmas])
    excess = prediction.excess_of(arrays)[:, :-1]
    shrink = 1 / k - 1 / arrays["k"][-1]
    for row, axes in enumerate(panels):
        parts = {"distance": "distance", "distance_centered": "centered part"}
        for column, (part, name) in enumerate(parts.items()):
            _draw(axes, column, k, arrays[part][row][:, :-1], name, root=True)
            variance = arrays[("loss_variance", "centered_variance")[column]][row][1]
            law = np.sqrt(variance * shrink)
            axes.plot(k, law, "--", color=colour(column), label=f"law of the {name}")
        _draw(axes, 6, k, excess, "excess test loss")
        axes.set(xscale="log", yscale="log")
    legend(figure, "line: mean over the repeats; band: from the least to the largest")
    return figure


def sizes(found: Mapping[str, Any], unit: str) -> Figure:
    """K_ε of each σ, and the k from which on the excess test loss is below ε, against ε.

    Black bars run from the last k of the grid that exceeds ε to the next: the networks' size lies
    between them.
    """
    title = "Does K predict where more data stops paying?"
    xlabel = rf"$\varepsilon$ ({unit})"
    figure, (axes,) = canvas(title, xlabel, "samples")
    n, entries = found["num_samples"], found["sigmas"]
    for row, entry in enumerate(entries):
        ordered = sorted(entry["sizes"], key=lambda size: size["epsilon"])
        x, y = ([size[name] for size in ordered] for name in ("epsilon", "k_epsilon"))
        low, high = np.array([size["k_epsilon_ci"] for size in ordered]).T
        axes.fill_between(x, low, high, color=colour(row), alpha=0.25, lw=0)
        axes.plot(x, y, label=rf"$K_\varepsilon$, $\sigma$ = {entry['sigma']:g}", **curve(row))
    label = r"networks: excess test loss stays below $\varepsilon$"
    for size in entries[0]["sizes"]:
        low, high = size["networks"]
        ends = (max(low, 1), high)
        axes.plot([size["epsilon"]] * 2, ends, color="black", lw=3, marker="_", ms=9, label=label)
    axes.axhline(n, color="0.5", lw=1)
    axes.set(xscale="log", yscale="log")
    ticks = [size["epsilon"] for size in entries[0]["sizes"]]
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    legend(figure, f"band: 90 % interval of $K_\\varepsilon$; grey: all {n:,} samples")
    return figure


def overlaps(arrays: Arrays) -> Figure:
    """Mean squared cosine of the leading eigenspaces of H_k with that of H_N at w*_N."""
    d = arrays["eigenvalues_fixed"].shape[1]
    title = rf"Overlap of the {d} leading eigenvectors with those of $H_N(w^*_N)$"
    figure, (axes,) = canvas(title, PREFIX, "mean squared cosine")
    names = {
        "overlap_fixed": r"$H_k(w^*_N)$: same network, first k samples",
        "overlap_refitted": r"$H_k(w^*_k)$: network refitted on them",
    }
    for row, (part, name) in enumerate(names.items()):
        _draw(axes, row, arrays["k"], arrays[part][None], name)
    axes.set(xscale="log", ylim=(0, 1.03))
    legend(figure, "1: the same space, as at $k = N$ by definition; first repeat")
    return figure


def _draw(
    axes: Axes,
    row: int,
    k: Int[np.ndarray, "K"],
    values: Float[np.ndarray, "R K"],
    name: str,
    *,
    root: bool = False,
) -> None:
    """The mean over the repeats with a band of their range, or the roots of all three.

    Nothing is drawn where the mean is not above 0.
    """
    mean = np.mean(values, 0, dtype=np.float64)
    shown = np.where(mean > 0, mean, np.nan)
    low = np.maximum(values.min(0), 0.01 * shown)  # a logarithmic axis has no place for 0
    lines = (low, shown, values.max(0))
    low, middle, high = map(np.sqrt, lines) if root else lines
    axes.fill_between(k, low, high, color=colour(row), alpha=0.25, lw=0)
    axes.plot(k, middle, label=name, **curve(row))
