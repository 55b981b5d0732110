"""The library's examples in the README run as they stand, on fewer samples and points."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js

README = (Path(__file__).parent.parent / "README.md").read_text()
SMALLER = {
    "60_000": "300",
    "dim=10": "dim=3",
    "params, 10)": "params, 3)",
    "num=41": "num=3",
}


def blocks(section):
    """The Python below a heading, made small."""
    text = re.split(r"\n#+ ", README.split(f"# {section}\n")[1])[0]
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for old, new in SMALLER.items():
        found = [block.replace(old, new) for block in found]
    return found


@pytest.fixture(scope="module")
def names():
    """What the blocks leave behind, each after those before it."""
    known = {}
    sections = "As a library", "How many samples?", "In your own stack"
    for block in (block for section in sections for block in blocks(section)):
        exec(block, known)
        if "def loss" in block:  # every loss function, of whichever stack
            values = js.per_sample_losses(known["loss"], known["params"], known["data"])
            np.testing.assert_allclose(values, known["loss"](known["params"], known["data"]), 1e-5)
            known.setdefault("seen", []).append(values.shape)
    return known


def test_every_stack_gives_one_loss_per_sample(names):
    assert names["seen"] == [(300,)] * 5


def test_each_question_has_an_answer(names):
    assert names["curves"].shape == (2, 299)
    assert names["sheet"].loss.shape == (3, 9)
    assert jnp.all(names["curves"][0] != names["curves"][1])
    assert len(names["pairs"].values) == 3
    assert names["space"].dim == 2
    assert names["level"].low <= names["level"].value <= names["level"].high
