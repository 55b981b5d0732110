"""What the experiments of "Curvature-Aligned Probing" (2026) share.

How far the quadratic model is from the loss, "Curvature-Aligned Probing" (2026).

The family of criteria side by side, "Curvature-Aligned Probing" (2026).

Where the time of three estimators of Δ_k goes, "Curvature-Aligned Probing" (2026).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

import jaxscape as js
from experiments.common import run_folder, tables
from experiments.common.console import progress, seconds
from experiments.common.run_folder import Record, marks
from experiments.paper import bench as benches
from experiments.paper import curvature_aligned_figures
from experiments.paper.bench import Bench
from jaxscape import prefix
from jaxscape.lab import train
from jaxscape.quadratic import Quadratic
from jaxscape.subspace import Subspace
from jaxscape.trees import num_parameters

DIM = benches.TOP
"""Directions of the largest subspace; smaller ones take its leading eigenvectors."""


def leading_space(bench: Bench) -> js.Subspace:
    """The top eigenvectors of the Hessian over all samples."""
    return benches.directions(bench, "hessian", DIM)


def project(bench: Bench) -> Quadratic:
    """Every sample's quadratic model in that subspace."""
    kept = bench.store / "project.npz"
    if not kept.exists():
        model = js.project(bench.problem.loss, leading_space(bench), bench.problem.samples)
        run_folder.write_arrays(kept, jax.tree.map(np.asarray, model)._asdict())
    with np.load(kept) as arrays:
        return Quadratic(*(jnp.asarray(arrays[name]) for name in Quadratic._fields))


def leading(model: Quadratic, dim: int) -> Quadratic:
    """The model in the span of the first ``dim`` directions."""
    gradient, hessian = np.asarray(model.gradient), np.asarray(model.hessian)
    parts = gradient[:, :dim], hessian[:, :dim, :dim]
    return Quadratic(model.value, *map(jnp.asarray, parts))


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
def increments(losses: Float[Array, "m n"]) -> Float[Array, "m n-1"]:
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


DIMS = (1, 2, 4, 8, 16)


SIGMAS = tuple(10.0 ** (exponent / 2) for exponent in range(-8, 1))


MANY_SIGMA = 0.01
"""σ at which the number of points varies."""


def model_error(bench: Bench) -> Record:
    """The error of the quadratic model against σ, on the points of direct Monte-Carlo."""
    arrays = _compare(bench)
    figure = curvature_aligned_figures.errors(arrays, **_marks(bench))
    row = list(DIMS).index(DIM)
    last = _last_within(_off(arrays)[row])
    where = f"up to σ = {last:.3g}" if last else "not even at the smallest σ"
    ends = [arrays["pointwise"][row][column] for column in (0, -1)]
    seen = (
        f"Along the top {DIM} eigenvectors, quadratic over direct Monte-Carlo at the same points "
        f"stays within 10 % of 1 {where}; the root mean square error of an increment, relative "
        f"to its root mean square, grows from {ends[0]:.2g} at σ = {SIGMAS[0]:g} to "
        f"{ends[1]:.2g} at σ = {SIGMAS[-1]:g}."
    )
    found = {"within_ten_percent": last, "seen": seen + benches.caveat(bench)}
    return Record(arrays, found, {"errors": figure})


def error_map(bench: Bench) -> Record:
    """The relative error of the quadratic model over σ and the number of directions."""
    arrays = _compare(bench)
    off = _off(arrays)
    figure = curvature_aligned_figures.error_map(DIMS, SIGMAS, off, **_marks(bench))
    parts = []
    for dim, row in zip(DIMS, off, strict=True):
        last = _last_within(row)
        parts.append(f"{last:.3g} (D = {dim})" if last else f"none (D = {dim})")
    seen = (
        "The largest σ up to which quadratic over direct Monte-Carlo, at the same points, stays "
        f"within 10 % of 1: {', '.join(parts)}."
    )
    return Record(arrays | {"relative_error": off}, {"seen": seen}, {"error_map": figure})


