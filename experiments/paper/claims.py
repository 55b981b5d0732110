"""What the papers claim of Δ_k and of the Hessian, put to the test on several networks.

Every number is that of one network; the verdict asks whether the claim holds for all of them, with
all directions applied and k in samples unless "as published" is said. Random directions are the
published ones: filter-normalised and then of norm 1.

The claims are those of Nikitin et al. (N), of Kiselev and Grabovoy 2024, "Unraveling the Hessian"
(U), and 2026, "Curvature-Aligned Probing" (C).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import unraveling
from experiments.paper.bench import Bench
from experiments.paper.claims_numbers import (
    ALIGNED,
    DIM,
    DIMS,
    NETWORKS,
    RANDOM_DIMS,
    RANDOM_SIGMAS,
    networks,
    numbers_of,
)
from jaxscape.lab.style import canvas, curve, legend

Arrays = Mapping[str, np.ndarray]

ALIKE = 2.0
"""Levels within this factor of each other count as insensitive."""

NEAR = 0.1
"""Numbers that are this close to their claim count as equal to it."""


class Claim(NamedTuple):
    """A claim, where it stands, the numbers that test it, and when one of them supports it."""

    text: str
    where: str
    what: str
    numbers: Float[np.ndarray, "R"]
    holds: Callable[[float], bool]


def claims(bench: Bench) -> Record:
    """What the papers claim, and whether it holds: a verdict and its numbers over five networks."""
    trained, rows = networks(bench), []
    with progress("claims", NETWORKS, "networks") as advance:
        for number in range(NETWORKS):
            w = jax.tree.map(lambda leaf, number=number: leaf[number], trained)
            rows.append(numbers_of(bench, w, number))
            advance(1)
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    found = claims_of(arrays)
    if not bench.problem.dataset.has_tokens:
        found += of_sizes(unraveling.unraveling(bench).summary["networks"])
    table = [["claim", "where", "verdict", "number", "mean", "least", "most"]]
    for claim in found:
        spread = (claim.numbers.mean(), claim.numbers.min(), claim.numbers.max())
        cells = (f"{value:.3g}" for value in spread)
        table.append([claim.text, claim.where, verdict(claim), claim.what, *cells])
    loss, n, m = arrays["train_loss"].mean(), len(bench.problem.order), bench.config.points
    notes = [
        f"{NETWORKS} networks of {n:,} samples, {m} points, training loss {loss:.3g}",
        f"trace of the Hessian to ± {np.mean(arrays['trace_sem'] / arrays['trace']):.0%}",
        "N: Nikitin et al. 2025; U: Unraveling the Hessian 2024; C: Curvature-Aligned Probing 2026",
        "at σ up to 0.01 Δ_k is nearly all the move of L_k(w*), which any directions reproduce",
    ]
    entries = [
        {"claim": c.text, "where": c.where, "verdict": verdict(c), "what": c.what}
        | {"numbers": c.numbers.tolist()}
        for c in found
    ]
    summary = {"claims": entries, "tables": [table], "notes": notes}
    return Record(arrays, summary, {"levels": draw(bench, arrays)})


def draw(bench: Bench, arrays: Arrays) -> Figure:
    """The level of Δ_k·k² of every network over dimensions and over σ."""
    shown = {
        "eigenvectors, σ = 1": ("level_dim", DIMS, "directions $d$"),
        "random, σ = 1": ("level_random_dim", RANDOM_DIMS, "directions $d$"),
        "random, d = 2": ("level_random_sigma", RANDOM_SIGMAS, r"$\sigma$"),
    }
    ylabel = rf"$\Delta_k \cdot k^2$   ({bench.unit}²)"
    figure, panels = canvas("Level over dimension and σ", "", ylabel, list(shown))
    for axes, (name, at, xlabel) in zip(panels, shown.values(), strict=True):
        axes.plot(at, arrays[name].T, color="0.7", lw=1)
        axes.plot(at, arrays[name].mean(0), label="mean", **curve(0))
        axes.set(xscale="log", yscale="log", xlabel=xlabel)
    legend(figure, "grey: each network; random: filter-normalised, of unit norm")
    return figure


def verdict(claim: Claim) -> str:
    """Whether the claim holds for all networks, for none, or for how many."""
    count = sum(map(claim.holds, claim.numbers.tolist()))
    if count in (0, len(claim.numbers)):
        return "holds" if count else "does not hold"
    return f"holds for {count} of {len(claim.numbers)}"


def within(ratio: float) -> bool:
    """Whether two levels count as alike."""
    return 1 / ALIKE < ratio < ALIKE


def claims_of(arrays: Arrays) -> list[Claim]:
    """The claims that a network's own numbers test."""
    return _of_levels(arrays) + _of_theory(arrays) + _of_surfaces(arrays) + _of_bounds(arrays)


