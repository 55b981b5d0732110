"""Δ_k along random directions and Hessian eigenvectors, Nikitin et al., figures 4, 5 and 8."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import tables
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import published
from experiments.paper.bench import SIGMAS, Arrays, Bench, leading, record, row_of, uniform
from jaxscape import prefix
from jaxscape.lab import train
from jaxscape.lab.style import PREFIX, canvas, draw_mean, finish
from jaxscape.reductions import Delta

DIM = 10
"""Directions of figures 8 and 9."""

FEW = 2
"""Directions of figure 4."""

DIMS = (2, 16, 64, 256)
"""Directions of figure 5."""

CORRECTED = "as it should be: all directions, k in samples"
PUBLISHED = "as published: first direction, k in batches of 64"
LONG = "Li et al.'s norms: all directions, about as long as w*"
RANDOM = "random filter-normalised directions of unit norm"


class Case(NamedTuple):
    """A curve: its name, its subspace, σ."""

    label: str
    space: js.Subspace
    sigma: float


def fig4(bench: Bench) -> Record:
    """Δ_k at four σ along two random filter-normalised directions of unit norm."""
    space = bench.directions("unit-filter", FEW)
    cases = [Case(f"σ = {sigma:g}", space, sigma) for sigma in (0.1, 1.0, 5.0, 10.0)]
    longer = [case._replace(space=bench.directions("filter", FEW)) for case in cases]
    return _record(bench, f"{FEW} {RANDOM}", cases, longer=longer)


def fig5(bench: Bench) -> Record:
    """Δ_k in four dimensions at σ = 1, random filter-normalised directions of unit norm."""
    spaces = [bench.directions(kind, max(DIMS)) for kind in ("unit-filter", "filter")]
    cases, longer = (
        [Case(f"d = {dim}", leading(space, dim), 1.0) for dim in DIMS] for space in spaces
    )
    return _record(bench, f"{RANDOM}, σ = 1", cases, longer=longer)


def fig8(bench: Bench) -> Record:
    """Δ_k along the top ten Hessian eigenvectors, close to w* and far from it."""
    space = bench.directions("hessian", DIM)
    cases = [Case(f"σ = {sigma:g}", space, sigma) for sigma in SIGMAS]
    found = _record(bench, f"top {DIM} Hessian eigenvectors", cases, along_eigenvectors(bench))
    found.summary["notes"] += bench.inexact()
    return _with_replication(bench, found) if bench.published else found


def along_eigenvectors(bench: Bench) -> list[dict[str, np.ndarray]]:
    """Δ_k along the top ten Hessian eigenvectors at both ``SIGMAS``, for figures 8 and 9."""
    space = bench.directions("hessian", DIM)
    finds = [partial(measure, bench, space, sigma, row) for row, sigma in enumerate(SIGMAS)]
    return [bench.kept(f"curve-hessian-{row}", find) for row, find in enumerate(finds)]


def measure(bench: Bench, space: js.Subspace, sigma: float, row: int) -> dict[str, np.ndarray]:
    """Δ_k at one σ; published curves of different ``row`` have different orders of samples."""
    points = sigma * bench.normals(bench.config.points, space.dim)
    losses = bench.losses_at(space, points)
    curve = curve_of(losses)
    found = {"delta": np.asarray(curve.mean), "delta_sem": np.asarray(curve.sem)}
    found["loss_variance"] = np.mean(curve.loss_variance)
    if bench.config.as_published:
        key = jax.random.fold_in(bench.problem.keys["order"], row)
        first = bench.losses_at(leading(space, 1), points[:, :1])
        found["published_delta"] = np.asarray(published.delta(key, first))
        found["all_directions_delta"] = np.asarray(published.delta(key, losses))
    return found


@jax.jit
def curve_of(losses: Float[Array, "m n"]) -> Delta:
    """What ``js.delta`` gives, from stored per-sample losses at m points."""
    m, n = losses.shape
    whole, steps = prefix.extend(prefix.start(m), losses, jnp.ones(n, bool))
    reduction = js.reductions.delta
    state = reduction.update(reduction.init(m, n), steps, jnp.arange(m), jnp.ones(m, losses.dtype))
    return reduction.finalize(*state, whole)


def _record(
    bench: Bench,
    where: str,
    cases: Sequence[Case],
    measured: Sequence[dict[str, np.ndarray]] | None = None,
    *,
    longer: Sequence[Case] = (),
) -> Record:
    """The figure of ``cases``; ``longer`` are the same along directions of Li et al.'s norms."""
    if measured is None:
        measured = [measure(bench, case.space, case.sigma, row) for row, case in enumerate(cases)]
    labels = [case.label for case in cases]
    arrays = {name: np.stack([found[name] for found in measured]) for name in measured[0]}
    arrays |= {
        "sigma": np.asarray([case.sigma for case in cases], np.float32),
        "dim": np.asarray([case.space.dim for case in cases]),
        "k": np.arange(1, arrays["delta"].shape[1] + 1, dtype=np.int32),
    }
    late = arrays["k"][tables.late(arrays["k"])]
    notes = [f"Δ_k·k² along the {where}, in {bench.unit}², mean over k ≥ {late[0]} samples"]
    panels = {CORRECTED: [*zip(labels, arrays["delta"], arrays["delta_sem"], strict=True)]}
    if bench.config.as_published:
        old = arrays["published_delta"]
        arrays["published_k"] = np.arange(1, old.shape[1] + 1)
        panels[PUBLISHED] = [*zip(labels, old, np.zeros_like(old), strict=True)]
        notes.append("k in batches of 64 alone makes the published level 64 times lower")
    if longer:
        far = [measure(bench, case.space, case.sigma, row) for row, case in enumerate(longer)]
        arrays["filter_delta"] = np.stack([found["delta"] for found in far])
        errors = [found["delta_sem"] for found in far]
        panels[LONG] = [*zip(labels, arrays["filter_delta"], errors, strict=True)]
        norm = np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(bench.trained)))
        notes.append(f"of Li et al.'s norms: each filter as long as that of w*, ‖w*‖ = {norm:.3g}")
    levels = [_levels(arrays, index) for index in range(len(cases))]
    figures = {
        "delta": draw(bench, where, panels, scaled=False),
        "delta_k2": draw(bench, where, panels, scaled=True),
    }
    rows = [["", *(COLUMNS[name] for name in levels[0])]]
    rows += [row_of(label, x.values()) for label, x in zip(labels, levels, strict=True)]
    entries = [{"label": label} | x for label, x in zip(labels, levels, strict=True)]
    found = {"where": where, "points": bench.config.points, "curves": entries}
    return record(arrays, found, rows, notes, figures)


