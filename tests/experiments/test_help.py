"""``--help`` of every command: each flag with help and default, examples that are understood."""

import dataclasses
import re
import shlex

import pytest

from experiments import spectra, surface, theory
from experiments.benchmark import __main__ as benchmark
from experiments.collect import __main__ as collect
from experiments.common import cli
from experiments.paper import __main__ as paper
from experiments.paper import bench
from experiments.refit import __main__ as refit
from experiments.sample_size import __main__ as sample_size
from experiments.sweep import __main__ as sweep

COMMANDS = {
    "benchmark": (benchmark, benchmark.BenchmarkConfig),
    "collect": (collect, collect.CollectConfig),
    "paper": (paper, bench.PaperConfig),
    "refit": (refit, refit.RefitConfig),
    "sample_size": (sample_size, sample_size.SampleSizeConfig),
    "spectra": (spectra, spectra.SpectraConfig),
    "surface": (surface, surface.SurfaceConfig),
    "sweep": (sweep, sweep.SweepConfig),
    "theory": (theory, theory.TheoryConfig),
}


@pytest.fixture
def page(capsys, monkeypatch):
    """The help text of a command on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")

    def read(name):
        with pytest.raises(SystemExit) as stop:
            COMMANDS[name][0].main(["--help"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    return read


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_help_and_default(page, name):
    box = page(name).partition("show this help message and exit")[2]
    lines = "\n".join(line.strip("│ ") for line in box.splitlines())
    rows = {re.match(r"[\w-]+", row)[0]: row for row in lines.split("\n--")[1:]}
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(COMMANDS[name][1])}
    assert set(rows) == fields - {"figures"}
    for flag, row in rows.items():
        words = " ".join(row.split())
        assert re.search(r"[A-Z].*\. \((default: .+|required)\)", words), flag
        assert "None" not in words, flag


@pytest.mark.parametrize("name", COMMANDS)
def test_the_description_says_what_all_commands_share(page, name):
    text = page(name)
    for words in "Examples:", "npz:PATH", "Exit status:", "JAXSCAPE_DATA_DIR":
        assert words in text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_good_settings(page, name):
    start = f"python -m experiments.{name}"
    lines = [line.strip() for line in page(name).splitlines()]
    examples = [line for line in lines if line.startswith(start)]
    assert examples
    for line in examples:
        words = shlex.split(line.removeprefix(start), comments=True)
        cli.parse(start, COMMANDS[name][1], words).check()
