"""The experiments of "Curvature-Aligned Probing" (2026), and their figures.

family: the criteria side by side. model_error, convergence: how far the quadratic model is from the
loss. stages: how the time of three estimators of Δ_k is spent.
"""

import functools
import itertools
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import tables
from experiments.common.console import progress, seconds
from experiments.common.run_folder import Record
from experiments.paper.bench import (
    TOP,
    Arrays,
    Bench,
    leading,
    level,
    lines,
    record,
    row_of,
    scaled,
)
from jaxscape import prefix
from jaxscape.lab import train
from jaxscape.lab.style import PREFIX, canvas, colour, legend
from jaxscape.quadratic import Quadratic
from jaxscape.trees import num_parameters

FAMILY_DIMS = (1, 4, 16)
FAMILY_SIGMAS = (1e-4, 1e-3, 1e-2)

ERROR_DIMS = (1, 2, 4, 8, 16)
ERROR_SIGMAS = tuple(10.0 ** (exponent / 2) for exponent in range(-8, 1))

SIGMA = 0.01  # σ of convergence and stages
ESTIMATORS = {
    "closed form": ("eigenpairs", "project", "law"),
    "quadratic Monte-Carlo": ("eigenpairs", "project", "quadratic points"),
    "direct Monte-Carlo": ("eigenpairs", "direct points"),
}


def family(bench: Bench) -> Record:
    """Δ^(1) at w*, Δ over all parameters and along the top D eigenvectors; ratios of the latter."""
    arrays, ratios = _family(bench), []
    rows = [["mean of k²Δ_k over k ≥ 100", "w* alone", "all parameters"]]
    rows[0] += [f"top {dim}" for dim in FAMILY_DIMS]
    members, shares = {}, {}
    for row, sigma in enumerate(FAMILY_SIGMAS):
        single, everywhere = arrays["single"] ** 2, arrays["isotropic"][row]
        curves = [single, everywhere, *arrays["subspace"][row]]
        levels = [level(curve) for curve in curves]
        rows.append(row_of(f"σ = {sigma:g}", levels, ".4g"))
        ratios.append(np.array(levels[2:]) / levels[1])
        rows.append(["over all parameters", "", "", *(f"{ratio:.3g}" for ratio in ratios[-1])])
        binned = [scaled(curve) for curve in curves]
        name = rf"$\sigma$ = {sigma:g}"
        labels = [r"$\Delta^{(1)}$ at $w^*$ alone: $k\,|\delta_k|$", r"$\Delta$, all parameters"]
        labels += [rf"$\Delta$, top {dim}" for dim in FAMILY_DIMS]
        members[name] = {n: (at, np.sqrt(x)) for n, (at, x) in zip(labels, binned, strict=True)}
        whole = binned[1][1]
        shares[name] = {
            n: (at, x / whole) for n, (at, x) in zip(labels[2:], binned[2:], strict=True)
        }
    size = num_parameters(bench.problem.initial)
    longer = f"{np.sqrt(size / FAMILY_DIMS[-1]):.0f}, for D = {FAMILY_DIMS[-1]}"
    notes = [f"a step along all P = {size:,} parameters is longer by √(P/D), {longer}"]
    ylabel = r"$k\,\sqrt{\Delta_k}$   (nats)"
    note = "root of the mean square per logarithmic bin of k"
    over = r"$\Delta_k^{\mathrm{top}\ D}\ /\ \Delta_k^{\mathrm{all}}$"
    about = "Subspace over full space", PREFIX, over, shares, "means per logarithmic bin of k"
    figures = {
        "family": lines("The family of criteria", PREFIX, ylabel, members, note),
        "ratio": lines(*about, level=1),
    }
    arrays |= {"ratio": np.stack(ratios)}
    return record(arrays, rows, notes + bench.inexact(), figures)


def _family(bench: Bench) -> dict[str, np.ndarray]:
    """Every member's curve: ``single`` [K], ``isotropic`` [s, K], ``subspace`` [s, D, K]."""
    problem, count = bench.problem, bench.config.points
    space, key = bench.directions("hessian", TOP), bench.problem.keys["probe"]
    delta = partial(js.delta, problem.loss, data=problem.samples)
    single = delta(js.single(space.origin))
    everywhere = [delta(js.isotropic(key, space.origin, count, s)) for s in FAMILY_SIGMAS]
    along = [
        delta(js.points(leading(space, dim), sigma * bench.normals(count, dim)))
        for sigma, dim in itertools.product(FAMILY_SIGMAS, FAMILY_DIMS)
    ]
    shape = (len(FAMILY_SIGMAS), len(FAMILY_DIMS), -1)
    found = {"k": np.asarray(single.k), "single": np.asarray(single.first_order)}
    for part, end in (("mean", ""), ("sem", "_sem")):
        found[f"isotropic{end}"] = np.stack([getattr(x, part) for x in everywhere])
        found[f"subspace{end}"] = np.stack([getattr(x, part) for x in along]).reshape(shape)
    return found | {"sigma": np.asarray(FAMILY_SIGMAS), "dim": np.asarray(FAMILY_DIMS)}


