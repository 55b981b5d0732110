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


def test_every_main_function_has_an_example():
    main = "delta surface evaluate random_subspace hessian_subspace gaussian sobol grid".split()
    for name in (*main, "Subspace"):
        assert ">>>" in getattr(jaxscape, name).__doc__, name
