import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mlp_loss, mlp_losses64, mlp_problem

import jaxscape as js
from jaxscape import InputError, losses


def cross_entropy64(logits, targets):
    logits = np.asarray(logits, np.longdouble)
    margins = logits - logits[np.arange(len(targets)), targets][:, None]
    top = margins.max(1, keepdims=True)
    return (np.log1p(np.exp(margins - top).sum(1) - 1) + top[:, 0]).astype(float)


def test_cross_entropy_matches_float64():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=5, size=(300, 10)).astype(np.float32)
    targets = rng.integers(10, size=300)
    got = losses.cross_entropy(logits, targets)
    np.testing.assert_allclose(got, cross_entropy64(logits, targets), rtol=2e-6)


def test_tiny_losses_keep_their_digits():
    logits = np.array([[20.0, 0.0, 1.0], [0.0, 30.0, 5.0]], np.float32)
    want = [np.log1p(np.exp(-20) + np.exp(-19)), np.log1p(np.exp(-30) + np.exp(-25))]
    np.testing.assert_allclose(losses.cross_entropy(logits, np.array([0, 1])), want, rtol=1e-6)


def test_huge_logits_stay_finite_with_their_derivatives():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    ell = lambda z, target: losses.cross_entropy(z, target)[0]  # noqa: E731
    value, slope, bend = (jax.jit(f) for f in (ell, jax.grad(ell), jax.hessian(ell)))
    for target, want in (([0], 0.0), ([1], 2e4), ([2], 1e4)):
        assert float(value(logits, jnp.array(target))) == want
        assert np.isfinite(slope(logits, jnp.array(target))).all()
        assert np.isfinite(bend(logits, jnp.array(target))).all()


def test_first_and_second_derivatives():
    rng = np.random.default_rng(1)
    z = rng.normal(size=5).astype(np.float32)
    ell = lambda z: losses.cross_entropy(z[None], jnp.array([3]))[0]  # noqa: E731
    p = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(jax.jit(jax.grad(ell))(z), p - np.eye(5)[3], atol=1e-6)
    bend = jax.jit(jax.hessian(ell))(z)
    np.testing.assert_allclose(bend, np.diag(p) - np.outer(p, p), atol=1e-6)


def test_squared_error_sums_all_but_the_first_axis():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 4, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(
        losses.squared_error(a, b), 0.5 * ((a - b) ** 2).sum((1, 2)), rtol=1e-6
    )


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(InputError, match=r"shape \(5, 1\), found \(5,\)"):
        losses.squared_error(jnp.zeros((5, 1)), jnp.ones(5))


@pytest.mark.parametrize(("kind", "classes"), [("uint8", 256), ("int8", 200), ("uint8", 300)])
def test_targets_of_few_bits_are_classes(kind, classes):
    logits, targets = np.arange(3.0 * classes).reshape(3, classes) % 7, np.array([0, 100, 127])
    found = losses.cross_entropy(logits, targets.astype(kind))
    want = np.log(np.exp(logits).sum(1)) - logits[np.arange(3), targets]
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_a_target_that_is_no_class_has_no_loss():
    got = losses.cross_entropy(jnp.zeros((3, 3)), jnp.array([5, -1, 2]))
    np.testing.assert_array_equal(np.isnan(got), [True, True, False])


def test_a_loss_needs_no_hash():
    class Loss:
        __hash__ = None

        def __call__(self, params, batch):
            return mlp_loss(params, batch)

    params, data = mlp_problem()
    found = js.per_sample_losses(Loss(), params, data)
    np.testing.assert_allclose(found, mlp_loss(params, data), rtol=1e-5)


def test_supervised_matches_numpy():
    params, data = mlp_problem()
    np.testing.assert_allclose(mlp_loss(params, data), mlp_losses64(params, data), rtol=1e-5)


