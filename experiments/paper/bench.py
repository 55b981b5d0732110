"""The settings that all figures of the papers share.

What the figures share: the problem, the trained network, directions through it.

Whether the chosen figures can be made of these networks and data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxscape as js
from experiments.common import console, prepare, run_folder
from experiments.common import problem as problems
from experiments.common.config import ProblemConfig, default
from experiments.common.prepare import Eigenspace
from experiments.common.problem import Problem
from jaxscape import InputError
from jaxscape.lab import checkpoint
from jaxscape.trees import num_parameters
from jaxscape.types import Params

Name = Literal[
    "fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "trajectory",
    "unraveling", "family", "ratio", "model-error", "convergence", "error-map", "stages",
]  # fmt: skip


LEAST = 256
"""Samples without which some figure would be empty."""


QUICK = {
    "k_max": 3000, "epochs": 5, "points": 16, "num": 21, "networks": 8, "network_samples": 1000,
    "network_dim": 16, "orders": 20, "many_points": 64,
}  # fmt: skip
"""Largest values that --quick leaves."""


@dataclass(frozen=True)
class PaperConfig(ProblemConfig):
    """Every figure of the three papers, as published beside how it should be.

    Each figure makes a folder of its own, with arrays and one paragraph of what is seen; a figure
    that is there is left as it is. Where the published computation differs (only the first
    direction applied, k in batches of 64, the samples reshuffled for each draw, magnitudes of
    eigenvalues), it is laid over.

    Nikitin et al. 2025:
      fig1         eigenvalues of many networks
      fig2, fig3   L_k and its squared increment on two random filter-normalised directions
      fig4, fig5   Δ_k at four σ; in four dimensions
      fig6, fig7   as fig2 and fig3, on the top two eigenvectors
      fig8, fig9   Δ_k on the top ten eigenvectors; theory against experiment
      trajectory   L_k where training went

    Kiselev and Grabovoy 2024:
      unraveling   |L_{k+1} − L_k| over widths and depths, fully connected whatever the model

    "Curvature-Aligned Probing" 2026:
      family, ratio, model-error, convergence, error-map, stages

    Examples:
        python -m experiments.paper --all --quick --dataset glyphs   # a first look at everything
        python -m experiments.paper fig4 fig8 --dataset mnist
    """

    figures: Annotated[
        tyro.conf.Positional[tuple[Name, ...]],
        tyro.conf.arg(metavar="[FIGURE ...]", help_behavior_hint="(default: none)"),
    ] = ()
    """Names of figures, as above; one or more, or else --all."""
    all: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make every figure."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """At most 3000 samples, 16 points, grids of 21, 8 networks."""
    as_published: bool = True
    """Lay the published computation over, where it differs."""
    points: int = 64
    """Random points per curve, at least 2."""
    many_points: int = 256
    """Most random points of the figure convergence, at least 8."""
    num: int = 41
    """Grid points along each direction of a surface, odd."""
    radius: float = 1.0
    """Half a surface's width, in units of the parameters (fig2, fig3: of the filters' norms)."""
    networks: int = 50
    """Number of networks whose eigenvalues fig1 averages, at least 2."""
    network_samples: int = 6000
    """Samples of those networks and their Hessians."""
    network_hidden: int = 64
    """Units per hidden layer of those networks."""
    network_dim: int = 32
    """Number of eigenvalues of each of them."""
    widths: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Units per hidden layer of the networks of unraveling."""
    depths: tuple[int, ...] = (1, 3, 5, 7, 10)
    """Numbers of hidden layers of the networks of unraveling."""
    orders: int = 100
    """Number of random orders over which unraveling averages."""
    out: Annotated[Path | None, default("runs/paper-<dataset>-<hash of the settings>")] = None
    """Folder of all figures."""

    def ranges(self) -> list[tuple[str, Any, bool, str]]:
        """See ``ProblemConfig.ranges``."""
        least = [
            (name.replace("_", "-"), getattr(self, name), getattr(self, name) >= low, words)
            for name, low, words in (
                ("points", 2, "at least 2"),
                ("many_points", 8, "at least 8"),
                ("networks", 2, "at least 2"),
                ("network_samples", 2, "at least 2"),
                ("network_hidden", 1, "at least 1"),
                ("network_dim", 1, "at least 1"),
                ("orders", 1, "at least 1"),
            )
        ]
        listed = [
            (name, " ".join(map(str, values)) or "none", bool(values) and min(values) >= 1,
             "one or more, each at least 1")
            for name, values in (("widths", self.widths), ("depths", self.depths))
        ]  # fmt: skip
        chosen = bool(self.figures) != self.all
        enough = self.k_max >= LEAST or self.figures == ("unraveling",)
        moves = self.epochs >= 2 or not (self.all or "trajectory" in self.figures)
        return [
            *super().ranges(),
            ("k-max", self.k_max, enough, f"at least {LEAST}, four published batches"),
            *least,
            *listed,
            ("num", self.num, self.num >= 3 and self.num % 2 == 1, "an odd number of at least 3"),
            ("radius", self.radius, 0 < self.radius < float("inf"), "a finite number above 0"),
            ("epochs", self.epochs, moves, "at least 2 for a trajectory"),
            ("all", " ".join(self.figures) or "neither", chosen, "or else names of figures"),
        ]

    def sized(self) -> "PaperConfig":
        """These settings made small where ``quick`` is set."""
        if not self.quick:
            return self
        return replace(self, **{n: min(getattr(self, n), most) for n, most in QUICK.items()})

    def settings(self) -> dict[str, Any]:
        """See ``ProblemConfig.settings``."""
        which = ("figures", "all", "quick")
        return {n: value for n, value in super().settings().items() if n not in which}


