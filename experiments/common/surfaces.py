"""Loss surfaces on a square grid: their values, what they say, how they are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common.problem import Problem
from jaxscape.lab import plot
from jaxscape.lab.style import canvas, legend


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


def moves(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """From L_k over planes, ``loss`` [p, K + 1, a, a], the last of all samples: ``change``
    [p, K, a, a], L_k − L_N less that at w*, which is no change of shape; ``change_rms`` [p, K];
    ``lowest`` [p, K + 1, 2], where L_k is lowest, in units of the plane's radius.
    """
    loss = found["loss"]
    middle = loss.shape[-1] // 2
    change = loss[:, :-1] - loss[:, -1:]
    change -= change[..., middle : middle + 1, middle : middle + 1]
    flat = np.where(np.isnan(loss), np.inf, loss).reshape(*loss.shape[:2], -1).argmin(-1)
    lowest = np.stack(np.unravel_index(flat, loss.shape[2:]), -1) / middle - 1
    rms = np.sqrt(np.nanmean(change**2, (2, 3)))
    return {"change": change, "change_rms": rms, "lowest": lowest}


def moves_table(
    found: Mapping[str, np.ndarray], moved: Mapping[str, np.ndarray], planes: Sequence[str]
) -> list[list[str]]:
    """A row per plane and k."""
    rows = [["plane", "radius", "k", "change of L_k − L_N", "lowest L_k, in radii"]]
    for p, plane in enumerate(planes):
        for i, k in enumerate(found["k"]):
            change = f"{moved['change_rms'][p, i]:.3g}" if i < len(found["k"]) - 1 else "-"
            place = "({:.2g}, {:.2g})".format(*moved["lowest"][p, i])
            rows.append([plane, f"{found['radius'][p]:.3g}", f"{k:,}", change, place])
    return rows


def moves_figure(
    found: Mapping[str, np.ndarray],
    moved: Mapping[str, np.ndarray],
    planes: Sequence[str],
    unit: str,
) -> Figure:
    """L_k − L_N, a row per plane and a column per k, all in the same colours."""
    change, k = moved["change"], found["k"]
    names = [f"k = {k[i]:,}" for _ in planes for i in range(len(k) - 1)]
    title = "$L_k - L_N$, less that at $w^*$: where do more samples reshape the surface?"
    along = [rf"$\theta_{j}$ / radius" for j in (1, 2)]
    figure, panels = canvas(title, along[0], along[1], names, columns=len(k) - 1)
    steps, most = np.linspace(-1, 1, change.shape[-1]), np.nanmax(np.abs(change)) or 1.0
    for p, plane in enumerate(planes):
        row = panels[p * (len(k) - 1) : (p + 1) * (len(k) - 1)]
        for i, axes in enumerate(row):
            look: dict[str, Any] = {"cmap": "PuOr", "vmin": -most, "vmax": most}
            mesh = axes.pcolormesh(steps, steps, change[p, i].T, shading="gouraud", **look)
            mesh.set_rasterized(True)
            axes.contour(steps, steps, found["loss"][p, -1].T, 8, colors="0.4", linewidths=0.6)
            axes.plot(0, 0, "k+", ms=11, mew=1.6, label="$w^*$; grey lines: equal $L_N$")
            axes.plot(*moved["lowest"][p, i], "o", color="k", ms=6, label="lowest $L_k$")
            axes.set(xlim=(-1, 1), ylim=(-1, 1))
            axes.grid(False)
        row[0].set_ylabel(f"{plane} plane, radius {found['radius'][p]:.2g}\n{along[1]}")
    figure.colorbar(mesh, ax=list(panels), label=unit, shrink=0.6)
    legend(figure, "")
    return figure


MARGIN = 0.25
"""Around a trajectory, in units of its extent along each direction."""

WORDS = {
    "hessian": "top two Hessian eigenvectors",
    "influence": "where other samples move the minimum most",
    "random": "two random directions of unit norm",
    "filter": "two random filter-normalised directions, about as long as $w^*$",
    "unit-filter": "two random filter-normalised directions of unit norm",
    "trajectory": "principal components of the training trajectory",
}
