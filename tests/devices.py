"""The same small questions on any mesh: run as a program, they are answered on many devices.

python tests/devices.py OUT POINTSxSAMPLES [...] [--join ADDRESS HOSTS HOST]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
from cases import mlp_apply, mlp_loss, mlp_problem

import jaxscape as js
from jaxscape import reductions, sharding

SIZES = {"batch_size": 9, "point_batch": 2}
KS = (1, 2, 50, 100, 101)


def largest_and_last():
    """A reduction with a state of either kind: the largest |δ_k| of a k, and of a point."""

    def update(state, steps, index, weight):
        del index, weight
        found = abs(steps.innovation) / (steps.k + 1)
        seen = jnp.where(steps.fresh, found, 0)
        return jnp.maximum(state[0], seen.max(1)), jnp.maximum(state[1], found.max(0))

    init = lambda t, b: (jnp.zeros(t), jnp.zeros(b))  # noqa: E731
    return js.Reduction(init, update, lambda p, s, prefix: (p, s), jnp.maximum)


def answers(mesh):
    """Everything that knows a mesh, by name, as arrays."""
    key = jax.random.key(1)
    params, data = mlp_problem(n=101)
    data = jax.tree.map(np.asarray, data)
    space = js.random_subspace(key, params, 2)
    probe = js.gaussian(key, space, 11, 0.5)
    output_loss = lambda outputs, batch: js.losses.cross_entropy(outputs, batch["targets"])  # noqa: E731
    hessian = js.hvp(mlp_loss, params, data, batch_size=5, mesh=mesh)
    some = js.hvp(mlp_loss, params, data, batch_size=5, mesh=mesh, count=40)
    gauss_newton = js.ggn_vp(
        lambda w, batch: mlp_apply(w, batch["inputs"]), output_loss, params, data, mesh=mesh
    )
    pairs = js.top_eigenpairs(hessian, params, 3, key=key)
    found = {
        "delta": js.delta(mlp_loss, probe, data, mesh=mesh, **SIZES),
        "isotropic": js.delta(mlp_loss, js.isotropic(key, params, 3, 0.1), data, mesh=mesh).mean,
        "surface": js.surface(mlp_loss, probe, data, KS, mesh=mesh, **SIZES),
        "own": js.evaluate(mlp_loss, probe, data, largest_and_last(), mesh=mesh, **SIZES),
        "losses": js.evaluate(mlp_loss, probe, data, reductions.losses(11), mesh=mesh, **SIZES),
        "project": js.project(mlp_loss, space, data, batch_size=5, mesh=mesh),
        "hessian": hessian(params),
        "some": some(params),
        "gauss_newton": gauss_newton(params),
        "values": pairs.values,
        "lines": jax.tree.map(abs, pairs.vectors),
    }
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def main(out, *words):
    """Write the answers of every mesh."""
    if "--join" in words:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        at = words.index("--join")
        address, hosts, host = words[at + 1 :]
        jax.distributed.initialize(address, int(hosts), int(host))
        words = words[:at]
    found = {}
    for word in words:
        points, samples = map(int, word.split("x"))
        for name, values in answers(sharding.mesh(points=points, samples=samples)).items():
            found[word + name] = values
    if jax.process_index() == 0:
        np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
