"""The numbers of one network that the papers' claims are about."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxscape as js
from experiments.common import bounds, tables
from experiments.common.console import progress
from experiments.paper import published
from experiments.paper.bench import TOP, Bench, leading, uniform
from experiments.paper.increments import curve_of
from experiments.paper.surfaces import roughness
from jaxscape import losses, prefix
from jaxscape.lab import train
from jaxscape.trees import num_parameters
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
ALIGNED = (1e-4, 1e-3, 1e-2)
"""σ at which directions are compared with all parameters."""

PAIRS = 8
"""Values of k, in batches, at which Theorem 1 is evaluated as published."""

GRID = 11
"""Points along each direction of a surface."""

NORMS = 200
"""Samples whose Gauss-Newton norm is computed."""


def networks(bench: Bench) -> Params:
    """The trained networks, leaves [R, ...]."""
    problem, config = bench.problem, bench.config
    inputs = problem.samples["inputs"][:1]
    init, fit = (jax.random.split(problem.keys[name], NETWORKS) for name in ("init", "train"))
    draw = lambda key: problem.model.init(key, inputs)  # noqa: E731
    if bench.published:
        draw = lambda key: uniform(key, problem.initial)  # noqa: E731
    with progress("networks", config.epochs, "epochs") as advance:
        return train.fit(
            fit, problem.loss, jax.vmap(draw)(init), problem.samples,
            epochs=config.epochs, batch_size=config.batch_size,
            learning_rate=config.learning_rate, on_epoch=lambda *_: advance(1),
        ).params  # fmt: skip


class Around:
    """One network, its top eigenvectors, and random directions through it."""

    def __init__(self, bench: Bench, w: Params, number: int) -> None:
        """Solve for the eigenvectors."""
        problem = bench.problem
        self.bench, self.problem, self.w = bench, problem, w
        self.keys = {name: jax.random.fold_in(key, number) for name, key in problem.keys.items()}
        self.operator = js.hessian_operator(problem.loss, w, problem.samples)
        self.pairs = js.top_eigenpairs(
            self.keys["subspace"], self.operator, w, TOP, find_repeated=False
        )
        self.eigen = js.Subspace(w, self.pairs.vectors)
        self.random = js.random_subspace(
            self.keys["subspace"], w, max(RANDOM_DIMS), normalization="unit-filter"
        )
        self.k = np.arange(1, len(problem.order))
        self.late = tables.late(self.k)

    def losses(self, space: js.Subspace, dim: int, sigma: float) -> Float[Any, "m n"]:
        """ℓ_i at the bench's points along the first directions."""
        points = sigma * self.bench.normals(self.bench.config.points, dim)
        return self.bench.losses_at(leading(space, dim), points)

    def delta(self, space: js.Subspace, dim: int, sigma: float) -> Float[np.ndarray, "K"]:
        """Δ_k of every k."""
        return np.asarray(curve_of(self.losses(space, dim, sigma)).mean)

    def level(self, space: js.Subspace, dim: int, sigma: float) -> float:
        """The mean of Δ_k·k² over late k."""
        return tables.level(self.k, self.delta(space, dim, sigma))

    def share(self, part: Any, whole: Any) -> Float[np.ndarray, "s"]:
        """Of curves [s, K], the sum over late k, each counted k(k+1) times, over that of others."""
        weight = self.k * (self.k + 1.0)
        sums = [(weight * np.asarray(x, np.float64))[:, self.late].sum(1) for x in (part, whole)]
        return sums[0] / sums[1]


def numbers_of(bench: Bench, w: Params, number: int) -> dict[str, Any]:
    """What the claims are about, at one network."""
    at = Around(bench, w, number)
    model = js.project(at.problem.loss, at.eigen, at.problem.samples)
    ten = model._replace(gradient=model.gradient[:, :DIM], hessian=model.hessian[:, :DIM, :DIM])
    measured = np.stack([at.delta(at.eigen, DIM, sigma) for sigma in SIGMAS])
    found = _levels(at) | _theory(at, ten, measured) | _published(at) | _aligned(at, model)
    found |= {"roughness": _surfaces(at)}
    config = bench.config
    if config.model == "mlp" and at.problem.dataset.num_classes:
        found["looseness"] = _bounds(at, ten, measured[0])
    late = at.k[at.late]
    exponent = tables.decay_exponent(late, jnp.asarray(measured[1][at.late])).exponent
    return found | {"exponent": np.asarray(exponent)}


def _levels(at: Around) -> dict[str, Any]:
    """The spectrum, and levels of Δ_k·k² over dimensions and σ."""
    trace = js.trace(at.keys["probe"], at.operator, at.w, num_probes=PROBES)
    rank = trace.mean / at.pairs.values[0] / num_parameters(at.w)
    at_w = js.per_sample_losses(at.problem.loss, at.w, at.problem.samples)
    return {
        "train_loss": np.mean(at_w),
        "effective_rank": np.asarray(rank),
        "top_ten": np.sum(at.pairs.values[:DIM]),
        "trace": np.asarray(trace.mean),
        "trace_sem": np.asarray(trace.sem),
        "level_dim": np.array([at.level(at.eigen, dim, 1.0) for dim in DIMS]),
        "level_random_dim": np.array([at.level(at.random, dim, 1.0) for dim in RANDOM_DIMS]),
        "level_random_sigma": np.array([at.level(at.random, 2, s) for s in RANDOM_SIGMAS]),
    }


