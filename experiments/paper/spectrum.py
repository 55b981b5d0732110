"""Leading Hessian eigenvalues of many networks, Nikitin et al., figure 1."""

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import console
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import published
from experiments.paper.bench import Arrays, Bench, record, row_of, uniform
from jaxscape.lab import train
from jaxscape.lab.style import Keywords, canvas, colour, curve, legend
from jaxscape.lanczos import Eigenpairs
from jaxscape.trees import num_parameters
from jaxscape.types import Batch, Params

TOLERANCE = 1e-2
"""Relative residual of the eigenpairs: far below the spread between networks."""

NAMES = {"eigenvalues": "with their sign", "published_eigenvalues": "as published: ‖Hv‖"}


def fig1(bench: Bench) -> Record:
    """Eigenvalues of largest magnitude, in descending order, over networks of other seeds."""
    config = bench.config
    samples, fitted = networks(bench)
    count = len(samples["targets"])
    solved = _solve(bench, fitted.params, samples)
    values, residuals = np.asarray(solved.values), np.asarray(solved.residuals)
    order = np.argsort(-values, -1)
    values, residuals = (np.take_along_axis(x, order, -1) for x in (values, residuals))
    arrays = {"eigenvalues": values, "eigenvalue_residuals": residuals}
    arrays["epoch_losses"] = fitted.epoch_losses
    if config.as_published:
        arrays["published_eigenvalues"] = published.sharp(values)
    found = {
        "networks": config.networks,
        "hidden": config.hidden,
        "num_samples": count,
        "dim": config.network_dim,
        "converged": int(solved.converged.sum()),
        "eigenpairs": values.size,
        "products": int(solved.matvecs.sum()),
        "negative": int((values < 0).sum()),
        "mean": values.mean(0).tolist(),
        "standard_deviation": values.std(0, ddof=1).tolist(),
        "train_loss": float(fitted.epoch_losses[-1].mean()),
    }
    notes = [
        f"{config.networks} networks, {count:,} samples, training loss {found['train_loss']:.3g}",
        f"{found['negative']} of {values.size} eigenvalues are negative, which ‖Hv‖ cannot show",
        f"{values.size - found['converged']} did not reach the relative residual {TOLERANCE:g}",
    ]
    rows = [["index j", "mean λ_j", "standard deviation", "least", "most"]]
    for j in sorted({0, values.shape[1] // 2, values.shape[1] - 1}):
        x = values[:, j]
        rows.append(row_of(str(j + 1), (x.mean(), x.std(ddof=1), x.min(), x.max())))
    return record(arrays, found, rows, notes, {"eigenvalues": draw(bench, arrays, count)})


def networks(bench: Bench) -> tuple[Batch, train.Fitted]:
    """Networks from their own initialisations, trained side by side on the same samples."""
    problem, config = bench.problem, bench.config
    count = min(config.network_samples, len(problem.order))
    samples = jax.tree.map(lambda leaf: leaf[:count], problem.samples)
    draw = lambda key: problem.model.init(key, samples["inputs"][:1])  # noqa: E731
    if bench.published:
        draw = lambda key: uniform(key, problem.initial)  # noqa: E731
    init, fit = (jax.random.split(problem.keys[x], config.networks) for x in ("init", "train"))
    what = f"{config.networks} networks, {config.epochs} epochs of {count:,}"
    counted = progress("networks", config.epochs, "epochs")
    with console.timed("trained", what), counted as advance:
        fitted = train.fit(
            fit, problem.loss, jax.vmap(draw)(init), samples,
            epochs=config.epochs, batch_size=config.batch_size,
            learning_rate=config.learning_rate, on_epoch=lambda *_: advance(1),
        )  # fmt: skip
    return samples, fitted


def _solve(bench: Bench, params: Params, samples: Batch) -> Eigenpairs:
    """The eigenpairs of every network, [R, ...], without their vectors."""
    problem, config = bench.problem, bench.config
    kept = min(config.network_dim * 3 // 2 + 3, num_parameters(params) // config.networks)
    solved, counted = [], progress("eigenvalues", config.networks, "networks")
    with console.timed("eigenvalues", f"{config.network_dim} of each"), counted as advance:
        for index in range(config.networks):
            w = jax.tree.map(lambda leaf, index=index: leaf[index], params)
            pairs = js.top_eigenpairs(
                problem.keys["subspace"], js.hessian_operator(problem.loss, w, samples), w,
                config.network_dim, which="magnitude", tol=TOLERANCE, krylov_dim=kept,
                find_repeated=False,
            )  # fmt: skip
            solved.append(jax.tree.map(np.asarray, pairs._replace(vectors=None)))
            advance(1)
    return jax.tree.map(lambda *parts: np.stack(parts), *solved)


def draw(bench: Bench, arrays: Arrays, num_samples: int) -> Figure:
    """Eigenvalues in descending order: mean over R networks, their range as a band."""
    curves = {label: arrays[name] for name, label in NAMES.items() if name in arrays}
    count = bench.config.networks
    title = f"Leading Hessian eigenvalues of {count} networks, {num_samples:,} samples"
    ylabel = rf"eigenvalue $\lambda_j$ ({bench.unit} per unit of $w$ squared)"
    figure, (axes,) = canvas(title, "index $j$", ylabel)
    for number, (label, values) in enumerate(curves.items()):
        index, mean = np.arange(1, values.shape[1] + 1), values.mean(0)
        look: Keywords = {"ms": 8, "mfc": "none"} if number else {}
        axes.plot(index, mean, label=label, **curve(number, lw=1.6, **look))
        if not number:
            spread, ink = values.std(0, ddof=1), colour(number)
            axes.fill_between(index, values.min(0), values.max(0), color=ink, alpha=0.15)
            axes.fill_between(index, mean - spread, mean + spread, color=ink, alpha=0.3, lw=0)
    positive = all(values.min() > 0 for values in curves.values())
    axes.set_yscale("log" if positive else "linear")
    legend(figure, "line: mean over networks; bands: one standard deviation, and the extremes")
    return figure
