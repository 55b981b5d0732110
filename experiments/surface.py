"""The loss surface over two directions, for a few prefixes of the samples."""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxscape as js
from experiments.common import cli, console, prepare, surfaces, tables
from experiments.common.config import Range, RunConfig, above, default
from experiments.common.problem import Problem
from experiments.common.run_folder import Record
from experiments.common.surfaces import WORDS, Sheets
from jaxscape import InputError


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
            raise InputError(f"expected --ks from 1 to --k-max, {self.k_max}, found {found}")
        if self.subspace == "beside" and (self.radius is not None or self.interactive):
            raise InputError(
                "expected no --radius and no --interactive for --subspace beside, found one: its "
                "planes have radii of their own; leave them out"
            )
        if self.subspace == "trajectory" and self.epochs < 2:
            raise InputError(
                f"expected --epochs of at least 2 for a trajectory, found {self.epochs}; raise it"
            )
        if self.interactive and importlib.util.find_spec("plotly") is None:
            raise InputError(
                "expected the package plotly for an interactive surface, found none; "
                "pip install plotly (in a checkout: pip install -e '.[interactive]')"
            )


def _find(problem: Problem, config: SurfaceConfig, work: Path) -> Record:
    if config.subspace == "beside":
        return _beside(problem, config, work / "checkpoint")
    space, path = _directions(problem, config, work / "checkpoint")
    if path is None or config.radius is not None:
        steps = surfaces.square(config.radius or 1.0, config.num)
    else:
        steps = surfaces.around(path, config.num)
    n, words = len(problem.order), WORDS[config.subspace]
    with console.timed("surface", f"{config.num} by {config.num} points"):
        found = surfaces.evaluate(problem, space, steps, config.ks or (1, math.isqrt(n), n))
    arrays = found._asdict() | ({} if path is None else {"trajectory": path})
    numbers = surfaces.summarise(found)
    text = tables.as_text(surfaces.table(numbers))
    if config.interactive:
        (work / "figures").mkdir(exist_ok=True)
        title = f"log₁₀ L_k ({problem.unit}), {words}: {problem.dataset.title}"
        write_html(work / "figures" / "surface.html", found, title)
        text += "\n\nfor the browser: surface.html, beside the figures"
    figures = surfaces.figures_of(found, words, path, unit=problem.unit)
    return Record(arrays, numbers, figures, text)


def _directions(
    problem: Problem, config: SurfaceConfig, store: Path
) -> tuple[js.Subspace, np.ndarray | None]:
    """The plane; of a trajectory also its coordinates."""
    if config.subspace == "trajectory":
        points = prepare.trajectory(problem, config, store)
        space, path, explained = js.trajectory_subspace(jax.tree.map(jnp.asarray, points), 2)
        if not np.abs(path).max() > 0:
            raise InputError(
                "expected a training trajectory that moves, found one that stays; train"
            )
        print(f"trajectory: the plane holds {np.sum(explained):.0%} of its squared distances")
        return space, np.asarray(path)
    params = prepare.trained(problem, config, store)
    found = prepare.directions(
        problem, params, config.subspace, 2, store, weight_decay=config.weight_decay
    )
    assert found.space is not None
    return found.space, None


PLANES = "influence", "hessian", "random"
RISE = 0.5
"""Of L_N at the rim of each plane over L_N at w* (or its fall), by the quadratic model."""


def _beside(problem: Problem, config: SurfaceConfig, store: Path) -> Record:
    """L_k − L_N over three planes: which of them shows a surface that data reshape?"""
    params, n = prepare.trained(problem, config, store), len(problem.order)
    ks = sorted({k for k in config.ks or (n // 100, n // 30, n // 10) if 1 <= k < n}) or [1]
    rows, radii = [], []
    for kind in PLANES:
        space, _ = prepare.directions(
            problem, params, kind, 2, store / kind, weight_decay=config.weight_decay
        )
        assert space is not None
        model = js.project(problem.loss, space, problem.samples)
        curvature = abs(float(jnp.trace(model.hessian.mean(0)))) / 2
        rise = RISE * float(model.value.mean())
        radii.append(math.sqrt(2 * rise / curvature) if curvature else 1.0)
        rows.append(
            surfaces.evaluate(problem, space, surfaces.square(radii[-1], config.num), [*ks, n])
        )
    loss = np.stack([row.loss for row in rows]).astype(np.float64)
    found = {"k": np.array([*ks, n]), "radius": np.array(radii), "loss": loss}
    moves = surfaces.moves(found)
    figure = surfaces.moves_figure(found, moves, PLANES, problem.unit)
    text = tables.as_text(surfaces.moves_table(found, moves, PLANES))
    return Record(found | moves, {"planes": list(PLANES)}, {"moves": figure}, text)


def write_html(path: Path, sheets: Sheets, title: str) -> None:
    """One self-contained HTML file (Plotly) with a button for each L_k, its decimal logarithm."""
    import plotly.graph_objects as go

    drawn, buttons = [], []
    for row, (k, loss) in enumerate(zip(sheets.k, sheets.loss, strict=True)):
        heights = np.log10(np.where(loss > 0, loss, np.nan)).T  # heights have θ_2 first
        drawn.append(go.Surface(x=sheets.steps[0], y=sheets.steps[1], z=heights, visible=row == 0))
        visible = (np.arange(len(sheets.k)) == row).tolist()
        buttons.append({"label": f"k = {k:,}", "method": "update", "args": [{"visible": visible}]})
    figure = go.Figure(drawn)
    figure.update_layout(
        title=title,
        scene={"xaxis_title": "θ₁", "yaxis_title": "θ₂", "zaxis_title": "log₁₀ L_k"},
        updatemenus=[{"type": "buttons", "direction": "right", "y": 1.05, "buttons": buttons}],
    )
    figure.write_html(path, include_plotlyjs=True)


main = cli.command("surface", SurfaceConfig, _find)
"""The command; its exit status."""

if __name__ == "__main__":
    cli.leave(main())
