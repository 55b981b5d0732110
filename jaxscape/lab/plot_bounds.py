"""Figures that set bounds beside what they bound, from arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jaxscape.lab.curves import PREFIX, draw_extremes, draw_mean, finish
from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend


def looseness(
    entries: Sequence[Mapping[str, Any]], *, dataset: str, fallback: bool = False
) -> Figure:
    """One row per bound: published, corrected and median measured over the largest measured.

    ``entries`` hold ``name`` and, in log10, ``published``, ``corrected``, ``largest`` and
    ``median`` (None where it is zero, and then not drawn).
    """
    xlabel = r"$\log_{10}$ of the value over the largest measured"
    figure, (axes,) = canvas(f"How loose the bounds are: {dataset}", xlabel, "", fallback=fallback)
    place = -np.arange(len(entries))
    for row, (field, name) in enumerate(
        (
            ("median", "median measured"),
            ("corrected", "bound, corrected"),
            ("published", "bound, published"),
        )
    ):
        found = [np.nan if entry[field] is None else entry[field] for entry in entries]
        shift = np.array(found) - [entry["largest"] for entry in entries]
        # the published bound, drawn hollow and larger, shows around the corrected one
        style: Keywords = {"mfc": "none", "mew": 2, "ms": 13} if field == "published" else {"ms": 8}
        style |= {"color": colour(row), "marker": MARKERS[row], "lw": 0, "label": name}
        axes.plot(shift, place, **style)
    axes.axvline(0, color="0.2", lw=1.5, label="largest measured")
    axes.set_yticks(place, [_typeset(entry["name"]) for entry in entries])
    axes.set_ylim(place[-1] - 0.6, 0.6)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, "a bound left of the line is exceeded")
    return figure


def _typeset(name: str) -> str:
    for plain, symbol in (("δ_k", r"$\delta_k$"), ("Δ_k", r"$\Delta_k$"), ("w*", "$w^*$")):
        name = name.replace(plain, symbol)
    return name


def step(
    k: Int[np.ndarray, "K"],
    curves: Mapping[str, tuple[Float[np.ndarray, "K"], Float[np.ndarray, "2 K"]]],
    radius: float,
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """The largest |δ_k| and log10 of its bounds, published and corrected, for each label."""
    title = f"The loss-step bound at $w^*$ and within $R = {radius:.2g}$ of it: {dataset}"
    ylabel = rf"$|L_{{k+1}} - L_k|$   ({unit})"
    figure, (axes,) = canvas(title, PREFIX, ylabel, fallback=fallback)
    for row, (label, (measured, bounds)) in enumerate(curves.items()):
        draw_extremes(axes, row, k, measured)
        draw_mean(axes, row, k, measured, 0.0, f"measured {label}")
        _draw_bounds(axes, row, k, bounds, f" {label}")
    return finish(figure, dots=True)


def rate(
    k: Int[np.ndarray, "K"],
    curves: Mapping[str, Float[np.ndarray, "K"]],
    bounds: Float[np.ndarray, "2 K"],
    label: str,
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats²",
) -> Figure:
    """Each Δ_k of ``curves`` and log10 of its bounds, published and corrected."""
    title = f"The rate bound at {label}: {dataset}"
    ylabel = rf"$\Delta_k$   ({unit})"
    figure, (axes,) = canvas(title, PREFIX, ylabel, fallback=fallback)
    for row, (name, values) in enumerate(curves.items()):
        draw_extremes(axes, row, k, values)
        draw_mean(axes, row, k, values, 0.0, name)
    _draw_bounds(axes, len(curves), k, bounds, "")
    return finish(figure, dots=True)


def _draw_bounds(
    axes: Axes, row: int, k: Int[np.ndarray, "K"], bounds: Float[np.ndarray, "2 K"], place: str
) -> None:
    """One line where both forms coincide to the eye."""
    same = np.allclose(bounds[0], bounds[1], rtol=0, atol=0.01)
    names = ("bound",) if same else ("published bound", "corrected bound")
    for name, values, dash in zip(names, bounds, ("--", ":"), strict=False):
        drawn = 10.0 ** np.minimum(values, 300)  # of a deep network it may leave float64
        axes.plot(k, drawn, dash, color=colour(row), lw=2, label=name + place)
