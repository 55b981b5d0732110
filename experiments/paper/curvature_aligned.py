"""The experiments of "Curvature-Aligned Probing" (2026).

family, ratio: the family of criteria side by side. model_error, error_map, convergence: how far the
quadratic model is from the loss. stages: how the time of three estimators of Δ_k is spent.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

import jaxscape as js
from experiments.common import tables
from experiments.common.console import progress, seconds
from experiments.common.run_folder import Record
from experiments.paper import curvature_aligned_figures as figures
from experiments.paper.bench import TOP, Bench
from experiments.paper.bench import leading as leading_directions
from jaxscape import prefix
from jaxscape.lab import train
from jaxscape.quadratic import Quadratic
from jaxscape.trees import num_parameters

FAMILY_DIMS = (1, 4, 16)

FAMILY_SIGMAS = (1e-4, 1e-3, 1e-2)

ERROR_DIMS = (1, 2, 4, 8, 16)

ERROR_SIGMAS = tuple(10.0 ** (exponent / 2) for exponent in range(-8, 1))

SIGMA = 0.01
"""σ of convergence and stages."""

ESTIMATORS = {
    "closed form": ("eigenpairs", "project", "law"),
    "quadratic Monte-Carlo": ("eigenpairs", "project", "quadratic points"),
    "direct Monte-Carlo": ("eigenpairs", "direct points"),
}


def family(bench: Bench) -> Record:
    """Δ^(1) at w*, Δ over all parameters and along the top D eigenvectors, for every k."""
    arrays = bench.kept("family", lambda: _family(bench))
    single, everywhere, along = _family_levels(arrays)
    rows = [["mean of k²Δ_k over k ≥ 100", "w* alone", "all parameters"]]
    rows[0] += [f"top {dim}" for dim in FAMILY_DIMS]
    for sigma, whole, parts in zip(FAMILY_SIGMAS, everywhere, along, strict=True):
        rows.append([f"σ = {sigma:g}", *(f"{level:.4g}" for level in (single, whole, *parts))])
    figure = figures.family(bench, arrays)
    words = {"tables": [rows], "notes": bench.inexact()}
    return Record(arrays, {"single": single} | words, {"family": figure})


def ratio(bench: Bench) -> Record:
    """Δ_k along the top D eigenvectors over Δ_k over all parameters."""
    arrays = bench.kept("family", lambda: _family(bench))
    _, everywhere, along = _family_levels(arrays)
    ratios = along / everywhere[:, None]
    rows = [["Δ_k, subspace over full space", *(f"D = {dim}" for dim in FAMILY_DIMS)]]
    for sigma, row in zip(FAMILY_SIGMAS, ratios, strict=True):
        rows.append([f"σ = {sigma:g}", *(f"{x:.3g}" for x in row)])
    size = num_parameters(bench.problem.initial)
    longer = f"{np.sqrt(size / FAMILY_DIMS[-1]):.0f}, for D = {FAMILY_DIMS[-1]}"
    note = f"a step along all P = {size:,} parameters is longer by √(P/D), {longer}"
    words = {"tables": [rows], "notes": [note, *bench.inexact()]}
    figure = figures.ratio(bench, arrays)
    found = {"ratio": ratios.tolist()} | words
    return Record(arrays | {"ratio": ratios}, found, {"ratio": figure})


def _family(bench: Bench) -> dict[str, np.ndarray]:
    """Every member's curve: ``single`` [K], ``isotropic`` [s, K], ``subspace`` [s, D, K]."""
    problem, count = bench.problem, bench.config.points
    space = bench.directions("hessian", TOP)
    delta = lambda probe: js.delta(problem.loss, probe, problem.samples)  # noqa: E731
    single = delta(js.single(space.origin))
    everywhere, along = [], []
    for sigma in FAMILY_SIGMAS:
        probe = js.isotropic(problem.keys["probe"], space.origin, count, sigma)
        everywhere.append(delta(probe))
        for dim in FAMILY_DIMS:
            points = sigma * bench.normals(count, dim)
            along.append(delta(js.points(leading_directions(space, dim), points)))
    stack = lambda curves, name: np.stack([getattr(c, name) for c in curves])  # noqa: E731
    shape = (len(FAMILY_SIGMAS), len(FAMILY_DIMS), -1)
    return {
        "k": np.asarray(single.k),
        "sigma": np.asarray(FAMILY_SIGMAS),
        "dim": np.asarray(FAMILY_DIMS),
        "single": np.asarray(single.first_order),
        "isotropic": stack(everywhere, "mean"),
        "isotropic_sem": stack(everywhere, "sem"),
        "subspace": stack(along, "mean").reshape(shape),
        "subspace_sem": stack(along, "sem").reshape(shape),
    }


