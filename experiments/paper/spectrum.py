"""Leading Hessian eigenvalues of many networks, Nikitin et al., figure 1."""

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxscape as js
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import published
from experiments.paper.bench import SAMPLES, Bench, record, row_of
from jaxscape.lab import train
from jaxscape.lab.style import Keywords, canvas, colour, curve, legend
from jaxscape.lanczos import Eigenpairs
from jaxscape.trees import num_parameters
from jaxscape.types import Batch, Params

TOLERANCE = 1e-2  # relative residual of the eigenpairs: far below the spread between networks


def fig1(bench: Bench) -> Record:
    """Eigenvalues of largest magnitude, in descending order, over networks of other seeds."""
    samples, fitted = networks(bench)
    loss, solved = float(fitted.epoch_losses[-1].mean()), _solve(bench, fitted.params, samples)
    values, residuals = np.asarray(solved.values), np.asarray(solved.residuals)
    order = np.argsort(-values, -1)
    values, residuals = (np.take_along_axis(x, order, -1) for x in (values, residuals))
    arrays = {
        "eigenvalues": values,
        "eigenvalue_residuals": residuals,
        "published_eigenvalues": published.sharp(values),
    }
    what = f"{len(values)} networks, {len(samples['targets']):,} samples"
    negative, lost = (values < 0).sum(), (~solved.converged).sum()
    notes = [
        f"{what}, training loss {loss:.3g}",
        f"{negative} of {values.size} eigenvalues are negative, which ‖Hv‖ cannot show",
        f"{lost} did not reach the relative residual {TOLERANCE:g}",
    ]
    rows = [["index j", "mean λ_j", "standard deviation", "least", "most"]]
    for j in sorted({0, values.shape[1] // 2, values.shape[1] - 1}):
        x = values[:, j]
        rows.append(row_of(str(j + 1), (x.mean(), x.std(ddof=1), x.min(), x.max())))
    figure = _draw(arrays, f"Leading Hessian eigenvalues of {what}")
    return record(arrays, rows, notes, {"eigenvalues": figure})


def networks(bench: Bench) -> tuple[Batch, train.Fitted]:
    """The samples, as many as published, and the networks trained on them."""
    samples = jax.tree.map(lambda leaf: leaf[:SAMPLES], bench.problem.samples)
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


def _draw(arrays: dict[str, np.ndarray], title: str) -> Figure:
    """Eigenvalues in descending order: mean over R networks, their range as a band."""
    ylabel = r"eigenvalue $\lambda_j$ (nats per unit of $w$ squared)"
    figure, (axes,) = canvas(title, "index $j$", ylabel)
    values, magnitudes = arrays["eigenvalues"], arrays["published_eigenvalues"]
    index, mean, spread = np.arange(1, values.shape[1] + 1), values.mean(0), values.std(0, ddof=1)
    band: Keywords = {"color": colour(0), "alpha": 0.2, "lw": 0}
    axes.plot(index, mean, label="with their sign", **curve(0))
    axes.fill_between(index, values.min(0), values.max(0), **band)
    axes.fill_between(index, mean - spread, mean + spread, **band)
    axes.plot(index, magnitudes.mean(0), label="as published: ‖Hv‖", **curve(1, ms=8, mfc="none"))
    axes.set_yscale("log" if values.min() > 0 else "linear")
    legend(figure, "line: mean over networks; bands: one standard deviation, and the extremes")
    return figure
