"""What is computed of a transformer whose parameters the host shards; a program on many devices.

python tests/sharded.py OUT
"""

import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jaxscape as js
from jaxscape.lab import models
from jaxscape.trees import num_parameters

TOKENS, LENGTH, SEQUENCES, NUM, KRYLOV = 13, 6, 32, 2, 29


def problem(mesh):
    """Loss, parameters, directions and data, sharded over the axis of the mesh if there is one."""
    model = models.build("transformer", num_outputs=TOKENS, hidden=16, layers=4, mesh=mesh)
    tokens = np.random.default_rng(0).integers(TOKENS, size=(SEQUENCES, LENGTH + 1), dtype=np.int32)

    def loss(params, batch):
        outputs = model.apply(params, batch[:, :-1])
        return js.losses.cross_entropy(outputs, batch[:, 1:]).mean(1)

    params = model.init(jax.random.key(0), tokens[:, :-1])
    # away from the start, where all tokens are as likely and curvature is special
    params = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    space = js.random_subspace(jax.random.key(1), params, 3)
    if mesh is None:
        return loss, params, space, tokens
    place = lambda x, rows=0: jax.device_put(x, sharding(mesh, x.shape, rows))  # noqa: E731
    basis = jax.tree.map(lambda x: place(x, 1), space.basis)
    params = jax.tree.map(place, params)
    return loss, params, js.Subspace(params, basis), tokens


def spec(*axes):
    return PartitionSpec(*axes)


def sharding(mesh, shape, rows=0):
    """FSDP: the longest axis that all devices can share, after the first ``rows``, is split."""
    fits = [axis for axis in range(rows, len(shape)) if shape[axis] % mesh.size == 0]
    longest = max(fits, key=lambda axis: shape[axis], default=None)
    return NamedSharding(mesh, spec(*("all" if i == longest else None for i in range(len(shape)))))


def answers(mesh):
    """Of a sweep, a Hessian product and eigenpairs; how the vectors lie; the Krylov vectors."""
    loss, params, space, tokens = problem(mesh)
    curve = js.delta(loss, js.gaussian(jax.random.key(2), space, 4, 0.3), tokens, batch_size=8)
    operator = js.hessian_operator(loss, params, tokens, batch_size=8)
    like = params
    if mesh is not None:
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
                            params)  # fmt: skip

    def solve(key, operator):
        options = {"krylov_dim": KRYLOV, "tol": 1e-5, "find_repeated": False}
        return js.top_eigenpairs(key, operator, like, NUM, **options)

    compiled = jax.jit(solve).lower(jax.random.key(3), operator).compile()
    pairs = compiled(jax.random.key(3), operator)
    batches = [tokens[:24], tokens[24:]]
    stepwise = solve(jax.random.key(3), js.hessian_operator(loss, params, batches, batch_size=8))
    assert all(pairs.converged)
    assert all(stepwise.converged)
    drawn = jax.tree.leaves(js.random_subspace(jax.random.key(4), params, NUM).basis)
    leaves, others = jax.tree.leaves(pairs.vectors), jax.tree.leaves(stepwise.vectors)
    return {
        "delta": curve.mean,
        **{f"product {i}": x for i, x in enumerate(jax.tree.leaves(operator(params)))},
        "values": pairs.values,
        "values of the host's steps": stepwise.values,
        "vectors": np.concatenate([np.reshape(x, (NUM, -1)) for x in leaves], 1),
        "here": np.array([sum(map(on_a_device, x)) / NUM for x in (leaves, others, drawn)]),
        "drawn": np.concatenate([np.reshape(x, (NUM, -1)) for x in drawn], 1),
        "krylov": np.array(largest_basis(compiled.as_text())),
        "parameters": np.array(num_parameters(params)),
    }


def on_a_device(x):
    """How many numbers of an array lie on its first device."""
    return x.addressable_shards[0].data.size


def largest_basis(program):
    """How many numbers the arrays of one Krylov basis hold on a device, in a program's text."""
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"\[([\d,]+)\]", program)}
    return max(math.prod(shape) / KRYLOV for shape in shapes if KRYLOV in shape[:2])


if __name__ == "__main__":
    mesh = jax.make_mesh((8,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))
    np.savez(sys.argv[1], **{name: np.asarray(x) for name, x in answers(mesh).items()})