def _theory(at: Around, model: Any, measured: Float[np.ndarray, "s K"]) -> dict[str, Any]:
    """The parts of the quadratic law, and Theorem 1 beside Monte-Carlo."""
    law = js.quadratic_delta(model, np.asarray(SIGMAS, np.float32))
    n, level = len(at.k) + 1, [tables.level(at.k, delta) for delta in measured]
    sizes = []
    for row, curvature in enumerate(np.asarray(law.curvature)):
        tolerance = 16 * level[row] / n**2  # the order law's K is a quarter of the samples
        both = [js.sufficient_size(curve, tolerance) for curve in (curvature, measured[row])]
        theory, seen = (int(size.k) if size.reached else n for size in both)
        sizes.append(theory / seen)
    above = np.asarray(law.curvature) > measured
    return {
        "gradient_share": at.share(law.gradient, law.total),
        "offset_share": at.share(law.offset + law.mixed, law.total),
        "law": at.share(law.total, measured),
        "theory_above": above[:, at.late].mean(1),
        "theory_size": np.array(sizes),
    }


def _published(at: Around) -> dict[str, Any]:
    """Theorem 1 from eigenvalues paired by index, over experiment, both as published, σ = 1."""
    most = len(at.problem.order) // published.BATCH
    k = np.unique(np.linspace(1 + most // 3, most - 1, PAIRS).astype(int))
    every = np.union1d(k, k + 1)
    spectra = js.prefix_spectra(
        at.keys["subspace"], at.problem.loss, at.w, at.problem.samples, DIM,
        ks=every * published.BATCH, which="magnitude",
    )  # fmt: skip
    values, row = np.asarray(spectra.values), np.searchsorted(every, k)
    theory = published.theorem(values[row], values[row + 1])
    # of all ten directions the reference code applies the first
    first = at.losses(at.eigen, 1, 1.0)
    seen = np.asarray(published.delta(at.keys["order"], first))[k - 1]
    ratio = np.exp(np.mean(np.log(theory / seen)))
    return {"published_above": np.mean(theory > seen), "published_ratio": ratio}


def _aligned(at: Around, model: Any) -> dict[str, Any]:
    """Along the top 16 over along all parameters; curvature along the first 8 over the next 8."""
    problem, m = at.problem, at.bench.config.points
    ratios = []
    for sigma in ALIGNED:
        probe = js.isotropic(at.keys["probe"], at.w, m, sigma)
        everywhere = np.asarray(js.delta(problem.loss, probe, problem.samples).mean)
        ratios.append(at.level(at.eigen, TOP, sigma) / tables.level(at.k, everywhere))
    half = TOP // 2
    spans = [
        js.quadratic_delta(
            model._replace(gradient=model.gradient[:, s], hessian=model.hessian[:, s, s]),
            np.ones(1),
        ).curvature
        for s in (slice(half), slice(half, None))
    ]
    return {"aligned": np.array(ratios), "extremal": at.share(*spans)[0]}


def _surfaces(at: Around) -> Float[np.ndarray, "3"]:
    """Roughness on two random directions: of ℓ_1, of L_1 as published, of L_n."""
    probe, problem = js.grid(leading(at.random, 2), 1.0, GRID), at.problem
    few, *_ = published.sheets(problem.loss, probe, problem.samples, at.keys["order"], 1)
    sheet = js.surface(problem.loss, probe, problem.samples, (1, len(problem.order)))
    own, whole = np.asarray(sheet.loss)
    return np.array([roughness(np.reshape(x, (GRID, GRID))) for x in (own, few, whole)])


def _bounds(at: Around, model: Any, delta: Float[np.ndarray, "K"]) -> Float[np.ndarray, "b"]:
    """How loose the published bounds are, in log10, at σ = 0.01."""
    problem, sigma = at.problem, SIGMAS[0]
    layers = bounds.layers_of(at.w)
    inputs = problem.samples["inputs"]
    points = sigma * at.bench.normals(at.bench.config.points, DIM)
    radius = float(np.linalg.norm(points, axis=1).max())
    few = jax.tree.map(lambda leaf: leaf[:NORMS], problem.samples)
    steps = np.asarray(prefix.increments(at.losses(at.eigen, DIM, sigma)))
    measured = {
        "k": at.k,
        "gauss_newton_norms": bounds.gauss_newton_norms(
            lambda weights, batch: problem.model.apply(weights, batch["inputs"]),
            lambda outputs, batch: losses.cross_entropy(outputs, batch["targets"]), at.w, few,
        ),
        "step_at_origin": np.abs(prefix.increments(model.value[None]))[0],
        "step_in_probe": np.abs(steps).max(0),
        "law_total": js.quadratic_delta(model, sigma).total,
        "delta": delta,
    }  # fmt: skip
    constants = bounds.network_constants(layers, inputs), bounds.sample_constants(model)
    measured |= bounds.bounds_of(jnp.asarray(at.k), layers, *constants, radius, sigma)
    found = bounds.compare({name: np.asarray(x) for name, x in measured.items()})
    return np.array([entry["published_looseness"] for entry in found])
