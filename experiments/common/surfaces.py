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
    """Steps over the path and w*, with a margin; w*, the origin, is on the grid."""
    rows = []
    for along in path.T:
        low, high = min(along.min(), 0.0), max(along.max(), 0.0)
        margin = MARGIN * max(high - low, np.abs(path).max() / 10)
        width = (high - low + 2 * margin) / (num - 2)  # a step to spare for the shift
        rows.append(width * (np.arange(num) - np.ceil((margin - low) / width)))
    return np.stack(rows)


def evaluate(
    problem: Problem, space: js.Subspace, steps: Float[np.ndarray, "2 a"], ks: Sequence[int]
) -> Sheets:
    """L_k and its next increment at every grid point for the distinct ``ks``, in one pass."""
    wanted, num = sorted(set(ks)), steps.shape[1]
    plane = np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(num * num, 2)
    points = js.points(space, jnp.asarray(plane, jnp.float32))
    sheet = js.surface(problem.loss, points, problem.samples, wanted)
    shape = (len(wanted), num, num)
    return Sheets(
        steps,
        np.asarray(sheet.k),
        np.asarray(sheet.loss).reshape(shape),
        np.asarray(sheet.increment).reshape(shape),
    )


def summarise(sheets: Sheets) -> dict[str, Any]:
    """Of each k: the loss at w*, the lowest and where it is, the mean squared increment."""
    origin = tuple(np.abs(sheets.steps).argmin(1))
    entries = []
    for k, loss, increment in zip(sheets.k, sheets.loss, sheets.increment, strict=True):
        i, j = np.unravel_index(int(np.nanargmin(loss)), loss.shape)
        known = increment[np.isfinite(increment)].astype(np.float64)
        entries.append({
            "k": int(k), "loss_at_origin": float(loss[origin]),
            "lowest_loss": float(loss[i, j]),
            "lowest_at": [float(sheets.steps[0, i]), float(sheets.steps[1, j])],
            "mean_squared_increment": float(np.mean(known**2)) if known.size else None,
        })  # fmt: skip
    return {"surfaces": entries}


def table(found: dict[str, Any]) -> list[list[str]]:
    """Rows of text, the first one the header."""
    rows = [["k", "L_k at w*", "lowest L_k", "at (θ₁, θ₂)", "mean squared increment"]]
    for entry in found["surfaces"]:
        mean, (first, second) = entry["mean_squared_increment"], entry["lowest_at"]
        losses = (f"{entry[name]:.4g}" for name in ("loss_at_origin", "lowest_loss"))
        step = "no next sample" if mean is None else f"{mean:.3g}"
        rows.append([f"{entry['k']:,}", *losses, f"({first:.3g}, {second:.3g})", step])
    return rows


def figures_of(
    sheets: Sheets, words: str, path: np.ndarray | None = None, *, unit: str
) -> dict[str, Figure]:
    """L_k as contours and in three dimensions, and the squared increments."""
    squares, figures = sheets.increment**2, {}
    for name, symbol, values, of, line in (
        ("loss", "$L_k$", sheets.loss, unit, path),
        ("increment", "$(L_{k+1} - L_k)^2$", squares, f"{unit}²", None),
    ):
        pairs = zip(sheets.k, values, strict=True)
        shown = {f"k = {k:,}": sheet for k, sheet in pairs if np.isfinite(sheet).any()}
        if shown:
            title, quantity = f"{symbol} along {words}", f"{symbol} ({of})"
            about: dict[str, Any] = {"title": title, "quantity": quantity}
            figures[name] = plot.contours(sheets.steps, shown, path=line, **about)
            figures[f"{name}_3d"] = plot.reliefs(sheets.steps, shown, **about)
    return figures


MARGIN = 0.25
"""Around a trajectory, in units of its extent along each direction."""

WORDS = {
    "hessian": "top two Hessian eigenvectors",
    "random": "two random directions of unit norm",
    "filter": "two random filter-normalised directions, about as long as $w^*$",
    "unit-filter": "two random filter-normalised directions of unit norm",
    "trajectory": "principal components of the training trajectory",
}
