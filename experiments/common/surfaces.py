"""Loss surfaces on a square grid: their values, what they say, how they are drawn."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common.problem import Problem
from jaxscape.lab import plot

WORDS = {
    "hessian": "top two Hessian eigenvectors",
    "influence": "where other samples move the minimum most",
    "random": "two random directions of unit norm",
    "filter": "two random filter-normalised directions, about as long as $w^*$",
    "unit-filter": "two random filter-normalised directions of unit norm",
    "trajectory": "principal components of the training trajectory",
}


class Sheets(NamedTuple):
    """A surface on an ``a`` × ``a`` grid."""

    steps: np.ndarray  #: [2, a], θ_1 and θ_2
    k: np.ndarray  #: [K]
    loss: np.ndarray  #: L_k, [K, a, a]
    increment: np.ndarray  #: L_{k+1} − L_k, [K, a, a]; NaN at k = n


def square(radius: float, num: int) -> Float[np.ndarray, "2 a"]:
    """Steps from −radius to radius along both directions."""
    return np.tile(np.linspace(-radius, radius, num), (2, 1))


def around(path: Float[np.ndarray, "T 2"], num: int) -> Float[np.ndarray, "2 a"]:
    """Steps over the path and w*, with a quarter more on each side; w*, the origin, is on them."""
    rows = []
    for along in path.T:
        low, high = min(along.min(), 0.0), max(along.max(), 0.0)
        margin = max(high - low, np.abs(path).max() / 10) / 4
        width = (high - low + 2 * margin) / (num - 2)  # a step to spare for the shift
        rows.append(width * (np.arange(num) - np.ceil((margin - low) / width)))
    return np.stack(rows)


def evaluate(
    problem: Problem, space: js.Subspace, steps: Float[np.ndarray, "2 a"], ks: Sequence[int]
) -> Sheets:
    """L_k and its next increment at every grid point for the distinct ``ks``, in one pass."""
    plane = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 2)
    points = js.points(space, jnp.asarray(plane, jnp.float32))
    sheet = js.surface(problem.loss, points, problem.samples, sorted(set(ks)))
    shape = (-1, steps.shape[1], steps.shape[1])
    loss, increment = (np.asarray(x).reshape(shape) for x in (sheet.loss, sheet.increment))
    return Sheets(steps, np.asarray(sheet.k), loss, increment)


def summarise(sheets: Sheets) -> dict[str, Any]:
    """Of each k: the loss at w*, the lowest and where it is, the mean squared increment."""
    origin = tuple(np.abs(sheets.steps).argmin(1))
    entries = []
    for k, loss, increment in zip(sheets.k, sheets.loss, sheets.increment, strict=True):
        lowest = np.unravel_index(int(np.nanargmin(loss)), loss.shape)
        known = increment[np.isfinite(increment)].astype(np.float64)
        entries.append({
            "k": int(k),
            "loss_at_origin": float(loss[origin]),
            "lowest_loss": float(loss[lowest]),
            "lowest_at": [float(along[i]) for along, i in zip(sheets.steps, lowest, strict=True)],
            "mean_squared_increment": float(np.mean(known**2)) if known.size else None,
        })  # fmt: skip
    return {"surfaces": entries}


def table(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    rows = [["k", "L_k at w*", "lowest L_k", "at (θ₁, θ₂)", "mean squared increment"]]
    for entry in found["surfaces"]:
        mean = entry["mean_squared_increment"]
        losses = (f"{entry[name]:.4g}" for name in ("loss_at_origin", "lowest_loss"))
        place = "({:.3g}, {:.3g})".format(*entry["lowest_at"])
        step = "no next sample" if mean is None else f"{mean:.3g}"
        rows.append([f"{entry['k']:,}", *losses, place, step])
    return rows


def figures_of(
    sheets: Sheets, words: str, path: np.ndarray | None = None, *, unit: str
) -> dict[str, Figure]:
    """L_k as contours and in three dimensions, and the squared increments where there are any."""
    figures = {}
    for name, symbol, values, of, line in (
        ("loss", "$L_k$", sheets.loss, unit, path),
        ("increment", "$(L_{k+1} - L_k)^2$", sheets.increment**2, f"{unit}²", None),
    ):
        pairs = zip(sheets.k, values, strict=True)
        shown = {f"k = {k:,}": sheet for k, sheet in pairs if np.isfinite(sheet).any()}
        if shown:
            title, of = f"{symbol} along {words}", f"{symbol} ({of})"
            figures[name] = plot.contours(sheets.steps, shown, title=title, quantity=of, path=line)
            figures[f"{name}_3d"] = plot.reliefs(sheets.steps, shown, title=title, quantity=of)
    return figures
