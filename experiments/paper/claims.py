"""What the papers claim of Δ_k and of the Hessian, put to the test on several networks.

Every number is that of one network; the verdict asks whether the claim holds for all of them, with
all directions applied and k in samples unless "as published" is said. Random directions are the
published ones: filter-normalised and then of norm 1.

The claims are those of Nikitin et al. (N), of Kiselev and Grabovoy 2024, "Unraveling the Hessian"
(U), and 2026, "Curvature-Aligned Probing" (C).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from experiments.common import bounds, tables
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import unraveling
from experiments.paper.bench import SIGMAS, Arrays, Bench, record
from experiments.paper.claims_numbers import ALIGNED, DIMS, RANDOM_DIMS, RANDOM_SIGMAS, numbers_of
from experiments.paper.increments import DIM

ALIKE = 2.0  # levels within this factor of each other count as insensitive
NETWORKS = 5  # from their own initialisations, trained side by side on the same samples
NEAR = 0.1  # numbers that are this close to their claim count as equal to it


class Claim(NamedTuple):
    """A claim, where it stands, the numbers that test it, and when one of them supports it."""

    text: str
    where: str
    what: str
    numbers: Float[np.ndarray, "R"]
    holds: Callable[[float], bool]


def claims(bench: Bench) -> Record:
    """What the papers claim, and whether it holds: a verdict and its numbers over five networks."""
    trained, rows = bench.networks(NETWORKS, bench.problem.samples).params, []
    with progress("claims", NETWORKS, "networks") as advance:
        for number in range(NETWORKS):
            w = jax.tree.map(lambda leaf, number=number: leaf[number], trained)
            rows.append(numbers_of(bench, w, number))
            advance(1)
    arrays = tables.stacked(rows)
    found = claims_of(arrays) + of_sizes(unraveling.unraveling(bench).summary["networks"])
    table = [["claim", "where", "verdict", "number", "mean", "least", "most"]]
    for claim in found:
        numbers, about = claim.numbers, (claim.text, claim.where, verdict(claim), claim.what)
        cells = (f"{value:.3g}" for value in (numbers.mean(), numbers.min(), numbers.max()))
        table.append([*about, *cells])
    loss, n, m = arrays["train_loss"].mean(), len(bench.problem.order), bench.config.points
    notes = [
        f"{NETWORKS} networks of {n:,} samples, {m} points, training loss {loss:.3g}",
        f"trace of the Hessian to ± {np.mean(arrays['trace_sem'] / arrays['trace']):.0%}",
        "N: Nikitin et al. 2025; U: Unraveling the Hessian 2024; C: Curvature-Aligned Probing 2026",
        "at σ up to 0.01 Δ_k is nearly all the move of L_k(w*), which any directions reproduce",
    ]
    return record(arrays, table, notes, {})


def verdict(claim: Claim) -> str:
    """Whether the claim holds for all networks, for none, or for how many."""
    count = sum(map(claim.holds, claim.numbers.tolist()))
    if count in (0, len(claim.numbers)):
        return "holds" if count else "does not hold"
    return f"holds for {count} of {len(claim.numbers)}"


def within(ratio: float) -> bool:
    """Whether two levels count as alike."""
    return 1 / ALIKE < ratio < ALIKE


def one(x: float) -> bool:
    """Whether a ratio counts as 1."""
    return abs(x - 1) <= NEAR


def negligible(share: float) -> bool:
    """Whether a share counts as 0."""
    return share < NEAR


def claims_of(arrays: Arrays) -> list[Claim]:
    """The claims that a network's own numbers test."""
    return _of_levels(arrays) + _of_theory(arrays) + _of_surfaces(arrays) + _of_bounds(arrays)