@pytest.mark.parametrize(
    ("bad", "found"),
    [(lambda p, b: mlp_loss(p, b).mean(), r"shape \(\)"),
     (lambda p, b: mlp_loss(p, b)[:-1], r"shape \(100,\)"),
     (lambda p, b: mlp_loss(p, b)[:, None], r"shape \(101, 1\)"),
     (lambda p, b: (mlp_loss(p, b), 0), "found")],
)  # fmt: skip
def test_a_loss_that_is_not_per_sample_is_refused(bad, found):
    params, data = mlp_problem()
    with pytest.raises(InputError, match=found):
        losses.ready(bad, params, data)


def test_binary_cross_entropy_matches_float64():
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=8, size=(50, 4)).astype(np.float32)
    for targets in rng.integers(2, size=(50, 4)), rng.uniform(size=(50, 4)).astype(np.float32):
        z, y = logits.astype(np.longdouble), targets.astype(np.longdouble)
        want = (y * np.log1p(np.exp(-z)) + (1 - y) * np.log1p(np.exp(z))).sum(1).astype(float)
        np.testing.assert_allclose(losses.binary_cross_entropy(logits, targets), want, rtol=2e-6)
    small = losses.binary_cross_entropy(jnp.array([20.0, -30.0]), jnp.array([True, False]))
    np.testing.assert_allclose(small, [np.log1p(np.exp(-20)), np.log1p(np.exp(-30))], rtol=1e-6)
    labels = losses.binary_cross_entropy(jnp.zeros(3), jnp.array([-1, 2, 1]))
    np.testing.assert_array_equal(np.isnan(labels), [True, True, False])


def test_a_sequence_is_the_mean_or_the_sum_of_its_own_tokens():
    rng = np.random.default_rng(4)
    logits, lengths = rng.normal(size=(5, 7, 3)).astype(np.float32), np.array([7, 1, 3, 6, 0])
    targets = rng.integers(3, size=(5, 7))
    mask = np.arange(7) < lengths[:, None]
    tokens = losses.cross_entropy(logits, np.where(mask, targets, -1))  # padding is no class
    want = [
        sum(cross_entropy64(logits[i, t : t + 1], targets[i, t : t + 1])[0] for t in range(length))
        for i, length in enumerate(lengths)
    ]
    np.testing.assert_allclose(losses.per_sequence(tokens, mask, mean=False), want, rtol=1e-6)
    means = losses.per_sequence(tokens, mask)
    np.testing.assert_allclose(means[:4], np.array(want)[:4] / lengths[:4], rtol=1e-6)
    assert np.isnan(means[4])


def test_padding_has_no_gradient():
    mask = jnp.array([[True, False]])

    def loss(logits):
        tokens = losses.cross_entropy(logits, jnp.array([[1, -1]]))
        return losses.per_sequence(tokens, mask)[0]

    slope = jax.grad(loss)(jnp.zeros((1, 2, 2)))[0]
    np.testing.assert_allclose(slope, [[0.5, -0.5], [0, 0]], atol=1e-7)


def test_losses_of_half_precision_outputs_are_taken_in_float32():
    outputs = jnp.array([[1.0, 0.0]], jnp.bfloat16)
    np.testing.assert_allclose(
        losses.cross_entropy(outputs, jnp.array([0])), np.log1p(np.exp(-1)), rtol=1e-6
    )
    third = losses.squared_error(outputs, jnp.full((1, 2), 1 / 3, jnp.float32))
    np.testing.assert_allclose(third, 0.5 * (4 / 9 + 1 / 9), rtol=1e-6)
    half = losses.binary_cross_entropy(outputs, jnp.ones((1, 2)))
    np.testing.assert_allclose(half, np.log1p(np.exp(-1)) + np.log(2), rtol=1e-6)


def test_a_function_within_a_partial_is_told():
    held = jax.tree_util.Partial(lambda act, w, b: act(b @ w), jnp.tanh)
    with pytest.raises(InputError, match="close over what is no array"):
        js.per_sample_losses(held, jnp.ones(3), jnp.ones((4, 3)))
