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
    columns = {"gap": arrays["gap"], "gradient_norm": arrays["gradient_norm"].mean(0)}
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
    unit = found["unit"]
    parts = [
        f"means over {found['repeats']} repeats, in {unit}; ‖∇‖: of L_k + (λ/2)‖w‖² at w*_k;",
        "distance: √E(L_N − L_k)² around w*_N",
        as_text(_networks_table(found["networks"], found["sigma"])),
        "",
        "ε: a share of that of w*_N; networks: the values of k between which their excess falls",
        "below ε for good; each: in single repeats",
        as_text(_truth_table(found["truth"])),
        "",
        "forecasts of that k, over ε and orders; miss: by which factor they are off, on average",
        as_text(forecast_table(found["forecasts"])),
    ]
    if not any("curve" in forecast["name"] for forecast in found["forecasts"]):
        parts.append("no learning curve: fewer than four k up to N/4; raise --num-ks or --k-max")
    return "\n".join(parts)


def _networks_table(entries: list[dict[str, Any]], sigmas: list[float]) -> list[list[str]]:
    """A row per k."""
    rows = [["k", "L_k(w*_k)", "test loss", "lowest", "accuracy", "‖∇‖"]]
    for sigma in sigmas:
        rows[0] += [f"distance, σ={sigma:g}", "law"]
    for entry in entries:
        error = f" ± {entry['test_loss_sem']:.1g}" if "test_loss_sem" in entry else ""
        both = zip(entry["rms_distance"], entry["rms_law"], strict=True)
        rows.append([
            f"{entry['k']:,}", f"{entry['train_loss']:.2g}", f"{entry['test_loss']:.4f}{error}",
            f"{entry['lowest_test_loss']:.4f}",
            f"{entry['test_accuracy']:.2%}" if "test_accuracy" in entry else "-",
            f"{entry['gradient_norm']:.1g}",
            *(f"{value:.2g}" for pair in both for value in pair),
        ])  # fmt: skip
    return rows


def _truth_table(truth: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """A row per ε."""
    rows = [["of", "share", "ε", "networks", "each"]]
    for of, entry in ((of, entry) for of, entries in truth.items() for entry in entries):
        low, high = entry["networks"]
        rows.append([
            of, f"{entry['share']:g}", f"{entry['epsilon']:.3g}",
            f"{low:,} to {high:,}" if low else f"up to {high:,}",
            " to ".join(f"{k:,}" for k in entry["networks_single"]),
        ])  # fmt: skip
    return rows


def forecast_table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header: by how much each forecast misses."""
    within = f"within a factor {prediction.FACTOR:g}"
    rows = [["forecast", "of", "samples", "its law", "miss", "k / truth", within, "90 % held"]]
    for entry in entries:
        known, numbers = entry["factors"], ["-"] * 4
        if known:
            numbers = [
                f"{entry['miss']:.3g}", f"{min(known):.2g} to {max(known):.2g}",
                f"{entry['within']:.0%} of {len(known)}", f"{entry['share_held']:.0%}",
            ]  # fmt: skip
        about = [entry["name"], entry["of"], f"{entry['samples']:,}", entry["regime"] or "-"]
        rows.append(about + numbers)
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
    loss = arrays["test_loss"][:, -1].astype(np.float64)
    excess = (loss - loss[:, -1:])[:, :-1]
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


def forecasts(entries: list[dict[str, Any]]) -> Figure:
    """What each forecast is over the truth, in the geometric mean over ε and orders, against its
    samples, with a bar from the least to the largest. K of new samples is left to the table.
    """
    title, xlabel = "Forecasts of where more data stops paying", "samples of the forecast"
    known = [e for e in entries if e["factors"] and "new samples" not in e["name"]]
    names, kinds = (list(dict.fromkeys(e[x] for e in known)) for x in ("name", "of"))
    figure, panels = canvas(title, xlabel, "forecast of k / truth", kinds or [""])
    for row, name in enumerate(names):
        for axes, of in zip(panels, kinds, strict=False):
            own = [e for e in known if (e["name"], e["of"]) == (name, of)]
            if own:
                x = np.array([e["samples"] for e in own]) * 1.04 ** (row - len(names) / 2)
                y = [np.exp(np.log(e["factors"]).mean()) for e in own]
                ends = np.array([(min(e["factors"]), max(e["factors"])) for e in own]).T
                axes.vlines(x, *ends, color=colour(row), lw=1, alpha=0.6)
                axes.plot(x, y, label=name, **curve(row) | {"marker": "o", "ms": 4})
    for axes in panels:
        axes.axhspan(1 / prediction.FACTOR, prediction.FACTOR, color="0.9", zorder=0)
        axes.set(xscale="log", yscale="log")
    legend(figure, f"bars: from the least to the largest; grey: a factor {prediction.FACTOR:g}")
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
