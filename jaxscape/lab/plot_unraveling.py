"""Figures of |δ_k| over widths and depths of a network, from arrays."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from jaxscape.lab.curves import PREFIX
from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend


def increments(
    k: Int[np.ndarray, "K"],
    curves: Float[np.ndarray, "d w K"],
    law: Float[np.ndarray, "d w K"],
    depths: Sequence[int],
    widths: Sequence[int],
    *,
    average: str,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """|δ_k| averaged along k as ``average`` says, a panel per depth, a curve per width, its law.

    What is 0, the whole curve of a network that gives every sample the same loss, is not drawn.
    """
    title = f"$|L_{{k+1}} - L_k|$ at $w^*$, {average}: {dataset}"
    ylabel = rf"$|L_{{k+1}} - L_k|$   ({unit})"
    figure, panels = canvas(title, PREFIX, ylabel, fallback=fallback, panels=len(depths))
    for axes, depth, rows, laws in zip(panels, depths, curves, law, strict=True):
        axes.set_title(f"hidden layers: {depth}")
        for row, (width, values) in enumerate(zip(widths, rows, strict=True)):
            shown = values > 0
            label = f"{width} units"
            axes.plot(k[shown], values[shown], color=colour(row), lw=2.2, alpha=0.8, label=label)
            if not shown.any():
                axes.text(
                    0.04, 0.05 + 0.08 * row, f"{label}: all losses equal",
                    transform=axes.transAxes, color=colour(row), fontsize=9.5,
                )  # fmt: skip
        for values in laws[(laws > 0).all(-1)]:
            axes.plot(k, values, "--", color="0.15", lw=0.9)
        axes.set(xscale="log", yscale="log")
    panels[0].plot([], [], "--", color="0.15", lw=0.9, label="order law")
    legend(figure, r"dashed: $M n / ((n-1)(k+1))$, $M$ the mean absolute deviation of the losses")
    return figure


def levels(
    widths: Sequence[int],
    depths: Sequence[int],
    deviation: Float[np.ndarray, "d w"],
    level: Float[np.ndarray, "d w"],
    train_loss: Float[np.ndarray, "d w"],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """The level of (k+1) |δ_k|, by law and over orders, beside the training loss, over widths."""
    title = f"What a network sets is the level: {dataset}"
    figure, (left, right) = canvas(
        title, "units per hidden layer", f"loss ({unit})", fallback=fallback, panels=2
    )
    left.set_title("$M$ (line), $(k+1)\\,|\\delta_k|$ (marker)")
    right.set_title("training loss $L_n(w^*)$")
    for row, depth in enumerate(depths):
        style: Keywords = {"color": colour(row), "lw": 1.6}
        marker: Keywords = {"marker": MARKERS[row % len(MARKERS)], "ms": 6, "mfc": "none"}
        some = deviation[row] > 0  # a logarithmic axis has no place for 0
        at = np.asarray(widths)
        left.plot(at[some], deviation[row][some], **style)
        left.plot(at[some], level[row][some], **(style | {"lw": 0}), **marker)
        right.plot(at, train_loss[row], label=f"hidden layers: {depth}", **style, **marker)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.margins(x=0.06)
        axes.set_xticks(widths, [str(width) for width in widths])
    legend(figure, "a network that gives every sample the same loss has no level to draw")
    return figure
