"""Figures of the family of criteria of "Curvature-Aligned Probing" (2026), from arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxscape.lab.bins import log_bins
from jaxscape.lab.curves import PREFIX
from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend

Arrays = Mapping[str, np.ndarray]


def family(arrays: Arrays, *, dataset: str, fallback: bool = False, unit: str = "nats²") -> Figure:
    """k √Δ_k of every member, a panel per σ, in the unit of the loss."""
    panels = [rf"$\sigma$ = {sigma:g}" for sigma in arrays["sigma"]]
    title = f"The family of criteria: {dataset}"
    ylabel = rf"$k\,\sqrt{{\Delta_k}}$   ({unit.rstrip('²')})"
    figure, axes = canvas(title, PREFIX, ylabel, fallback=fallback, panels=len(panels))
    k = arrays["k"].astype(np.float64)
    for index, (panel, name) in enumerate(zip(axes, panels, strict=True)):
        panel.set_title(name)
        members = {
            r"$\Delta^{(1)}$ at $w^*$ alone: $k\,|\delta_k|$": arrays["single"] ** 2,
            r"$\Delta$, all parameters": arrays["isotropic"][index],
        }
        for column, dim in enumerate(arrays["dim"]):
            members[rf"$\Delta$, top {dim}"] = arrays["subspace"][index, column]
        for row, (label, values) in enumerate(members.items()):
            bins = log_bins(arrays["k"], values * k**2)
            style: Keywords = {"marker": MARKERS[row], "ms": 5, "markevery": (2 * row, 10)}
            width = max(1.0, 3.4 - 0.6 * row)  # where curves coincide, the lower one's rim shows
            panel.plot(
                bins.k, np.sqrt(bins.mean), color=colour(row), lw=width, label=label, **style
            )
        panel.set(xscale="log", yscale="log")
    legend(figure, "root of the mean square per logarithmic bin of k")
    return figure


def ratio(arrays: Arrays, *, dataset: str, fallback: bool = False) -> Figure:
    """Δ_k along the top D eigenvectors over Δ_k over all parameters, a panel per σ."""
    panels = [rf"$\sigma$ = {sigma:g}" for sigma in arrays["sigma"]]
    title = f"Subspace over full space: {dataset}"
    ylabel = r"$\Delta_k^{\mathrm{top}\ D}\ /\ \Delta_k^{\mathrm{all}}$"
    figure, axes = canvas(title, PREFIX, ylabel, fallback=fallback, panels=len(panels))
    square = arrays["k"].astype(np.float64) ** 2
    for index, (panel, name) in enumerate(zip(axes, panels, strict=True)):
        panel.set_title(name)
        whole = log_bins(arrays["k"], arrays["isotropic"][index] * square)
        for row, dim in enumerate(arrays["dim"]):
            part = log_bins(arrays["k"], arrays["subspace"][index, row] * square)
            style: Keywords = {"marker": MARKERS[row], "ms": 5, "markevery": (2 * row, 10)}
            panel.plot(
                whole.k, part.mean / whole.mean, color=colour(row), lw=max(1.0, 2.8 - 0.8 * row),
                label=f"D = {dim}", **style,
            )  # fmt: skip
        panel.axhline(1, color="0.4", lw=1)
        panel.set(xscale="log", yscale="log")
    legend(figure, "ratio of means per logarithmic bin of k")
    return figure


def stages(
    estimators: Mapping[str, Sequence[str]],
    passes: Mapping[str, float],
    *,
    dataset: str,
    fallback: bool = False,
) -> Figure:
    """Stacked bars: how many forward passes over the data each stage of an estimator takes."""
    title = f"Time of three estimators: {dataset}"
    figure, (axes,) = canvas(title, "time (forward passes over the data)", "", fallback=fallback)
    for position, (_, used) in enumerate(estimators.items()):
        left = 0.0
        for stage in used:
            row = list(passes).index(stage)
            axes.barh(
                position, passes[stage], left=left, color=colour(row), edgecolor="w", height=0.6,
                label=f"{stage}, {passes[stage]:.3g}",
            )  # fmt: skip
            left += passes[stage]
        axes.text(left, position, f" {left:.0f}", va="center")
    axes.set_yticks(range(len(estimators)), [name.replace(" ", "\n") for name in estimators])
    axes.margins(x=0.1)
    axes.grid(False, axis="y")
    legend(figure, "stages, in forward passes")
    return figure
