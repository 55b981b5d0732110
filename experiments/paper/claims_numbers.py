"""The numbers of one network that the papers' claims are about."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import jaxscape as js
from experiments.common import bounds, tables
from experiments.paper import published
from experiments.paper.bench import SIGMAS, TOP, Bench, leading
from experiments.paper.curvature_aligned import along
from experiments.paper.increments import DIM, curve_of
from experiments.paper.surfaces import roughness
from jaxscape.quadratic import Quadratic
from jaxscape.trees import num_parameters
from jaxscape.types import Params

PROBES = 16  # random vectors from which the trace of the Hessian is estimated
DIMS = (1, 2, 4, 8, 10, 12, 16)
RANDOM_DIMS = (2, 16, 64, 256)
RANDOM_SIGMAS = (0.1, 1.0, 5.0, 10.0)
ALIGNED = (1e-4, 1e-3, 1e-2)  # σ at which directions are compared with all parameters
PAIRS = 8  # values of k, in batches, at which Theorem 1 is evaluated as published
GRID = 11  # points along each direction of a surface
NORMS = 200  # samples whose Gauss-Newton norm is computed


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

    def level(self, space: js.Subspace, dim: int, sigma: float) -> float:
        """The mean of Δ_k·k² over late k."""
        delta = np.asarray(curve_of(self.losses(space, dim, sigma)).mean)
        return tables.level(self.k, delta)

    def share(self, part: Any, whole: Any) -> Float[np.ndarray, "s"]:
        """Of curves [s, K], the sum over late k, each counted k(k+1) times, over that of others."""
        weight = self.k * (self.k + 1.0)
        sums = [(weight * np.asarray(x, np.float64))[:, self.late].sum(1) for x in (part, whole)]
        return sums[0] / sums[1]


def numbers_of(bench: Bench, w: Params, number: int) -> dict[str, Any]:
    """What the claims are about, at one network."""
    at = Around(bench, w, number)
    model = js.project(at.problem.loss, at.eigen, at.problem.samples)
    ten, losses = along(model, slice(DIM)), [at.losses(at.eigen, DIM, sigma) for sigma in SIGMAS]
    measured = np.stack([np.asarray(curve_of(x).mean) for x in losses])
    found = _levels(at) | _theory(at, ten, measured) | _published(at) | _aligned(at, model)
    found["roughness"] = _surfaces(at)
    if bench.config.model == "mlp":
        found["looseness"] = _bounds(at, ten, losses[0])
    late = jnp.asarray(measured[1][at.late])
    found["exponent"] = np.asarray(tables.decay_exponent(at.k[at.late], late).exponent)
    return found


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


def _theory(at: Around, model: Quadratic, measured: Float[np.ndarray, "s K"]) -> dict[str, Any]:
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


def _aligned(at: Around, model: Quadratic) -> dict[str, Any]:
    """Along the top 16 over along all parameters; curvature along the first 8 over the next 8."""
    problem, m = at.problem, at.bench.config.points
    ratios = []
    for sigma in ALIGNED:
        probe = js.isotropic(at.keys["probe"], at.w, m, sigma)
        everywhere = np.asarray(js.delta(problem.loss, probe, problem.samples).mean)
        ratios.append(at.level(at.eigen, TOP, sigma) / tables.level(at.k, everywhere))
    halves = slice(TOP // 2), slice(TOP // 2, None)
    spans = [js.quadratic_delta(along(model, half), np.ones(1)).curvature for half in halves]
    return {"aligned": np.array(ratios), "extremal": at.share(*spans)[0]}


def _surfaces(at: Around) -> Float[np.ndarray, "3"]:
    """Roughness on two random directions: of ℓ_1, of L_1 as published, of L_n."""
    probe, problem = js.grid(leading(at.random, 2), 1.0, GRID), at.problem
    few, *_ = published.sheets(problem.loss, probe, problem.samples, at.keys["order"], 1)
    sheet = js.surface(problem.loss, probe, problem.samples, (1, len(problem.order)))
    own, whole = np.asarray(sheet.loss)
    return np.array([roughness(np.reshape(x, (GRID, GRID))) for x in (own, few, whole)])


def _bounds(at: Around, model: Quadratic, losses: Float[Any, "m n"]) -> Float[np.ndarray, "b"]:
    """How loose the published bounds are, in log10, at σ = 0.01."""
    problem, sigma = at.problem, SIGMAS[0]
    points = sigma * at.bench.normals(at.bench.config.points, DIM)
    found, _ = bounds.against(at.w, problem.samples["inputs"], model, points, losses, sigma)
    few = jax.tree.map(lambda leaf: leaf[:NORMS], problem.samples)
    found["gauss_newton_norms"] = np.asarray(bounds.gauss_newton_norms(problem.model, at.w, few))
    return np.array([entry["published_looseness"] for entry in bounds.compare(found)])
