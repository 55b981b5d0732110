"""Leading Hessian eigenvalues of many networks, Nikitin et al., figure 1."""

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import published
from experiments.paper.bench import Arrays, Bench, record, row_of
from jaxscape.lab import train
from jaxscape.lab.style import Keywords, canvas, colour, curve, legend
from jaxscape.lanczos import Eigenpairs
from jaxscape.trees import num_parameters
from jaxscape.types import Batch, Params

TOLERANCE = 1e-2  # relative residual of the eigenpairs: far below the spread between networks
NAMES = {"eigenvalues": "with their sign", "published_eigenvalues": "as published: ‖Hv‖"}


def fig1(bench: Bench) -> Record:
    """Eigenvalues of largest magnitude, in descending order, over networks of other seeds."""
    config = bench.config
    samples, fitted = networks(bench)
    count, loss = len(samples["targets"]), float(fitted.epoch_losses[-1].mean())
    solved = _solve(bench, fitted.params, samples)
    values, residuals = np.asarray(solved.values), np.asarray(solved.residuals)
    order = np.argsort(-values, -1)
    values, residuals = (np.take_along_axis(x, order, -1) for x in (values, residuals))
    arrays = {"eigenvalues": values, "eigenvalue_residuals": residuals}
    arrays["epoch_losses"] = fitted.epoch_losses
    if config.as_published:
        arrays["published_eigenvalues"] = published.sharp(values)
    found = {
        "num_samples": count,
        "converged": int(solved.converged.sum()),
        "eigenpairs": values.size,
        "products": int(solved.matvecs.sum()),
        "negative": int((values < 0).sum()),
        "mean": values.mean(0).tolist(),
        "standard_deviation": values.std(0, ddof=1).tolist(),
        "train_loss": loss,
    }
    notes = [
        f"{config.networks} networks, {count:,} samples, training loss {loss:.3g}",
        f"{found['negative']} of {values.size} eigenvalues are negative, which ‖Hv‖ cannot show",
        f"{values.size - found['converged']} did not reach the relative residual {TOLERANCE:g}",
    ]
    rows = [["index j", "mean λ_j", "standard deviation", "least", "most"]]
    for j in sorted({0, values.shape[1] // 2, values.shape[1] - 1}):
        x = values[:, j]
        rows.append(row_of(str(j + 1), (x.mean(), x.std(ddof=1), x.min(), x.max())))
    title = f"Leading Hessian eigenvalues of {config.networks} networks, {count:,} samples"
    return record(arrays, found, rows, notes, {"eigenvalues": _draw(arrays, title, bench)})


def networks(bench: Bench) -> tuple[Batch, train.Fitted]:
    """The samples, and the networks trained on them."""
    count = min(bench.config.network_samples, len(bench.problem.order))
    samples = jax.tree.map(lambda leaf: leaf[:count], bench.problem.samples)
    return samples, bench.networks(bench.config.networks, samples)


def _solve(bench: Bench, params: Params, samples: Batch) -> Eigenpairs:
    """The eigenpairs of every network, [R, ...], without their vectors."""
    problem, config = bench.problem, bench.config
    kept = min(config.network_dim * 3 // 2 + 3, num_parameters(params) // config.networks)
    solved = []
    with progress("eigenvalues", config.networks, "networks") as advance:
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


def _draw(arrays: Arrays, title: str, bench: Bench) -> Figure:
    """Eigenvalues in descending order: mean over R networks, their range as a band."""
    curves = {label: arrays[name] for name, label in NAMES.items() if name in arrays}
    ylabel = rf"eigenvalue $\lambda_j$ ({bench.problem.unit} per unit of $w$ squared)"
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