def model_error(bench: Bench) -> Record:
    """The error of the quadratic model over σ and D, on the points of direct Monte-Carlo."""
    arrays = _errors(bench)
    off = np.abs(arrays["quadratic"] / arrays["direct"] - 1)
    rows = [["directions D", "quadratic / direct within 10 % of 1 up to σ ="]]
    limits = zip(ERROR_DIMS, map(last_within, off), strict=True)
    rows += [[str(dim), f"{last:.3g}" if last else "none"] for dim, last in limits]
    named = {
        "of an increment\n(root mean square)": arrays["pointwise"],
        "of the mean of $k^2\\Delta_k$\n(same points)": off,
    }
    panels = {
        name: {f"D = {dim}": (arrays["sigma"], x) for dim, x in zip(ERROR_DIMS, each, strict=True)}
        for name, each in named.items()
    }
    title, xlabel = "Error of the quadratic model", r"$\sigma$ (units of the parameters)"
    figures = {
        "errors": lines(title, xlabel, "relative error", panels, "dashed: 10 %", level=0.1),
        "error_map": _draw_error_map(arrays, off),
    }
    return record(arrays | {"relative_error": off}, rows, bench.inexact(), figures)


def last_within(off: Float[np.ndarray, "s"]) -> float | None:
    """The last σ before the error first exceeds 10 %."""
    count = int(np.argmax(np.append(off, np.inf) > 0.1))
    return ERROR_SIGMAS[count - 1] if count else None


def _errors(bench: Bench) -> dict[str, np.ndarray]:
    """Levels of Δ_k·k², [D, s]: by direct Monte-Carlo, and at its points by the model."""
    space, model = bench.directions("hessian", TOP), project(bench)
    rows = []
    with progress("errors", len(ERROR_DIMS), "dimensions") as advance:
        for dim in ERROR_DIMS:
            rows.append(_errors_of_dim(bench, space, model, dim))
            advance(1)
    arrays = {"dim": np.asarray(ERROR_DIMS), "sigma": np.asarray(ERROR_SIGMAS)}
    return tables.stacked(rows) | arrays


def _errors_of_dim(
    bench: Bench, space: js.Subspace, model: Quadratic, dim: int
) -> dict[str, np.ndarray]:
    """The numbers of every σ, [s]; the points of all σ are evaluated at once."""
    m = max(2, bench.config.points // 2)
    used = np.arange(TOP) < dim
    points = [sigma * np.where(used, bench.normals(m, TOP), 0) for sigma in ERROR_SIGMAS]
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
        "pointwise": np.sqrt(apart.mean(1) / each.mean(1)),
    }


def _draw_error_map(arrays: Arrays, off: Float[np.ndarray, "D s"]) -> Figure:
    """|quadratic / direct − 1| over σ and D, in colour and in numbers."""
    title = "Relative error of the quadratic model"
    figure, (axes,) = canvas(title, r"$\sigma$", "directions $D$")
    shown = np.clip(off, 1e-5, None)
    mesh = axes.imshow(shown, cmap="cividis", aspect="auto", origin="lower", norm=LogNorm())
    for (i, j), value in np.ndenumerate(off):
        box = {"fc": "w", "ec": "none", "alpha": 0.7, "pad": 1}
        axes.text(j, i, f"{value:.0e}", ha="center", va="center", fontsize=8, bbox=box)
    axes.grid(False)
    sigmas, dims = arrays["sigma"], arrays["dim"]
    axes.set_xticks(range(len(sigmas)), [f"{sigma:.0e}" for sigma in sigmas])
    axes.set_yticks(range(len(dims)), [str(dim) for dim in dims])
    figure.colorbar(mesh, ax=axes, label="|quadratic / direct − 1|, same points")
    return figure


