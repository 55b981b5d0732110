"""Networks refitted on the first k samples, and the landscape around that of all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jaxscape as js
from experiments.common import console, prepare, segments, tables
from experiments.common.console import progress
from experiments.common.problem import Problem, tests_of
from experiments.refit import prediction
from jaxscape.lab import checkpoint, train
from jaxscape.prefix_spectra import geometric
from jaxscape.types import Params

TEST_BATCH = 1000
"""Test samples per chunk."""


def measure(problem: Problem, config: Any, store: Path) -> dict[str, np.ndarray]:
    """The arrays of results.npz, with K values of k, R repeats, E epochs, s sigmas, m points.

    ``k`` [K]; ``orders`` [R, N], of each repeat, as positions in the first order; ``test_loss`` and
    ``test_accuracy`` [R, E, K], after every epoch, and the finish (no accuracy of a regression);
    ``train_loss`` [R, K] = L_k(w*_k), ``full_loss`` [R, K] = L_N(w*_k), ``gradient_norm`` [R, K];
    those of ``_minima`` and of ``_landscape``, which are of the first repeat's networks.
    """
    ks = geometric(config.k_min, len(problem.order), config.num_ks)
    each = steps(problem, config) * config.epochs
    what = f"{len(ks)} networks, {config.repeats} times, {each:,} steps each"
    with console.timed("refitted", what):
        networks, arrays = _networks(problem, config, ks)
    last = networks[-1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    checkpoint.save(store, "refitted", {"params": stacked})
    arrays |= _minima(problem, config, networks, ks)
    space = prepare.eigenspace(problem, last, config.dim, store).space
    probes = [prepare.probe(problem, last, space, config.points, s) for s in config.sigmas]
    with console.timed("landscapes", f"{config.points} points at each of {len(probes)} σ"):
        landscapes = [_landscape(problem, probe, arrays["orders"], ks) for probe in probes]
    sigma = np.asarray(config.sigmas, np.float32)
    return {"k": ks, "sigma": sigma, **arrays, **tables.stacked(landscapes)}


def steps(problem: Problem, config: Any) -> int:
    """Optimiser steps per epoch of every network: ⌈k_max / batch_size⌉."""
    return -(-len(problem.order) // config.batch_size)


def orders(problem: Problem, config: Any) -> np.ndarray:
    """The order of the samples in each repeat, as positions in the first: its own is the first."""
    n = len(problem.order)
    rows = [np.arange(n)] * config.repeats
    if config.order == "shuffled":
        keys = [jax.random.fold_in(problem.keys["order"], r) for r in range(1, config.repeats)]
        rows[1:] = [np.asarray(jax.random.permutation(key, n)) for key in keys]
    return np.stack(rows).astype(np.int32)


def _networks(
    problem: Problem, config: Any, ks: np.ndarray
) -> tuple[list[Params], dict[str, np.ndarray]]:
    """The networks of the first repeat, and the losses of all."""
    rows: list[dict[str, np.ndarray]] = []
    first: list[Params] = []
    shuffles = orders(problem, config)
    total = config.repeats * config.visits
    with progress("refitting", total, f"epochs of {len(ks)} networks") as advance:
        for repeat, order in enumerate(shuffles):
            networks, tested = _refit(problem, config, ks, repeat, order, lambda: advance(1))
            first = first or networks
            rows.append(tested | _own_losses(problem, networks, order, ks))
    return first, {"orders": shuffles, **tables.stacked(rows)}


def _refit(
    problem: Problem,
    config: Any,
    ks: np.ndarray,
    repeat: int,
    order: np.ndarray,
    advance: Callable[[], Any],
) -> tuple[list[Params], dict[str, np.ndarray]]:
    """One network on the first k samples of ``order`` for each k, all from the same parameters
    with the same keys; their test losses and accuracies after every epoch [E, K].
    """
    num, (metrics, test) = len(ks), tests_of(problem)
    tested: dict[str, list[list[Array]]] = {name: [] for name in metrics}
    each = lambda params: [jax.tree.map(lambda x, i=i: x[i], params) for i in range(num)]  # noqa: E731
    alike = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * num), tree)  # noqa: E731

    def on_epoch(_: int, params: Params) -> None:
        networks = each(params)
        for name, metric in metrics.items():
            means = [train.mean_loss(metric, w, test, batch_size=TEST_BATCH) for w in networks]
            tested[name].append(means)
        advance()

    fitted = train.fit(
        alike(jax.random.fold_in(problem.keys["train"], repeat)),
        problem.loss,
        alike(problem.initial),
        # the first order is the samples' own
        jax.tree.map(lambda x: x[order], problem.samples) if repeat else problem.samples,
        ks=ks,
        **config.training() | {"finish": config.finish},
        # a CPU's cache holds the state of one network
        together=config.together or (1 if jax.default_backend() == "cpu" else num),
        on_epoch=on_epoch,
    )
    norms = {"gradient_norm": np.asarray(fitted.gradient_norm)}
    return each(fitted.params), norms | {name: np.array(rows) for name, rows in tested.items()}


def _own_losses(
    problem: Problem, networks: list[Params], order: np.ndarray, ks: np.ndarray
) -> dict[str, np.ndarray]:
    """L_k(w*_k) and L_N(w*_k)."""
    losses = [np.asarray(js.per_sample_losses(problem.loss, w, problem.samples)) for w in networks]
    own = [np.mean(row[order[:k]], dtype=np.float64) for row, k in zip(losses, ks, strict=True)]
    full = [np.mean(row, dtype=np.float64) for row in losses]
    return {"train_loss": np.array(own), "full_loss": np.array(full)}


def _minima(
    problem: Problem, config: Any, networks: list[Params], ks: np.ndarray
) -> dict[str, np.ndarray]:
    """T of the pilots' networks and of that of all samples, [p]: ``takeuchi_`` each of its fields,
    from the gradients of test samples and the Hessian of its own samples, and the ``rows`` of k;
    and the generalisation gap of each network, ``gap`` and ``gap_sem`` [K].
    """
    _, test = tests_of(problem)
    gaps: list[dict[str, np.ndarray]] = []
    found: list[dict[str, np.ndarray]] = []
    for k, w in zip(ks, networks, strict=True):
        data = problem.samples, test
        seen, new = (np.asarray(js.per_sample_losses(problem.loss, w, x)) for x in data)
        error = np.sqrt(seen[:k].var() / k + new.var() / len(new))
        gaps.append({"gap": new.mean() - seen[:k].mean(), "gap_sem": error})
    rows = [*prediction.pilots(ks), len(ks) - 1]
    starts = min(config.starts, len(test["targets"]))
    with progress("minima", len(rows), "networks") as advance:
        for row in rows:
            own = jax.tree.map(lambda x, k=int(ks[row]): x[:k], problem.samples)
            trace = js.takeuchi_trace(
                problem.keys["probe"], problem.loss, networks[row], own,
                weight_decay=config.weight_decay, gradient_data=test, num_samples=starts,
                num_steps=config.lanczos_steps,
            )  # fmt: skip
            found.append({f"takeuchi_{name}": np.asarray(x) for name, x in trace._asdict().items()})
            advance(1)
    return {"takeuchi_rows": np.array(rows), **tables.stacked(found), **tables.stacked(gaps)}


def _landscape(
    problem: Problem, probe: Any, shuffles: np.ndarray, ks: np.ndarray
) -> dict[str, np.ndarray]:
    """``distance``, ``_sem``, ``_centered`` [R, K] of every order; ``loss_variance``,
    ``centered_variance`` and, over samples that w*_N has not seen, ``fresh_variance`` [3], E_q S²
    between its 90 % limits; ``effective_samples``; ``coordinates``.

    L_k holds other samples in every repeat, at the same points around the first repeat's w*_N.
    """
    losses = np.asarray(segments.losses_at(problem, probe))
    rows = [prediction.distances(losses, order, ks) for order in shuffles]
    seen = js.evidence_of(losses)
    found = {part: js.estimate_loss_variance(seen, part) for part in ("delta", "centered")}
    new = problem.fresh or problem  # ``check_test_split`` has seen to it
    fresh = js.loss_variance(problem.loss, probe, new.samples)
    return {
        **tables.stacked(rows),
        "loss_variance": np.asarray(found["delta"].interval, np.float32),
        "centered_variance": np.asarray(found["centered"].interval, np.float32),
        "fresh_variance": np.asarray(fresh.interval, np.float32),
        "effective_samples": np.asarray(found["delta"].effective),
        "coordinates": np.asarray(probe.coordinates),
    }