COLUMNS = {
    "mean_delta_k2": "Δ_k·k²",
    "order_law_k2": "order law",
    "published_mean_delta_k2": "as published",
    "all_directions_mean_delta_k2": "same, all directions",
    "filter_mean_delta_k2": "of Li et al.'s norms",
}


def _levels(arrays: Arrays, row: int) -> dict[str, float]:
    """Mean of Δ_k·k² over late k of one curve, as it should be and as published."""
    found = {
        "mean_delta_k2": tables.level(arrays["k"], arrays["delta"][row]),
        "order_law_k2": float(arrays["loss_variance"][row]),
    }
    for name in ("published", "all_directions"):
        if f"{name}_delta" in arrays:
            level = tables.level(arrays["published_k"], arrays[f"{name}_delta"][row])
            found[f"{name}_mean_delta_k2"] = level
    if "filter_delta" in arrays:
        found["filter_mean_delta_k2"] = tables.level(arrays["k"], arrays["filter_delta"][row])
    return found


NETWORKS = 4
"""Trained as in the reference code from other seeds."""

LEVEL = 2.4
"""Δ_k·k² of the published curve on MNIST, in batches."""

NAMES = {
    "published": "as published: first direction, k in batches",
    "all_directions": "same, all directions",
    "corrected": "as it should be",
}


