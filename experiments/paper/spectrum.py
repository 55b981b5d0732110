"""Leading eigenvalues of many networks, Nikitin et al., figure 1."""

import time

import jax
import numpy as np

import jaxscape as js
from experiments.common import console, run_folder
from experiments.common import problem as problems
from experiments.common.console import progress
from experiments.common.run_folder import Record
from experiments.paper import bench as benches
from experiments.paper import drawings, published
from experiments.paper.bench import Bench, narrow
from jaxscape.lab import train
from jaxscape.lab.models import Model
from jaxscape.lanczos import Eigenpairs
from jaxscape.trees import num_parameters
from jaxscape.types import Batch, Params, PerSampleLoss

TOLERANCE = 1e-2
"""Relative residual of the eigenpairs: far below the spread between networks."""


def fig1(bench: Bench) -> Record:
    """Eigenvalues of largest magnitude, in descending order, over networks of other seeds."""
    problem, config = bench.problem, bench.config
    count = min(config.network_samples, len(problem.order))
    samples = jax.tree.map(lambda leaf: leaf[:count], problem.samples)
    model, loss = problems.network(narrow(config), problem.dataset)
    networks = _trained(bench, model, loss, samples)
    solved = _solve(bench, loss, networks.params, samples)
    values, residuals = (
        np.stack([getattr(pairs, name) for pairs in solved]) for name in ("values", "residuals")
    )
    order = np.argsort(-values, -1)
    values, residuals = (np.take_along_axis(x, order, -1) for x in (values, residuals))
    converged = int(sum(int(pairs.converged.sum()) for pairs in solved))
    arrays = {
        "eigenvalues": values,
        "eigenvalue_residuals": residuals,
        "epoch_losses": networks.epoch_losses,
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
        "converged": converged,
        "eigenpairs": values.size,
        "products": int(sum(int(pairs.matvecs) for pairs in solved)),
        "negative": int((values < 0).sum()),
        "mean": values.mean(0).tolist(),
        "standard_deviation": values.std(0, ddof=1).tolist(),
        "train_loss": float(networks.epoch_losses[-1].mean()),
    }
    marks = run_folder.marks(problem) | {"unit": benches.unit(problem), "num_samples": count}
    figures = {"eigenvalues": drawings.spectrum(curves, **marks)}
    return Record(arrays, found | {"seen": _seen(found, values)}, figures)


def _trained(bench: Bench, model: Model, loss: PerSampleLoss, samples: Batch) -> train.Fitted:
    """Networks from their own initialisations, side by side on the same samples."""
    problem, config = bench.problem, bench.config
    init, fit = (
        jax.random.split(problem.keys[name], config.networks) for name in ("init", "train")
    )
    started = time.monotonic()
    with progress("networks", config.epochs, "epochs") as advance:
        networks = train.fit(
            fit, loss, jax.vmap(lambda key: model.init(key, samples["inputs"]))(init), samples,
            epochs=config.epochs, batch_size=config.batch_size,
            learning_rate=config.learning_rate, on_epoch=lambda *_: advance(1),
        )  # fmt: skip
    what = f"{config.networks} networks, {config.epochs} epochs of {len(samples['targets']):,}"
    console.stage("trained", what, time.monotonic() - started)
    return networks


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
            )  # fmt: skip
            solved.append(jax.tree.map(np.asarray, pairs._replace(vectors=None)))
            advance(1)
    console.stage("eigenvalues", f"{config.network_dim} of each", time.monotonic() - started)
    return solved


def _seen(found: dict, values: np.ndarray) -> str:
    first, last = values[:, 0], values[:, -1]
    spread = [column.std(ddof=1) / abs(column.mean()) for column in (first, last)]
    lost = found["eigenpairs"] - found["converged"]
    return (
        f"{found['networks']} networks of {found['hidden']} units per layer, trained side by side "
        f"on {found['num_samples']:,} samples (mean training loss {found['train_loss']:.3g}): the "
        f"largest eigenvalue is {first.mean():.3g} in the mean (standard deviation "
        f"{spread[0]:.0%}), the one of index {found['dim']} {last.mean():.3g} ({spread[1]:.0%}). "
        f"{found['negative']} of the "
        f"{values.size} eigenvalues of largest magnitude are negative, which ‖Hv‖ cannot show; "
        f"{lost} did not reach the relative residual {TOLERANCE:g}."
    )