def _of_levels(arrays: Arrays) -> list[Claim]:
    dims, random, sigmas = (arrays[f"level_{by}"] for by in ("dim", "random_dim", "random_sigma"))
    ten, two, last = DIMS.index(DIM), DIMS.index(2), DIMS[-1]
    found = [
        Claim("the Hessian has a low effective rank", "N, method",
              "trace / λ_1 over the number of parameters", arrays["effective_rank"],
              lambda x: x < 0.01),
        Claim("the top ten modes hold nearly all curvature", "N, fig. 1", "Σ λ_1..10 / trace",
              arrays["top_ten"] / arrays["trace"], lambda x: x > 1 - NEAR),
        Claim("d = 10 directions suffice", "N, fig. 8",
              f"Δ_k·k² along {last} eigenvectors over 10, σ = 1", dims[:, -1] / dims[:, ten],
              lambda x: x < 1 + NEAR),
    ]  # fmt: skip
    for name, symbol, values, levels, figure in (
        ("σ", "σ", RANDOM_SIGMAS, sigmas, 4), ("the dimension", "d", RANDOM_DIMS, random, 5),
    ):  # fmt: skip
        found += [
            Claim(f"{name} has no effect up to {values[column]:g}", f"N, fig. {figure}",
                  f"Δ_k·k² at {symbol} = {values[column]:g} over {values[0]:g}, random",
                  levels[:, column] / levels[:, 0], within) for column in (2, 3)
        ]  # fmt: skip
    return [
        *found,
        Claim("eigenvectors give the higher Δ_k", "N, fig. 8",
              "Δ_k·k² along 2 eigenvectors over 2 random, σ = 1", dims[:, two] / random[:, 0],
              lambda x: x > 1),
        Claim("Δ_k falls as 1/k² (algebra: the order law)", "N, U, C", "exponent of Δ_k, σ = 1",
              arrays["exponent"], lambda x: abs(x - 2) < NEAR),
    ]  # fmt: skip


def _of_theory(arrays: Arrays) -> list[Claim]:
    found = []
    for column, sigma in enumerate(SIGMAS):
        at, of = f"σ = {sigma:g}", {name: x[:, column] for name, x in arrays.items() if x.ndim == 2}
        found += [
            Claim(f"gradients at w* are negligible, {at}", "N, assumption 1",
                  "share of the gradient part in the law", of["gradient_share"], negligible),
            Claim(f"the move of L_k(w*) is negligible, {at}", "N, assumption 2",
                  "share of the offset and mixed part in the law", of["offset_share"], negligible),
            Claim(f"Theorem 1 is above experiment for all k ≥ 100, {at}", "N, fig. 9",
                  "share of k where it is", of["theory_above"], lambda x: x == 1),
            Claim(f"K of Theorem 1 is large enough, {at}", "N, conclusion",
                  "K of Theorem 1 over K of Monte-Carlo", of["theory_size"], lambda x: x >= 1),
        ]  # fmt: skip
    return [
        *found,
        Claim("Theorem 1 is above experiment at 8 k, both as published, σ = 1", "N, fig. 9",
              "share of k where it is", arrays["published_above"], lambda x: x == 1),
        Claim("Theorem 1 is a tight bound, both as published, σ = 1", "N, conclusion",
              "geometric mean of theory / experiment", arrays["published_ratio"], within),
        Claim("near w* the closed form is the Monte-Carlo value, σ = 0.01", "C, corollary",
              "full law / Monte-Carlo", arrays["law"][:, 0], one),
        Claim("no eigenspace has more curvature than the top one", "C, proposition",
              "curvature part along v_1..8 over v_9..16", arrays["extremal"], lambda x: x > 1),
        *(Claim(f"the top 16 directions reproduce all parameters, σ = {sigma:g}", "C, abstract",
                "Δ_k·k² along 16 over along all parameters", arrays["aligned"][:, column], one)
          for column, sigma in enumerate(ALIGNED)),
    ]  # fmt: skip


def _of_surfaces(arrays: Arrays) -> list[Claim]:
    own, published, whole = arrays["roughness"].T
    what = "roughness on 2 random directions (noise 1, smooth 0)"
    small, is_rough = "at k = 1 the surface is irregular", lambda x: x > 0.5
    return [
        Claim(f"{small}, as published (other samples at each point)", "N, fig. 2", what, published,
              is_rough),
        Claim(f"{small}, the same sample at all points", "N, fig. 2", what, own, is_rough),
        Claim("at the largest k the surface is smooth", "N, fig. 3", what, whole, negligible),
    ]  # fmt: skip


def _of_bounds(arrays: Arrays) -> list[Claim]:
    """Each published bound; empty for networks that the bounds are not of."""
    what, loose = "log10 of bound / largest, where closest", arrays.get("looseness")
    return [] if loose is None else [
        Claim(f"bound on {name}", where, what, loose[:, column], lambda x: x >= 0)
        for column, (name, where, *_) in enumerate(bounds.BOUNDS)
    ]  # fmt: skip


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
