"""Inside other people's programs: their transforms, meshes, precisions, frozen parameters."""

import command
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, increments64, mlp_loss, mlp_losses64, mlp_problem

import jaxscape as js
from jaxscape import probes

KEY = jax.random.key(1)


def curve(params, data):
    space = js.random_subspace(KEY, params, 2)
    return js.delta(mlp_loss, js.gaussian(KEY, space, 5, 0.5), data).mean


@pytest.mark.slow
def test_many_networks_under_a_hosts_vmap():
    (first, data), (second, _) = mlp_problem(seed=0, n=20), mlp_problem(seed=1)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)
    got = jax.jit(jax.vmap(curve, in_axes=(0, None)))(both, data)
    for params, row in zip((first, second), got, strict=True):
        np.testing.assert_allclose(row, curve(params, data), rtol=1e-4, atol=1e-8)


MESHES = """
import sys
sys.path.insert(0, "tests")
import jax, numpy as np
from functools import partial
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from cases import mlp_loss, mlp_problem
from test_host_programs import curve
import jaxscape as js
params, data = mlp_problem(n=96)
both = lambda p, d: (curve(p, d), js.hessian_operator(mlp_loss, p, d)(p))
want = both(params, data)
auto = partial(jax.sharding.auto_axes, out_sharding=P())
for kind, host in (AxisType.Auto, jax.jit), (AxisType.Explicit, auto):
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
    put = lambda leaf, *axes: jax.device_put(leaf, NamedSharding(mesh, P(*axes)))
    spread = jax.tree.map(lambda leaf: put(leaf, "data"), data)
    held = [(put(w, None, "model"), put(b, "model")) for w, b in params]
    with jax.set_mesh(mesh):
        found = host(both)(held, spread)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, want)
    print(kind, len(spread["inputs"].sharding.device_set))
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
jax.tree.map(close, both(held, spread), want)  # of explicit axes, without a word to JAX
key = jax.random.key(0)
own = jax.make_mesh((4, 2), ("points", "samples"), axis_types=(AxisType.Explicit,) * 2)
def rest(params, data, **more):
    space = js.random_subspace(key, params, 2)
    found = js.top_eigenpairs(key, js.hessian_operator(mlp_loss, params, data, **more), params, 2)
    delta = js.delta(mlp_loss, js.gaussian(key, space, 8, 0.3), data, **more).mean
    return found.values, delta, js.project(mlp_loss, space, data, **more)
want = rest(params, data)
jax.tree.map(close, rest(held, spread), want)
head, body = js.partition(held, [False, False, True])
frozen = jax.tree_util.Partial(lambda body, head, b: mlp_loss(js.combine(head, body), b), body)
same = jax.tree_util.Partial(frozen.func, js.partition(params, [False, False, True])[1])
one, other = js.single(head), js.single(js.partition(params, [False, False, True])[0])
close(js.delta(frozen, one, spread).mean, js.delta(same, other, data).mean)
whole = jax.tree.map(put, params)
hessian = lambda w, data: js.hessian_operator(mlp_loss, w, data)
step = lambda w, data: jax.tree.map(lambda a, b: a - b, w, hessian(w, data)(w))
jax.tree.map(close, step(whole, spread), step(params, data))
for function in js.takeuchi_trace, partial(js.influence_subspace, dim=2):
    more = {"num_samples": 4, "num_steps": 3}
    few = lambda params, data: function(key, mlp_loss, params, data, **more)
    ends = [jax.tree.leaves(few(*each))[-1] for each in ((held, spread), (params, data))]
    close(*map(np.asarray, ends), rtol=1e-2)
with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,))):
    jax.tree.map(close, both(params, jax.tree.map(np.asarray, data)), both(params, data))
try:
    with jax.set_mesh(mesh):
        js.random_subspace(key, held, 2)
except js.InputError as error:
    print("auto_axes" in str(error))
jax.tree.map(close, rest(params, data, mesh=own), want)
"""


@pytest.mark.slow
def test_data_and_weights_on_a_hosts_mesh():
    done = command.process("-c", MESHES, env=command.eight_devices())
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["AxisType.Auto", "8", "AxisType.Explicit", "8", "True"]