def _family_levels(
    arrays: Mapping[str, np.ndarray],
) -> tuple[float, Float[np.ndarray, "s"], Float[np.ndarray, "s D"]]:
    """The mean of k²Δ_k over late k: at w*, over all parameters, along each subspace."""
    late = lambda curves: np.apply_along_axis(lambda x: tables.level(arrays["k"], x), -1, curves)  # noqa: E731
    single = float(late(arrays["single"] ** 2))
    return single, late(arrays["isotropic"]), late(arrays["subspace"])


def model_error(bench: Bench) -> Record:
    """The error of the quadratic model against σ, on the points of direct Monte-Carlo."""
    arrays = bench.kept("errors", lambda: _errors(bench))
    last = last_within(_off(arrays)[-1])
    rows = [["σ", "quadratic / direct", "error of an increment, relative"]]
    ratios = arrays["quadratic"] / arrays["direct"]
    for numbers in zip(ERROR_SIGMAS, ratios[-1], arrays["pointwise"][-1], strict=True):
        rows.append([f"{number:.3g}" for number in numbers])
    note = f"along the top {TOP} eigenvectors; within 10 % up to σ = {_or_none(last)}"
    words = {"tables": [rows], "notes": [note, *bench.inexact()]}
    figure = figures.errors(bench, arrays)
    return Record(arrays, {"within_ten_percent": last} | words, {"errors": figure})


def error_map(bench: Bench) -> Record:
    """The relative error of the quadratic model over σ and the number of directions."""
    arrays = bench.kept("errors", lambda: _errors(bench))
    off = _off(arrays)
    rows = [["directions D", "largest σ with quadratic / direct within 10 % of 1"]]
    rows += [[str(d), _or_none(last_within(row))] for d, row in zip(ERROR_DIMS, off, strict=True)]
    figure = figures.error_map(bench, arrays, off)
    words = {"tables": [rows], "notes": bench.inexact()}
    return Record(arrays | {"relative_error": off}, words, {"error_map": figure})


def _off(arrays: Mapping[str, np.ndarray]) -> Float[np.ndarray, "D s"]:
    """|quadratic / direct − 1| at the same points."""
    return np.abs(arrays["quadratic"] / arrays["direct"] - 1)


def last_within(off: Float[np.ndarray, "s"]) -> float | None:
    """The last σ before the error first exceeds 10 %."""
    count = int(np.argmax(np.append(off, np.inf) > 0.1))
    return ERROR_SIGMAS[count - 1] if count else None


def _or_none(sigma: float | None) -> str:
    return "none" if sigma is None else f"{sigma:.3g}"


def _errors(bench: Bench) -> dict[str, np.ndarray]:
    """Levels of Δ_k·k², [D, s]: by direct Monte-Carlo, at its points by the model, closed form."""
    space, model = bench.directions("hessian", TOP), project(bench)
    rows = []
    with progress("errors", len(ERROR_DIMS), "dimensions") as advance:
        for dim in ERROR_DIMS:
            rows.append(_errors_of_dim(bench, space, model, dim))
            advance(1)
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return arrays | {"dim": np.asarray(ERROR_DIMS), "sigma": np.asarray(ERROR_SIGMAS)}