def eigenvectors(bench: Bench, number: int) -> js.Subspace:
    """The top ten eigenvectors, by magnitude, at a network trained as in the reference code."""
    problem, config = bench.problem, bench.config
    key = {name: jax.random.fold_in(own, number) for name, own in problem.keys.items()}
    params = train.fit(
        key["train"], problem.loss, uniform(key["init"], problem.initial), problem.samples,
        epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
    ).params  # fmt: skip
    operator = js.hessian_operator(problem.loss, params, problem.samples)
    pairs = js.top_eigenpairs(
        key["subspace"], operator, params, DIM, which="magnitude", find_repeated=False
    )
    return js.Subspace(params, pairs.vectors)


def around(bench: Bench, space: js.Subspace, number: int) -> dict[str, np.ndarray]:
    """Δ_k at σ = 1 around one such network: "published", "all_directions" and "corrected"."""
    problem, m = bench.problem, bench.config.points
    probe, order = (jax.random.fold_in(problem.keys[name], number) for name in ("probe", "order"))
    points = jax.random.normal(probe, (m, space.dim))
    losses, first = (
        js.evaluate(problem.loss, js.points(along, theta), problem.samples, js.reductions.losses(m))
        for along, theta in ((space, points), (leading(space, 1), points[:, :1]))
    )
    mean = train.mean_loss(problem.loss, space.origin, problem.samples, batch_size=1000)
    return {
        "train_loss": np.asarray(mean),
        "published": published.delta(order, first),
        "all_directions": published.delta(order, losses),
        "corrected": np.asarray(curve_of(losses).mean),
    }


def _with_replication(bench: Bench, found: Record) -> Record:
    """Add the published computation on networks trained as in the reference code."""
    networks = []
    with progress("networks as published", NETWORKS, "networks") as advance:
        for number in range(NETWORKS):
            networks.append(around(bench, eigenvectors(bench, number), number))
            advance(1)
    again = {name: np.stack([each[name] for each in networks]) for name in networks[0]}
    level = lambda x: tables.level(np.arange(1, len(x) + 1), x)  # noqa: E731
    late = {name: [level(curve) for curve in again[name]] for name in NAMES}
    mean = lambda rows: np.mean(rows, 0)  # noqa: E731
    sem = lambda rows: np.std(rows, 0, ddof=1) / np.sqrt(NETWORKS)  # noqa: E731
    what = f"{NETWORKS} networks trained as published, loss {mean(again['train_loss']):.3g}"
    rows = [[what, "Δ_k·k²", "least", "most"]]
    for name, label in NAMES.items():
        both = f"{mean(late[name]):.3g} ± {sem(late[name]):.2g}"
        rows.append([label, both, *(f"{end(late[name]):.3g}" for end in (min, max))])
    rows.append(["published on MNIST", f"{LEVEL}", "", ""])
    labels = {"first direction": again["published"], "all ten": again["all_directions"]}
    curves = [(label, mean(x), sem(x)) for label, x in labels.items()]
    where = f"{NETWORKS} networks trained as published, σ = 1"
    summary = found.summary | {"tables": [*found.summary["tables"], rows]}
    summary["replication_levels"] = late
    summary["replication_train_loss"] = again["train_loss"].tolist()
    arrays = found.arrays | {f"replication_{name}": x for name, x in again.items()}
    figure = draw(bench, where, {"as published: k in batches of 64": curves}, scaled=True)
    return Record(arrays, summary, {**found.figures, "replication": figure})


def draw(
    bench: Bench, where: str, panels: Mapping[str, Iterable[tuple[str, Any, Any]]], *, scaled: bool
) -> Figure:
    """Δ_k, or where ``scaled`` Δ_k·k², of named curves over k = 1..K with their standard errors."""
    quantity = r"$\Delta_k \cdot k^2$" if scaled else r"$\Delta_k$"
    titles = ["\n".join(name.split(": ")) for name in panels]
    figure, axes = canvas(where, PREFIX, f"{quantity}   ({bench.unit}²)", titles)
    for panel, (name, curves) in zip(axes, panels.items(), strict=True):
        if "batches" in name:
            panel.set_xlabel("prefix length $k$ (batches)")
        for row, (label, values, sem) in enumerate(curves):
            k = np.arange(1, len(values) + 1)
            scale = k**2.0 if scaled else 1.0
            draw_mean(panel, row, k, values * scale, sem * scale, label)
    return finish(figure, dots=False)