def test_small_steps_from_parameters_of_half_precision_are_kept():
    """In bfloat16 itself, whose neighbours of 1 are 0.4 % away, every point would be the origin."""
    params, data = mlp_problem()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    space = js.random_subspace(KEY, half, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(space.basis)} == {np.dtype("float32")}
    for probe in js.gaussian(KEY, space, 8, 1e-4), js.isotropic(KEY, half, 4, 1e-4):
        got = js.evaluate(mlp_loss, probe, data, js.reductions.losses(probe.num_points))
        if isinstance(probe, probes.SubspaceProbe):
            points = [at64(js.Subspace(whole, space.basis), t) for t in probe.coordinates]
        else:
            every = jax.jit(jax.vmap(probe.at))(np.arange(probe.num_points))
            points = [jax.tree.map(lambda x, i=i: x[i], every) for i in range(probe.num_points)]
        rows = np.stack([mlp_losses64(point, data) for point in points])
        assert rows.std(0).max() > 1e-5
        np.testing.assert_allclose(got, rows, rtol=5e-6)
    np.testing.assert_array_equal(
        js.per_sample_losses(mlp_loss, half, data), js.per_sample_losses(mlp_loss, whole, data)
    )


@pytest.mark.slow
def test_curvature_at_parameters_of_half_precision_is_that_of_float32():
    params, data = mlp_problem(n=30)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    space = js.hessian_subspace(jax.random.key(0), mlp_loss, half, data, 2)
    equal = lambda f: jax.tree.map(np.testing.assert_array_equal, f(half), f(whole))  # noqa: E731
    equal(lambda w: js.hessian_operator(mlp_loss, w, data)(half))
    equal(lambda w: js.hessian_subspace(jax.random.key(0), mlp_loss, w, data, 2).basis)
    equal(lambda w: js.project(mlp_loss, js.Subspace(w, space.basis), data))


def test_a_sub_tree_is_probed_with_the_rest_held_still():
    params, data = mlp_problem(n=30)
    part, rest = js.partition(params, [False, (True, False), True])
    assert [jnp.shape(leaf) for leaf in jax.tree.leaves(part)] == [(8, 6), (6, 4), (4,)]
    jax.tree.map(np.testing.assert_array_equal, js.combine(part, rest), params)

    traced = []

    def full(rest, part, batch):
        traced.append(1)
        return mlp_loss(js.combine(part, rest), batch)

    space = js.random_subspace(KEY, part, 2)
    still = jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape)), rest)
    whole = js.Subspace(params, js.combine(space.basis, still))
    theta = jax.random.normal(KEY, (6, 2))
    counts = []
    for factor in 1.0, 2.0:  # of the frozen weights
        moved = jax.tree.map(lambda leaf, factor=factor: factor * leaf, rest)
        loss = jax.tree_util.Partial(full, moved)
        traced.clear()
        got = js.delta(loss, js.points(space, theta), data)
        counts.append(len(traced))
        origin = js.combine(part, moved)
        rows = [mlp_losses64(at64(js.Subspace(origin, whole.basis), t), data) for t in theta]
        want = (increments64(rows) ** 2).mean(0)
        np.testing.assert_allclose(got.mean, want, rtol=1e-4, atol=1e-8)
        product = js.hessian_operator(loss, part, data)(part)
        of_all = js.hessian_operator(mlp_loss, origin, data)(
            js.combine(part, jax.tree.map(jnp.zeros_like, rest))
        )
        jax.tree.map(
            lambda a, b: b is None or np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            product, js.partition(of_all, [False, (True, False), True])[0],
        )  # fmt: skip
    assert counts[1] < counts[0]  # other weights, the same program: one look at the loss


def test_a_network_with_functions_among_its_leaves_is_refused():
    model = eqx.nn.MLP(2, 1, 3, 1, key=KEY)
    with pytest.raises(js.InputError, match=r"found .* at \.activation"):
        js.random_subspace(KEY, model, 2)
    with pytest.raises(js.InputError, match=r"found .* at \.activation"):
        js.single(model)
