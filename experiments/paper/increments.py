"""Δ_k along random directions and Hessian eigenvectors, Nikitin et al., figures 4, 5, 8 and 9.

Figure 8 also has networks trained as in the reference code: on the first 9,984 samples,
standardised, from PyTorch's default, uniform on ±1/√f for the parameters of a layer of f inputs.
"""

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
from experiments.paper import curvature_aligned, published
from experiments.paper.bench import SIGMAS, Arrays, Bench, leading, record, row_of
from jaxscape import prefix
from jaxscape.lab import train
from jaxscape.lab.style import PREFIX, canvas, curve, draw_mean, finish, legend, log_bins
from jaxscape.quadratic import Quadratic
from jaxscape.reductions import Delta
from jaxscape.types import Batch, Params

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
    replicated = bench.config.as_published and not bench.problem.dataset.has_tokens
    return _with_replication(bench, found) if replicated else found


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


NETWORKS, SAMPLES = 4, 9984
"""Trained as in the reference code, on 156 whole batches."""

LEVEL = 2.4
"""Δ_k·k² of the published curve on MNIST, in batches."""

NAMES = {
    "published": "as published: first direction, k in batches",
    "all_directions": "same, all directions",
    "corrected": "as it should be",
}


def standardised(bench: Bench) -> Batch:
    """The data set's first samples, less the mean, over the standard deviation, of all inputs."""
    dataset = bench.problem.dataset
    count = min(SAMPLES, bench.config.k_max)
    inputs = dataset.train_inputs[:]
    scaled = (inputs[:count] - inputs.mean()) / max(inputs.std(), np.finfo(np.float32).tiny)
    return {"inputs": jnp.asarray(scaled), "targets": jnp.asarray(dataset.train_targets[:count])}


@jax.jit
def uniform(key: jax.Array, params: Params) -> Params:
    """Parameters of the same layers, weights and biases uniform on ±1/√f."""
    found = {}
    for own, (name, layer) in zip(jax.random.split(key, len(params)), params.items(), strict=True):
        bound = layer["kernel"].shape[0] ** -0.5
        drawn = partial(jax.random.uniform, minval=-bound, maxval=bound)
        keys = dict(zip(layer, jax.random.split(own, len(layer)), strict=True))
        found[name] = {part: drawn(keys[part], x.shape, x.dtype) for part, x in layer.items()}
    return found


def eigenvectors(bench: Bench, samples: Batch, number: int) -> js.Subspace:
    """The top ten eigenvectors, by magnitude, at a network trained as in the reference code."""
    problem, config = bench.problem, bench.config
    key = {name: jax.random.fold_in(own, number) for name, own in problem.keys.items()}
    params = train.fit(
        key["train"], problem.loss, uniform(key["init"], problem.initial), samples,
        epochs=config.epochs, batch_size=config.batch_size, learning_rate=config.learning_rate,
    ).params  # fmt: skip
    operator = js.hessian_operator(problem.loss, params, samples)
    pairs = js.top_eigenpairs(
        key["subspace"], operator, params, DIM, which="magnitude", find_repeated=False
    )
    return js.Subspace(params, pairs.vectors)


def around(bench: Bench, samples: Batch, space: js.Subspace, number: int) -> dict[str, np.ndarray]:
    """Δ_k at σ = 1 around one such network: "published", "all_directions" and "corrected"."""
    problem, m = bench.problem, bench.config.points
    probe, order = (jax.random.fold_in(problem.keys[name], number) for name in ("probe", "order"))
    points = jax.random.normal(probe, (m, space.dim))
    losses, first = (
        js.evaluate(problem.loss, js.points(along, theta), samples, js.reductions.losses(m))
        for along, theta in ((space, points), (leading(space, 1), points[:, :1]))
    )
    mean = train.mean_loss(problem.loss, space.origin, samples, batch_size=1000)
    return {
        "train_loss": np.asarray(mean),
        "published": published.delta(order, first),
        "all_directions": published.delta(order, losses),
        "corrected": np.asarray(curve_of(losses).mean),
    }


def _with_replication(bench: Bench, found: Record) -> Record:
    """Add the published computation on networks trained as in the reference code."""
    samples, networks = standardised(bench), []
    with progress("networks as published", NETWORKS, "networks") as advance:
        for number in range(NETWORKS):
            networks.append(around(bench, samples, eigenvectors(bench, samples, number), number))
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


