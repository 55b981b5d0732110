"""The trained point and the directions around it, computed or restored."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jaxscape as js
from experiments.common import devices as hosts
from experiments.common.config import ProblemConfig
from experiments.common.console import progress
from experiments.common.problem import Problem
from jaxscape import devices
from jaxscape.lab import checkpoint, stream, train
from jaxscape.lanczos import Eigenpairs
from jaxscape.probes import Probe
from jaxscape.types import Params


class Directions(NamedTuple):
    """A subspace, None for all parameters at once; eigenpairs where it is the Hessian's."""

    space: js.Subspace | None
    pairs: Eigenpairs | None
    seconds: float


class Eigenspace(NamedTuple):
    """The subspace of the Hessian's top eigenvectors, with its eigenpairs."""

    space: js.Subspace
    pairs: Eigenpairs
    seconds: float


def fit(
    problem: Problem, config: ProblemConfig, visit: Callable[[Params], Any] = lambda params: None
) -> Params:
    """w*, trained on the problem's samples; ``visit`` sees the parameters after each epoch."""
    samples = problem.samples if config.epochs else problem.read(slice(1))  # none are looked at
    with progress("training", config.epochs, "epochs") as advance:

        def on_epoch(number: int, loss: float, params: Params) -> None:
            del number, loss
            visit(params)
            advance(1)

        return train.fit(
            problem.loss,
            problem.initial,
            samples,
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            key=problem.keys["train"],
            on_epoch=on_epoch,
        ).params


def trained(problem: Problem, config: ProblemConfig, store: Path) -> tuple[Params, float]:
    """w*, trained on the problem's samples or restored from ``store``, and the seconds it took."""
    like = {"params": problem.initial, "seconds": np.zeros(1, np.float32)}
    if checkpoint.exists(store, "trained"):
        found = checkpoint.restore(store, "trained", like)
        return found["params"], float(found["seconds"][0])
    started = time.monotonic()
    params = fit(problem, config)
    seconds = time.monotonic() - started
    checkpoint.save(
        store, "trained", {"params": params, "seconds": np.array([seconds], np.float32)}
    )
    return params, seconds


def trajectory(problem: Problem, config: ProblemConfig, store: Path) -> tuple[Params, float]:
    """The network before training and after each epoch, leaves ``[epochs + 1, ...]``; seconds."""
    alike = jax.tree.map(lambda leaf: np.zeros((config.epochs + 1, *leaf.shape), leaf.dtype),
                         problem.initial)  # fmt: skip
    like = {"points": alike, "seconds": np.zeros(1, np.float32)}
    if checkpoint.exists(store, "trajectory"):
        found = checkpoint.restore(store, "trajectory", like)
        return found["points"], float(found["seconds"][0])
    started = time.monotonic()
    visited = [problem.initial]
    fit(problem, config, visited.append)
    points = jax.tree.map(lambda *leaves: np.stack(leaves), *visited)
    seconds = time.monotonic() - started
    found = {"points": points, "seconds": np.array([seconds], np.float32)}
    checkpoint.save(store, "trajectory", found)
    return points, seconds


def directions(
    problem: Problem,
    params: Params,
    kind: str,
    dim: int,
    store: Path,
    mesh: Mesh | None = None,
) -> Directions:
    """The subspace of the given kind through ``params``, computed or restored from ``store``."""
    if kind == "isotropic":
        return Directions(None, None, 0.0)
    if kind == "hessian":
        return Directions(*eigenspace(problem, params, dim, store, mesh))
    space, seconds = at_random(problem, params, kind, dim, store)
    return Directions(space, None, seconds)


def at_random(
    problem: Problem, params: Params, kind: str, dim: int, store: Path
) -> tuple[js.Subspace, float]:
    """``dim`` random directions through ``params``, "random" or "filter"; seconds."""
    started = time.monotonic()
    space = js.random_subspace(
        problem.keys["subspace"],
        params,
        dim,
        normalization="unit" if kind == "random" else "filter",
    )
    _save(store, "subspace", {"basis": space.basis})
    return space, time.monotonic() - started


def eigenspace(
    problem: Problem, params: Params, dim: int, store: Path, mesh: Mesh | None = None
) -> Eigenspace:
    """The top eigenvectors of the Hessian at ``params``, computed or restored from ``store``."""
    like = {"pairs": _abstract_pairs(params, dim), "seconds": np.zeros(1, np.float32)}
    if hosts.decide(lambda: checkpoint.exists(store, "subspace")):
        found = hosts.from_first(lambda: checkpoint.restore(store, "subspace", like), like)
        pairs = found["pairs"]
        return Eigenspace(js.Subspace(params, pairs.vectors), pairs, float(found["seconds"][0]))
    started = time.monotonic()
    samples = f"{len(problem.order):,} samples"
    print(f"subspace: eigenpairs of the Hessian over {samples} ...", file=sys.stderr)
    if mesh is None:
        data = problem.samples
    else:  # each device is given its part alone
        problem.release()
        data = hosts.together(lambda: problem.read(slice(None)))
    operator = js.hessian_operator(problem.loss, params, data, mesh=mesh)
    pairs = js.top_eigenpairs(problem.keys["subspace"], operator, params, dim)
    if mesh is not None:
        pairs = devices.local(devices.place(pairs, mesh))
    stream.wait(pairs)
    seconds = time.monotonic() - started
    _save(store, "subspace", {"pairs": pairs, "seconds": np.array([seconds], np.float32)})
    return Eigenspace(js.Subspace(params, pairs.vectors), pairs, seconds)


def probe(
    problem: Problem,
    params: Params,
    space: js.Subspace | None,
    num_points: int,
    sigma: float,
    points_from: str = "gaussian",
) -> Probe:
    """Points of the subspace, gaussian or sobol; without one, around ``params`` everywhere."""
    key = problem.keys["probe"]
    if space is None:
        return js.isotropic(key, params, num_points, sigma)
    draw = js.sobol if points_from == "sobol" else js.gaussian
    return draw(key, space, num_points, sigma)


def _save(store: Path, name: str, tree: Any) -> None:
    hosts.together(lambda: checkpoint.save(store, name, tree) if hosts.first() else None)


def _abstract_pairs(params: Params, dim: int) -> Eigenpairs:
    """What ``top_eigenpairs`` returns, without its values."""
    solve = lambda w: js.top_eigenpairs(jax.random.key(0), lambda v: v, w, dim)  # noqa: E731
    return jax.eval_shape(solve, jax.tree.map(jnp.asarray, params))
