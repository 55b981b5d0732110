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
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxscape as js
from experiments.common import tables
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.common.tables import Arrays, level
from experiments.paper import bounds, published, unraveling
from experiments.paper.bench import SIGMAS, TOP, Bench, increments, leading
from experiments.paper.curvature_aligned import along
from experiments.paper.nikitin import DIM, RANDOM_DIMS, RANDOM_SIGMAS, above, roughness
from jaxscape.quadratic import Quadratic
from jaxscape.trees import num_parameters
from jaxscape.types import Params

ALIKE = 2.0  # levels within this factor of each other count as insensitive
NETWORKS = 5  # from their own initialisations, trained side by side on the same samples
NEAR = 0.1  # numbers that are this close to their claim count as equal to it

PROBES = 16  # random vectors from which the trace of the Hessian is estimated
DIMS = (1, 2, 4, 8, 10, 12, 16)
ALIGNED = (1e-4, 1e-3, 1e-2)  # σ at which directions are compared with all parameters
PAIRS = 8  # values of k, in batches, at which Theorem 1 is evaluated as published
GRID = 11  # points along each direction of a surface
NORMS = 200  # samples whose Gauss-Newton norm is computed


class Claim(NamedTuple):
    """A claim, where it stands, the numbers that test it, and when one of them supports it."""

    text: str
    where: str
    what: str
    numbers: Float[np.ndarray, "R"]
    holds: Callable[[float], bool]


def claims(bench: Bench) -> Record:
    """What the papers claim, and whether it holds: a verdict and its numbers over five networks."""
    trained, rows = bench.networks(NETWORKS).params, []
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
    return Record(arrays, {"tables": [table], "notes": notes}, {})


def verdict(claim: Claim) -> str:
    """Whether the claim holds for all networks, for none, or for how many."""
    count = sum(map(claim.holds, claim.numbers.tolist()))
    if count in (0, len(claim.numbers)):
        return "holds" if count else "does not hold"
    return f"holds for {count} of {len(claim.numbers)}"


def within(ratio: float) -> bool:
    """Whether two levels count as alike."""
    return 1 / ALIKE < ratio < ALIKE


def near(value: float) -> Callable[[float], bool]:
    """Whether a number counts as equal to ``value``."""
    return lambda x: abs(x - value) <= NEAR


def claims_of(arrays: Arrays) -> list[Claim]:
    """The claims that a network's own numbers test."""
    return _of_levels(arrays) + _of_theory(arrays) + _of_surfaces_and_bounds(arrays)


def _of_levels(arrays: Arrays) -> list[Claim]:
    dims, random, sigmas = (arrays[f"level_{by}"] for by in ("dim", "random_dim", "random_sigma"))
    found = [
        Claim("the Hessian has a low effective rank", "N, method",
              "trace / λ_1 over the number of parameters", arrays["effective_rank"],
              lambda x: x < 0.01),
        Claim("the top ten modes hold nearly all curvature", "N, fig. 1", "Σ λ_1..10 / trace",
              arrays["top_ten"] / arrays["trace"], lambda x: x > 1 - NEAR),
        Claim("d = 10 directions suffice", "N, fig. 8",
              f"Δ_k·k² along {DIMS[-1]} eigenvectors over 10, σ = 1",
              dims[:, -1] / dims[:, DIMS.index(DIM)], lambda x: x < 1 + NEAR),
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
              "Δ_k·k² along 2 eigenvectors over 2 random, σ = 1",
              dims[:, DIMS.index(2)] / random[:, 0], lambda x: x > 1),
        Claim("Δ_k falls as 1/k² (algebra: the order law)", "N, U, C", "exponent of Δ_k, σ = 1",
              arrays["exponent"], near(2)),
    ]  # fmt: skip


