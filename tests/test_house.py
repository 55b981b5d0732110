"""The rules of the house: its size, imports that go one way, a core that stays light."""

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

# Each module of the core imports modules to its left only.
ORDER = [
    "types", "prefix", "trees", "arguments", "batching", "losses", "reductions", "devices",
    "curvature", "lanczos", "quadrature", "subspace", "probes", "first_layer", "layers", "sweep",
    "quadratic", "prefix_spectra", "loss_variance", "sample_size", "minimum",
]  # fmt: skip
THIRD_PARTY = {"jax", "numpy", "jaxtyping", "scipy"}
HEAVY = {"flax", "optax", "orbax", "matplotlib", "tensorflow", "tensorflow_datasets", "tyro"}
HEAVY.add("scipy")  # it comes with JAX, but is slow to import


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


def floor(path):
    """The command a module of the experiments belongs to, or the floor of any other."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] == "experiments" else parts[0]


@pytest.mark.parametrize("path", CORE, ids=lambda p: p.stem)
def test_the_core_imports_no_lab_and_little_else(path):
    foreign = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
    assert foreign <= THIRD_PARTY | {"jaxscape"}
    assert not any(name.startswith("jaxscape.lab") for name in imports(path))


def test_imports_of_the_core_go_one_way():
    assert set(ORDER) == {path.stem for path in CORE} - {"__init__"}
    for path in CORE:
        if path.stem != "__init__":
            ours = {n.split(".")[1] for n in imports(path) if n.startswith("jaxscape.")}
            later = ours - set(ORDER[: ORDER.index(path.stem)])
            assert not later, f"{path.stem} imports {later}, which come after it"


def test_nothing_imports_experiments_and_no_command_another():
    for path in MODULES:
        for name in imports(path):
            if name.split(".")[0] == "experiments":
                own = {floor(path), "experiments.common"}
                assert ".".join(name.split(".")[:2]) in own, f"{path} imports {name}"


@pytest.mark.parametrize("path", [*CORE, *LAB], ids=lambda p: p.stem)
def test_fields_are_documented_as_the_reference_reads_them(path):
    assert "#:" not in path.read_text(), "put a docstring below the field instead"


def test_the_house_stays_small():
    lines = {path: path.read_text().count("\n") for path in MODULES}
    long = {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > 500}
    assert not long
    assert len(lines) <= 95
    # 13,500 before a language model on many devices, a GPU's compiler, derivatives by layers,
    # meshes of explicit axes and batches that change
    assert sum(lines.values()) <= 14_010


def run(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_loads_jax_and_numpy_changes_no_configuration_and_nothing_heavier():
    same, *loaded = run(
        "import jax, sys; before = dict(jax.config.values); import jaxscape\n"
        "print(before == jax.config.values, *{name.split('.')[0] for name in sys.modules})"
    )
    assert same == "True"
    assert not HEAVY & set(loaded)
    assert {"jax", "numpy"} <= set(loaded)
