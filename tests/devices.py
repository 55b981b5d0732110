"""A few questions that know a mesh; run as a program, they are answered on many devices.

python tests/devices.py OUT POINTSxSAMPLES:QUESTION,QUESTION [...] [--join ADDRESS HOSTS HOST]
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import jax
import jax.numpy as jnp
import numpy as np
from cases import mlp_apply, mlp_loss, mlp_problem

import jaxscape as js
from jaxscape import devices, reductions, sweep

KS = (1, 2, 50, 100, 101)
RAGGED = slice(0, 30), slice(30, 71), slice(71, 101)


def largest():
    """A reduction that keeps the largest |δ_k| of every point and of every k."""

    def update(state, steps, index, weight):
        found = jnp.where(steps.fresh, abs(steps.increment), 0)
        return jnp.maximum(state[0], found.max(1)), jnp.maximum(state[1], found.max(0))

    init = lambda t, b: (jnp.zeros(t), jnp.zeros(b))  # noqa: E731
    return js.Reduction(init, update, lambda p, s, prefix: (p, s), jnp.maximum)


def answer(question, mesh):
    """The answer to one of the questions below, as a pytree."""
    key = jax.random.key(1)
    params, data = mlp_problem(n=101)
    data = jax.tree.map(np.asarray, data)
    space = js.random_subspace(key, params, 2)
    probe = js.gaussian(key, space, 11, 0.5)
    sizes = {"batch_size": 3, "point_batch": 2, "mesh": mesh}  # some chunks stay empty
    evaluate = functools.partial(js.evaluate, mlp_loss, probe, data, **sizes)
    hessian = functools.partial(
        js.hessian_operator, mlp_loss, params, data, batch_size=5, mesh=mesh
    )
    output_loss = lambda outputs, batch: js.losses.cross_entropy(outputs, batch["targets"])  # noqa: E731
    model = lambda w, batch: mlp_apply(w, batch["inputs"])  # noqa: E731
    if question == "pairs":
        pairs = js.top_eigenpairs(key, hessian(), params, 3)
        return pairs.values, jax.tree.map(abs, pairs.vectors), pairs.converged
    return {
        "shared": lambda: np.array(sweep.shares_products(probe, mesh)),
        "delta": lambda: js.delta(mlp_loss, probe, data, **sizes),
        "surface": lambda: js.surface(mlp_loss, probe, data, KS, **sizes),
        "losses": lambda: evaluate(reductions.losses(11)),
        "largest": lambda: evaluate(largest()),
        "project": lambda: js.project(mlp_loss, space, data, batch_size=5, mesh=mesh),
        "hessian": lambda: hessian()(params),
        "prefix_hessian": lambda: hessian(count=40)(params),
        "batches": lambda: js.hessian_operator(
            mlp_loss,
            params,
            [jax.tree.map(lambda x, r=r: x[r], data) for r in RAGGED],
            batch_size=5,
            mesh=mesh,
            weight_decay=0.1,
        )(params),
        "gauss_newton": lambda: js.ggn_operator(model, output_loss, params, data, mesh=mesh)(
            params
        ),
    }[question]()


def main(out, *words):
    """Write the answers as arrays, named by mesh, question and place."""
    if "--join" in words:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        address, hosts, host = words[-3:]
        jax.distributed.initialize(address, int(hosts), int(host))
        words = words[:-4]
    found = {}
    for word in words:
        shape, questions = word.split(":")
        points, samples = map(int, shape.split("x"))
        mesh = devices.mesh(points=points, samples=samples)
        for question in questions.split(","):
            for i, leaf in enumerate(jax.tree.leaves(answer(question, mesh))):
                found[f"{shape} {question} {i}"] = np.asarray(leaf)
    if jax.process_index() == 0:
        np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
