"""The loss surface over two directions, for a few prefixes of the samples."""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import cli, console, prepare, surfaces, tables
from experiments.common.config import Range, RunConfig, above, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from jaxscape.lab.style import canvas, legend

PLANES = "influence", "hessian", "random"
RISE = 0.5
"""Of L_N at the rim of each plane over L_N at w* (or its fall), by the quadratic model."""


@dataclass(frozen=True)
class SurfaceConfig(RunConfig):
    """The loss surface L_k over two directions through w*, for a few k, with its next increment.

    Trains a network, takes two directions through it, and evaluates every sample's loss on a
    square grid of points: L_k(w) and L_{k+1}(w) − L_k(w) of every chosen k in one pass.

    Examples:
        python -m experiments.surface --dataset mnist --subspace trajectory
        python -m experiments.surface --dataset glyphs --k-max 3000 --num 21 --ks 10 100 3000
    """

    subspace: Literal[
        "hessian", "influence", "random", "filter", "unit-filter", "trajectory", "beside"
    ] = "hessian"  # fmt: skip
    """Directions: those of training, or as sweep --help says; beside: L_k − L_N over three planes,
    influence, hessian and random, each as wide as raises L_N by half."""
    radius: Annotated[float | None, above(0), default("1, or as far as training went")] = None
    """Half the grid's width, in units of the parameters (filter: of the filters' norms)."""
    num: Annotated[int, Range(lambda num: num >= 3 and num % 2 == 1, "odd and at least 3")] = 41
    """Grid points along each direction, odd."""
    ks: Annotated[tuple[int, ...], default("1, √k_max and k_max")] = ()
    """Prefix lengths k, in samples, from 1 to k_max."""
    interactive: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also write figures/surface.html for the browser (needs plotly)."""

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if not all(1 <= k <= self.k_max for k in self.ks):
            found = " ".join(map(str, self.ks))
            raise js.InputError(f"expected --ks from 1 to --k-max, {self.k_max}, found {found}")
        if self.subspace == "beside" and (self.radius is not None or self.interactive):
            raise js.InputError(
                "expected no --radius and no --interactive for --subspace beside, found one: its "
                "planes have radii of their own; leave them out"
            )
        if self.subspace == "trajectory" and self.epochs < 2:
            raise js.InputError(
                f"expected --epochs of at least 2 for a trajectory, found {self.epochs}; raise it"
            )
        if self.interactive and importlib.util.find_spec("plotly") is None:
            raise js.InputError(
                "expected the package plotly for an interactive surface, found none; "
                "pip install plotly (in a checkout: pip install -e '.[interactive]')"
            )


def _find(problem: Problem, config: SurfaceConfig, work: Path) -> Record:
    store, n = work / "checkpoint", len(problem.order)
    if config.subspace == "beside":
        return _beside(problem, config, store)
    path, steps = None, surfaces.square(config.radius or 1.0, config.num)
    if config.subspace != "trajectory":
        params = prepare.trained(problem, config, store)
        space, _ = prepare.directions(
            problem, params, config.subspace, 2, store, weight_decay=config.weight_decay
        )
    else:
        space, *of = js.trajectory_subspace(prepare.trajectory(problem, config, store))
        path, explained = map(np.asarray, of)
        if not np.abs(path).max() > 0:
            raise js.InputError("expected a trajectory that moves, found one that stays; train")
        print(f"trajectory: the plane holds {explained.sum():.0%} of its squared distances")
        steps = surfaces.around(path, config.num) if config.radius is None else steps
    with console.timed("surface", f"{config.num} by {config.num} points"):
        found = surfaces.evaluate(problem, space, steps, config.ks or (1, math.isqrt(n), n))
    summary, words = surfaces.summarise(found), surfaces.WORDS[config.subspace]
    text = tables.as_text(surfaces.table(summary))
    if config.interactive:
        (work / "figures").mkdir(exist_ok=True)
        title = f"log₁₀ L_k ({problem.unit}), {words}: {problem.dataset.title}"
        write_html(work / "figures" / "surface.html", found, title)
        text += "\n\nfor the browser: surface.html, beside the figures"
    arrays = found._asdict() | ({} if path is None else {"trajectory": path})
    figures = surfaces.figures_of(found, words, path, unit=problem.unit)
    return Record(arrays, summary, figures, text)


def _beside(problem: Problem, config: SurfaceConfig, store: Path) -> Record:
    """L_k − L_N over three planes: which of them shows a surface that data reshape?"""
    params, n = prepare.trained(problem, config, store), len(problem.order)
    ks = sorted({k for k in config.ks or (n // 100, n // 30, n // 10) if 1 <= k < n}) or [1]
    losses, radii = [], []
    for kind in PLANES:
        space, _ = prepare.directions(
            problem, params, kind, 2, store / kind, weight_decay=config.weight_decay
        )
        model = js.project(problem.loss, space, problem.samples)
        rise, trace = RISE * float(model.value.mean()), abs(float(model.hessian.mean(0).trace()))
        radii.append(math.sqrt(4 * rise / trace) if trace else 1.0)  # in mean over the rim
        steps = surfaces.square(radii[-1], config.num)
        losses.append(surfaces.evaluate(problem, space, steps, [*ks, n]).loss)
    loss = np.stack(losses).astype(np.float64)
    found = {"k": np.array([*ks, n]), "radius": np.array(radii), "loss": loss, **moves(loss)}
    rows = [["plane", "radius", "k", "change of L_k − L_N", "lowest L_k, in radii"]]
    for p, i in np.ndindex(loss.shape[:2]):
        change = f"{found['change_rms'][p, i]:.3g}" if i < len(ks) else "-"
        place = "({:.2g}, {:.2g})".format(*found["lowest"][p, i])
        rows.append([PLANES[p], f"{radii[p]:.3g}", f"{found['k'][i]:,}", change, place])
    figures = {"moves": _moves_figure(found, problem.unit)}
    return Record(found, {"planes": list(PLANES)}, figures, tables.as_text(rows))


def moves(loss: np.ndarray) -> dict[str, np.ndarray]:
    """From L_k over planes, [p, K + 1, a, a], the last of all samples: ``change`` [p, K, a, a],
    L_k − L_N less that at w*, which is no change of shape; ``change_rms`` [p, K];
    ``lowest`` [p, K + 1, 2], where L_k is lowest, in units of the plane's radius.
    """
    middle = loss.shape[-1] // 2
    change = loss[:, :-1] - loss[:, -1:]
    change -= change[..., middle : middle + 1, middle : middle + 1]
    flat = np.where(np.isnan(loss), np.inf, loss).reshape(*loss.shape[:2], -1).argmin(-1)
    lowest = np.stack(np.unravel_index(flat, loss.shape[2:]), -1) / middle - 1
    rms = np.sqrt(np.nanmean(change**2, (2, 3)))
    return {"change": change, "change_rms": rms, "lowest": lowest}


def _moves_figure(found: dict[str, np.ndarray], unit: str) -> Figure:
    """L_k − L_N, a row per plane and a column per k, each plane in colours of its own."""
    change, names = found["change"], [f"k = {k:,}" for k in found["k"][:-1]]
    title = "$L_k - L_N$, less that at $w^*$: where do more samples reshape the surface?"
    along = r"$\theta_1$ / radius", r"$\theta_2$ / radius"
    figure, panels = canvas(title, *along, names * len(PLANES), columns=len(names))
    steps = np.linspace(-1, 1, change.shape[-1])
    look: dict[str, Any] = {"cmap": "PuOr", "shading": "gouraud", "rasterized": True}
    for axes, (p, i) in zip(panels, np.ndindex(change.shape[:2]), strict=True):
        most = np.nanmax(np.abs(change[p])) or 1.0
        mesh = axes.pcolormesh(steps, steps, change[p, i].T, vmin=-most, vmax=most, **look)
        axes.contour(steps, steps, found["loss"][p, -1].T, 8, colors="0.4", linewidths=0.6)
        axes.plot(0, 0, "k+", ms=11, mew=1.6, label="$w^*$; grey lines: equal $L_N$")
        axes.plot(*found["lowest"][p, i], "ko", ms=6, label="lowest $L_k$")
        axes.set(xlim=(-1, 1), ylim=(-1, 1))
        axes.grid(False)
        if i == 0:
            axes.set_ylabel(f"{PLANES[p]} plane, radius {found['radius'][p]:.2g}\n{along[1]}")
        if i == len(names) - 1:  # the row is whole
            figure.colorbar(mesh, ax=list(panels[p * len(names) :][: len(names)]), label=unit)
    return legend(figure, "")


def write_html(path: Path, sheets: surfaces.Sheets, title: str) -> None:
    """One self-contained HTML file (Plotly) with a button for each L_k, its decimal logarithm."""
    import plotly.graph_objects as go

    figure, buttons = go.Figure(), []
    for row, (k, loss) in enumerate(zip(sheets.k, sheets.loss, strict=True)):
        heights = np.log10(np.where(loss > 0, loss, np.nan)).T  # heights have θ_2 first
        figure.add_surface(x=sheets.steps[0], y=sheets.steps[1], z=heights, visible=row == 0)
        shown = {"visible": [other == row for other in range(len(sheets.k))]}
        buttons.append({"label": f"k = {k:,}", "method": "update", "args": [shown]})
    figure.update_layout(
        title=title,
        scene={"xaxis_title": "θ₁", "yaxis_title": "θ₂", "zaxis_title": "log₁₀ L_k"},
        updatemenus=[{"type": "buttons", "direction": "right", "y": 1.05, "buttons": buttons}],
    )
    figure.write_html(path, include_plotlyjs=True)


main = cli.command("surface", SurfaceConfig, _find)

if __name__ == "__main__":
    cli.leave(main())
