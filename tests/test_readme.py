"""The README's Python runs as it stands, on fewer samples and points; the README stays short."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js

README = (Path(__file__).parent.parent / "README.md").read_text()
SMALLER = {"60_000": "300", "dim=10": "dim=3", "num=41": "num=3", "num_points=256": "num_points=8"}


@pytest.fixture(scope="module")
def names():
    """What the blocks leave behind, each after those before it."""
    known = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        for old, new in SMALLER.items():
            block = block.replace(old, new)
        exec(block, known)
    return known


def test_the_loss_gives_one_value_per_sample(names):
    values = js.per_sample_losses(names["loss"], names["params"], names["data"])
    np.testing.assert_allclose(values, names["loss"](names["params"], names["data"]), 1e-5)


def test_each_question_has_an_answer(names):
    curve, size, level = names["curve"], names["size"], names["level"]
    assert curve.mean.shape == (299,)
    assert names["sheet"].loss.shape == (3, 9)
    last = np.flatnonzero(np.asarray(curve.mean) >= 1e-6)
    assert bool(size.reached) == (last[-1] < 298)
    pilot = js.evaluate(
        names["loss"],
        names["probe"],
        names["pilot"],
        js.reductions.losses(names["probe"].num_points),
    )
    variance = jnp.var(pilot, 1, ddof=1).mean()
    np.testing.assert_allclose(level.interval.value, variance, rtol=1e-5)


def test_the_readme_is_short():
    assert README.count("\n") <= 220