BATCHES = (1, 4, 16, 64, 256)
"""Values of k, in batches, at which Theorem 1 is evaluated as published."""

THEORY = {
    "delta": "Monte-Carlo",
    "law_total": "full law",
    "law_curvature": "Theorem 1's part",
    "published_delta": "experiment, as published",
}


def fig9(bench: Bench) -> Record:
    """Δ_k along the top ten eigenvectors: Monte-Carlo, the full law, Theorem 1's part alone."""
    whole = curvature_aligned.project(bench)
    model = Quadratic(whole.value, whole.gradient[:, :DIM], whole.hessian[:, :DIM, :DIM])
    laws = js.quadratic_delta(model, np.asarray(SIGMAS, np.float32))._asdict()
    measured = along_eigenvectors(bench)
    arrays: dict[str, np.ndarray] = {
        "sigma": np.asarray(SIGMAS, np.float32),
        "k": np.arange(1, len(measured[0]["delta"]) + 1, dtype=np.int32),
        **{name: np.stack([x[name] for x in measured]) for name in ("delta", "delta_sem")},
        **{f"law_{name}": np.asarray(values) for name, values in laws.items()},
    }
    notes = bench.inexact()
    if bench.config.as_published:
        arrays["published_delta"] = np.stack([x["published_delta"] for x in measured])
        arrays |= _published_theory(bench)
        k, theory = arrays["published_theory_k"], arrays["published_theory"]
        for sigma, old in zip(SIGMAS, arrays["published_delta"], strict=True):
            ratio = np.exp(np.mean(np.log(theory / old[k - 1])))
            what = f"published experiment at σ = {sigma:g}"
            means = f"{ratio:.2g}, geometric mean over {len(k)} k"
            notes.append(f"Theorem 1 as published, which has no σ, over the {what}: {means}")
    late, entries = tables.late(arrays["k"]), []
    for index, sigma in enumerate(SIGMAS):
        entries.append({"sigma": sigma} | tables.agreement(arrays, index, late))
    found, rows = {"sigmas": entries}, tables.law_table(entries)
    return record(arrays, found, rows, notes, {"theorem": draw_theory(bench, arrays)})


def _published_theory(bench: Bench) -> dict[str, np.ndarray]:
    """Theorem 1 from magnitudes of eigenvalues of H_k and H_{k+1}, k in batches."""
    problem = bench.problem
    most = len(problem.order) // published.BATCH
    chosen = np.asarray([k for k in BATCHES if k + 1 <= most])
    ks = np.union1d(chosen, chosen + 1)
    spectra = js.prefix_spectra(
        problem.keys["subspace"], problem.loss, bench.trained, problem.samples, DIM,
        ks=ks * published.BATCH, which="magnitude",
    )  # fmt: skip
    values, at = np.asarray(spectra.values), np.searchsorted(ks, chosen)
    theory = [published.theorem(values[i], values[i + 1]) for i in at]
    return {
        "published_theory_k": chosen,
        "published_theory": np.asarray(theory),
        "published_eigenvalues_k": ks,
        "published_eigenvalues": published.sharp(values),
        "published_eigenvalues_converged": np.asarray(spectra.converged),
    }


def draw_theory(bench: Bench, arrays: Arrays) -> Figure:
    """Δ_k·k² by experiment and by theory, a panel per σ; k of published curves is in batches."""
    ylabel = rf"$\Delta_k \cdot k^2$   ({bench.unit}²)"
    panels = [f"σ = {sigma:g}" for sigma in SIGMAS]
    figure, axes = canvas("Theory against experiment", PREFIX, ylabel, panels)
    for index, panel in enumerate(axes):
        for row, name in enumerate(name for name in THEORY if name in arrays):
            k = np.arange(1, arrays[name].shape[1] + 1)
            bins = log_bins(k, arrays[name][index] * k**2.0)
            style = curve(row, lw=1.6, markevery=(2 * row, 8))
            panel.plot(bins.k, bins.mean, label=THEORY[name], **style)
        if "published_theory" in arrays:
            k, values = arrays["published_theory_k"], arrays["published_theory"]
            style = curve(4, ms=8, lw=0, label="Theorem 1, as published")
            panel.plot(k, values * k**2.0, **style)
        panel.set(xscale="log", yscale="log")
    legend(figure, "lines: mean per logarithmic bin of k; as published: k in batches of 64")
    return figure
