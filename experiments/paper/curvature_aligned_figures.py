"""Figures of the experiments of "Curvature-Aligned Probing" (2026), from arrays."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.paper.bench import TOP, Bench
from jaxscape.lab.style import MARKERS, PREFIX, STYLE, Keywords, canvas, colour, legend, log_bins

Arrays = Mapping[str, np.ndarray]


def family(bench: Bench, arrays: Arrays) -> Figure:
    """k √Δ_k of every member, a panel per σ, in the unit of the loss."""
    panels = [rf"$\sigma$ = {sigma:g}" for sigma in arrays["sigma"]]
    ylabel = rf"$k\,\sqrt{{\Delta_k}}$   ({bench.unit})"
    figure, axes = canvas("The family of criteria", PREFIX, ylabel, panels)
    k = arrays["k"].astype(np.float64)
    for index, panel in enumerate(axes):
        members = {
            r"$\Delta^{(1)}$ at $w^*$ alone: $k\,|\delta_k|$": arrays["single"] ** 2,
            r"$\Delta$, all parameters": arrays["isotropic"][index],
        }
        for column, dim in enumerate(arrays["dim"]):
            members[rf"$\Delta$, top {dim}"] = arrays["subspace"][index, column]
        for row, (label, values) in enumerate(members.items()):
            bins = log_bins(arrays["k"], values * k**2)
            width = max(1.0, 3.4 - 0.6 * row)  # where curves coincide, the lower one's rim shows
            panel.plot(bins.k, np.sqrt(bins.mean), lw=width, label=label, **_curve(row))
        panel.set(xscale="log", yscale="log")
    legend(figure, "root of the mean square per logarithmic bin of k")
    return figure


def ratio(bench: Bench, arrays: Arrays) -> Figure:
    """Δ_k along the top D eigenvectors over Δ_k over all parameters, a panel per σ."""
    panels = [rf"$\sigma$ = {sigma:g}" for sigma in arrays["sigma"]]
    ylabel = r"$\Delta_k^{\mathrm{top}\ D}\ /\ \Delta_k^{\mathrm{all}}$"
    figure, axes = canvas("Subspace over full space", PREFIX, ylabel, panels)
    square = arrays["k"].astype(np.float64) ** 2
    for index, panel in enumerate(axes):
        whole = log_bins(arrays["k"], arrays["isotropic"][index] * square)
        for row, dim in enumerate(arrays["dim"]):
            part = log_bins(arrays["k"], arrays["subspace"][index, row] * square)
            width = max(1.0, 2.8 - 0.8 * row)
            values = part.mean / whole.mean
            panel.plot(whole.k, values, lw=width, label=f"D = {dim}", **_curve(row))
        panel.axhline(1, color="0.4", lw=1)
        panel.set(xscale="log", yscale="log")
    legend(figure, "ratio of means per logarithmic bin of k")
    return figure


def _curve(row: int) -> Keywords:
    return {"color": colour(row), "marker": MARKERS[row], "ms": 5, "markevery": (2 * row, 10)}


def errors(bench: Bench, arrays: Arrays) -> Figure:
    """Relative errors of the quadratic model against σ, for each number of directions."""
    named = {
        "of an increment\n(root mean square)": arrays["pointwise"],
        "of the mean of $k^2\\Delta_k$\n(same points)": np.abs(
            arrays["quadratic"] / arrays["direct"] - 1
        ),
    }
    xlabel = r"$\sigma$ (units of the parameters)"
    figure, axes = canvas("Error of the quadratic model", xlabel, "relative error", list(named))
    for panel, values in zip(axes, named.values(), strict=True):
        for row, dim in enumerate(arrays["dim"]):
            style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 5}
            panel.plot(arrays["sigma"], values[row], label=f"D = {dim}", **style)
        panel.axhline(0.1, color="0.4", lw=1, ls="--")
        panel.set(xscale="log", yscale="log")
    legend(figure, "dashed: 10 %")
    return figure


def error_map(bench: Bench, arrays: Arrays, off: Float[np.ndarray, "D s"]) -> Figure:
    """|quadratic / direct − 1| over σ and D, in colour and in numbers."""
    title = "Relative error of the quadratic model"
    figure, (axes,) = canvas(title, r"$\sigma$", "directions $D$")
    with matplotlib.rc_context(STYLE):
        shown = np.clip(off, 1e-5, None)
        low, high = max(float(shown.min()), 1e-5), float(shown.max())
        mesh = axes.imshow(
            shown, cmap="cividis", aspect="auto", origin="lower", norm=LogNorm(low, high)
        )
        for (i, j), value in np.ndenumerate(off):
            dark = shown[i, j] < np.sqrt(low * high)
            axes.text(
                j, i, f"{value:.0e}" if value < 0.01 else f"{value:.2g}", ha="center",
                va="center", color="w" if dark else "k", fontsize=8.5,
            )  # fmt: skip
        axes.grid(False)
        sigmas, dims = arrays["sigma"], arrays["dim"]
        axes.set_xticks(range(len(sigmas)), [f"{sigma:.1e}" for sigma in sigmas], rotation=30)
        axes.set_yticks(range(len(dims)), [str(dim) for dim in dims])
        figure.colorbar(mesh, ax=axes, label="|quadratic / direct − 1|, same points")
    return figure


def convergence(bench: Bench, arrays: Arrays, sigma: float) -> Figure:
    """Relative error of Monte-Carlo to the closed form against its number of points."""
    title = f"Monte-Carlo against the closed form, σ = {sigma:g}, D = {TOP}"
    ylabel = "relative error (root mean square over blocks)"
    figure, (axes,) = canvas(title, "random points $m$", ylabel)
    points = arrays["points"]
    for row, name in enumerate(("quadratic", "direct")):
        style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 6}
        style |= {"lw": 2.6 - 1.2 * row}
        axes.plot(points, arrays[f"{name}_error"], label=f"{name} Monte-Carlo", **style)
        bias = abs(arrays[f"{name}_level"].mean() / arrays["closed_form"] - 1)
        axes.axhline(bias, color=colour(row), ls=":", lw=1.2, label=f"{name}, all points")
    law = arrays["quadratic_error"][0] * np.sqrt(points[0] / points)
    axes.plot(points, law, "--", color="0.4", lw=1, label=r"$\propto 1/\sqrt{m}$")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(points, [str(m) for m in points])
    axes.minorticks_off()
    legend(figure, "blocks: disjoint sets of m points")
    return figure


def stages(
    bench: Bench, estimators: Mapping[str, Sequence[str]], passes: Mapping[str, float]
) -> Figure:
    """Stacked bars: how many forward passes over the data each stage of an estimator takes."""
    xlabel = "time (forward passes over the data)"
    figure, (axes,) = canvas("Time of three estimators", xlabel, "")
    for position, used in enumerate(estimators.values()):
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
