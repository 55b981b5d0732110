"""What all figures share: settings, data, w*, directions and points around it, tables, curves."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import prepare, segments
from experiments.common.config import Range, RunConfig, above, at_least
from experiments.common.console import progress
from experiments.common.problem import Problem
from jaxscape import InputError, prefix
from jaxscape.lab import train
from jaxscape.lab.style import canvas, curve, finish, log_bins
from jaxscape.lanczos import Eigenpairs
from jaxscape.subspace import check_dim
from jaxscape.types import Batch, Params, PerSampleLoss

Name = Literal[
    "fig1", "fig2", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "unraveling",
    "family", "model-error", "bounds", "claims",
]  # fmt: skip

SAMPLES = 9984  # of the reference code of Nikitin et al.: 156 whole batches
LEAST = 256  # samples without which some figure would be empty: four published batches
QUICK = {
    "k_max": 3000, "epochs": 5, "points": 16, "num": 21, "networks": 8, "network_dim": 16,
    "orders": 20,
}  # fmt: skip
"""Upper limits that --quick sets."""

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]

TOP = 16  # eigenvectors that the figures share; each takes the leading ones
SIGMAS = (0.01, 1.0)
"""Standard deviations close to w* and far from it, for the figures that the papers give one σ."""


@dataclass(frozen=True)
class PaperConfig(RunConfig):
    """Every figure of the three papers, as published beside how it should be.

    Each figure makes a folder of its own, with arrays and a table of what is seen; a figure
    that is there is left as it is. Where the published computation differs (only the first
    direction applied, k in batches of 64, the samples reshuffled for each draw, magnitudes of
    eigenvalues), it stands beside the corrected one.

    Nikitin et al. 2025, on networks trained as in its code: on the first 9,984 samples,
    standardised, from PyTorch's initial distribution:
      fig1         eigenvalues of many networks
      fig2, fig3   L_k and its squared increment on two random filter-normalised unit directions,
                   for the smallest and for the largest k
      fig4, fig5   Δ_k at four σ; in four dimensions
      fig6, fig7   as fig2 and fig3, on the top two eigenvectors
      fig8, fig9   Δ_k on the top ten eigenvectors; theory against experiment

    Kiselev and Grabovoy 2024 and, "Curvature-Aligned Probing", 2026:
      unraveling   |L_{k+1} − L_k| over widths and depths, fully connected whatever the model
      family, model-error
      bounds       both papers' bounds beside what they bound, for --model mlp alone

    All of them, on networks trained as in the code of Nikitin et al.:
      claims       what is claimed, and whether it holds, over five networks

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
    points: Annotated[int, at_least(2)] = 64
    """Random points per curve, at least 2."""
    num: Annotated[int, Range(lambda num: num >= 3 and num % 2 == 1, "odd and at least 3")] = 41
    """Grid points along each direction of a surface, odd."""
    radius: Annotated[float, above(0)] = 1.0
    """Half a surface's width, in units of the parameters."""
    networks: Annotated[int, at_least(2)] = 50
    """Number of networks whose eigenvalues fig1 averages, at least 2."""
    network_dim: Annotated[int, at_least(1)] = 32
    """Number of eigenvalues of each of them."""
    widths: Annotated[tuple[int, ...], at_least(1)] = (4, 8, 16, 32, 64)
    """Units per hidden layer of the networks of unraveling."""
    depths: Annotated[tuple[int, ...], at_least(1)] = (1, 3, 5, 7, 10)
    """Numbers of hidden layers of the networks of unraveling."""
    orders: Annotated[int, at_least(1)] = 100
    """Number of random orders over which unraveling averages."""

    def check(self) -> None:
        """See ``ProblemConfig.check``."""
        super().check()
        if bool(self.figures) == self.all:
            found = " ".join(self.figures) + " and --all" if self.all else "neither"
            raise InputError(f"expected --all, or else names of figures, found {found}; see --help")
        if "bounds" in self.figures and self.model != "mlp":
            raise InputError(f"expected --model mlp for bounds, found {self.model}; change it")
        if self.k_max < LEAST and self.figures != ("unraveling",):
            raise InputError(f"expected --k-max of at least {LEAST}, found {self.k_max}; raise it")

    def sized(self) -> "PaperConfig":
        """These settings made small where ``quick`` is set."""
        limits = QUICK if self.quick else {}
        return replace(self, **{n: min(getattr(self, n), most) for n, most in limits.items()})

    def settings(self) -> dict[str, Any]:
        """See ``ProblemConfig.settings``."""
        return {n: x for n, x in super().settings().items() if n not in ("figures", "all", "quick")}