def convergence(bench: Bench) -> Record:
    """Direct and quadratic Monte-Carlo against the closed form, as points grow."""
    model = project(bench)
    total = bench.config.many_points
    points = MANY_SIGMA * benches.normals(bench, total, DIM)
    losses = {
        "quadratic": modelled_losses(model, points),
        "direct": benches.losses_at(bench, leading_space(bench), points),
    }
    each = {name: levels_of(increments(x)) for name, x in losses.items()}
    (closed,) = law_levels(model, [MANY_SIGMA])
    counts = np.asarray([2**e for e in range(1, total.bit_length()) if 2**e <= total // 4])
    arrays = {f"{name}_level": levels for name, levels in each.items()}
    arrays |= {"points": counts, "closed_form": np.asarray(closed)}
    for name, levels in each.items():
        arrays[f"{name}_error"] = np.asarray([_spread(levels, m, closed) for m in counts])
    figure = curvature_aligned_figures.convergence(
        arrays, sigma=MANY_SIGMA, dim=DIM, **_marks(bench)
    )
    biases = {name: levels.mean() / closed - 1 for name, levels in each.items()}
    sems = {n: levels.std(ddof=1) / np.sqrt(total) / closed for n, levels in each.items()}
    seen = (
        f"At σ = {MANY_SIGMA:g} and D = {DIM}, one estimate from {counts[0]} points is off the "
        f"closed form by {arrays['quadratic_error'][0]:.1%} (quadratic) and "
        f"{arrays['direct_error'][0]:.1%} (direct), from {counts[-1]} points by "
        f"{arrays['quadratic_error'][-1]:.1%} and {arrays['direct_error'][-1]:.1%}. All {total} "
        f"points together: quadratic {biases['quadratic']:+.1%} ± {sems['quadratic']:.1%}, direct "
        f"{biases['direct']:+.1%} ± {sems['direct']:.1%}; what does not shrink with the points is "
        "the model's own error."
    )
    found = {"closed_form": closed, "bias": biases, "bias_sem": sems, "seen": seen}
    return Record(arrays, found, {"convergence": figure})


def _spread(levels: np.ndarray, count: int, closed: float) -> float:
    """Root mean square relative error of the mean over ``count`` points, over disjoint blocks."""
    blocks = levels[: len(levels) // count * count].reshape(-1, count).mean(1)
    return float(np.sqrt(np.mean((blocks / closed - 1) ** 2)))


def _off(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """|quadratic / direct − 1| at the same points, [D, s]."""
    return np.abs(arrays["quadratic"] / arrays["direct"] - 1)


def _last_within(off: np.ndarray) -> float | None:
    """The last σ before the error first exceeds 10 %."""
    count = int(np.argmax(np.append(off, np.inf) > 0.1))
    return SIGMAS[count - 1] if count else None


def _compare(bench: Bench) -> dict[str, np.ndarray]:
    """Levels of Δ_k·k² by direct Monte-Carlo, at its points by the model, and in closed form.

    Kept for the second of the two figures that show them.
    """
    kept = bench.store / "errors.npz"
    if not kept.exists():
        space, model = leading_space(bench), project(bench)
        rows = []
        with progress("errors", len(DIMS), "dimensions") as advance:
            for dim in DIMS:
                rows.append(_of_dim(bench, space, model, dim))
                advance(1)
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        run_folder.write_arrays(
            kept, arrays | {"dim": np.asarray(DIMS), "sigma": np.asarray(SIGMAS)}
        )
    with np.load(kept) as arrays:
        return dict(arrays)


def _of_dim(bench: Bench, space: Subspace, model: Quadratic, dim: int) -> dict[str, np.ndarray]:
    """The numbers of every σ, [s]; the points of all σ are evaluated at once."""
    m = max(2, bench.config.points // 2)
    used = np.arange(DIM) < dim
    normals = np.where(used, benches.normals(bench, m, DIM), 0)
    points = [sigma * normals for sigma in SIGMAS]
    losses = benches.losses_at(bench, space, np.concatenate(points))
    model_losses = np.concatenate([modelled_losses(model, rows) for rows in points])
    direct, quadratic = (np.asarray(increments(x)) for x in (losses, model_losses))
    each, modelled, apart = (
        levels_of(x).reshape(len(SIGMAS), m) for x in (direct, quadratic, direct - quadratic)
    )
    return {
        "direct": each.mean(1),
        "direct_sem": each.std(1, ddof=1) / np.sqrt(m),
        "quadratic": modelled.mean(1),
        "closed": law_levels(within(model, used), SIGMAS),
        "pointwise": np.sqrt(apart.mean(1) / each.mean(1)),
    }


def _marks(bench: Bench) -> dict[str, Any]:
    return run_folder.marks(bench.problem)


MANY_DIMS = (1, 4, 16)


SMALL_SIGMAS = (1e-4, 1e-3, 1e-2)


def family(bench: Bench) -> Record:
    """Δ^(1) at w*, Δ over all parameters and along the top D eigenvectors, for every k."""
    arrays = measure_family(bench)
    figure = curvature_aligned_figures.family(arrays, **benches.marks(bench.problem))
    k = arrays["k"]
    single = tables.level(k, arrays["single"] ** 2)
    parts = []
    for row, sigma in enumerate(SMALL_SIGMAS):
        levels = [tables.level(k, arrays["isotropic"][row])]
        levels += [
            tables.level(k, arrays["subspace"][row, column]) for column in range(len(MANY_DIMS))
        ]
        words = ", ".join(f"{level:.4g}" for level in levels)
        parts.append(f"σ = {sigma:g}: {words}")
    seen = (
        f"The mean of k²δ_k² over k ≥ 100 is {single:.4g} at w* itself. Of k²Δ_k over all "
        f"parameters, then along the top {', '.join(map(str, MANY_DIMS))} eigenvectors: "
        f"{'; '.join(parts)}. Where these agree, a criterion sees the level at w*, which needs no "
        "points at all."
    ) + benches.caveat(bench)
    return Record(arrays, {"single": single, "seen": seen}, {"family": figure})


def ratio(bench: Bench) -> Record:
    """Δ_k along the top D eigenvectors over Δ_k over all parameters."""
    arrays = measure_family(bench)
    k = arrays["k"]
    levels = np.asarray(
        [
            [
                tables.level(k, arrays["subspace"][row, column])
                / tables.level(k, arrays["isotropic"][row])
                for column in range(len(MANY_DIMS))
            ]
            for row in range(len(SMALL_SIGMAS))
        ]
    )
    parts = [
        f"{', '.join(f'{x:.3g}' for x in row)} at σ = {sigma:g}"
        for sigma, row in zip(SMALL_SIGMAS, levels, strict=True)
    ]
    size = num_parameters(bench.problem.initial)
    seen = (
        f"Subspace over full space, for D = {', '.join(map(str, MANY_DIMS))} (ratio of the means "
        f"of k²Δ_k over k ≥ 100): {'; '.join(parts)}. A step along all {size:,} parameters at the "
        f"same σ is √(P/D) times as long, {np.sqrt(size / MANY_DIMS[-1]):.0f} times for "
        f"D = {MANY_DIMS[-1]}."
    ) + benches.caveat(bench)
    figure = curvature_aligned_figures.ratio(arrays, **marks(bench.problem))
    return Record(arrays | {"ratio": levels}, {"ratio": levels.tolist(), "seen": seen},
                  {"ratio": figure})  # fmt: skip


def measure_family(bench: Bench) -> dict[str, np.ndarray]:
    """Every member's curve: ``single`` [K], ``isotropic`` [s, K], ``subspace`` [s, D, K].

    Kept for the second of the two figures that show them.
    """
    kept = bench.store / "family.npz"
    if not kept.exists():
        run_folder.write_arrays(kept, _measure_family(bench))
    with np.load(kept) as arrays:
        return dict(arrays)


def _measure_family(bench: Bench) -> dict[str, np.ndarray]:
    problem, count = bench.problem, bench.config.points
    space = leading_space(bench)
    delta = lambda probe: js.delta(problem.loss, probe, problem.samples)  # noqa: E731
    single = delta(js.single(space.origin))
    everywhere, along = [], []
    for sigma in SMALL_SIGMAS:
        probe = js.isotropic(problem.keys["probe"], space.origin, count, sigma)
        everywhere.append(delta(probe))
        for dim in MANY_DIMS:
            points = sigma * benches.normals(bench, count, dim)
            along.append(delta(js.points(benches.leading(space, dim), points)))
    shape = (len(SMALL_SIGMAS), len(MANY_DIMS), -1)
    stack = lambda curves, name: np.stack([getattr(c, name) for c in curves])  # noqa: E731
    return {
        "k": np.asarray(single.k),
        "sigma": np.asarray(SMALL_SIGMAS),
        "dim": np.asarray(MANY_DIMS),
        "single": np.asarray(single.first_order),
        "isotropic": stack(everywhere, "mean"),
        "isotropic_sem": stack(everywhere, "sem"),
        "subspace": stack(along, "mean").reshape(shape),
        "subspace_sem": stack(along, "sem").reshape(shape),
    }


PART = 10
"""Every sample costs ``project`` the same, so one in so many is timed."""


ESTIMATORS = {
    "closed form": ("eigenpairs", "project", "law"),
    "quadratic Monte-Carlo": ("eigenpairs", "project", "quadratic points"),
    "direct Monte-Carlo": ("eigenpairs", "direct points"),
}


def stages(bench: Bench) -> Record:
    """Time per stage of closed form, quadratic and direct Monte-Carlo, in forward passes."""
    spent, products = _spent(bench)
    forward = spent.pop("forward")
    passes = {name: value / forward for name, value in spent.items()}
    totals = {name: sum(passes[stage] for stage in used) for name, used in ESTIMATORS.items()}
    figure = curvature_aligned_figures.stages(ESTIMATORS, passes, **run_folder.marks(bench.problem))
    parts = ", ".join(f"{name} {total:.0f}" for name, total in totals.items())
    seen = (
        f"In plain forward passes over the data ({bench.config.points} points, D = {DIM}, "
        f"compilation left out): {parts}; of each, {passes['eigenpairs']:.0f} are the {products} "
        "Hessian products of the eigenpairs. The closed form serves every σ at once, the others "
        "one each."
    )
    names, values = (np.asarray(list(x)) for x in (passes, passes.values()))
    arrays = {"stage": names, "forward_passes": values}
    found = {"forward_passes": passes, "totals": totals, "forward_seconds": forward, "seen": seen}
    return Record(arrays, found, {"stages": figure})


def _spent(bench: Bench) -> tuple[dict[str, float], int]:
    """Seconds of each stage and of a forward pass; the number of Hessian products."""
    problem, config = bench.problem, bench.config
    pairs = benches.hessian(bench).pairs
    model = project(bench)
    space = leading_space(bench)
    points = MANY_SIGMA * benches.normals(bench, config.points, DIM)
    probe = js.points(space, points)
    product = js.hessian_operator(problem.loss, space.origin, problem.samples)
    part = max(1, len(problem.order) // PART)
    few = jax.tree.map(lambda leaf: leaf[:part], problem.samples)
    calls = {
        "eigenpairs": lambda: product(space.origin),
        "project": lambda: js.project(problem.loss, space, few),
        "law": lambda: js.quadratic_delta(model, MANY_SIGMA),
        "quadratic points": lambda: increments(modelled_losses(model, points)),
        "direct points": lambda: js.delta(problem.loss, probe, problem.samples),
        "forward": lambda: train.mean_loss(
            problem.loss, space.origin, problem.samples, batch_size=1000
        ),
    }
    spent = {name: seconds(call, times=2) for name, call in calls.items()}
    products = int(pairs.matvecs)
    spent["eigenpairs"] *= products
    spent["project"] *= len(problem.order) / part
    return spent, products
