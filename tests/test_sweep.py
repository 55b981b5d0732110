"""The one loop against a slow float64 NumPy loop over points and samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, increments64, mlp_loss, mlp_losses64, mlp_problem

import jaxscape as js
from jaxscape import reductions, sweep

pytestmark = pytest.mark.usefixtures("optimised")
KEY = jax.random.key(3)
N, M, D = 101, 11, 4


@pytest.fixture(scope="module")
def problem():
    params, data = mlp_problem(n=N)
    space = js.random_subspace(KEY, params, D)
    probe = js.gaussian(KEY, space, M, 1.0)
    rows = np.stack([mlp_losses64(at64(space, theta), data) for theta in probe.coordinates])
    return params, data, space, probe, rows


@pytest.mark.parametrize(
    ("batch_size", "point_batch"),
    [(1000, None), (13, 4), (1, 1), (50, 11)],
)
def test_delta_matches_a_float64_loop(problem, batch_size, point_batch):
    _, data, _, probe, rows = problem
    got = js.delta(mlp_loss, probe, data, batch_size=batch_size, point_batch=point_batch)
    steps = increments64(rows)
    np.testing.assert_array_equal(got.k, np.arange(1, N))
    np.testing.assert_allclose(got.mean, (steps**2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(got.sem, (steps**2).std(0, ddof=1) / np.sqrt(M), rtol=1e-4)
    np.testing.assert_allclose(got.centered, steps.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(got.first_order, np.abs(steps).mean(0), rtol=1e-5)
    np.testing.assert_allclose(got.loss_variance, rows.var(1, ddof=1), rtol=1e-5)
    assert not np.any(got.nonfinite)


def test_all_directions_are_applied(problem):
    """The published code moves along the first direction only; its curve is another one."""
    _, data, space, probe, rows = problem
    only_first = probe.coordinates.at[:, 1:].set(0)
    first = js.delta(mlp_loss, js.points(space, only_first), data).mean
    every = js.delta(mlp_loss, probe, data).mean
    np.testing.assert_allclose(every, (increments64(rows) ** 2).mean(0), rtol=1e-5)
    ratio = np.asarray(every) / np.asarray(first)
    assert np.median(np.abs(np.log(ratio))) > 0.2


def test_segments_that_overlap_skip_what_was_met(problem):
    _, data, _, probe, _ = problem
    carry, rows = sweep.begin(probe, reductions.delta), []
    for start, skip in ((0, 0), (40, 0), (61, 19)):
        segment = jax.tree.map(lambda x, s=start: x[s : s + 40], data)
        carry, row = sweep.advance(
            mlp_loss, probe, segment, carry, reductions.delta, skip=skip, batch_size=9
        )
        rows.append(jax.tree.map(lambda x, s=skip: x[s:], row))
    by_sample = jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    got = reductions.delta.finalize(carry.by_point, by_sample, carry.prefix)
    want = js.delta(mlp_loss, probe, data)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_two_runs_are_bit_identical(problem):
    _, data, _, probe, _ = problem
    a, b = (js.delta(mlp_loss, probe, data) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def test_works_under_a_hosts_jit_and_vmap(problem):
    _, data, space, _, _ = problem
    thetas = jax.random.normal(KEY, (2, M, D))
    means = lambda theta: js.delta(mlp_loss, js.points(space, theta), data).mean  # noqa: E731
    both = jax.jit(jax.vmap(means))(thetas)
    for theta, got in zip(thetas, both, strict=True):
        np.testing.assert_allclose(got, means(theta), rtol=1e-5)


def program(n, m):
    params, data = mlp_problem(n=n)
    probe = js.gaussian(KEY, js.random_subspace(KEY, params, D), m, 1.0)
    run = jax.jit(lambda probe, data: js.delta(mlp_loss, probe, data, batch_size=100))
    return run.lower(probe, data)


def test_the_program_does_not_grow_with_samples_or_points():
    lines = len(program(1000, 16).as_text().splitlines())
    assert len(program(4000, 64).as_text().splitlines()) == lines


def test_no_array_of_points_by_samples():
    memory = program(4000, 512).compile().memory_analysis()
    if memory is None:
        pytest.skip("this backend does not report memory")
    assert memory.temp_size_in_bytes < 512 * 4000 * 4 / 4


def test_isotropic_and_single_probes_match_numpy(problem):
    params, data, *_ = problem
    probe = js.isotropic(KEY, params, 6, 0.2)
    points = jax.jit(jax.vmap(probe.at))(np.arange(6))
    rows = [mlp_losses64(jax.tree.map(lambda x, i=i: x[i], points), data) for i in range(6)]
    rows = np.stack(rows)
    got = js.delta(mlp_loss, probe, data, point_batch=4)
    np.testing.assert_allclose(got.mean, (increments64(rows) ** 2).mean(0), rtol=1e-5)
    alone = js.delta(mlp_loss, js.single(params), data)
    want = increments64(mlp_losses64(params, data)[None])[0] ** 2
    np.testing.assert_allclose(alone.mean, want, rtol=1e-4, atol=1e-14)
    assert np.isnan(alone.sem).all()
    assert np.isnan(alone.centered).all()


def test_surface_matches_numpy(problem):
    _, data, space, *_ = problem
    probe = js.grid(space, radius=1.0, num=5)
    rows = np.stack([mlp_losses64(at64(space, theta), data) for theta in probe.coordinates])
    got = js.surface(mlp_loss, probe, data, ks=(1, 2, 50, N - 1, N), batch_size=17)
    np.testing.assert_array_equal(got.k, [1, 2, 50, N - 1, N])
    for i, k in enumerate((1, 2, 50, N - 1, N)):
        np.testing.assert_allclose(got.loss[i], rows[:, :k].mean(1), rtol=1e-5)
        if k < N:
            want = increments64(rows)[:, k - 1]
            np.testing.assert_allclose(
                got.increment[i], want, rtol=1e-4, atol=1e-6 * np.abs(want).max()
            )
    assert np.isnan(got.increment[-1]).all()


def test_per_sample_losses(problem):
    params, data, *_ = problem
    got = js.per_sample_losses(mlp_loss, params, data, batch_size=8)
    np.testing.assert_allclose(got, mlp_losses64(params, data), rtol=1e-5)


def test_a_host_may_bring_its_own_reduction(problem):
    """The mean over points of the final loss, in a few lines."""
    _, data, _, probe, rows = problem
    final = js.Reduction(
        lambda t, b: ((), ()), lambda state, *_: state, lambda p, s, prefix: prefix.mean.mean()
    )
    np.testing.assert_allclose(js.evaluate(mlp_loss, probe, data, final), rows.mean(), rtol=1e-5)


def test_losses_that_are_not_finite_are_named(problem):
    _, data, _, probe, _ = problem
    inputs = data["inputs"].at[17].set(jnp.nan).at[40].set(jnp.inf)
    with pytest.raises(js.InputError, match=r"2 of 101 samples \(at positions 17, 40\).*of 11"):
        js.delta(mlp_loss, probe, {**data, "inputs": inputs})


@pytest.mark.parametrize("sigma", [1e7, 1e13])
def test_squares_beyond_float32_are_an_error_not_a_curve_of_nan(problem, sigma):
    _, data, space, *_ = problem
    with pytest.raises(js.InputError, match=r"fit float32|finite losses"):
        js.delta(mlp_loss, js.gaussian(KEY, space, M, sigma), data)


def linear(w, batch):
    return batch @ w


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_the_standard_error_has_the_range_of_the_mean(scale):
    """Fourth powers of such losses are beyond float32."""
    rows = (scale * np.random.default_rng(0).exponential(size=(6, 50))).astype(np.float32)
    data = jnp.asarray(rows.T)
    space = js.Subspace(jnp.zeros(6), jnp.eye(6))
    probe = js.points(space, jnp.eye(6))
    got = js.delta(linear, probe, data, point_batch=4)
    steps = increments64(rows)
    np.testing.assert_allclose(got.mean, (steps**2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(got.sem, (steps**2).std(0, ddof=1) / np.sqrt(6), rtol=1e-4)


def test_first_order_does_not_drift_over_many_blocks():
    data = jnp.asarray([3.0, 1.0, 2.0])
    probe = js.points(js.Subspace(jnp.zeros(1), jnp.ones((1, 1))), jnp.full((5000, 1), 0.1))
    got = js.delta(lambda w, batch: batch * w, probe, data, point_batch=1)
    np.testing.assert_allclose(got.first_order, [0.1, 0.0], rtol=1e-6, atol=1e-8)


def test_works_where_the_host_has_enabled_float64(problem):
    params, data, _, probe, _ = problem
    want = js.delta(mlp_loss, probe, data)
    with jax.enable_x64(True):
        for a, b in zip(js.delta(mlp_loss, probe, data), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
        assert js.surface(mlp_loss, probe, data, ks=(3,)).loss.shape == (1, M)
        assert js.per_sample_losses(mlp_loss, params, data).shape == (N,)


def test_a_surface_under_jit_leaves_nothing_behind(problem):
    _, data, _, probe, _ = problem
    inside = jax.jit(lambda d: js.surface(mlp_loss, probe, d, ks=(9,)).loss)(data)
    np.testing.assert_allclose(js.surface(mlp_loss, probe, data, ks=(9,)).loss, inside, rtol=1e-5)


def test_a_surface_that_cannot_be_right_is_an_error(problem):
    _, data, _, probe, _ = problem
    with pytest.raises(js.InputError, match="fewer samples"):
        js.surface(mlp_loss, probe, iter([data]), ks=(N + 1,))
    bad = {**data, "inputs": data["inputs"].at[3].set(jnp.nan)}
    with pytest.raises(js.InputError, match="finite losses"):
        js.surface(mlp_loss, probe, bad, ks=(9,))


def test_the_carry_may_move_to_other_blocks(problem):
    _, data, _, probe, rows = problem
    carry, keep = sweep.begin(probe, reductions.losses(M)), reductions.losses(M)
    for start, point_batch in ((0, None), (50, 3)):
        part = jax.tree.map(lambda x, s=start: x[s : s + 50], data)
        carry, _ = sweep.advance(mlp_loss, probe, part, carry, keep, point_batch=point_batch)
    assert int(carry.prefix.num_samples) == 100
    np.testing.assert_allclose(carry.prefix.mean, rows[:, :100].mean(1), rtol=1e-5)


@pytest.mark.parametrize("ks", [(0,), (N + 1,), ()])
def test_a_surface_at_no_such_k_is_refused(problem, ks):
    _, data, _, probe, _ = problem
    with pytest.raises(js.InputError, match="values of k from 1 to 101"):
        js.surface(mlp_loss, probe, data, ks=ks)


def test_other_bad_input_is_refused(problem):
    _, data, _, probe, _ = problem
    with pytest.raises(js.InputError, match="one loss per sample"):
        js.delta(lambda p, b: mlp_loss(p, b).mean(), probe, data)
    with pytest.raises(js.InputError, match="at least 2 samples"):
        js.delta(mlp_loss, probe, jax.tree.map(lambda x: x[:1], data))
    with pytest.raises(js.InputError, match="at least one sample"):
        js.delta(mlp_loss, probe, jax.tree.map(lambda x: x[:0], data))
    with pytest.raises(js.InputError, match="at least one batch"):
        js.delta(mlp_loss, probe, iter(()))
    with pytest.raises(js.InputError, match="chunk size"):
        js.delta(mlp_loss, probe, data, batch_size=0)


def test_gradients_through_a_sweep():
    params, data = mlp_problem()

    def total(factor, params):
        loss = lambda params, batch: factor * mlp_loss(params, batch)  # noqa: E731
        return js.per_sample_losses(loss, params, data).sum()

    got = jax.grad(total, argnums=(0, 1))(2.0, params)
    of_all = lambda factor, params: factor * mlp_loss(params, data).sum()  # noqa: E731
    want = jax.jit(jax.grad(of_all, argnums=(0, 1)))(2.0, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


# too few to share products, and enough
@pytest.mark.parametrize("num_points", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_gradients_through_a_curve(num_points):
    params, data = mlp_problem()
    theta = jax.random.normal(jax.random.key(2), (num_points, 2))
    space = js.random_subspace(jax.random.key(1), params, 2)

    def mean(scale):
        return js.delta(mlp_loss, js.points(space, scale * theta), data).mean.mean()

    slope, step = jax.grad(mean)(0.5), 1e-2
    np.testing.assert_allclose(slope, (mean(0.5 + step) - mean(0.5 - step)) / (2 * step), rtol=1e-2)


def test_a_loss_is_asked_for_no_other_number_of_samples_than_were_given():
    weights = jnp.linspace(0.5, 1.5, 48)

    def loss(params, x):
        groups = (x @ params).reshape(-1, 3, 4)
        inner = (groups - groups.mean(1, keepdims=True)).reshape(-1, 4).sum(-1) ** 2
        return weights * inner

    x = jax.random.normal(jax.random.key(0), (48, 5))
    params = jax.random.normal(jax.random.key(1), (5, 4))
    got = js.per_sample_losses(loss, params, x)
    np.testing.assert_allclose(got, loss(params, x), rtol=1e-4, atol=1e-5)