def convergence(bench: Bench) -> Record:
    """Direct and quadratic Monte-Carlo against the closed form, as points grow."""
    model, total = project(bench), 4 * bench.config.points
    points = SIGMA * bench.normals(total, TOP)
    losses = {
        "quadratic": modelled_losses(model, points),
        "direct": bench.losses_at(bench.directions("hessian", TOP), points),
    }
    closed = level(np.asarray(js.quadratic_delta(model, SIGMA).total))
    counts = np.asarray([2**e for e in range(1, total.bit_length()) if 2**e <= total // 4])
    arrays = {"points": counts, "closed_form": np.asarray(closed)}
    few, most = (f"error, {m} points" for m in (counts[0], counts[-1]))
    rows = [["Monte-Carlo over closed form", few, most, f"all {total} points"]]
    curves = {}
    for name, values in losses.items():
        levels = levels_of(scaled_increments(values))
        blocks = [levels[: total // m * m].reshape(-1, m).mean(1) for m in counts]  # disjoint
        error = np.asarray([np.sqrt(np.mean((means / closed - 1) ** 2)) for means in blocks])
        arrays |= {f"{name}_level": levels, f"{name}_error": error}
        curves[f"{name} Monte-Carlo"] = counts, error
        bias, sem = levels.mean() / closed - 1, levels.std(ddof=1) / np.sqrt(total) / closed
        rows.append([*row_of(name, (error[0], error[-1]), ".1%"), f"{bias:+.1%} ± {sem:.1%}"])
    first = arrays["quadratic_error"][0]
    curves["in proportion to 1/√m"] = counts, first * np.sqrt(counts[0] / counts)
    title = f"Monte-Carlo against the closed form, σ = {SIGMA:g}, D = {TOP}"
    note, ylabel = "root mean square over disjoint sets of m points", "relative error"
    figure = lines(title, "random points $m$", ylabel, {"": curves}, note)
    return record(arrays, rows, [f"σ = {SIGMA:g}, D = {TOP}"], {"convergence": figure})


def stages(bench: Bench) -> Record:
    """Time per stage of closed form, quadratic and direct Monte-Carlo, in forward passes."""
    n, products = len(bench.problem.order), int(bench.hessian.pairs.matvecs)
    part = max(1, n // 10)  # of project, which every sample costs the same
    passes = in_passes(_seconds(bench, part), products, n / part)
    rows = [["estimator", "forward passes", *passes]]
    for name, used in ESTIMATORS.items():
        cells = (f"{passes[stage]:.3g}" if stage in used else "" for stage in passes)
        rows.append([name, f"{sum(passes[stage] for stage in used):.0f}", *cells])
    counts = f"{bench.config.points} points, D = {TOP}, {products} Hessian products"
    notes = [counts, "the closed form serves every σ at once, the others one each"]
    arrays = {"stage": np.asarray(list(passes))}
    arrays["forward_passes"] = np.asarray(list(passes.values()))
    return record(arrays, rows, notes, {"stages": _draw_stages(passes)})


def in_passes(spent: Mapping[str, float], products: int, parts: float) -> dict[str, float]:
    """Stages in forward passes, from seconds of one Hessian product, one part of project, ..."""
    times = {"eigenpairs": products, "project": parts}
    passes = {stage: x * times.get(stage, 1) / spent["forward"] for stage, x in spent.items()}
    return {stage: value for stage, value in passes.items() if stage != "forward"}


def _seconds(bench: Bench, part: int) -> dict[str, float]:
    """Of one Hessian product, of project for ``part`` of the samples, and of the other stages."""
    problem = bench.problem
    loss, samples = problem.loss, problem.samples
    model, space = project(bench), bench.directions("hessian", TOP)
    points = SIGMA * bench.normals(bench.config.points, TOP)
    probe = js.points(space, points)
    product = js.hessian_operator(loss, space.origin, samples)
    few = jax.tree.map(lambda leaf: leaf[:part], samples)
    calls = {
        "eigenpairs": lambda: product(space.origin),
        "project": lambda: js.project(loss, space, few),
        "law": lambda: js.quadratic_delta(model, SIGMA),
        "quadratic points": lambda: scaled_increments(modelled_losses(model, points)),
        "direct points": lambda: js.delta(loss, probe, samples),
        "forward": lambda: train.mean_loss(loss, space.origin, samples, batch_size=1000),
    }
    return {name: seconds(call, times=2) for name, call in calls.items()}


def _draw_stages(passes: Mapping[str, float]) -> Figure:
    """Stacked bars: how many forward passes over the data each stage of an estimator takes."""
    xlabel = "time (forward passes over the data)"
    figure, (axes,) = canvas("Time of three estimators", xlabel, "")
    left = np.zeros(len(ESTIMATORS))
    for row, (stage, spent) in enumerate(passes.items()):
        width = np.array([spent if stage in used else 0.0 for used in ESTIMATORS.values()])
        axes.barh([*ESTIMATORS], width, 0.6, left, label=stage, color=colour(row))
        left += width
    legend(figure, "stages, in forward passes")
    return figure


@functools.lru_cache(maxsize=2)
def project(bench: Bench) -> Quadratic:
    """Every sample's quadratic model along the top eigenvectors."""
    return js.project(bench.problem.loss, bench.directions("hessian", TOP), bench.problem.samples)


def along(model: Quadratic, span: slice) -> Quadratic:
    """The model along some of its directions."""
    return model._replace(gradient=model.gradient[:, span], hessian=model.hessian[:, span, span])


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