def _of_theory(arrays: Arrays) -> list[Claim]:
    found = []
    for column, sigma in enumerate(SIGMAS):
        at, of = f"σ = {sigma:g}", {name: x[:, column] for name, x in arrays.items() if x.ndim == 2}
        found += [
            Claim(f"gradients at w* are negligible, {at}", "N, assumption 1",
                  "share of the gradient part in the law", of["gradient_share"], near(0)),
            Claim(f"the move of L_k(w*) is negligible, {at}", "N, assumption 2",
                  "share of the offset and mixed part in the law", of["offset_share"], near(0)),
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
              "full law / Monte-Carlo", arrays["law"][:, 0], near(1)),
        Claim("no eigenspace has more curvature than the top one", "C, proposition",
              "curvature part along v_1..8 over v_9..16", arrays["extremal"], lambda x: x > 1),
        *(Claim(f"the top 16 directions reproduce all parameters, σ = {sigma:g}", "C, abstract",
                "Δ_k·k² along 16 over along all parameters", arrays["aligned"][:, column], near(1))
          for column, sigma in enumerate(ALIGNED)),
    ]  # fmt: skip


def _of_surfaces_and_bounds(arrays: Arrays) -> list[Claim]:
    """Roughness; each published bound, but for networks that the bounds are not of."""
    own, theirs, whole = arrays["roughness"].T
    what, is_rough = "roughness on 2 random directions (noise 1, smooth 0)", lambda x: x > 0.5
    small = "at k = 1 the surface is irregular"
    found = [
        Claim(f"{small}, as published (other samples at each point)", "N, fig. 2", what, theirs,
              is_rough),
        Claim(f"{small}, the same sample at all points", "N, fig. 2", what, own, is_rough),
        Claim("at the largest k the surface is smooth", "N, fig. 3", what, whole, near(0)),
    ]  # fmt: skip
    if "looseness" in arrays:
        found += [
            Claim(f"bound on {name}", where, "log10 of bound / largest, where closest", loose,
                  lambda x: x >= 0)
            for (name, where, *_), loose in zip(bounds.BOUNDS, arrays["looseness"].T, strict=True)
        ]  # fmt: skip
    return found


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
              "exponent of |δ_k|, each size", np.array(exponents), near(1)),
    ]  # fmt: skip


class Around:
    """One network, its top eigenvectors, and random directions through it."""

    def __init__(self, bench: Bench, w: Params, number: int) -> None:
        problem = bench.problem
        self.bench, self.problem, self.w = bench, problem, w
        self.keys = {name: jax.random.fold_in(key, number) for name, key in problem.keys.items()}
        self.operator = js.hessian_operator(problem.loss, w, problem.samples)
        key = self.keys["subspace"]
        self.pairs = js.top_eigenpairs(key, self.operator, w, TOP, find_repeated=False)
        self.eigen = js.Subspace(w, self.pairs.vectors)
        self.random = js.random_subspace(key, w, max(RANDOM_DIMS), normalization="unit-filter")
        self.k = np.arange(1, len(problem.order))
        self.late = tables.late(self.k)

    def level(self, space: js.Subspace, dim: int, sigma: float) -> float:
        """The mean of Δ_k·k² over late k, along the first directions."""
        losses = self.bench.losses(leading(space, dim), sigma)
        return level((increments(losses) ** 2).mean(0))

    def share(self, part: Any, whole: Any) -> Float[np.ndarray, "s"]:
        """Of curves [s, K], the sum over late k, each counted k(k+1) times, over that of others."""
        weight = self.k * (self.k + 1.0)
        sums = [(weight * np.asarray(x, np.float64))[:, self.late].sum(1) for x in (part, whole)]
        return sums[0] / sums[1]


