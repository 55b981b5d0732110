"""Every public function is fed wrong things, one argument at a time: one short line each."""

import functools
import inspect
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js
from jaxscape.arguments import explained
from jaxscape.minimum import TakeuchiTrace


class OwnError(Exception):
    """What the caller's own loss raises; it is passed on."""


def loss(params, batch):
    if not isinstance(params, dict) or not isinstance(batch, dict):
        raise OwnError
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


KEY = jax.random.key(0)
WRONG = {
    "None": None, "text": "seven", "fraction": 1.5, "negative": -1, "zero": 0, "NaN": float("nan"),
    "infinity": float("inf"), "no list": [], "no tree": {}, "object": object(),
    "array of text": np.array(["a", "b"]), "list of text": ["a", "b"], "tuple": (1, "a"),
    "other shape": np.ones((7, 5, 2), np.float32), "empty": np.zeros(0, np.float32),
    "function": lambda: 3, "complex": np.ones(4, complex), "integers": np.array([1, 2]),
    "Boolean": True, "large": 10**12, "objects": np.array([None, 1], object),
}  # fmt: skip

# Settings that functions share: of a value that one of them takes each would compile a program.
SHARED = {"batch_size", "dim", "krylov_dim", "mesh", "point_batch", "precision", "tol", "which"}


def calls():
    """Each public function with arguments that it takes, by its name."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    data = {"x": x, "y": x @ np.ones(4, np.float32)}
    params = {"w": jnp.full(4, 0.3), "b": jnp.zeros(())}
    of = {"loss": loss, "params": params, "data": data}
    space = js.random_subspace(KEY, params, dim=2)
    probe = js.gaussian(KEY, space, num_points=4, sigma=0.1)
    at = {"loss": loss, "probe": probe, "data": data}
    operator = js.hessian_operator(**of)
    solve = {"key": KEY, "matvec": operator, "like": params}
    evidence = js.evidence_of(rng.exponential(size=(4, 60)))
    model = js.project(loss, space, data)
    kernel, level = {"kernel": jnp.ones((4, 3))}, jnp.ones(())
    z, y = jnp.ones((5, 3)), jnp.zeros(5, int)
    points = [jax.tree.map(lambda leaf, i=i: leaf + i**2, params) for i in range(3)]
    draw = {"key": KEY, "space": space, "num_points": 16, "sigma": 0.1}
    out, own = lambda w, b: loss(w, b), lambda o, b: o**2
    return {
        "Subspace": (js.Subspace, {"origin": params, "basis": space.basis}),
        "at": (space.at, {"coordinates": jnp.ones(2)}),
        "coordinates_of": (space.coordinates_of, {"params": params}),
        "random_subspace": (js.random_subspace, {"key": KEY, "params": kernel, "dim": 2,
                            "normalization": "filter", "filter_axes": -1}),
        "hessian_subspace": (js.hessian_subspace, {"key": KEY, **of, "dim": 2, "which": "largest",
                             "tol": 1e-4, "batch_size": 30, "krylov_dim": 5}),
        "trajectory_subspace": (js.trajectory_subspace, {"points": points, "dim": 2}),
        "gaussian": (js.gaussian, draw),
        "sobol": (js.sobol, {**draw, "randomisations": 4}),
        "isotropic": (js.isotropic, {"key": KEY, "params": params, "num_points": 4, "sigma": 0.1}),
        "grid": (js.grid, {"space": space, "radius": 1.0, "num": 3}),
        "line": (js.line, {"space": js.random_subspace(KEY, params, dim=1), "radius": 1.0,
                 "num": 3}),
        "points": (js.points, {"space": space, "coordinates": jnp.ones((3, 2))}),
        "single": (js.single, {"params": params}),
        "delta": (js.delta, {**at, "batch_size": 30, "point_batch": 2, "precision": "highest",
                  "mesh": None}),
        "surface": (js.surface, {**at, "ks": (1, 60), "batch_size": 30}),
        "evaluate": (js.evaluate, {**at, "reduction": js.reductions.losses(4)}),
        "per_sample_losses": (js.per_sample_losses, of),
        "project": (js.project, {"loss": loss, "space": space, "data": data, "batch_size": 30}),
        "quadratic_delta": (js.quadratic_delta, {"model": model, "sigma": 0.1}),
        "order_law": (js.order_law, {"loss_variance": 1.0, "k": jnp.arange(1, 5)}),
        "distance_law": (js.distance_law, {"loss_variance": 1.0, "k": jnp.arange(1, 5), "to": 9}),
        "loss_variance": (js.loss_variance, {**at, "part": "delta", "level": 0.9}),
        "evidence_of": (js.evidence_of, {"losses": z}),
        "estimate_loss_variance": (js.estimate_loss_variance, {"evidence": evidence,
                                   "part": "delta", "level": 0.9}),
        "sufficient_size": (js.sufficient_size, {"delta": jnp.ones(9), "tolerance": level}),
        "increment_size": (js.increment_size, {"loss_variance": level, "tolerance": level}),
        "distance_size": (js.distance_size, {"loss_variance": level, "epsilon": level, "to": 9}),
        "exceedance_size": (js.exceedance_size, {"terms": jnp.ones(50), "count": jnp.asarray(49),
                            "tolerance": level, "level": 0.9, "within": 60}),
        "hessian_operator": (js.hessian_operator, {**of, "batch_size": 30, "weight_decay": 0.1}),
        "product": (operator, {"vector": params}),
        "ggn_operator": (js.ggn_operator, {"model": out, "output_loss": own,
                         "params": params, "data": data, "batch_size": 30}),
        "top_eigenpairs": (js.top_eigenpairs, {**solve, "num": 2, "which": "largest", "tol": 1e-4,
                           "max_restarts": 20, "krylov_dim": 5}),
        "spectral_density": (js.spectral_density, {**solve, "num_probes": 2, "num_steps": 3}),
        "trace": (js.trace, {**solve, "num_probes": 2}),
        "takeuchi_trace": (js.takeuchi_trace, {"key": KEY, **of, "weight_decay": 0.1,
                           "num_samples": 4, "num_steps": 3}),
        "influence_subspace": (js.influence_subspace, {"key": KEY, **of, "dim": 2,
                               "weight_decay": 0.1, "num_samples": 4, "num_steps": 3}),
        "takeuchi_trace_in": (js.takeuchi_trace_in, {"space": space, "loss": loss, "data": data}),
        "excess_law": (js.excess_law, {"trace": 1.0, "k": jnp.arange(1, 5), "to": 9}),
        "excess_law_holds": (js.excess_law_holds, {"found": TakeuchiTrace(*jnp.ones((4, 1)),
                             jnp.zeros(1)), "n": 9, "gap": 0.1, "weight_decay": 0.1}),
        "excess_size": (js.excess_size, {"trace": 1.0, "epsilon": 0.1, "to": 9}),
        "prefix_spectra": (js.prefix_spectra, {"key": KEY, **of, "num": 2, "ks": (20, 60),
                           "which": "largest", "batch_size": 30}),
        "ritz_values": (js.ritz_values, {"hessian": model.hessian}),
        "monitor": (js.monitor, {"num_points": 4, "tolerance": 1e-3, "level": 0.9,
                    "at_least": 10}),
        "partition": (js.partition, {"params": params, "mask": {"w": True, "b": False}}),
        "combine": (js.combine, {"part": {"w": z, "b": None}, "rest": {"w": None, "b": z}}),
        "cross_entropy": (js.losses.cross_entropy, {"logits": z, "targets": y}),
        "squared_error": (js.losses.squared_error, {"outputs": z, "targets": z}),
        "binary_cross_entropy": (js.losses.binary_cross_entropy, {"logits": z, "targets": z}),
        "per_sequence": (js.losses.per_sequence, {"tokens": z, "mask": z > 0}),
        "mesh": (js.devices.mesh, {"points": 1, "samples": 1}),
    }  # fmt: skip


def answers():
    """Where a function ends in anything but a result, one short line, or the loss's own error."""
    found, count, taken = {}, 0, set()
    for name, (function, good) in calls().items():
        function(**good)
        for argument in good:
            for kind in WRONG:
                if kind == "large" and argument.startswith("num"):
                    continue  # a size that memory may or may not have
                if (argument, kind) in taken:
                    continue
                count += 1
                try:
                    jax.block_until_ready(function(**{**good, argument: WRONG[kind]}))
                    taken |= {(argument, kind)} if argument in SHARED else set()
                except OwnError:
                    continue
                except js.InputError as error:
                    said = str(error)
                    if len(said) > 600 or "\n" in said or "expected" not in said:
                        found[f"{name}, {argument}, {kind}"] = said
                except Exception as error:
                    found[f"{name}, {argument}, {kind}"] = f"{type(error).__name__}: {error}"
    return {"count": count, "found": found}


