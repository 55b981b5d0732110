"""The house rules: imports go one way, and the core stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "jaxscape").glob("*.py"))
LAB = sorted((ROOT / "jaxscape" / "lab").glob("*.py"))
LAYERS = [
    {"types", "pairs"},
    {"chunks", "operators", "copies", "partition"},
    {"losses", "prefix", "sharding", "krylov", "tuning", "decay", "orders", "student"},
    {"curvature", "lanczos", "spectrum", "sample_size", "intervals", "gauss_newton"},
    {"subspace", "random_orders", "exceedance", "evidence", "prefix_spectra"},
    {"probes", "quadratic", "stopping", "affine", "trajectory"},
    {"reductions", "bounds", "sobol"},
    {"grouped", "spread"},
    {"landscape"},
]
THIRD_PARTY = {"jax", "numpy", "jaxtyping", "scipy"}


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


def ours(path):
    """The core modules that ``path`` imports."""
    return {n.split(".")[1] for n in imports(path) if n.startswith("jaxscape.")}


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_the_core_imports_no_lab_and_little_else(path):
    foreign = {n.split(".")[0] for n in imports(path)} - set(sys.stdlib_module_names)
    assert foreign <= THIRD_PARTY | {"jaxscape"}
    assert "lab" not in ours(path)


def test_core_modules_import_earlier_layers_only():
    level = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    assert set(level) == {p.stem for p in CORE} - {"__init__"}
    for path in CORE:
        if path.stem != "__init__":
            for name in ours(path):
                assert level[name] < level[path.stem], f"{path.stem} imports {name}"


@pytest.mark.parametrize("path", [*CORE, *LAB], ids=lambda p: p.stem)
def test_fields_are_documented_as_the_reference_reads_them(path):
    assert "#:" not in path.read_text(), "put a docstring below the field instead"


def test_nothing_imports_the_experiments():
    for path in (*CORE, *LAB):
        assert not any(n.startswith("experiments") for n in imports(path)), path


def test_import_loads_jax_and_numpy_and_nothing_heavier():
    code = "import sys, jaxscape; print(*{name.split('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"flax", "optax", "orbax", "matplotlib", "tensorflow", "tensorflow_datasets", "tyro"}
    heavy.add("scipy")  # it comes with JAX, but is slow to import
    assert not heavy & set(loaded.stdout.split())
    assert "jax" in loaded.stdout.split()


def test_importing_changes_no_configuration_of_jax():
    code = "import jax; a = dict(jax.config.values); import jaxscape; print(a == jax.config.values)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
