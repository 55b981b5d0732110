"""The experiments of "Curvature-Aligned Probing" (2026), and their figures.

family, ratio: the family of criteria side by side. model_error, error_map, convergence: how far the
quadratic model is from the loss. stages: how the time of three estimators of Δ_k is spent.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib
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
    lines,
    record,
    row_of,
    scaled,
    stacked,
)
from jaxscape import prefix
from jaxscape.lab import train
from jaxscape.lab.style import PREFIX, STYLE, Keywords, canvas, colour, legend
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
    """Δ^(1) at w*, Δ over all parameters and along the top D eigenvectors, for every k."""
    arrays = bench.kept("family", lambda: _family(bench))
    k, panels = arrays["k"], {}
    header = ["mean of k²Δ_k over k ≥ 100", "w* alone", "all parameters"]
    rows = [[*header, *(f"top {dim}" for dim in FAMILY_DIMS)]]
    for sigma, members in _members(arrays):
        levels = [tables.level(k, curve) for curve in members.values()]
        rows.append(row_of(f"σ = {sigma:g}", levels, ".4g"))
        binned = {name: scaled(k, curve) for name, curve in members.items()}
        panels[rf"$\sigma$ = {sigma:g}"] = {n: (at, np.sqrt(x)) for n, (at, x) in binned.items()}
    note, ylabel = "root of the mean square per logarithmic bin of k", r"$k\,\sqrt{\Delta_k}$"
    ylabel += f"   ({bench.problem.unit})"
    figure = lines("The family of criteria", PREFIX, ylabel, panels, note)
    single = tables.level(k, arrays["single"] ** 2)
    return record(arrays, {"single": single}, rows, bench.inexact(), {"family": figure})


def ratio(bench: Bench) -> Record:
    """Δ_k along the top D eigenvectors over Δ_k over all parameters."""
    arrays = bench.kept("family", lambda: _family(bench))
    k, ratios, panels = arrays["k"], [], {}
    for sigma, members in _members(arrays):
        _, everywhere, *along = members.values()
        ratios.append([tables.level(k, x) / tables.level(k, everywhere) for x in along])
        at, whole = scaled(k, everywhere)
        names = (f"D = {dim}" for dim in FAMILY_DIMS)
        panels[rf"$\sigma$ = {sigma:g}"] = {
            name: (at, scaled(k, x)[1] / whole) for name, x in zip(names, along, strict=True)
        }
    rows = [["Δ_k, subspace over full space", *(f"D = {dim}" for dim in FAMILY_DIMS)]]
    rows += [row_of(f"σ = {s:g}", parts) for s, parts in zip(FAMILY_SIGMAS, ratios, strict=True)]
    size = num_parameters(bench.problem.initial)
    longer = f"{np.sqrt(size / FAMILY_DIMS[-1]):.0f}, for D = {FAMILY_DIMS[-1]}"
    notes = [f"a step along all P = {size:,} parameters is longer by √(P/D), {longer}"]
    note, ylabel = "ratio of means per logarithmic bin of k", r"$\Delta_k^{\mathrm{top}\ D}$"
    ylabel += r"$\ /\ \Delta_k^{\mathrm{all}}$"
    figure = lines("Subspace over full space", PREFIX, ylabel, panels, note)
    for axes in figure.axes:
        axes.axhline(1, color="0.4", lw=1)
    arrays |= {"ratio": np.asarray(ratios)}
    return record(arrays, {"ratio": ratios}, rows, notes + bench.inexact(), {"ratio": figure})


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


def _members(arrays: Arrays) -> Iterator[tuple[float, Arrays]]:
    """Of each σ every member's Δ_k: at w*, over all parameters, along each subspace."""
    pairs = zip(arrays["isotropic"], arrays["subspace"], strict=True)
    for sigma, (everywhere, along) in zip(FAMILY_SIGMAS, pairs, strict=True):
        first = r"$\Delta^{(1)}$ at $w^*$ alone: $k\,|\delta_k|$"
        members = {first: arrays["single"] ** 2, r"$\Delta$, all parameters": everywhere}
        tops = (rf"$\Delta$, top {dim}" for dim in FAMILY_DIMS)
        yield sigma, members | dict(zip(tops, along, strict=True))