@pytest.mark.slow
def test_every_argument_of_every_public_function():
    """In a process of its own: the tests' own check of types would speak first."""
    script = "import json, test_arguments; print(json.dumps(test_arguments.answers()))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True, text=True, cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["count"] > 120 * len(WRONG)
    assert said["found"] == {}


def test_no_public_function_is_left_out():
    public = {
        name for name in js.__all__
        if callable(getattr(js, name)) and name not in ("InputError", "Reduction")
    }  # fmt: skip
    assert public <= set(calls())


@explained
def scaled(values: jax.Array, factor: float, *, most: int = 3) -> jax.Array:
    return (values * factor)[:most]


def test_what_no_argument_explains_is_raised_as_it_is():
    with pytest.raises(js.InputError, match="expected factor as a number, found two"):
        scaled(jnp.ones(3), "two")
    with pytest.raises(js.InputError, match="expected most as an integer"):
        scaled(jnp.ones(3), 2.0, most=1.5)
    with pytest.raises(TypeError, match="missing"):
        scaled(jnp.ones(3))
    with pytest.raises(OwnError):
        js.delta(loss, js.single(jnp.ones(3)), {"x": np.ones((4, 3))})
    assert inspect.signature(scaled) == inspect.signature(scaled.__wrapped__)
    assert functools.partial(scaled, jnp.ones(4))(2.0).tolist() == [2, 2, 2]