def numbers_of(bench: Bench, w: Params, number: int) -> dict[str, Any]:
    """What the claims are about, at one network."""
    at, problem = Around(bench, w, number), bench.problem
    model = js.project(problem.loss, at.eigen, problem.samples)
    ten = along(model, slice(DIM))
    losses = [bench.losses(leading(at.eigen, DIM), sigma) for sigma in SIGMAS]
    measured = np.stack([(increments(x) ** 2).mean(0) for x in losses])
    found = _levels(at) | _theory(at, ten, measured) | _aligned(at, model)
    probe = js.grid(leading(at.random, 2), 1.0, GRID)
    few, *_ = published.sheets(problem.loss, probe, problem.samples, at.keys["order"])
    sheet = js.surface(problem.loss, probe, problem.samples, (1, len(problem.order)))
    own, whole = np.asarray(sheet.loss)
    sheets = (np.reshape(x, (GRID, GRID)) for x in (own, few, whole))
    found["roughness"] = np.array([roughness(sheet) for sheet in sheets])
    if bench.config.model == "mlp":
        entries = bounds.compare(bounds.measure(bench, w, ten, losses[0], NORMS)[0])
        found["looseness"] = np.array([entry["published_looseness"] for entry in entries])
    late = jnp.asarray(measured[1][at.late])
    found["exponent"] = np.asarray(tables.decay_exponent(at.k[at.late], late).exponent)
    return found


def _levels(at: Around) -> dict[str, Any]:
    """The spectrum, and levels of Δ_k·k² over dimensions and σ."""
    trace = js.trace(at.keys["probe"], at.operator, at.w, num_probes=PROBES)
    return {
        "train_loss": np.mean(js.per_sample_losses(at.problem.loss, at.w, at.problem.samples)),
        "effective_rank": np.asarray(trace.mean / at.pairs.values[0] / num_parameters(at.w)),
        "top_ten": np.sum(at.pairs.values[:DIM]),
        "trace": np.asarray(trace.mean),
        "trace_sem": np.asarray(trace.sem),
        "level_dim": np.array([at.level(at.eigen, dim, 1.0) for dim in DIMS]),
        "level_random_dim": np.array([at.level(at.random, dim, 1.0) for dim in RANDOM_DIMS]),
        "level_random_sigma": np.array([at.level(at.random, 2, s) for s in RANDOM_SIGMAS]),
    }


def _theory(at: Around, model: Quadratic, measured: Float[np.ndarray, "s K"]) -> dict[str, Any]:
    """The quadratic law's parts; Theorem 1 over experiment, as it should be and as published."""
    problem, n = at.problem, len(at.problem.order)
    law = js.quadratic_delta(model, np.asarray(SIGMAS, np.float32))
    # tolerances at which the order law's K is a quarter of the samples
    tolerance = 16 * level(measured) / n**2
    sizes = (js.sufficient_size(curves, tolerance) for curves in (law.curvature, measured))
    theory, seen = (np.where(size.reached, size.k, n) for size in sizes)
    over, most = np.asarray(law.curvature) > measured, n // published.BATCH
    k = np.unique(np.linspace(1 + most // 3, most - 1, PAIRS).astype(int))  # in batches, σ = 1
    about = at.keys["subspace"], problem.loss, at.w, problem.samples
    paired, *_ = published.theorem_at(*about, DIM, k)
    first = at.bench.losses(leading(at.eigen, 1), 1.0)  # of ten, the reference code applies one
    share = above(paired, np.asarray(published.delta(at.keys["order"], first))[k - 1])
    return {
        "gradient_share": at.share(law.gradient, law.total),
        "offset_share": at.share(law.offset + law.mixed, law.total),
        "law": at.share(law.total, measured),
        "theory_above": over[:, at.late].mean(1),
        "theory_size": theory / seen,
        "published_above": share["each"],
        "published_ratio": share["ratio"],
    }


def _aligned(at: Around, model: Quadratic) -> dict[str, Any]:
    """Along the top 16 over along all parameters; curvature along the first 8 over the next 8."""
    problem, m, ratios = at.problem, at.bench.config.points, []
    for sigma in ALIGNED:
        probe = js.isotropic(at.keys["probe"], at.w, m, sigma)
        everywhere = np.asarray(js.delta(problem.loss, probe, problem.samples).mean)
        ratios.append(at.level(at.eigen, TOP, sigma) / level(everywhere))
    halves = slice(TOP // 2), slice(TOP // 2, None)
    spans = [js.quadratic_delta(along(model, half), np.ones(1)).curvature for half in halves]
    return {"aligned": np.array(ratios), "extremal": at.share(*spans)[0]}
