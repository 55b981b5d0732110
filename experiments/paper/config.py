"""The settings that all figures of the papers share."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.manual import default
from experiments.problem import ProblemConfig

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
