"""What |δ_k| over widths and depths shows: numbers, a table and figures, from arrays."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.common.problem import Problem
from experiments.common.run_folder import plain
from experiments.common.tables import decay_exponent
from experiments.paper.bench import Bench
from jaxscape.lab.style import MARKERS, PREFIX, Keywords, canvas, colour, legend
from jaxscape.prefix_spectra import geometric

STUCK = 0.95
"""Share of a constant guess's loss above which a network counts as one that failed to train."""

CURVES = ("increment", "smoothed", "published")

DRAWN = 400
"""Values of k, equally spaced in their logarithm, at which curves are drawn."""


def summarise(
    arrays: Mapping[str, np.ndarray],
    law: Float[np.ndarray, "d w K"],
    entries: Sequence[Mapping[str, Any]],
    problem: Problem,
) -> dict[str, Any]:
    """``networks``, the entries with what their curves add, and a constant guess's loss."""
    guess, k = constant_guess(problem), arrays["k"]
    late = tables.late(k)
    increments = jnp.asarray(arrays["increment"][..., late].reshape(len(entries), -1))
    exponents = jax.jit(jax.vmap(lambda y: decay_exponent(k[late], y).exponent))(increments)
    networks = []
    for number, entry in enumerate(entries):
        place = divmod(number, len(arrays["width"]))
        curves = {name: arrays[name][place] for name in CURVES if name in arrays}
        spread = {name: float(arrays[name][place]) for name in ("deviation", "loss_variance")}
        numbers = measures(k, law[place], curves) | {"exponent": plain(exponents[number])}
        networks.append({**entry, "stuck": is_stuck(entry, guess), **spread, **numbers})
    return {"networks": networks, **guess._asdict(), "late_from": int(k[late][0])}


class Guess(NamedTuple):
    """The best outputs that are the same for every sample."""

    guess_loss: float
    guess_accuracy: float | None


def constant_guess(problem: Problem) -> Guess:
    """The least mean loss, and the share of the commonest class."""
    targets = np.asarray(problem.samples["targets"])
    if problem.dataset.num_classes:
        shares = np.unique(targets, return_counts=True)[1] / len(targets)
        return Guess(float(-(shares * np.log(shares)).sum()), float(np.max(shares)))
    spread = targets.reshape(len(targets), -1).var(0, dtype=np.float64)
    return Guess(float(0.5 * spread.sum()), None)


def is_stuck(entry: Mapping[str, Any], guess: Guess) -> bool:
    """Whether a network does no better than a constant guess, by its loss or by its accuracy."""
    if guess.guess_accuracy is not None and entry["train_accuracy"] <= guess.guess_accuracy:
        return True
    return bool(entry["train_loss"] > STUCK * guess.guess_loss)


def measures(
    k: Int[np.ndarray, "K"], law: Float[np.ndarray, "K"], curves: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
    """Of one network: the level of (k+1) |δ_k| over late k, its law, averages at its start.

    A ratio to the law is None where the law is 0.
    """
    late = tables.late(k)
    level = float(((k + 1.0) * curves["increment"])[late].mean())
    start = int(np.argmax(late))
    ratio = lambda value, of: plain(value / of) if of > 0 else None  # noqa: E731
    averages = {name: curves[name][start] for name in CURVES[1:] if name in curves}
    return {"level": level, "level_over_law": ratio(level, law[0] * 2)} | {
        f"{name}_over_law": ratio(value, law[start]) for name, value in averages.items()
    }


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """Rows of text, the first one the header, one for each network."""
    columns = {
        "training loss": ("train_loss", ".3g"),
        "accuracy": ("train_accuracy", ".1%"),
        "(k+1) |δ_k|": ("level", ".3g"),
        "over law": ("level_over_law", ".3f"),
        "average over law": ("smoothed_over_law", ".2f"),
        "as published": ("published_over_law", ".1f"),
        "exponent": ("exponent", ".3f"),
    }
    columns = {title: c for title, c in columns.items() if c[0] in found["networks"][0]}
    rows = [["layers", "units", *columns, ""]]
    for entry in found["networks"]:
        numbers = ((entry[name], style) for name, style in columns.values())
        cells = ("-" if value is None else f"{value:{style}}" for value, style in numbers)
        mark = "failed to train" if entry["stuck"] else "trained"
        rows.append([f"{entry['depth']}", f"{entry['width']}", *cells, mark])
    return rows


def notes(found: Mapping[str, Any]) -> list[str]:
    """How to read the table, and how many networks failed to train (see ``is_stuck``)."""
    networks, first = found["networks"], found["late_from"]
    stuck = sum(entry["stuck"] for entry in networks)
    return [
        f"mean over {found['orders']} orders of {found['num_samples']:,} samples, k ≥ {first}",
        "law: M n/(n−1), from the mean absolute deviation M of the losses, without any order",
        f"exponential averages (β = {found['beta']:g}) are those at k = {first}",
        f"{stuck} of {len(networks)} networks do no better than a constant guess",
    ]


def figures_of(
    bench: Bench,
    arrays: Mapping[str, np.ndarray],
    law: Float[np.ndarray, "d w K"],
    found: Mapping[str, Any],
) -> dict[str, Figure]:
    """The averaged increments, as they should be and as published, and their levels."""
    depths, widths = arrays["depth"].tolist(), arrays["width"].tolist()
    at = geometric(1, len(arrays["k"]), DRAWN)
    over = f"mean of {found['orders']} orders"
    averages = {
        "smoothed": ("increments", f"{over}, exponential average along $k$"),
        "published": ("increments-as-published", f"{over}, averaged along $k$ as published"),
    }
    figures = {
        name: increments(
            bench, at, arrays[which][..., at - 1], law[..., at - 1], depths, widths, average
        )
        for which, (name, average) in averages.items()
        if which in arrays
    }
    level, train_loss = (
        np.reshape([entry[name] for entry in found["networks"]], (len(depths), len(widths)))
        for name in ("level", "train_loss")
    )
    figures["levels"] = levels(bench, widths, depths, arrays["deviation"], level, train_loss)
    return figures


def increments(
    bench: Bench,
    k: Int[np.ndarray, "K"],
    curves: Float[np.ndarray, "d w K"],
    law: Float[np.ndarray, "d w K"],
    depths: Sequence[int],
    widths: Sequence[int],
    average: str,
) -> Figure:
    """|δ_k| averaged along k as ``average`` says, a panel per depth, a curve per width, its law.

    Zeros, such as the whole curve of a network that gives every sample the same loss, are not
    drawn.
    """
    size = "$|L_{k+1} - L_k|$"
    title, ylabel = f"{size} at $w^*$, {average}", f"{size}   ({bench.unit})"
    figure, panels = canvas(title, PREFIX, ylabel, [f"hidden layers: {depth}" for depth in depths])
    for axes, rows, laws in zip(panels, curves, law, strict=True):
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
    bench: Bench,
    widths: Sequence[int],
    depths: Sequence[int],
    deviation: Float[np.ndarray, "d w"],
    level: Float[np.ndarray, "d w"],
    train_loss: Float[np.ndarray, "d w"],
) -> Figure:
    """The level of (k+1) |δ_k|, by law and over orders, beside the training loss, over widths."""
    title, xlabel = "What a network sets is the level", "units per hidden layer"
    names = ("$M$ (line), $(k+1)\\,|\\delta_k|$ (marker)", "training loss $L_n(w^*)$")
    figure, (left, right) = canvas(title, xlabel, f"loss ({bench.unit})", names)
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
