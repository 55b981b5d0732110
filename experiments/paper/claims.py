"""What the papers claim of Δ_k and of the Hessian, put to the test on several networks.

Every number is that of one network; the verdict asks whether the claim holds for all of them, with
all directions applied and k in samples. Random directions are the published ones: filter-normalised
and then of norm 1. Of Nikitin et al. 2025 unless said otherwise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import tables
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper.bench import TOP, Bench, leading
from experiments.paper.increments import curve_of
from jaxscape.lab import train
from jaxscape.lab.style import canvas, curve, legend
from jaxscape.types import Params

NETWORKS = 5
"""Networks from their own initialisations, trained side by side on the same samples."""

PROBES = 16
"""Random vectors from which the trace of the Hessian is estimated."""

DIM = 10
DIMS = (1, 2, 4, 8, 10, 12, 16)
RANDOM_DIMS = (2, 16, 64, 256)
RANDOM_SIGMAS = (0.1, 1.0, 5.0, 10.0)
SIGMAS = (0.01, 1.0)

ALIKE = 2.0
"""Levels within this factor of each other count as insensitive."""


class Claim(NamedTuple):
    """A claim, where it stands, the numbers that test it, and when one of them supports it."""

    text: str
    where: str
    what: str
    numbers: Float[np.ndarray, "R"]
    holds: Callable[[float], bool]


def claims(bench: Bench) -> Record:
    """What the papers claim, and whether it holds: a verdict and its numbers over five networks."""
    trained = networks(bench)
    rows = []
    with progress("claims", NETWORKS, "networks") as advance:
        for number in range(NETWORKS):
            w = jax.tree.map(lambda leaf, number=number: leaf[number], trained)
            rows.append(numbers_of(bench, w, number))
            advance(1)
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    found = claims_of(arrays)
    table = [["claim", "where", "verdict", "number", "mean", "least", "most"]]
    for claim in found:
        spread = (claim.numbers.mean(), claim.numbers.min(), claim.numbers.max())
        cells = (f"{value:.3g}" for value in spread)
        table.append([claim.text, claim.where, verdict(claim), claim.what, *cells])
    loss, n, m = arrays["train_loss"].mean(), len(bench.problem.order), bench.config.points
    notes = [
        f"{NETWORKS} networks of {n:,} samples, {m} points, training loss {loss:.3g}",
        f"trace of the Hessian to ± {np.mean(arrays['trace_sem'] / arrays['trace']):.0%}",
    ]
    entries = [
        {"claim": c.text, "where": c.where, "verdict": verdict(c), "what": c.what}
        | {"numbers": c.numbers.tolist()}
        for c in found
    ]
    return Record(
        arrays,
        {"claims": entries, "tables": [table], "notes": notes},
        {"levels": draw(bench, arrays)},
    )


def draw(bench: Bench, arrays: dict[str, np.ndarray]) -> Figure:
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


def claims_of(arrays: dict[str, np.ndarray]) -> list[Claim]:
    """The claims, from the numbers of every network."""
    dims, random, sigmas = (arrays[f"level_{by}"] for by in ("dim", "random_dim", "random_sigma"))
    share, close, far = arrays["theory_above"], *arrays["shift_share"].T
    ten, two = DIMS.index(DIM), DIMS.index(2)
    within = lambda ratio: 1 / ALIKE < ratio < ALIKE  # noqa: E731
    return [
        Claim("the top ten modes hold nearly all curvature", "figure 1", "Σ λ_1..10 / trace",
              arrays["top_ten"] / arrays["trace"], lambda x: x > 0.9),
        Claim("d = 10 directions suffice", "figure 8", f"Δ_k·k² at d = {DIMS[-1]} over d = 10, "
              "σ = 1, eigenvectors", dims[:, -1] / dims[:, ten], lambda x: x < 1.1),
        Claim("σ has no effect up to 5", "figure 4", "Δ_k·k² at σ = 5 over 0.1, random, d = 2",
              sigmas[:, 2] / sigmas[:, 0], within),
        Claim("σ has no effect up to 10", "figure 4", "Δ_k·k² at σ = 10 over 0.1, random, d = 2",
              sigmas[:, 3] / sigmas[:, 0], within),
        Claim("the dimension has no effect up to 64", "figure 5", "Δ_k·k² at d = 64 over 2, random",
              random[:, 2] / random[:, 0], within),
        Claim("the dimension has no effect up to 256", "figure 5",
              "Δ_k·k² at d = 256 over 2, random", random[:, 3] / random[:, 0], within),
        Claim("eigenvectors give the higher Δ_k", "figures 5, 8",
              "Δ_k·k² along 2 eigenvectors over 2 random, σ = 1", dims[:, two] / random[:, 0],
              lambda x: x > 1),
        Claim("Δ_k falls as 1/k², its root as 1/k (algebra: the order law)", "its theory",
              "exponent of Δ_k, σ = 1", arrays["exponent"], lambda x: abs(x - 2) < 0.1),
        Claim("L_k(w*) and its gradient do not move, at σ = 0.01", "Assumptions 1, 2",
              "share of offset, gradient and mixed part in the law", close, lambda x: x < 0.1),
        Claim("L_k(w*) and its gradient do not move, at σ = 1", "Assumptions 1, 2",
              "share of offset, gradient and mixed part in the law", far, lambda x: x < 0.1),
        Claim("theory stays above experiment for all k, at σ = 0.01", "figure 9",
              "share of k where it does", share[:, 0], lambda x: x == 1),
        Claim("theory stays above experiment for all k, at σ = 1", "figure 9",
              "share of k where it does", share[:, 1], lambda x: x == 1),
    ]  # fmt: skip


def networks(bench: Bench) -> Params:
    """The trained networks, leaves [R, ...]."""
    problem, config = bench.problem, bench.config
    inputs = problem.samples["inputs"][:1]
    init, fit = (jax.random.split(problem.keys[name], NETWORKS) for name in ("init", "train"))
    with progress("networks", config.epochs, "epochs") as advance:
        return train.fit(
            fit, problem.loss, jax.vmap(lambda key: problem.model.init(key, inputs))(init),
            problem.samples, epochs=config.epochs, batch_size=config.batch_size,
            learning_rate=config.learning_rate, on_epoch=lambda *_: advance(1),
        ).params  # fmt: skip


def numbers_of(bench: Bench, w: Params, number: int) -> dict[str, Any]:
    """What the claims are about, at one network."""
    problem = bench.problem
    keys = {name: jax.random.fold_in(key, number) for name, key in problem.keys.items()}
    operator = js.hessian_operator(problem.loss, w, problem.samples)
    pairs = js.top_eigenpairs(keys["subspace"], operator, w, TOP, find_repeated=False)
    trace = js.trace(keys["probe"], operator, w, num_probes=PROBES)
    eigen = js.Subspace(w, pairs.vectors)
    random = js.random_subspace(keys["subspace"], w, max(RANDOM_DIMS), normalization="unit-filter")

    def delta(space: js.Subspace, dim: int, sigma: float) -> Float[np.ndarray, "K"]:
        points = sigma * bench.normals(bench.config.points, dim)
        return np.asarray(curve_of(bench.losses_at(leading(space, dim), points)).mean)

    k = np.arange(1, len(problem.order))
    level = lambda *which: tables.level(k, delta(*which))  # noqa: E731
    late, weight = tables.late(k), k * (k + 1.0)
    model = js.project(problem.loss, leading(eigen, DIM), problem.samples)
    law = js.quadratic_delta(model, np.asarray(SIGMAS, np.float32))
    moved = np.asarray(law.offset + law.gradient + law.mixed, np.float64)
    measured = np.stack([delta(eigen, DIM, sigma) for sigma in SIGMAS])
    above = np.asarray(law.curvature) > measured
    whole = (weight * np.asarray(law.total, np.float64))[:, late].sum(1)
    return {
        "train_loss": np.mean(js.per_sample_losses(problem.loss, w, problem.samples)),
        "top_ten": np.sum(pairs.values[:DIM]),
        "trace": np.asarray(trace.mean),
        "trace_sem": np.asarray(trace.sem),
        "level_dim": np.array([level(eigen, dim, 1.0) for dim in DIMS]),
        "level_random_dim": np.array([level(random, dim, 1.0) for dim in RANDOM_DIMS]),
        "level_random_sigma": np.array([level(random, 2, sigma) for sigma in RANDOM_SIGMAS]),
        "exponent": np.asarray(
            tables.decay_exponent(k[late], jnp.asarray(measured[1][late])).exponent
        ),
        "shift_share": (weight * moved)[:, late].sum(1) / whole,
        "theory_above": above[:, late].mean(1),
    }