def model_error(bench: Bench) -> Record:
    """The error of the quadratic model against σ, on the points of direct Monte-Carlo."""
    arrays = bench.kept("errors", lambda: _errors(bench))
    last = last_within(_off(arrays)[-1])
    limit = f"{last:.3g}" if last else "none"
    ratios = arrays["quadratic"] / arrays["direct"]
    rows = [["σ", "quadratic / direct", "error of an increment, relative"]]
    for sigma, *numbers in zip(ERROR_SIGMAS, ratios[-1], arrays["pointwise"][-1], strict=True):
        rows.append(row_of(f"{sigma:.3g}", numbers))
    notes = [f"along the top {TOP} eigenvectors; within 10 % up to σ = {limit}"]
    named = {
        "of an increment\n(root mean square)": arrays["pointwise"],
        "of the mean of $k^2\\Delta_k$\n(same points)": _off(arrays),
    }
    panels = {
        name: {f"D = {dim}": (arrays["sigma"], x) for dim, x in zip(ERROR_DIMS, rows, strict=True)}
        for name, rows in named.items()
    }
    title, xlabel = "Error of the quadratic model", r"$\sigma$ (units of the parameters)"
    figure = lines(title, xlabel, "relative error", panels, "dashed: 10 %")
    for axes in figure.axes:
        axes.axhline(0.1, color="0.4", lw=1, ls="--")
    found, notes = {"within_ten_percent": last}, notes + bench.inexact()
    return record(arrays, found, rows, notes, {"errors": figure})


def error_map(bench: Bench) -> Record:
    """The relative error of the quadratic model over σ and the number of directions."""
    arrays = bench.kept("errors", lambda: _errors(bench))
    off = _off(arrays)
    rows = [["directions D", "largest σ with quadratic / direct within 10 % of 1"]]
    limits = zip(ERROR_DIMS, map(last_within, off), strict=True)
    rows += [[str(dim), f"{last:.3g}" if last else "none"] for dim, last in limits]
    figures = {"error_map": _draw_error_map(arrays, off)}
    return record(arrays | {"relative_error": off}, {}, rows, bench.inexact(), figures)


def _off(arrays: Arrays) -> Float[np.ndarray, "D s"]:
    """|quadratic / direct − 1| at the same points."""
    return np.abs(arrays["quadratic"] / arrays["direct"] - 1)


def last_within(off: Float[np.ndarray, "s"]) -> float | None:
    """The last σ before the error first exceeds 10 %."""
    count = int(np.argmax(np.append(off, np.inf) > 0.1))
    return ERROR_SIGMAS[count - 1] if count else None


def _errors(bench: Bench) -> dict[str, np.ndarray]:
    """Levels of Δ_k·k², [D, s]: by direct Monte-Carlo, at its points by the model, closed form."""
    space, model = bench.directions("hessian", TOP), project(bench)
    rows = []
    with progress("errors", len(ERROR_DIMS), "dimensions") as advance:
        for dim in ERROR_DIMS:
            rows.append(_errors_of_dim(bench, space, model, dim))
            advance(1)
    return stacked(rows) | {"dim": np.asarray(ERROR_DIMS), "sigma": np.asarray(ERROR_SIGMAS)}


def _errors_of_dim(bench: Bench, space: js.Subspace, model: Quadratic, dim: int) -> Arrays:
    """The numbers of every σ, [s]; the points of all σ are evaluated at once."""
    m = max(2, bench.config.points // 2)
    used = np.arange(TOP) < dim
    # derivatives of 0 along the others: one shape, and program, for every span
    within = Quadratic(model.value, model.gradient * used, model.hessian * (used & used[:, None]))
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
        "closed": law_levels(within, ERROR_SIGMAS),
        "pointwise": np.sqrt(apart.mean(1) / each.mean(1)),
    }


def _draw_error_map(arrays: Arrays, off: Float[np.ndarray, "D s"]) -> Figure:
    """|quadratic / direct − 1| over σ and D, in colour and in numbers."""
    title = "Relative error of the quadratic model"
    figure, (axes,) = canvas(title, r"$\sigma$", "directions $D$")
    with matplotlib.rc_context(STYLE):
        shown = np.clip(off, 1e-5, None)
        norm = LogNorm(shown.min(), shown.max())
        mesh = axes.imshow(shown, cmap="cividis", aspect="auto", origin="lower", norm=norm)
        for (i, j), value in np.ndenumerate(off):
            text = f"{value:.0e}" if value < 0.01 else f"{value:.2g}"
            ink = "w" if norm(shown[i, j]) < 0.5 else "k"
            axes.text(j, i, text, ha="center", va="center", color=ink, fontsize=8.5)
        axes.grid(False)
        sigmas, dims = arrays["sigma"], arrays["dim"]
        axes.set_xticks(range(len(sigmas)), [f"{sigma:.1e}" for sigma in sigmas], rotation=30)
        axes.set_yticks(range(len(dims)), [str(dim) for dim in dims])
        figure.colorbar(mesh, ax=axes, label="|quadratic / direct − 1|, same points")
    return figure


