"""Leading Hessian eigenvalues of many networks, Nikitin et al., figure 1."""

import time
from collections.abc import Mapping

import jax
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common import console
from experiments.common import problem as problems
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import published
from experiments.paper.bench import Bench
from jaxscape.lab import train
from jaxscape.lab.style import MARKERS, Keywords, canvas, colour, legend
from jaxscape.lanczos import Eigenpairs
from jaxscape.trees import num_parameters
from jaxscape.types import Batch, Params, PerSampleLoss

TOLERANCE = 1e-2
"""Relative residual of the eigenpairs: far below the spread between networks."""


def fig1(bench: Bench) -> Record:
    """Eigenvalues of largest magnitude, in descending order, over networks of other seeds."""
    config = bench.config
    loss, samples, fitted = networks(bench)
    count = len(samples["targets"])
    solved = _solve(bench, loss, fitted.params, samples)
    values, residuals = (
        np.stack([getattr(pairs, name) for pairs in solved]) for name in ("values", "residuals")
    )
    order = np.argsort(-values, -1)
    values, residuals = (np.take_along_axis(x, order, -1) for x in (values, residuals))
    arrays = {
        "eigenvalues": values,
        "eigenvalue_residuals": residuals,
        "epoch_losses": fitted.epoch_losses,
    }
    curves = {"with their sign": values}
    if config.as_published:
        arrays["published_eigenvalues"] = published.sharp(values)
        curves["as published: ‖Hv‖"] = arrays["published_eigenvalues"]
    found = {
        "networks": config.networks,
        "hidden": config.network_hidden,
        "num_samples": count,
        "dim": config.network_dim,
        "converged": sum(int(pairs.converged.sum()) for pairs in solved),
        "eigenpairs": values.size,
        "products": sum(int(pairs.matvecs) for pairs in solved),
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
    words = {"tables": [_table(values)], "notes": notes}
    return Record(arrays, found | words, {"eigenvalues": draw(bench, curves, count)})


def networks(bench: Bench) -> tuple[PerSampleLoss, Batch, train.Fitted]:
    """Networks from their own initialisations, trained side by side on the same samples."""
    problem, config = bench.problem, bench.config
    count = min(config.network_samples, len(problem.order))
    samples = jax.tree.map(lambda leaf: leaf[:count], problem.samples)
    model, loss = problems.network(config.narrow(), problem.dataset)
    init, fit = (
        jax.random.split(problem.keys[name], config.networks) for name in ("init", "train")
    )
    started = time.monotonic()
    with progress("networks", config.epochs, "epochs") as advance:
        fitted = train.fit(
            fit, loss, jax.vmap(lambda key: model.init(key, samples["inputs"]))(init), samples,
            epochs=config.epochs, batch_size=config.batch_size,
            learning_rate=config.learning_rate, on_epoch=lambda *_: advance(1),
        )  # fmt: skip
    what = f"{config.networks} networks, {config.epochs} epochs of {count:,}"
    console.stage("trained", what, time.monotonic() - started)
    return loss, samples, fitted


def _solve(bench: Bench, loss: PerSampleLoss, params: Params, samples: Batch) -> list[Eigenpairs]:
    """The eigenpairs of every network; their vectors are dropped."""
    problem, config = bench.problem, bench.config
    kept = min(config.network_dim * 3 // 2 + 3, num_parameters(params) // config.networks)
    solved = []
    started = time.monotonic()
    with progress("eigenvalues", config.networks, "networks") as advance:
        for index in range(config.networks):
            w = jax.tree.map(lambda leaf, index=index: leaf[index], params)
            pairs = js.top_eigenpairs(
                problem.keys["subspace"], js.hessian_operator(loss, w, samples), w,
                config.network_dim, which="magnitude", tol=TOLERANCE, krylov_dim=kept,
                find_repeated=False,
            )  # fmt: skip
            solved.append(jax.tree.map(np.asarray, pairs._replace(vectors=None)))
            advance(1)
    console.stage("eigenvalues", f"{config.network_dim} of each", time.monotonic() - started)
    return solved


def _table(values: Float[np.ndarray, "R d"]) -> list[list[str]]:
    """The first, middle and last eigenvalue over the networks."""
    rows = [["index j", "mean λ_j", "standard deviation", "least", "most"]]
    for j in sorted({0, values.shape[1] // 2, values.shape[1] - 1}):
        column = values[:, j]
        numbers = (column.mean(), column.std(ddof=1), column.min(), column.max())
        rows.append([str(j + 1), *(f"{number:.3g}" for number in numbers)])
    return rows


def draw(bench: Bench, curves: Mapping[str, Float[np.ndarray, "R d"]], num_samples: int) -> Figure:
    """Eigenvalues in descending order: mean over R networks, their range as a band."""
    count = len(next(iter(curves.values())))
    title = f"Leading Hessian eigenvalues of {count} networks, {num_samples:,} samples"
    ylabel = rf"eigenvalue $\lambda_j$ ({bench.unit} per unit of $w$ squared)"
    figure, (axes,) = canvas(title, "index $j$", ylabel)
    lowest = min(values.min() for values in curves.values())
    for row, (label, values) in enumerate(curves.items()):
        index = np.arange(1, values.shape[1] + 1)
        style: Keywords = {"marker": MARKERS[row], "ms": 5 if row == 0 else 8, "lw": 1.6}
        style |= {"mfc": colour(row) if row == 0 else "none", "color": colour(row), "label": label}
        axes.plot(index, values.mean(0), **style)
        if row == 0:
            spread = values.std(0, ddof=1)
            ends = (values.mean(0) - spread, values.mean(0) + spread)
            axes.fill_between(index, values.min(0), values.max(0), color=colour(row), alpha=0.15)
            axes.fill_between(index, *ends, color=colour(row), alpha=0.3, lw=0)
    axes.set_yscale("log" if lowest > 0 else "linear")
    legend(figure, "line: mean over networks; bands: one standard deviation, and the extremes")
    return figure