def check_sizes(config: PaperConfig, problem: Problem, figures: Iterable[str]) -> None:
    """Raise an ``InputError`` for other data than the papers', or too few parameters."""
    dataset = problem.dataset
    if dataset.has_tokens or not dataset.num_classes:
        raise InputError(
            "expected images or vectors with classes, which the papers are of, found "
            f"{'sequences of tokens' if dataset.has_tokens else 'numbers to be predicted'} in "
            f"{dataset.name}; take another --dataset"
        )
    others = {"fig1": config.network_dim, "fig2": 2, "fig3": 2, "fig4": 2, "fig5": 256,
              "unraveling": 1, "claims": 256}  # fmt: skip
    check_dim(max(others.get(figure, TOP) for figure in figures), problem.initial)


@dataclass(frozen=True, eq=False)
class Bench:
    """A problem, and the folder in which what was computed for one figure serves the next."""

    problem: Problem
    config: PaperConfig
    store: Path

    @functools.cached_property
    def as_published(self) -> "Bench":
        """The bench of the reference code: its samples, standardised, its initial distribution.

        The samples are the data set's first, less the mean, over the standard deviation, of all.
        """
        problem, dataset = self.problem, self.problem.dataset
        count = min(SAMPLES, len(problem.order))
        inputs, targets = dataset.train_inputs[:], dataset.train_targets[:count]
        spread = max(inputs.std(), np.finfo(np.float32).tiny)
        standard = (inputs[:count] - inputs.mean()) / spread
        first = replace(dataset, train_inputs=standard, train_targets=targets)
        initial = uniform(problem.keys["init"], problem.initial)
        order, none = np.arange(count), np.zeros(0, int)
        theirs = replace(problem, dataset=first, order=order, held_out=none, initial=initial)
        return replace(self, problem=theirs, store=self.store / "published")

    @functools.cached_property
    def trained(self) -> Params:
        """w*."""
        return prepare.trained(self.problem, self.config, self.store)

    @functools.cached_property
    def hessian(self) -> tuple[js.Subspace, Eigenpairs]:
        """The top eigenpairs of the Hessian over all samples, as many as any figure needs."""
        return prepare.eigenspace(self.problem, self.trained, TOP, self.store)

    def fit(
        self, key: Key[Array, "R"], loss: PerSampleLoss, params: Params, samples: Batch, **more: Any
    ) -> train.Fitted:
        """Many networks, trained side by side with the settings of the run."""
        with progress("networks", self.config.visits, "epochs") as advance:
            return train.fit(
                key, loss, params, samples, **self.config.training(),
                on_epoch=lambda *_: advance(1), **more,
            )  # fmt: skip

    def networks(self, count: int) -> train.Fitted:
        """Networks from their own ``uniform`` initialisations, trained on the same samples."""
        problem = self.problem
        init, fit = (jax.random.split(problem.keys[name], count) for name in ("init", "train"))
        initial = jax.vmap(lambda key: uniform(key, problem.initial))(init)
        return self.fit(fit, problem.loss, initial, problem.samples)

    def directions(self, kind: str, dim: int) -> js.Subspace:
        """The subspace of ``dim`` directions through w*, "hessian" or of ``prepare.at_random``."""
        if kind != "hessian":
            return prepare.at_random(self.problem, self.trained, kind, dim)
        space, _ = self.hessian
        return leading(jax.tree.map(jnp.asarray, space), dim)

    def inexact(self) -> list[str]:
        """A note on eigenpairs that did not converge; none where all did."""
        _, pairs = self.hessian
        lost = np.sum(~np.asarray(pairs.converged))
        note = f"{lost} of {TOP} eigenpairs did not converge: directions are inexact"
        return [note] if lost else []

    def normals(self, num_points: int, dim: int) -> Float[np.ndarray, "m d"]:
        """Standard normal coordinates; a smaller ``dim`` has the leading ones of a larger."""
        keys = [jax.random.fold_in(self.problem.keys["probe"], j) for j in range(dim)]
        return np.stack([jax.random.normal(key, (num_points,)) for key in keys], -1)

    def losses_at(self, space: js.Subspace, rows: Float[np.ndarray, "m d"]) -> Float[Array, "m n"]:
        """ℓ_i(w(θ)) of every sample at the rows θ; see ``segments.losses_at``."""
        points = js.points(space, jnp.asarray(rows, jnp.float32))
        return segments.losses_at(self.problem, points)

    def losses(self, space: js.Subspace, sigma: float) -> Float[Array, "m n"]:
        """ℓ_i(w(θ)) of every sample at the run's points θ ~ N(0, σ²I)."""
        return self.losses_at(space, sigma * self.normals(self.config.points, space.dim))