def convergence(bench: Bench) -> Record:
    """Direct and quadratic Monte-Carlo against the closed form, as points grow."""
    model, total = project(bench), bench.config.many_points
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
    few, most = (f"error, {m} points" for m in (counts[0], counts[-1]))
    rows = [["Monte-Carlo over closed form", few, most, f"all {total} points"]]
    bias, sem = {}, {}
    for name, levels in each.items():
        blocks = [levels[: total // m * m].reshape(-1, m).mean(1) for m in counts]  # disjoint
        error = np.asarray([np.sqrt(np.mean((means / closed - 1) ** 2)) for means in blocks])
        arrays[f"{name}_error"] = error
        bias[name] = levels.mean() / closed - 1
        sem[name] = levels.std(ddof=1) / np.sqrt(total) / closed
        cells = row_of(name, (error[0], error[-1]), ".1%")
        rows.append([*cells, f"{bias[name]:+.1%} ± {sem[name]:.1%}"])
    found = {"closed_form": closed, "bias": bias, "bias_sem": sem}
    figures = {"convergence": _draw_convergence(arrays, bias)}
    return record(arrays, found, rows, [f"σ = {SIGMA:g}, D = {TOP}"], figures)


def _draw_convergence(arrays: Arrays, bias: Mapping[str, float]) -> Figure:
    points, errors = arrays["points"], {n: arrays[f"{n}_error"] for n in ("quadratic", "direct")}
    curves = {f"{name} Monte-Carlo": (points, error) for name, error in errors.items()}
    title = f"Monte-Carlo against the closed form, σ = {SIGMA:g}, D = {TOP}"
    ylabel = "relative error (root mean square over blocks)"
    note = "dashed: in proportion to 1/√m; dotted: of all points; blocks: disjoint sets of m points"
    figure = lines(title, "random points $m$", ylabel, {"": curves}, note)
    (axes,) = figure.axes
    for row, name in enumerate(errors):
        axes.axhline(abs(bias[name]), color=colour(row), ls=":", lw=1.2)
    axes.plot(points, errors["quadratic"][0] * np.sqrt(points[0] / points), "--", color="0.4", lw=1)
    axes.set_xticks(points, [str(m) for m in points])
    axes.minorticks_off()
    return figure


def stages(bench: Bench) -> Record:
    """Time per stage of closed form, quadratic and direct Monte-Carlo, in forward passes."""
    n, products = len(bench.problem.order), int(bench.hessian.pairs.matvecs)
    part = max(1, n // 10)  # of project, which every sample costs the same
    spent = _seconds(bench, part)
    passes = in_passes(spent, products, n / part)
    totals = {name: sum(passes[stage] for stage in used) for name, used in ESTIMATORS.items()}
    rows = [["estimator", "forward passes", "of them eigenpairs"]]
    rows += [row_of(name, (total, passes["eigenpairs"]), ".0f") for name, total in totals.items()]
    counts = f"{bench.config.points} points, D = {TOP}, {products} Hessian products"
    notes = [counts, "the closed form serves every σ at once, the others one each"]
    arrays = {"stage": np.asarray(list(passes))}
    arrays["forward_passes"] = np.asarray(list(passes.values()))
    found = {"forward_passes": passes, "totals": totals, "forward_seconds": spent["forward"]}
    return record(arrays, found, rows, notes, {"stages": _draw_stages(passes)})


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
    for position, used in enumerate(ESTIMATORS.values()):
        left = 0.0
        for stage in used:
            look: Keywords = {"color": colour(list(passes).index(stage)), "edgecolor": "w"}
            label = f"{stage}, {passes[stage]:.3g}"
            axes.barh(position, passes[stage], 0.6, left, label=label, **look)
            left += passes[stage]
        axes.text(left, position, f" {left:.0f}", va="center")
    axes.set_yticks(range(len(ESTIMATORS)), [name.replace(" ", "\n") for name in ESTIMATORS])
    axes.margins(x=0.1)
    axes.grid(False, axis="y")
    legend(figure, "stages, in forward passes")
    return figure


def project(bench: Bench) -> Quadratic:
    """Every sample's quadratic model along the top eigenvectors."""

    def find() -> dict[str, np.ndarray]:
        space = bench.directions("hessian", TOP)
        return js.project(bench.problem.loss, space, bench.problem.samples)._asdict()

    return Quadratic(**jax.tree.map(jnp.asarray, bench.kept("project", find)))


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


def law_levels(model: Quadratic, sigmas: Sequence[float]) -> Float[np.ndarray, "s"]:
    """The mean over k ≥ 100 of k²Δ_k in closed form, at each σ."""
    laws = np.asarray(js.quadratic_delta(model, np.asarray(sigmas)).total)
    return np.asarray([tables.level(np.arange(1, len(law) + 1), law) for law in laws])