def _errors_of_dim(
    bench: Bench, space: js.Subspace, model: Quadratic, dim: int
) -> dict[str, np.ndarray]:
    """The numbers of every σ, [s]; the points of all σ are evaluated at once."""
    m = max(2, bench.config.points // 2)
    used = np.arange(TOP) < dim
    normals = np.where(used, bench.normals(m, TOP), 0)
    points = [sigma * normals for sigma in ERROR_SIGMAS]
    losses = bench.losses_at(space, np.concatenate(points))
    model_losses = np.concatenate([modelled_losses(model, rows) for rows in points])
    direct, quadratic = (np.asarray(scaled_increments(x)) for x in (losses, model_losses))
    each, modelled, apart = (
        levels_of(x).reshape(len(ERROR_SIGMAS), m) for x in (direct, quadratic, direct - quadratic)
    )
    return {
        "direct": each.mean(1),
        "direct_sem": each.std(1, ddof=1) / np.sqrt(m),
        "quadratic": modelled.mean(1),
        "closed": law_levels(within(model, used), ERROR_SIGMAS),
        "pointwise": np.sqrt(apart.mean(1) / each.mean(1)),
    }


def convergence(bench: Bench) -> Record:
    """Direct and quadratic Monte-Carlo against the closed form, as points grow."""
    model = project(bench)
    total = bench.config.many_points
    points = SIGMA * bench.normals(total, TOP)
    losses = {
        "quadratic": modelled_losses(model, points),
        "direct": bench.losses_at(bench.directions("hessian", TOP), points),
    }
    each = {name: levels_of(scaled_increments(x)) for name, x in losses.items()}
    (closed,) = law_levels(model, [SIGMA])
    counts = np.asarray([2**e for e in range(1, total.bit_length()) if 2**e <= total // 4])
    arrays = {f"{name}_level": levels for name, levels in each.items()}
    arrays |= {"points": counts, "closed_form": np.asarray(closed)}
    biases, sems, rows = {}, {}, []
    for name, levels in each.items():
        error = np.asarray([_spread(levels, m, closed) for m in counts])
        arrays[f"{name}_error"] = error
        biases[name] = levels.mean() / closed - 1
        sems[name] = levels.std(ddof=1) / np.sqrt(total) / closed
        whole = f"{biases[name]:+.1%} ± {sems[name]:.1%}"
        rows.append([name, f"{error[0]:.1%}", f"{error[-1]:.1%}", whole])
    header = ["Monte-Carlo over closed form", f"error, {counts[0]} points"]
    header += [f"error, {counts[-1]} points", f"all {total} points"]
    figure = figures.convergence(bench, arrays, SIGMA)
    words = {"tables": [[header, *rows]], "notes": [f"σ = {SIGMA:g}, D = {TOP}"]}
    found = {"closed_form": closed, "bias": biases, "bias_sem": sems} | words
    return Record(arrays, found, {"convergence": figure})


def _spread(levels: Float[np.ndarray, "m"], count: int, closed: float) -> float:
    """Root mean square relative error of the mean over ``count`` points, over disjoint blocks."""
    blocks = levels[: len(levels) // count * count].reshape(-1, count).mean(1)
    return float(np.sqrt(np.mean((blocks / closed - 1) ** 2)))


def stages(bench: Bench) -> Record:
    """Time per stage of closed form, quadratic and direct Monte-Carlo, in forward passes."""
    spent = _seconds(bench)
    products = int(bench.hessian.pairs.matvecs)
    n = len(bench.problem.order)
    forward, passes = spent["forward"], in_passes(spent, products, n / _part(n))
    totals = {name: sum(passes[stage] for stage in used) for name, used in ESTIMATORS.items()}
    figure = figures.stages(bench, ESTIMATORS, passes)
    rows = [["estimator", "forward passes", "of them eigenpairs"]]
    rows += [[name, f"{x:.0f}", f"{passes['eigenpairs']:.0f}"] for name, x in totals.items()]
    notes = [
        f"{bench.config.points} points, D = {TOP}, {products} Hessian products",
        "the closed form serves every σ at once, the others one each",
    ]
    names, values = (np.asarray(list(x)) for x in (passes, passes.values()))
    arrays = {"stage": names, "forward_passes": values}
    found = {"forward_passes": passes, "totals": totals, "forward_seconds": forward}
    words = {"tables": [rows], "notes": notes}
    return Record(arrays, found | words, {"stages": figure})


def in_passes(spent: Mapping[str, float], products: int, parts: float) -> dict[str, float]:
    """Stages in forward passes, from seconds of one Hessian product, one part of project, ..."""
    times = {"eigenpairs": products, "project": parts}
    return {
        stage: value * times.get(stage, 1) / spent["forward"]
        for stage, value in spent.items()
        if stage != "forward"
    }


def _seconds(bench: Bench) -> dict[str, float]:
    """Of one Hessian product, of project for one part of the samples, and of the other stages."""
    problem = bench.problem
    model, space = project(bench), bench.directions("hessian", TOP)
    points = SIGMA * bench.normals(bench.config.points, TOP)
    probe = js.points(space, points)
    product = js.hessian_operator(problem.loss, space.origin, problem.samples)
    few = jax.tree.map(lambda leaf: leaf[: _part(len(leaf))], problem.samples)
    calls = {
        "eigenpairs": lambda: product(space.origin),
        "project": lambda: js.project(problem.loss, space, few),
        "law": lambda: js.quadratic_delta(model, SIGMA),
        "quadratic points": lambda: scaled_increments(modelled_losses(model, points)),
        "direct points": lambda: js.delta(problem.loss, probe, problem.samples),
        "forward": lambda: train.mean_loss(
            problem.loss, space.origin, problem.samples, batch_size=1000
        ),
    }
    return {name: seconds(call, times=2) for name, call in calls.items()}


def _part(n: int) -> int:
    """Of n samples, as many as ``project`` is timed on: every sample costs it the same."""
    return max(1, n // 10)


def project(bench: Bench) -> Quadratic:
    """Every sample's quadratic model along the top eigenvectors."""

    def find() -> dict[str, np.ndarray]:
        space = bench.directions("hessian", TOP)
        return js.project(bench.problem.loss, space, bench.problem.samples)._asdict()

    return Quadratic(**jax.tree.map(jnp.asarray, bench.kept("project", find)))


def leading(model: Quadratic, dim: int) -> Quadratic:
    """The model in the span of the first ``dim`` directions."""
    return Quadratic(model.value, model.gradient[:, :dim], model.hessian[:, :dim, :dim])


def within(model: Quadratic, used: Bool[np.ndarray, "d"]) -> Quadratic:
    """The same, by derivatives of 0 along the others: one shape, and program, for every span."""
    return Quadratic(model.value, model.gradient * used, model.hessian * (used & used[:, None]))


@jax.jit
def modelled_losses(model: Quadratic, coordinates: Float[Array, "m d"]) -> Float[Array, "m n"]:
    """ℓ_i(w(θ)) by the quadratic model: c_i + g_iᵀθ + ½ θᵀH_iθ."""
    with jax.default_matmul_precision("highest"):
        bent = jnp.einsum("nij,mi,mj->mn", model.hessian, coordinates, coordinates)
        return model.value + coordinates @ model.gradient.T + bent / 2


@jax.jit
def scaled_increments(losses: Float[Array, "m n"]) -> Float[Array, "m n-1"]:
    """k δ_k at every point, k = 1..n−1: of one size at all k, by the order law."""
    return prefix.increments(losses) * jnp.arange(1, losses.shape[1])


def levels_of(scaled: Float[ArrayLike, "m n-1"]) -> Float[np.ndarray, "m"]:
    """The mean over k ≥ 100 of k²δ_k² at each point."""
    values = np.asarray(scaled)
    late = tables.late(np.arange(1, values.shape[1] + 1))
    return np.mean(np.square(values[:, late], dtype=np.float64), axis=1)


def law_levels(model: Quadratic, sigmas: Sequence[float]) -> Float[np.ndarray, "s"]:
    """The mean over k ≥ 100 of k²Δ_k in closed form, at each σ."""
    laws = np.asarray(js.quadratic_delta(model, np.asarray(sigmas)).total)
    return np.asarray([tables.level(np.arange(1, len(law) + 1), law) for law in laws])
