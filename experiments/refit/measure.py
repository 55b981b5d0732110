"""Networks refitted on the first k samples, and the landscape around that of all of them."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxscape as js
from experiments.common import console, prepare, refits, tables
from experiments.common.problem import Problem, tests_of
from experiments.refit import prediction
from jaxscape.prefix_spectra import geometric
from jaxscape.types import Batch, Params


def measure(problem: Problem, config: Any, store: Path) -> tables.Arrays:
    """The arrays of results.npz, with K values of k, R repeats, E epochs, s sigmas.

    ``k`` [K]; ``orders`` [R, N], of each repeat, as positions in the first order; ``test_loss`` and
    ``test_accuracy`` [R, E, K], after every epoch, and the finish (no accuracy of a regression);
    ``train_loss`` [R, K] = L_k(w*_k), ``full_loss`` [R, K] = L_N(w*_k), ``gradient_norm`` [R, K];
    of the first repeat's networks ``gap``, ``gap_sem`` [K] and those of ``_minima``; around its
    w*_N E_q S² between 90 % limits, ``loss_variance`` and, over new samples, ``fresh_variance``
    [s, 3].
    """
    n, (metrics, test) = len(problem.order), tests_of(problem)
    least = config.k_min or min(250, max(1, n // 32))
    ks = geometric(least, n, config.num_ks)
    shuffles = refits.orders(problem, config.repeats, n if config.order == "shuffled" else 0)
    tested: dict[str, list[list[float]]] = {name: [] for name in metrics}

    def visit(networks: list[Params]) -> None:
        for name, metric in metrics.items():
            tested[name].append(refits.means(metric, networks, test))

    # a CPU's cache holds the state of one network
    together = 1 if jax.default_backend() == "cpu" else len(ks)
    networks, norms = refits.fit(problem, config, ks, shuffles, store, visit, together=together)
    shape = config.repeats, -1, len(ks)
    arrays = {name: np.array(x, np.float32).reshape(shape) for name, x in tested.items()}
    arrays |= {"k": ks, "orders": shuffles, "gradient_norm": norms}
    arrays |= _losses(problem, networks, shuffles, ks, test)
    arrays |= _minima(problem, config, networks[0], ks, test)
    space, _ = prepare.eigenspace(problem, networks[0][-1], config.dim, store)
    probes = [prepare.probe(problem, space.origin, space, config.points, s) for s in config.sigmas]
    new = problem.fresh or problem  # ``check_test_split`` has seen to it
    with console.timed("landscapes", f"{config.points} points at each of {len(probes)} σ"):
        for name, samples in (("loss", problem.samples), ("fresh", new.samples)):
            found = [js.loss_variance(problem.loss, probe, samples).interval for probe in probes]
            arrays[f"{name}_variance"] = np.array(found, np.float32)
    return arrays | {"sigma": np.asarray(config.sigmas, np.float32)}


def _losses(
    problem: Problem, networks: list[list[Params]], orders: np.ndarray, ks: np.ndarray, test: Batch
) -> tables.Arrays:
    """L_k(w*_k), L_N(w*_k); in the first repeat how far the test loss lies above L_k(w*_k)."""
    losses = lambda w, data: np.asarray(js.per_sample_losses(problem.loss, w, data))  # noqa: E731
    own, full, gaps = [], [], []
    for repeat, (row, order) in enumerate(zip(networks, orders, strict=True)):
        for k, w in zip(ks, row, strict=True):
            seen = losses(w, problem.samples)
            full.append(seen.mean(dtype=np.float64))
            own.append(seen[order[:k]].mean(dtype=np.float64))
            if repeat == 0:
                new = losses(w, test)
                error = np.sqrt(seen[:k].var() / k + new.var() / len(new))
                gaps.append({"gap": new.mean() - seen[:k].mean(), "gap_sem": error})
    means = {"train_loss": own, "full_loss": full}
    shaped = {name: np.array(x).reshape(len(orders), -1) for name, x in means.items()}
    return shaped | tables.stacked(gaps)


def _minima(
    problem: Problem, config: Any, networks: list[Params], ks: np.ndarray, test: Batch
) -> tables.Arrays:
    """T of the pilots' networks and of that of all samples, [p]: ``takeuchi_`` each of its fields,
    from the gradients of test samples and the Hessian of its own samples, and the ``rows`` of k.
    """
    found: list[tables.Arrays] = []
    rows = [*prediction.pilots(ks), len(ks) - 1]
    starts = min(config.starts, len(test["targets"]))
    total, what = int(ks[rows].sum()), "samples of the networks"
    with console.progress("minima", total, what) as advance, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "H has a Ritz value")  # the report says it of each
        for row in rows:
            own = jax.tree.map(lambda x, k=ks[row]: x[:k], problem.samples)
            trace = js.takeuchi_trace(
                problem.keys["probe"], problem.loss, networks[row], own,
                weight_decay=config.weight_decay, gradient_data=test, num_samples=starts,
                num_steps=config.lanczos_steps,
            )  # fmt: skip
            found.append({f"takeuchi_{name}": np.asarray(x) for name, x in trace._asdict().items()})
            advance(int(ks[row]))
    return {"takeuchi_rows": np.array(rows), **tables.stacked(found)}