TOP = 16
"""Eigenvectors that the figures share; each takes the leading ones."""


SIGMAS = (0.01, 1.0)
"""Standard deviations close to w* and far from it, for the figures that the papers give one σ."""


class Bench(NamedTuple):
    """A problem, and the folder in which what was computed for one figure serves the next."""

    problem: Problem
    config: PaperConfig
    store: Path


def trained(bench: Bench) -> Params:
    """w*."""
    return prepare.trained(bench.problem, bench.config, bench.store)[0]


def directions(bench: Bench, kind: str, dim: int) -> js.Subspace:
    """The subspace of ``dim`` directions, "hessian" or "filter", through w*."""
    params = trained(bench)
    if kind == "filter":
        key = bench.problem.keys["subspace"]
        return js.random_subspace(key, params, dim, normalization="filter")
    return leading(jax.tree.map(jnp.asarray, hessian(bench).space), dim)


def hessian(bench: Bench) -> Eigenspace:
    """The top eigenpairs of the Hessian over all samples, as many as any figure needs."""
    params = trained(bench)
    fresh = not checkpoint.exists(bench.store, "subspace")
    dim = min(TOP, num_parameters(params))
    found = prepare.eigenspace(bench.problem, params, dim, bench.store)
    if fresh:
        console.directions("hessian", found.pairs, found.seconds)
    return found


def caveat(bench: Bench, kind: str = "hessian") -> str:
    """A sentence on eigenpairs that did not converge, where there are any."""
    if kind != "hessian":
        return ""
    lost = int((~np.asarray(hessian(bench).pairs.converged)).sum())
    return f" {lost} of {TOP} eigenpairs did not converge: directions are inexact." if lost else ""


def leading(space: js.Subspace, dim: int) -> js.Subspace:
    """The subspace of the first ``dim`` directions."""
    return js.Subspace(space.origin, _first(space.basis, dim))


@partial(jax.jit, static_argnums=1)  # all leaves in one program
def _first(basis: Params, dim: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[:dim], basis)


def losses_at(bench: Bench, space: js.Subspace, coordinates: np.ndarray) -> jax.Array:
    """ℓ_i(w(θ)) of every sample at the rows θ, [m, n].

    Raises:
        InputError: a loss that is NaN or infinite.
    """
    probe = js.points(space, jnp.asarray(coordinates, jnp.float32))
    reduction = js.reductions.losses(probe.num_points)
    losses = js.evaluate(bench.problem.loss, probe, bench.problem.samples, reduction)
    bad = int((~np.isfinite(losses).all(0)).sum())
    if bad:
        raise js.InputError(
            f"expected finite losses, found NaN or infinity for {bad} of {losses.shape[1]} "
            "samples; scale the inputs down, or train with a lower --learning-rate"
        )
    return losses


def normals(bench: Bench, num_points: int, dim: int) -> np.ndarray:
    """Standard normal coordinates [m, d]; a smaller ``dim`` has the leading ones of a larger."""
    key = bench.problem.keys["probe"]
    draw = lambda j: jax.random.normal(jax.random.fold_in(key, j), (num_points,))  # noqa: E731
    return np.stack([draw(j) for j in range(dim)], -1)


def unit(problem: Problem) -> str:
    """The unit of a loss."""
    return "nats" if problem.dataset.num_classes else "loss"


def marks(problem: Problem) -> dict[str, Any]:
    """What a figure of squared losses says of its data."""
    return run_folder.marks(problem) | {"unit": unit(problem) + "²"}


DIRECTIONS = {"fig2": 2, "fig3": 2, "fig4": 10, "fig5": 256, "trajectory": 2, "unraveling": 0}
"""Of the figures that take other than the top eigenvectors."""


def check_sizes(config: PaperConfig, problem: Problem, figures: Sequence[str]) -> None:
    """Raise an ``InputError`` for the first figure of more directions than there are parameters.

    Also for unraveling of sequences: its networks are fully connected, whatever the model.
    """
    if problem.dataset.has_tokens and "unraveling" in figures:
        raise InputError(
            "expected images or vectors for unraveling, found sequences of tokens in "
            f"{problem.dataset.name}; name the other figures one by one, or another --dataset"
        )
    for figure in figures:
        if figure == "fig1":
            model, _ = problems.network(narrow(config), problem.dataset)
            inputs = problem.samples["inputs"][:1]
            shape = jax.eval_shape(lambda: model.init(problem.keys["init"], inputs))  # noqa: B023
            size, least = num_parameters(shape), config.network_dim
            flags = "lower --network-dim, or raise --network-hidden"
        else:
            size, least = num_parameters(problem.initial), DIRECTIONS.get(figure, TOP)
            flags = "raise --hidden"
        if size < least:
            raise InputError(
                f"expected at least {least} parameters, one per direction of {figure}, found "
                f"{size}; {flags}"
            )


def narrow(config: PaperConfig) -> PaperConfig:
    """The settings of the networks of fig1."""
    return replace(config, hidden=config.network_hidden)
