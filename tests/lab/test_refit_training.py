"""Networks trained on the first k samples, against Adam written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import float64, mlp_loss, mlp_losses64, mlp_problem

import jaxscape as js
from jaxscape.lab import train as training

KS = (7, 40, 101)
RATE = 0.01


def train(data, params, ks, order, together=None):
    """Two epochs of three steps on eight samples each."""
    return training.fit_prefixes(
        mlp_loss,
        params,
        data,
        ks,
        order=order,
        epochs=2,
        steps=3,
        batch_size=8,
        learning_rate=RATE,
        key=jax.random.key(5),
        test=data,
        metrics={"loss": mlp_loss},
        together=together,
    )


def small_problem():
    """A single layer, quickly compiled, with 101 samples."""
    params, data = mlp_problem()
    return params[:1], data


@pytest.fixture(scope="module")
def side_by_side():
    params, data = small_problem()
    order = np.random.default_rng(1).permutation(101)
    return params, data, order, train(data, params, KS, order, together=3)


def alone64(params, samples, k):
    """Adam written out, in float64 but for the gradients, on k samples and nothing else."""
    assert len(samples["targets"]) == k
    gradient = jax.jit(jax.grad(lambda w, batch: jnp.mean(mlp_loss(w, batch))))
    w = float64(params)
    first = second = jax.tree.map(np.zeros_like, w)
    keys = [key for k2 in jax.random.split(jax.random.key(5), 2) for key in jax.random.split(k2, 3)]
    for t, key in enumerate(keys, start=1):
        rows = np.asarray(jax.random.randint(key, (8,), 0, k))
        batch = {name: values[rows] for name, values in samples.items()}
        g = float64(gradient(jax.tree.map(jnp.float32, w), batch))
        first = jax.tree.map(lambda m, x: 0.9 * m + 0.1 * x, first, g)
        second = jax.tree.map(lambda v, x: 0.999 * v + 0.001 * x**2, second, g)
        c1, c2 = 1 - 0.9**t, 1 - 0.999**t
        w = jax.tree.map(
            lambda x, m, v, c1=c1, c2=c2: x - RATE * (m / c1) / (np.sqrt(v / c2) + 1e-8),
            w,
            first,
            second,
        )
    return w


def test_side_by_side_is_each_network_alone_on_its_samples(side_by_side):
    params, data, order, found = side_by_side
    for row, k in enumerate(KS):
        samples = jax.tree.map(lambda x, k=k: x[order[:k]], data)
        alone = alone64(params, samples, k)
        for many, one in zip(jax.tree.leaves(found.params), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(many[row], one, atol=2e-5)
        loss = mlp_losses64(jax.tree.map(lambda x, row=row: x[row], found.params), data).mean()
        np.testing.assert_allclose(found.metrics["loss"][-1, row], loss, rtol=1e-5)


def test_one_after_the_other_is_the_same(side_by_side):
    params, data, order, found = side_by_side
    other = train(data, params, KS, order, together=1)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_sample_beyond_k_has_a_say(side_by_side):
    params, data, order, found = side_by_side
    beyond = np.asarray(order[KS[1] :])
    changed = {
        "inputs": data["inputs"].at[beyond].multiply(-50.0),
        "targets": data["targets"].at[beyond].set(0),
    }
    other = train(changed, params, KS, order, together=3)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_array_equal(a[:2], b[:2])
        assert not np.array_equal(a[2], b[2])


def test_a_network_that_diverges_is_an_error():
    params, data = small_problem()
    data["inputs"] = data["inputs"].at[40:].set(jnp.nan)
    with pytest.raises(js.InputError, match="for k = 101 at"):
        train(data, params, KS, np.arange(101), together=3)
    with pytest.raises(js.InputError, match="from 1 to 101"):
        train(data, params, (0, 101), np.arange(101))
