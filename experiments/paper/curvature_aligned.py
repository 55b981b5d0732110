"""The experiments of "Curvature-Aligned Probing" (2026), and their figures.

family: the criteria side by side. model_error: how far the quadratic model is from the loss.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxscape as js
from experiments.common import tables
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper.bench import TOP, Bench, increments, leading, lines, row_of, scaled
from jaxscape.lab.style import PREFIX
from jaxscape.quadratic import Quadratic
from jaxscape.trees import num_parameters

FAMILY_DIMS, FAMILY_SIGMAS = (1, 4, 16), (1e-4, 1e-3, 1e-2)
ERROR_DIMS = (1, 2, 4, 8, 16)
ERROR_SIGMAS = tuple(10.0 ** (exponent / 2) for exponent in range(-8, 1))


def family(bench: Bench) -> Record:
    """Δ^(1) at w*, Δ over all parameters and along the top D eigenvectors; ratios of the latter."""
    arrays, members, shares, ratios = _family(bench), {}, {}, []
    labels = [r"$\Delta^{(1)}$ at $w^*$ alone: $k\,|\delta_k|$", r"$\Delta$, all parameters"]
    labels += [rf"$\Delta$, top {dim}" for dim in FAMILY_DIMS]
    rows = [["mean of k²Δ_k over k ≥ 100", "w* alone", "all parameters"]]
    rows[0] += [f"top {dim}" for dim in FAMILY_DIMS]
    for row, sigma in enumerate(FAMILY_SIGMAS):
        curves = [arrays["single"] ** 2, arrays["isotropic"][row], *arrays["subspace"][row]]
        levels = np.array([tables.level(curve) for curve in curves])
        ratios.append(levels[2:] / levels[1])
        rows.append(row_of(f"σ = {sigma:g}", levels, ".4g"))
        rows.append(["over all parameters", "", *row_of("", ratios[-1])])
        binned = dict(zip(labels, map(scaled, curves), strict=True))
        (_, whole), name = binned[labels[1]], rf"$\sigma$ = {sigma:g}"
        members[name] = {label: (k, np.sqrt(mean)) for label, (k, mean) in binned.items()}
        shares[name] = {x: (binned[x][0], binned[x][1] / whole) for x in labels[2:]}
    size = num_parameters(bench.problem.initial)
    longer = f"{np.sqrt(size / FAMILY_DIMS[-1]):.0f}, for D = {FAMILY_DIMS[-1]}"
    note = f"a step along all P = {size:,} parameters is longer by √(P/D), {longer}"
    ylabel = r"$k\,\sqrt{\Delta_k}$   (nats)"
    over = r"$\Delta_k^{\mathrm{top}\ D}\ /\ \Delta_k^{\mathrm{all}}$"
    root, means = (f"{x} per logarithmic bin of k" for x in ("root of the mean square", "means"))
    figures = {
        "family": lines("The family of criteria", PREFIX, ylabel, members, root),
        "ratio": lines("Subspace over full space", PREFIX, over, shares, means, level=1),
    }
    summary = {"tables": [rows], "notes": [note, *bench.inexact()]}
    return Record(arrays | {"ratio": np.stack(ratios)}, summary, figures)


def _family(bench: Bench) -> dict[str, np.ndarray]:
    """Every member's curve: ``single`` [K], ``isotropic`` [s, K], ``subspace`` [s, D, K]."""
    problem, m, rows = bench.problem, bench.config.points, []
    space, key = bench.directions("hessian", TOP), problem.keys["probe"]
    delta = functools.partial(js.delta, problem.loss, data=problem.samples)
    for sigma in FAMILY_SIGMAS:
        everywhere = delta(js.isotropic(key, space.origin, m, sigma))
        normals = [bench.normals(m, dim) for dim in FAMILY_DIMS]
        along = [delta(js.points(leading(space, x.shape[1]), sigma * x)) for x in normals]
        rows.append({
            "isotropic": everywhere.mean,
            "isotropic_sem": everywhere.sem,
            "subspace": np.stack([curve.mean for curve in along]),
            "subspace_sem": np.stack([curve.sem for curve in along]),
        })  # fmt: skip
    single = delta(js.single(space.origin))
    found = {"k": np.asarray(single.k), "single": np.asarray(single.first_order)}
    found |= {"sigma": np.asarray(FAMILY_SIGMAS), "dim": np.asarray(FAMILY_DIMS)}
    return tables.stacked(rows) | found


def model_error(bench: Bench) -> Record:
    """The error of the quadratic model over σ and D, on the points of direct Monte-Carlo."""
    arrays = _errors(bench)
    arrays["relative_error"] = off = np.abs(arrays["quadratic"] / arrays["direct"] - 1)
    rows = [["directions D", "quadratic / direct within 10 % of 1 up to σ ="]]
    limits = zip(ERROR_DIMS, map(last_within, off), strict=True)
    rows += [[str(dim), f"{last:.3g}" if last else "none"] for dim, last in limits]
    panels = {
        name: {f"D = {dim}": (arrays["sigma"], x) for dim, x in zip(ERROR_DIMS, each, strict=True)}
        for name, each in (
            ("of an increment\n(root mean square)", arrays["pointwise"]),
            ("of the mean of $k^2\\Delta_k$\n(same points)", off),
        )
    }
    title, xlabel = "Error of the quadratic model", r"$\sigma$ (units of the parameters)"
    figure = lines(title, xlabel, "relative error", panels, "dashed: 10 %", level=0.1)
    return Record(arrays, {"tables": [rows], "notes": bench.inexact()}, {"errors": figure})


def last_within(off: Float[np.ndarray, "s"]) -> float | None:
    """The last σ before the error first exceeds 10 %."""
    count = int(np.argmax(np.append(off, np.inf) > 0.1))
    return ERROR_SIGMAS[count - 1] if count else None


def _errors(bench: Bench) -> dict[str, np.ndarray]:
    """Levels of Δ_k·k², [D, s]: by direct Monte-Carlo, and at its points by the model."""
    space, model = bench.directions("hessian", TOP), project(bench)
    m, rows = max(2, bench.config.points // 2), []
    with progress("errors", len(ERROR_DIMS), "dimensions") as advance:
        for dim in ERROR_DIMS:
            normals = np.where(np.arange(TOP) < dim, bench.normals(m, TOP), 0)
            points = [sigma * normals for sigma in ERROR_SIGMAS]
            losses = bench.losses_at(space, np.concatenate(points))
            modelled = np.concatenate([modelled_losses(model, each) for each in points])
            direct, quadratic = increments(losses), increments(modelled)
            own, theirs, apart = (
                tables.level(x**2).reshape(-1, m) for x in (direct, quadratic, direct - quadratic)
            )
            rows.append({
                "direct": own.mean(1),
                "direct_sem": own.std(1, ddof=1) / np.sqrt(m),
                "quadratic": theirs.mean(1),
                "pointwise": np.sqrt(apart.mean(1) / own.mean(1)),
            })  # fmt: skip
            advance(1)
    arrays = {"dim": np.asarray(ERROR_DIMS), "sigma": np.asarray(ERROR_SIGMAS)}
    return tables.stacked(rows) | arrays


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
