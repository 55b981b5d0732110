"""The trained network w*, the directions around it, and the points: computed, or restored."""

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jaxscape as js
from experiments.common import console
from experiments.common.config import ProblemConfig
from experiments.common.problem import Problem
from jaxscape import InputError, devices
from jaxscape.batching import host
from jaxscape.lab import checkpoint, stream, train
from jaxscape.lanczos import Eigenpairs
from jaxscape.types import Params, Probe


def fit(
    problem: Problem, config: ProblemConfig, visit: Callable[[Params], Any] = lambda params: None
) -> Params:
    """w*, trained on the problem's samples; ``visit`` gets the parameters after each epoch."""
    settings = config.training()
    if problem.is_large:
        if config.finish:
            raise InputError(
                "expected samples that fit into memory for --finish, found more than half a "
                "gigabyte of them; leave --finish out"
            )
        settings["finish"] = None
        samples = stream.Stored(len(problem.order), problem.read)
    else:  # without training only the shape is used
        samples = problem.samples if config.visits else problem.read(slice(1))
    with console.progress("training", config.visits, "epochs") as advance:

        def on_epoch(_: int, params: Params) -> None:
            visit(params)
            advance(1)

        fitted = train.fit(
            problem.keys["train"], problem.loss, problem.initial, samples, on_epoch=on_epoch,
            **settings,
        )  # fmt: skip
    if fitted.gradient_norm is not None:
        print(f"gradient of the training loss: norm {fitted.gradient_norm:.2g}", flush=True)
    return fitted.params


def trained(problem: Problem, config: ProblemConfig, store: Path) -> Params:
    """w*, trained on the problem's samples, or restored from ``store``."""
    find = lambda: fit(problem, config)  # noqa: E731
    return _trained(problem, config, store, "trained", problem.initial, find)


def trajectory(problem: Problem, config: ProblemConfig, store: Path) -> Params:
    """The network before training and after each epoch, leaves ``[visits + 1, ...]``."""

    def find() -> Params:
        visited = [problem.initial]
        fit(problem, config, visited.append)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *visited)

    like = _several(config.visits + 1, problem.initial)
    return _trained(problem, config, store, "trajectory", like, find)


def _trained(problem: Problem, config: ProblemConfig, *kept: Any) -> Params:
    found = _kept(problem, "train", *kept)
    epochs = f"{config.epochs} epoch{'s' * (config.epochs != 1)}"
    console.stage("trained", epochs, problem.seconds["train"])
    return found


def directions(
    problem: Problem, params: Params, kind: str, dim: int, store: Path, mesh: Mesh | None = None,
    weight_decay: float = 0.0,
) -> tuple[js.Subspace, Eigenpairs | None]:  # fmt: skip
    """The subspace through ``params``, computed or restored; with eigenpairs of the Hessian's."""
    if kind == "hessian":
        return eigenspace(problem, params, dim, store, mesh)

    def find() -> dict[str, Any]:
        if kind == "influence":
            space = influence(problem, params, dim, weight_decay)
        else:
            space = at_random(problem, params, kind, dim)
        return {"basis": space.basis, "eigenvalues": space.eigenvalues}

    values = np.zeros(dim, np.float32) if kind == "influence" else None
    like = {"basis": _several(dim, params), "eigenvalues": values}
    found = _kept(problem, "subspace", store, kind, like, find)
    console.stage("directions", kind, problem.seconds["subspace"])
    return js.Subspace(params, **found), None


def at_random(problem: Problem, params: Params, kind: str, dim: int) -> js.Subspace:
    """Directions "random", "filter" or "unit-filter"."""
    how = "unit" if kind == "random" else kind
    return js.random_subspace(problem.keys["subspace"], params, dim, normalization=how)


def eigenspace(
    problem: Problem, params: Params, dim: int, store: Path, mesh: Mesh | None = None
) -> tuple[js.Subspace, Eigenpairs]:
    """The top eigenvectors of the Hessian at ``params``, computed or restored from ``store``."""

    def find() -> Eigenpairs:
        count, key = len(problem.order), problem.keys["subspace"]
        console.begin(f"subspace: eigenpairs of the Hessian over {count:,} samples ...")
        if problem.is_large:
            data = problem.parts
        elif mesh is None:
            data = problem.samples
        else:  # each device gets its part alone
            problem.release()
            data = problem.read(slice(None))
        operator = js.hessian_operator(problem.loss, params, data, mesh=mesh)
        pairs = js.top_eigenpairs(key, operator, params, dim, find_repeated=False)
        if mesh is not None:
            pairs = devices.local(devices.place(pairs, mesh))
        stream.wait(pairs)
        return pairs

    solve = lambda w: js.top_eigenpairs(jax.random.key(0), lambda v: v, w, dim)  # noqa: E731
    like = jax.eval_shape(solve, jax.tree.map(jnp.asarray, params))
    pairs = _kept(problem, "subspace", store, "subspace", like, find)
    # float32 resolves no eigenvalue below 1 % of the largest to a better relative error
    size, good = np.abs(pairs.values), np.asarray(pairs.converged)
    floor = max(0.01 * size.max(), np.finfo(np.float32).tiny)
    relative = np.divide(pairs.residuals, np.maximum(size, floor)).max()
    what = f"{good.sum()} of {good.size} eigenpairs converged, {int(pairs.matvecs)} Hessian "
    what += f"products, largest relative residual {relative:.1e}"
    console.stage("directions", what, problem.seconds["subspace"])
    return js.Subspace(params, pairs.vectors), pairs


GRADIENTS = 32
"""Samples whose influence is taken, and Lanczos steps of each."""


def influence(problem: Problem, params: Params, dim: int, weight_decay: float) -> js.Subspace:
    """Where the minimum moves (``js.influence_subspace``)."""
    products = f"{GRADIENTS**2:,} products with the Hessian over {len(problem.order):,} samples"
    console.begin(f"subspace: influences of {GRADIENTS} samples, {products} ...")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", "Error .* persistent compilation cache")
        space = js.influence_subspace(
            problem.keys["subspace"], problem.loss, params, problem.samples, dim,
            weight_decay=weight_decay, num_samples=min(GRADIENTS, len(problem.order)),
            num_steps=GRADIENTS,
        )  # fmt: skip
    for warning in told:
        print(f"note: {warning.message}", file=sys.stderr)
    return space


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
    with host():
        return draw(key, space, num_points, sigma)


def _several(count: int, params: Params) -> Params:
    """The shapes and types of ``count`` stacked parameters."""
    stacked = lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype)  # noqa: E731
    return jax.tree.map(stacked, params)


def _kept(
    problem: Problem, stage: str, store: Path, name: str, like: Any, find: Callable[[], Any]
) -> Any:
    """What ``find`` gives, or what an earlier run left in ``store``; notes the seconds it took."""
    started = time.monotonic()
    if checkpoint.exists(store, name):
        found = checkpoint.restore(store, name, like)
    else:
        found = find()
        checkpoint.save(store, name, found)
    problem.seconds[stage] = time.monotonic() - started
    return found
