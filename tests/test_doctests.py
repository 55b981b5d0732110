"""The examples in the docstrings of the core run and give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import jaxscape

CORE = sorted(path.stem for path in Path(jaxscape.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", [name for name in CORE if name != "__init__"])
def test_examples(name):
    module = importlib.import_module(f"jaxscape.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    "name",
    ["Subspace", "delta", "evaluate", "gaussian", "grid", "hessian_subspace", "random_subspace",
     "sobol", "surface"],
)  # fmt: skip
def test_main_functions_have_an_example(name):
    assert ">>>" in getattr(jaxscape, name).__doc__
