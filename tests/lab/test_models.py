import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape.lab import models
from jaxscape.trees import num_parameters
from jaxscape.types import InputError


def test_default_mlp_is_the_reference_network():
    model = models.build("mlp", num_outputs=10)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert num_parameters(params) == 269_322
    shapes = jax.tree.map(lambda leaf: leaf.shape, params)
    assert shapes == {
        "Dense_0": {"bias": (256,), "kernel": (784, 256)},
        "Dense_1": {"bias": (256,), "kernel": (256, 256)},
        "Dense_2": {"bias": (10,), "kernel": (256, 10)},
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_mlp_equals_numpy_on_images_and_on_vectors():
    model = models.build("mlp", num_outputs=3, hidden=7, layers=2)
    images = jax.random.normal(jax.random.key(0), (5, 4, 3, 2))
    params = model.init(jax.random.key(1), images)
    x = np.asarray(images, np.float64).reshape(5, 24)
    for name in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ np.float64(params[name]["kernel"]) + params[name]["bias"], 0)
    expected = x @ np.float64(params["Dense_2"]["kernel"]) + params["Dense_2"]["bias"]
    np.testing.assert_allclose(model.apply(params, images), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        model.apply(params, images.reshape(5, 24)), model.apply(params, images)
    )


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (5, 7, 2)])
def test_cnn_equals_convolutions(shape):
    model = models.build("cnn", num_outputs=4, hidden=32, layers=2)
    images = jax.random.normal(jax.random.key(0), (3, *shape))
    params = jax.jit(model.init)(jax.random.key(1), images)
    x = images
    for block, channels in enumerate((4, 8)):
        layer = params[f"Dense_{block}"]
        x = jax.lax.conv_general_dilated(
            x,
            layer["kernel"].reshape(3, 3, -1, channels),
            window_strides=(2, 2),
            padding=((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",
        )
        x = jax.nn.relu(x + layer["bias"])
    expected = x.reshape(3, -1) @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]
    found = jax.jit(model.apply)(params, images)
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_cnn_width_follows_hidden_and_default_size_is_as_documented():
    images = jnp.zeros((1, 28, 28, 1))
    shapes = lambda model: jax.eval_shape(model.init, jax.random.key(0), images)  # noqa: E731
    params = shapes(models.build("cnn", num_outputs=10))
    assert num_parameters(params) == 50_186
    narrow = models.build("cnn", num_outputs=10, hidden=16, layers=3)
    kernels = [layer["kernel"].shape for layer in shapes(narrow).values()]
    assert kernels == [(9, 2), (18, 4), (36, 8), (4 * 4 * 8, 10)]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_output_of_a_sample_does_not_depend_on_its_batch(name):
    model = models.build(name, num_outputs=10, hidden=16)
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    params = jax.jit(model.init)(jax.random.key(1), images)
    apply = jax.jit(model.apply)
    together = apply(params, images)
    alone = np.concatenate([apply(params, images[i : i + 1]) for i in range(6)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_same_key_same_parameters_whatever_the_example():
    model = models.build("mlp", num_outputs=2, hidden=5)
    first = model.init(jax.random.key(3), jnp.zeros((1, 6)))
    again = model.init(jax.random.key(3), jnp.ones((9, 6)))
    other = model.init(jax.random.key(4), jnp.zeros((1, 6)))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, first, again))
    assert not jnp.array_equal(first["Dense_0"]["kernel"], other["Dense_0"]["kernel"])


@pytest.mark.parametrize(
    ("name", "sizes", "said"),
    [
        ("resnet", {}, "expected a model among .*found 'resnet'"),
        ("mlp", {"hidden": 0}, "hidden of at least 1, found 0"),
        ("mlp", {"layers": -1}, "layers of at least 0, found -1"),
        ("cnn", {"num_outputs": 0}, "num_outputs of at least 1, found 0"),
    ],
)
def test_bad_settings_are_refused(name, sizes, said):
    with pytest.raises(InputError, match=said):
        models.build(name, **{"num_outputs": 10, **sizes})


def test_cnn_refuses_vectors():
    model = models.build("cnn", num_outputs=10)
    with pytest.raises(InputError, match=r"expected images .*found shape \(1, 784\)"):
        model.init(jax.random.key(0), jnp.zeros((2, 784)))
