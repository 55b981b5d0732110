"""Figures of networks refitted on the first k samples, from arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxscape.lab.curves import PREFIX
from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend

Arrays = Mapping[str, np.ndarray]


def networks(arrays: Arrays, *, dataset: str, fallback: bool = False, unit: str = "nats") -> Figure:
    """Losses of w*_k against k: on the test split at the end and at its lowest, L_N and L_k."""
    title = f"Networks refitted on the first k samples: {dataset}"
    figure, (axes,) = canvas(title, PREFIX, f"mean loss of $w^*_k$ ({unit})", fallback=fallback)
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


def distance(arrays: Arrays, *, dataset: str, fallback: bool = False, unit: str = "nats") -> Figure:
    """√E_q(L_N − L_k)² beside its law and its shape part, and the excess test loss of w*_k.

    A panel per σ. Points at k = N, where all are 0, are not drawn; nor is a negative excess.
    """
    title = f"Distance of the landscape, excess test loss of the network: {dataset}"
    ylabel = rf"$\sqrt{{\mathrm{{E}}_q(L_N - L_k)^2}}$, excess ({unit})"
    sigmas, k = arrays["sigma"], arrays["k"].astype(float)[:-1]
    figure, panels = canvas(title, PREFIX, ylabel, fallback=fallback, panels=len(sigmas))
    loss = arrays["test_loss"][:, -1]
    excess = (loss - loss[:, -1:])[:, :-1]
    shrink = 1 / k - 1 / arrays["k"][-1]
    for row, (axes, sigma) in enumerate(zip(panels, sigmas, strict=True)):
        axes.set_title(rf"$\sigma$ = {sigma:g}")
        parts = {"distance": "distance", "distance_shape": "shape part"}
        for column, (part, name) in enumerate(parts.items()):
            _draw(axes, column, k, arrays[part][row][:, :-1], name, root=True)
            variance = arrays[("loss_variance", "shape_variance")[column]][row][1]
            law = np.sqrt(variance * shrink)
            axes.plot(k, law, "--", color=colour(column), label=f"law of the {name}")
        _draw(axes, 6, k, excess, "excess test loss")
        axes.set(xscale="log", yscale="log")
    legend(figure, "line: mean over the repeats; band: from the least to the largest")
    return figure


def sizes(
    k: Int[np.ndarray, "K"],
    entries: Sequence[Mapping[str, Any]],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """K_ε of each σ, and the k from which on the excess test loss is below ε, against ε.

    ``entries`` are those of ``foretell.per_sigma``. The vertical black bars run from the last k of
    the grid that exceeds ε to the next, between which the networks' size lies.
    """
    title = f"Does K foretell where more data stops paying? {dataset}"
    xlabel = rf"$\varepsilon$ ({unit})"
    figure, (axes,) = canvas(title, xlabel, "samples", fallback=fallback)
    for row, entry in enumerate(entries):
        found = sorted(entry["sizes"], key=lambda size: size["epsilon"])
        x, y = ([size[name] for size in found] for name in ("epsilon", "k_epsilon"))
        low, high = np.array([size["k_epsilon_ci"] for size in found]).T
        axes.fill_between(x, low, high, color=colour(row), alpha=0.25, lw=0)
        style: Keywords = {"color": colour(row), "marker": MARKERS[row], "ms": 5}
        axes.plot(x, y, label=rf"$K_\varepsilon$, $\sigma$ = {entry['sigma']:g}", **style)
    label = r"networks: excess test loss stays below $\varepsilon$"
    for size in entries[0]["sizes"]:
        low, high = size["networks"]
        ends = (max(low, 1), high)
        axes.plot([size["epsilon"]] * 2, ends, color="black", lw=3, marker="_", ms=9, label=label)
    axes.axhline(k[-1], color="0.5", lw=1)
    axes.set(xscale="log", yscale="log")
    ticks = [size["epsilon"] for size in entries[0]["sizes"]]
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    legend(figure, f"band: 90 % interval of $K_\\varepsilon$; grey: all {k[-1]:,} samples")
    return figure


def overlaps(arrays: Arrays, *, dataset: str, fallback: bool = False) -> Figure:
    """Mean squared cosine of the leading eigenspaces of H_k with that of H_N at w*_N."""
    d = arrays["eigenvalues_fixed"].shape[1]
    title = rf"Overlap of the {d} leading eigenvectors with those of $H_N(w^*_N)$: {dataset}"
    figure, (axes,) = canvas(title, PREFIX, "mean squared cosine", fallback=fallback)
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
    marker: Keywords = {"marker": MARKERS[row % len(MARKERS)], "ms": 5}
    axes.plot(k, middle, color=colour(row), label=name, **marker)
