import cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape import InputError
from jaxscape.lab import train

SETTINGS = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-2}


def networks(count=5):
    stacked = [cases.mlp_problem(seed)[0] for seed in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *stacked)


@pytest.mark.parametrize("together", [1, 2, 5, None])
def test_side_by_side_is_one_after_another(together):
    params, data = networks(), cases.mlp_problem()[1]
    keys = jax.random.split(jax.random.key(3), 5)
    found = train.fit_many(cases.mlp_loss, params, data, keys=keys, together=together, **SETTINGS)
    for r in range(5):
        start = jax.tree.map(lambda leaf, r=r: leaf[r], params)
        alone = train.fit(cases.mlp_loss, start, data, key=keys[r], **SETTINGS)
        np.testing.assert_allclose(found.epoch_losses[:, r], alone.epoch_losses, rtol=1e-5)
        mine = jax.tree.map(lambda leaf, r=r: leaf[r], found.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mine, alone.params)
    assert (found.epoch_losses[-1] < found.epoch_losses[0]).all()


def test_networks_that_keep_to_the_cache_are_trained_together():
    small = {"w": jnp.zeros((50, 1000))}
    large = {"w": jnp.zeros((3, train.CACHE // 4))}
    assert train.together_on("cpu", small) == 50
    assert train.together_on("cpu", large) == 1
    assert train.together_on("gpu", large) == 3


def test_what_diverges_or_does_not_fit_is_told():
    params, data = networks(), cases.mlp_problem()[1]
    keys = jax.random.split(jax.random.key(3), 5)
    with pytest.raises(InputError, match="of 4 networks, one per key"):
        train.fit_many(cases.mlp_loss, params, data, keys=keys[:4], **SETTINGS)
    bad = data | {"inputs": data["inputs"].at[3].set(jnp.nan)}
    with pytest.raises(InputError, match="5 of 5 networks"):
        train.fit_many(cases.mlp_loss, params, bad, keys=keys, **SETTINGS)
