"""The rules of the house: size, imports that go one way, a core that stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "jaxscape").glob("*.py"))
LAB = sorted((ROOT / "jaxscape" / "lab").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
MODULES = [*CORE, *LAB, *EXPERIMENTS]
# Each module of the core imports modules of earlier lines only.
LAYERS = [
    {"types"},
    {"batching", "prefix", "trees"},
    {"lanczos", "losses", "loss_variance"},
    {"prefix_spectra", "quadrature", "sample_size"},
    {"monitor"},
]
THIRD_PARTY = {"jax", "numpy", "jaxtyping", "scipy"}
HEAVY = {"flax", "optax", "orbax", "matplotlib", "tensorflow", "tensorflow_datasets", "tyro"}


def imports(path):
    """Dotted names of everything that ``path`` imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names
