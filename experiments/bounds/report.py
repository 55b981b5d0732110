"""Tables and figures of the published bounds beside what they bound, from arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common.bounds import FORMS
from jaxscape.lab import style
from jaxscape.lab.style import PREFIX, Keywords, canvas, colour, curve, legend

NOTE = (
    "All is log10. Looseness is bound over measured, where it is smallest. Of a Hessian the "
    "Gauss-Newton part is measured. Within R the bound is no proof where a ReLU network has kinks."
)


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    header = ["bound on", *FORMS, "measured, largest", "median", "looseness, published"]
    rows = [[*header, "corrected"]]
    names = (*FORMS, "largest", "median", *(f"{form}_looseness" for form in FORMS))
    for entry in entries:
        numbers = (entry[name] for name in names)
        rows.append([entry["name"], *("-" if x is None else f"{x:.2f}" for x in numbers)])
    return rows


def constants_table(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text: the measured constants of the network and of its samples."""
    network, sample = found["network"], found["sample"]
    named = {
        "L": network["layers"], "M_x": network["input_norm"], "M_W": network["weight_norm"],
        "M_ℓ": sample["loss"], "M_g": sample["gradient"], "M_H": sample["hessian"],
        "D": sample["dim"], "R": found["radius"], "σ": found["sigma"], "norms of": found["norms"],
    }  # fmt: skip
    return [list(named), [f"{value:.4g}" for value in named.values()]]


def verdict(found: dict[str, Any]) -> str:
    """Which bounds are exceeded, in one line."""
    every = [(entry, form) for entry in found["bounds"] for form in FORMS]
    below = [(entry, form) for entry, form in every if entry[f"{form}_looseness"] < 0]
    exceeded = [f"the {form} bound on the {entry['name']}" for entry, form in below]
    return "exceeded: " + ("; ".join(exceeded) or "no bound")


def figures_of(
    arrays: dict[str, np.ndarray], found: dict[str, Any], unit: str
) -> dict[str, Figure]:
    """How loose each bound is, and steps and rates beside theirs along k."""
    steps: list[tuple[int, str, np.ndarray]] = []
    places = {"at $w^*$": "step_at_origin", "within $R$": "step_in_probe"}
    for row, (where, name) in enumerate(places.items()):
        steps.append((row, f"measured {where}", arrays[name]))
        steps.append((row, f" {where}", arrays[f"bound_{name}"]))
    rates = [(0, "Monte-Carlo", arrays["delta"]), (1, "quadratic law", arrays["law_total"])]
    rates.append((2, "", arrays["bound_rate"]))
    ball = f"The loss-step bound at $w^*$ and within $R = {found['radius']:.2g}$ of it"
    rate = rf"The rate bound at $\sigma = {found['sigma']:g}$"
    return {
        "looseness": _looseness(found["bounds"]),
        "step": _along_k(ball, rf"$|L_{{k+1}} - L_k|$   ({unit})", arrays["k"], steps),
        "rate": _along_k(rate, rf"$\Delta_k$   ({unit}²)", arrays["k"], rates),
    }


def _looseness(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """One row per bound: published, corrected and median measured over the largest measured."""
    xlabel = r"$\log_{10}$ of the value over the largest measured"
    figure, (axes,) = canvas("How loose the bounds are", xlabel, "")
    place = -np.arange(len(entries))
    fields = {"median": "median measured", **{form: f"bound, {form}" for form in FORMS[::-1]}}
    for row, (field, label) in enumerate(fields.items()):
        found = [np.nan if entry[field] is None else entry[field] for entry in entries]
        shift = np.array(found) - [entry["largest"] for entry in entries]
        # the published bound, drawn hollow and larger, shows around the corrected one
        look: Keywords = {"mfc": "none", "mew": 2, "ms": 13} if field == "published" else {"ms": 8}
        axes.plot(shift, place, label=label, **curve(row, lw=0, **look))
    axes.axvline(0, color="0.2", lw=1.5, label="largest measured")
    names = [entry["name"] for entry in entries]
    for plain, symbol in (("δ_k", r"$\delta_k$"), ("Δ_k", r"$\Delta_k$"), ("w*", "$w^*$")):
        names = [name.replace(plain, symbol) for name in names]
    axes.set_yticks(place, names)
    axes.set_ylim(place[-1] - 0.6, 0.6)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, "a bound left of the line is exceeded")
    return figure


def _along_k(
    title: str, ylabel: str, k: Int[np.ndarray, "K"], curves: Sequence[tuple[int, str, np.ndarray]]
) -> Figure:
    """Measured values [K] and log10 of bounds [2, K], each with its colour and its label."""
    figure, (axes,) = canvas(title, PREFIX, ylabel)
    for row, label, values in curves:
        if values.ndim == 1:
            style.draw_extremes(axes, row, k, values)
            style.draw_mean(axes, row, k, values, 0.0, label)
            continue
        same = np.allclose(values[0], values[1], rtol=0, atol=0.01)  # to the eye
        names = ("bound",) if same else [f"{form} bound" for form in FORMS]
        for name, bound, dash in zip(names, values, ("--", ":"), strict=False):
            drawn = 10.0 ** np.minimum(bound, 300)  # of a deep network it may leave float64
            axes.plot(k, drawn, dash, color=colour(row), lw=2, label=name + label)
    return style.finish(figure, dots=True)