def _of_levels(arrays: Arrays) -> list[Claim]:
    dims, random, sigmas = (arrays[f"level_{by}"] for by in ("dim", "random_dim", "random_sigma"))
    ten, two, last = DIMS.index(DIM), DIMS.index(2), DIMS[-1]
    levels = "Δ_k·k² at {} over {}, random".format
    return [
        Claim("the Hessian has a low effective rank", "N, method",
              "trace / λ_1 over the number of parameters", arrays["effective_rank"],
              lambda x: x < 0.01),
        Claim("the top ten modes hold nearly all curvature", "N, fig. 1", "Σ λ_1..10 / trace",
              arrays["top_ten"] / arrays["trace"], lambda x: x > 1 - NEAR),
        Claim("d = 10 directions suffice", "N, fig. 8",
              f"Δ_k·k² along {last} eigenvectors over 10, σ = 1", dims[:, -1] / dims[:, ten],
              lambda x: x < 1 + NEAR),
        Claim("σ has no effect up to 5", "N, fig. 4", levels("σ = 5", "0.1"),
              sigmas[:, 2] / sigmas[:, 0], within),
        Claim("σ has no effect up to 10", "N, fig. 4", levels("σ = 10", "0.1"),
              sigmas[:, 3] / sigmas[:, 0], within),
        Claim("the dimension has no effect up to 64", "N, fig. 5", levels("d = 64", "2"),
              random[:, 2] / random[:, 0], within),
        Claim("the dimension has no effect up to 256", "N, fig. 5", levels("d = 256", "2"),
              random[:, 3] / random[:, 0], within),
        Claim("eigenvectors give the higher Δ_k", "N, fig. 8",
              "Δ_k·k² along 2 eigenvectors over 2 random, σ = 1", dims[:, two] / random[:, 0],
              lambda x: x > 1),
        Claim("Δ_k falls as 1/k² (algebra: the order law)", "N, U, C",
              "exponent of Δ_k, σ = 1", arrays["exponent"], lambda x: abs(x - 2) < NEAR),
    ]  # fmt: skip


def _of_theory(arrays: Arrays) -> list[Claim]:
    found = []
    for column, sigma in enumerate((0.01, 1.0)):
        gradient, offset = arrays["gradient_share"][:, column], arrays["offset_share"][:, column]
        at = f"σ = {sigma:g}"
        found += [
            Claim(f"gradients at w* are negligible, {at}", "N, assumption 1",
                  "share of the gradient part in the law", gradient, lambda x: x < NEAR),
            Claim(f"the move of L_k(w*) is negligible, {at}", "N, assumption 2",
                  "share of the offset and mixed part in the law", offset, lambda x: x < NEAR),
            Claim(f"Theorem 1 is above experiment for all k ≥ 100, {at}", "N, fig. 9",
                  "share of k where it is", arrays["theory_above"][:, column], lambda x: x == 1),
            Claim(f"K of Theorem 1 is large enough, {at}", "N, conclusion",
                  "K of Theorem 1 over K of Monte-Carlo", arrays["theory_size"][:, column],
                  lambda x: x >= 1),
        ]  # fmt: skip
    share, ratio = arrays["published_above"], arrays["published_ratio"]
    return [
        *found,
        Claim("Theorem 1 is above experiment at 8 k, both as published, σ = 1", "N, fig. 9",
              "share of k where it is", share, lambda x: x == 1),
        Claim("Theorem 1 is a tight bound, both as published, σ = 1", "N, conclusion",
              "geometric mean of theory / experiment", ratio, within),
        Claim("near w* the closed form is the Monte-Carlo value, σ = 0.01", "C, corollary",
              "full law / Monte-Carlo", arrays["law"][:, 0], lambda x: abs(x - 1) <= NEAR),
        Claim("no eigenspace has more curvature than the top one", "C, proposition",
              "curvature part along v_1..8 over v_9..16", arrays["extremal"], lambda x: x > 1),
        *(Claim(f"the top 16 directions reproduce all parameters, σ = {sigma:g}", "C, abstract",
                "Δ_k·k² along 16 over along all parameters", arrays["aligned"][:, column],
                lambda x: abs(x - 1) <= NEAR) for column, sigma in enumerate(ALIGNED)),
    ]  # fmt: skip