@jax.jit
def uniform(key: Key[Array, ""], params: Params) -> Params:
    """Parameters of the same layers, weights and biases uniform on ±1/√f, f their inputs."""
    found = {}
    for own, (name, layer) in zip(jax.random.split(key, len(params)), params.items(), strict=True):
        bound = float(np.prod(layer["kernel"].shape[:-1])) ** -0.5
        drawn = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
        keys = dict(zip(layer, jax.random.split(own, len(layer)), strict=True))
        found[name] = {part: drawn(keys[part], x.shape, x.dtype) for part, x in layer.items()}
    return found


@functools.partial(jax.jit, static_argnums=1)  # all leaves in one program
def leading(space: js.Subspace, dim: int) -> js.Subspace:
    """The subspace of the first ``dim`` directions."""
    return js.Subspace(space.origin, jax.tree.map(lambda leaf: leaf[:dim], space.basis))


def increments(losses: Float[ArrayLike, "m n"]) -> Float[np.ndarray, "m n-1"]:
    """δ_k at every point, in float64, where no square is lost."""
    return np.asarray(prefix.increments(losses), np.float64)


def row_of(label: str, numbers: Iterable[float], style: str = ".3g") -> list[str]:
    """A row of a table."""
    return [label, *(f"{number:{style}}" for number in numbers)]


def scaled(delta: Float[np.ndarray, "K"], first: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """k and the mean of k²Δ_k in logarithmic bins of k = first, first + 1, ..."""
    k = np.arange(first, first + len(delta))
    bins = log_bins(k, delta * k**2.0)
    return bins.k, bins.mean


def lines(
    title: str, xlabel: str, ylabel: str, panels: Mapping[str, Curves], note: str, *,
    level: float | None = None, dots: bool = False,
) -> Figure:  # fmt: skip
    """Curves (x, y) by label, a panel per name, a dashed line at ``level``; or only ``dots``.

    Later curves are thinner: where two coincide, the rim of the lower one shows.
    """
    figure, grid = canvas(title, xlabel, ylabel, list(panels))
    for axes, curves in zip(grid, panels.values(), strict=True):
        for row, (label, (x, y)) in enumerate(curves.items()):
            every = (2 * row, 10) if len(x) > 20 and not dots else None
            width = 0 if dots else max(1.0, 3.4 - 0.6 * row)
            axes.plot(x, y, label=label, **curve(row, lw=width, markevery=every))
        if level is not None:
            axes.axhline(level, color="0.4", lw=1, ls="--")
    return finish(figure, note)
