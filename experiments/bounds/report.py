"""Tables and figures of the published bounds beside what they bound, from arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.common.tables import as_text
from jaxscape import InputError
from jaxscape.lab.style import (
    MARKERS,
    PREFIX,
    Keywords,
    canvas,
    colour,
    draw_extremes,
    draw_mean,
    finish,
    legend,
)

NOTE = (
    "All is log10. Looseness is bound over measured, at the sample or k where it is smallest. Of a "
    "sample's Hessian the Gauss-Newton part is measured. The bound within R assumes smooth losses; "
    "those of a ReLU network have kinks, so it is no proof there."
)


def compare(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each bound beside what it bounds, in log10, from the arrays of ``results.npz``.

    Bounds that fall with k, and what they bound, are multiplied by their power of k + 1. The
    looseness is that at the sample or k where the bound comes closest.
    """
    entries = []
    for name, measured, bound, power in (
        ("norm of a sample's Hessian", "gauss_newton_norms", "bound_norm", 0),
        ("(k+1)·|δ_k| at w*", "step_at_origin", "bound_step_at_origin", 1),
        ("(k+1)·|δ_k| within R", "step_in_probe", "bound_step_in_probe", 1),
        ("(k+1)²·Δ_k, quadratic law", "law_total", "bound_rate", 2),
        ("(k+1)²·Δ_k, Monte-Carlo", "delta", "bound_rate", 2),
    ):
        factor = (arrays["k"] + 1.0) ** power if power else 1.0
        values = arrays[measured].astype(np.float64) * factor
        if not np.max(values) > 0:
            raise InputError(
                f"expected losses that differ between samples, found {measured} = 0 throughout; "
                "no ratio to it is defined"
            )
        limits = arrays[bound].astype(np.float64).reshape(2, -1) + np.log10(factor)
        gaps = limits - np.log10(np.where(values > 0, values, np.nan))
        entries.append(
            {
                "name": name,
                "published": limits[0].max(),
                "corrected": limits[1].max(),
                "largest": np.log10(np.max(values)),
                "median": np.log10(np.median(values)) if np.median(values) > 0 else None,
                "published_looseness": np.nanmin(gaps[0]),
                "corrected_looseness": np.nanmin(gaps[1]),
            }
        )
    return entries


def text(found: dict[str, Any]) -> str:
    """All that the command prints of its summary."""
    both = [as_text(table(found["bounds"])), as_text(constants_table(found))]
    return "\n\n".join([*both, f"{NOTE}\n{verdict(found)}"])


def table(entries: list[dict[str, Any]]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    header = ["bound on", "published", "corrected", "measured, largest", "median"]
    rows = [[*header, "looseness, published", "corrected"]]
    names = ("published", "corrected", "largest", "median")
    for entry in entries:
        numbers = [entry[name] for name in (*names, "published_looseness", "corrected_looseness")]
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
    exceeded = [
        f"the {form} bound on the {entry['name']}"
        for entry in found["bounds"]
        for form in ("published", "corrected")
        if entry[f"{form}_looseness"] < 0
    ]
    return "exceeded: " + ("; ".join(exceeded) or "no bound")


def figures_of(
    arrays: dict[str, np.ndarray], found: dict[str, Any], unit: str
) -> dict[str, Figure]:
    """How loose each bound is, and steps and rates beside theirs along k."""
    steps = {
        "at $w^*$": (arrays["step_at_origin"], arrays["bound_step_at_origin"]),
        "within $R$": (arrays["step_in_probe"], arrays["bound_step_in_probe"]),
    }
    measured = {"Monte-Carlo": arrays["delta"], "quadratic law": arrays["law_total"]}
    label = rf"$\sigma = {found['sigma']:g}$"
    return {
        "looseness": looseness(found["bounds"]),
        "step": step(arrays["k"], steps, found["radius"], unit),
        "rate": rate(arrays["k"], measured, arrays["bound_rate"], label, unit),
    }


def looseness(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """One row per bound: published, corrected and median measured over the largest measured.

    ``entries`` hold ``name`` and, in log10, ``published``, ``corrected``, ``largest`` and
    ``median`` (None where it is zero, and then not drawn).
    """
    xlabel = r"$\log_{10}$ of the value over the largest measured"
    figure, (axes,) = canvas("How loose the bounds are", xlabel, "")
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
    unit: str,
) -> Figure:
    """The largest |δ_k| and log10 of its bounds, published and corrected, for each label."""
    title = f"The loss-step bound at $w^*$ and within $R = {radius:.2g}$ of it"
    ylabel = rf"$|L_{{k+1}} - L_k|$   ({unit})"
    figure, (axes,) = canvas(title, PREFIX, ylabel)
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
    unit: str,
) -> Figure:
    """Each Δ_k of ``curves`` and log10 of its bounds, published and corrected."""
    title = f"The rate bound at {label}"
    ylabel = rf"$\Delta_k$   ({unit}²)"
    figure, (axes,) = canvas(title, PREFIX, ylabel)
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