def _of_surfaces(arrays: Arrays) -> list[Claim]:
    own, published, whole = arrays["roughness"].T
    what = "roughness on 2 random directions (noise 1, smooth 0)"
    return [
        Claim("at k = 1 the surface is irregular, as published (other samples at each point)",
              "N, fig. 2", what, published, lambda x: x > 0.5),
        Claim("at k = 1 the surface is irregular, the same sample at all points", "N, fig. 2", what,
              own, lambda x: x > 0.5),
        Claim("at the largest k the surface is smooth", "N, fig. 3", what, whole,
              lambda x: x < NEAR),
    ]  # fmt: skip


BOUNDS = {
    "norm of a sample's Hessian": "U, theorem 1",
    "norm, from the largest weight": "U, lemma 1",
    "(k+1)·|δ_k| at w*": "U, lemma 2",
    "(k+1)·|δ_k| within R": "U, lemma 2",
    "(k+1)²·Δ_k, quadratic law": "C, theorem 1",
    "(k+1)²·Δ_k, Monte-Carlo": "C, theorem 1",
}
"""What each bound is on, in the order of ``bounds.compare``, and where it stands."""


def _of_bounds(arrays: Arrays) -> list[Claim]:
    """Each published bound; empty for networks that the bounds are not of."""
    if "looseness" not in arrays:
        return []
    what = "log10 of bound / largest, where closest"
    return [
        Claim(f"bound on {name}", where, what, arrays["looseness"][:, column], lambda x: x >= 0)
        for column, (name, where) in enumerate(BOUNDS.items())
    ]


def of_sizes(entries: list[dict[str, Any]]) -> list[Claim]:
    """|L_{k+1} − L_k| over widths, at each depth, and over depths, at each width, of unraveling."""
    levels: dict[tuple[int, int], float] = {(e["depth"], e["width"]): e["level"] for e in entries}
    depths, widths = (sorted(set(x)) for x in zip(*levels, strict=True))
    wide = [levels[d, widths[-1]] / levels[d, widths[0]] for d in depths if levels[d, widths[0]]]
    deep = [levels[depths[-1], w] / levels[depths[0], w] for w in widths if levels[depths[0], w]]
    exponents = [e["exponent"] for e in entries if e["exponent"] is not None]
    over = "(k+1)|δ_k| of {} over {}".format
    return [
        Claim("wider layers lower |L_{k+1} − L_k|", "U, experiments",
              over(f"{widths[-1]} units", widths[0]), np.array(wide), lambda x: x < 1),
        Claim("more layers raise |L_{k+1} − L_k|", "U, experiments",
              over(f"{depths[-1]} layers", depths[0]), np.array(deep), lambda x: x > 1),
        Claim("|L_{k+1} − L_k| falls as 1/k (algebra: the order law)", "U, lemma 2",
              "exponent of |δ_k|, each size", np.array(exponents), lambda x: abs(x - 1) < NEAR),
    ]  # fmt: skip
