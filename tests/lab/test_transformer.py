"""The transformer: its outputs, its curvature, what it may look at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, sequence_losses64, transformer64

import jaxscape as js
from experiments.common import problem
from experiments.common.config import ProblemConfig
from jaxscape import first_layer
from jaxscape.lab import data as datasets
from jaxscape.lab import models
from jaxscape.lab.readers import Arrays
from jaxscape.trees import num_parameters
from jaxscape.types import InputError

N, LENGTH, ANSWERS, TOKENS, WIDTH, DIM = 9, 5, 3, 7, 8, 3


def sequences(seed=0):
    """Sequences of random tokens, of which at least the last counts."""
    rng = np.random.default_rng(seed)
    inputs, targets = rng.integers(TOKENS, size=(2, N, LENGTH), dtype=np.int32)
    targets = targets[:, -ANSWERS:]
    targets[:, :-1][rng.random((N, ANSWERS - 1)) < 0.5] = -1
    return {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}


def drawn(model, inputs, seed=1):
    """Parameters none of which is special: no bias of 0, no scale of 1."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(seed), inputs)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.standard_normal(x.shape, x.dtype)), shapes)


@pytest.fixture(scope="module")
def trained():
    """Loss, parameters and data of a small transformer, built as the commands do."""
    data = sequences()
    arrays = Arrays(*(np.asarray(data[name]) for name in ("inputs", "targets")), None, None)
    built = datasets.build("mine", "", arrays, TOKENS)
    config = ProblemConfig(model="transformer", hidden=WIDTH, layers=1)
    model, loss = problem.network(config, built)
    return loss, drawn(model, data["inputs"]), data


@pytest.mark.parametrize(
    ("hidden", "layers", "answers", "n"),
    [
        (8, 2, None, N),  # the first block from a table of tokens
        (8, 2, 2, TOKENS - 1),  # not so
        (6, 1, 2, N),  # of 2 heads in place of 4
        (5, 0, LENGTH, N),
        (8, 5, 2, N),  # blocks 1 to 3 from one program
        (8, 3, None, TOKENS - 1),  # all blocks
        (512, 1, None, N),  # of 8 heads
    ],
)
def test_outputs_equal_numpy(hidden, layers, answers, n):
    sizes = {"num_outputs": TOKENS, "hidden": hidden, "layers": layers, "answers": answers}
    model = models.build("transformer", **sizes)
    inputs = sequences()["inputs"][:n]
    params = drawn(model, inputs)
    found = jax.jit(model.apply)(params, inputs)
    asked = answers or LENGTH
    assert found.shape == (n, asked, TOKENS)
    np.testing.assert_allclose(found, transformer64(params, inputs, asked), rtol=1e-4, atol=1e-5)


def test_activations_of_half_precision_give_outputs_of_float32():
    sizes = {"num_outputs": TOKENS, "hidden": WIDTH, "layers": 5}
    inputs = sequences()["inputs"]
    params = drawn(models.build("transformer", **sizes), inputs)
    half = models.build("transformer", **sizes, dtype=jnp.bfloat16)
    found, expected = jax.jit(half.apply)(params, inputs), transformer64(params, inputs, LENGTH)
    assert found.dtype == jnp.float32
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert 1e-4 < error < 0.05  # bfloat16 has 8 digits of binary


def test_no_output_depends_on_a_later_token():
    model = models.build("transformer", num_outputs=TOKENS, hidden=WIDTH, layers=2)
    inputs = sequences()["inputs"]
    params = drawn(model, inputs)
    apply = jax.jit(model.apply)
    before = np.asarray(apply(params, inputs))
    for place in range(LENGTH):
        other = inputs.at[:, place].set((inputs[:, place] + 1) % TOKENS)
        after = np.asarray(apply(params, other))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (after[:, place:] != before[:, place:]).any(-1).all()


def test_the_loss_of_a_sequence_is_the_mean_over_the_tokens_that_count(trained):
    loss, params, data = trained
    expected = sequence_losses64(params, data)
    np.testing.assert_allclose(jax.jit(loss)(params, data), expected, rtol=1e-5)


@pytest.mark.slow
def test_the_quadratic_model_equals_differences_of_numpy(trained):
    loss, params, data = trained
    space = js.random_subspace(jax.random.key(3), params, DIM)
    found = js.project(loss, space, data)
    at = lambda theta: sequence_losses64(at64(space, theta), data)  # noqa: E731
    step, unit = 1e-4, np.eye(DIM)
    np.testing.assert_allclose(found.value, at(np.zeros(DIM)), rtol=1e-5)
    for i in range(DIM):
        slope = (at(step * unit[i]) - at(-step * unit[i])) / (2 * step)
        np.testing.assert_allclose(found.gradient[:, i], slope, rtol=1e-3, atol=1e-4)
        for j in range(DIM):
            corners = [
                a * b * at(step * (a * unit[i] + b * unit[j])) for a in (1, -1) for b in (1, -1)
            ]
            bend = np.sum(corners, 0) / (4 * step**2)
            np.testing.assert_allclose(found.hessian[:, i, j], bend, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_hessian_product_is_that_of_the_quadratic_model(trained):
    """Forward over reverse against forward over forward."""
    loss, params, data = trained
    space = js.random_subspace(jax.random.key(3), params, DIM)
    model = js.project(loss, space, data)
    operator = js.hessian_operator(loss, params, data, batch_size=4)
    for i in range(DIM):
        image = operator(jax.tree.map(lambda leaf, i=i: leaf[i], space.basis))
        products = jax.tree.map(lambda v, x: jnp.tensordot(v, x, x.ndim), space.basis, image)
        found = sum(jax.tree.leaves(products))
        np.testing.assert_allclose(found, model.hessian[:, i].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_points_share_changes_nothing(trained):
    loss, params, data = trained
    space = js.random_subspace(jax.random.key(3), params, 2)  # 8 terms of a product are enough
    points = jax.random.normal(jax.random.key(4), (3, 2))
    found = jax.jit(lambda x: jax.vmap(first_layer.share(loss, space, data))(x))(points)
    expected = [sequence_losses64(at64(space, theta), data) for theta in points]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_default_size_is_as_documented():
    config = ProblemConfig(model="transformer", dataset="sums")
    model = models.build("transformer", num_outputs=12, hidden=config.hidden, layers=config.layers)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 11), jnp.int32))
    assert num_parameters(shapes) == 8_124
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("inputs", [jnp.zeros((2, 5)), jnp.zeros((2, 4, 4, 1)), jnp.zeros(3, int)])
def test_other_inputs_are_refused(inputs):
    model = models.build("transformer", num_outputs=3, hidden=8)
    with pytest.raises(InputError, match=r"expected integer tokens \[n, length\], found"):
        model.init(jax.random.key(0), inputs)
