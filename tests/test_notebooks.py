"""The notebooks: the same as their scripts, run from top to bottom, stored as run for real."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from jaxscape.lab import glyphs

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))


def stored(name):
    """The notebook as it lies in the folder."""
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def run(name, folder, parameters, last="pass"):
    """All text that the notebook shows with these parameters, its code and ``last`` run there.

    In a fresh kernel of this environment, without network, in ``folder``.
    """
    notebook = stored(name)
    cells = notebook.cells
    after = 1 + next(i for i, c in enumerate(cells) if "parameters" in c.metadata.get("tags", []))
    given = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    cells.insert(after, nbformat.v4.new_code_cell(given))
    cells.append(nbformat.v4.new_code_cell(last))
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=where)
    client.execute(env=os.environ | paths)
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


def checked(name):
    """A last cell that asks ``notebook_checks`` whether the numbers are right."""
    return (
        "import types, notebook_checks\n"
        f"notebook_checks.{name}(types.SimpleNamespace(**globals()))\n"
        "print('checked')"
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The name of a small data set of glyphs."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    images, labels = glyphs.draw(2600, 0)
    np.savez(path, inputs=images[:2500], targets=labels[:2500], test_inputs=images[2500:],
             test_targets=labels[2500:])  # fmt: skip
    return f"npz:{path}"


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_quickstart(digits, tmp_path):
    small = {"DATASET": digits, "SAMPLES": 1100, "EPOCHS": 3, "POINTS": 16, "GRID": 3}
    assert run("quickstart", tmp_path, small, checked("quickstart")).endswith("checked\n")


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_your_model(tmp_path):
    text = run("your_model", tmp_path, {"SAMPLES": 300, "STEPS": 100}, checked("your_model"))
    assert text.endswith("checked\n")
    assert "return the losses before any mean" in text


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_how_much_data(digits, tmp_path):
    small = {  # where of the sizes of quickstart, its compiled programs serve again
        "DATASET": digits, "TRAINED": 1100, "FRESH": 1400, "PILOT": 100, "PILOTS": 20,
        "EPOCHS": 3, "POINTS": 16, "TOLERANCE": 5e-3, "EPSILON": 1.0,
        "PILOT_KS": (50, 100, 150, 200, 300), "LATER_KS": (600, 1200), "STEPS": 200,
    }  # fmt: skip
    assert run("how_much_data", tmp_path, small, checked("how_much_data")).endswith("checked\n")


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_colab_tpu(clouds, tmp_path):
    text = run("colab_tpu", tmp_path, {"FLAGS": shlex.join(clouds)})
    assert "installed already" in text
    assert "devices: " in text
    assert re.search(r"0\.01 .* holds", text)
    summary = json.loads((tmp_path / "runs" / "colab" / "summary.json").read_text())
    assert summary["num_samples"] == 250


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_language_model(tmp_path):
    """Where there is a compiler for TPUs, of a network for which it takes seconds."""
    small = {
        "SMALL": {"num_outputs": 16, "hidden": 16, "layers": 3}, "SEQUENCES": 64, "TOKENS": 8,
        "LARGE": {"num_outputs": 64, "hidden": 64, "layers": 4}, "CONTEXT": 32, "KRYLOV": 20,
    }  # fmt: skip
    text = run("language_model", tmp_path, small, checked("language_model"))
    assert text.endswith("checked\n")
    assert "nothing is compiled" in text or re.search(r"sweep +256 .* (work|exchange)", text)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_script_are_the_same(name):
    script = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    pairs = [
        [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]
        for notebook in (script, stored(name))
    ]
    assert pairs[0] == pairs[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_shows_a_whole_run(name):
    code = [cell for cell in stored(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_is_small_and_tells_nothing_of_the_machine(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text()
    assert len(text) < 500_000
    assert not [folder for folder in ("/home/", "/root/", "/tmp/", "/Users/") if folder in text]
