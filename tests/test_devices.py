"""Many devices and many processes against one device."""

import command
import jax
import numpy as np
import pytest
from devices import answer

import jaxscape as js
from experiments.common.devices import across

EIGHT = {
    "8x1": ["delta", "losses", "shared"],
    "2x4": ["delta", "shared", "surface", "largest", "project",
            "hessian", "prefix_hessian", "batches", "gauss_newton", "pairs"],
}  # fmt: skip
TWO = {"1x2": ["delta", "hessian", "batches", "pairs"]}


def words(questions):
    return [f"{shape}:{','.join(names)}" for shape, names in questions.items()]


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """The answers of eight devices."""
    out = tmp_path_factory.mktemp("devices") / "eight.npz"
    done = command.process("tests/devices.py", out, *words(EIGHT), env=command.eight_devices())
    assert done.returncode == 0, done.stderr
    return dict(np.load(out))


def compare(found, shape, question):
    """Equal to one device's answer to 1e-5, entries far below the largest to that part of it."""
    want = [np.asarray(leaf) for leaf in jax.tree.leaves(answer(question, None))]
    got = [found[f"{shape} {question} {i}"] for i in range(len(want))]
    for a, b in zip(got, want, strict=True):
        scale = np.nanmax(np.abs(b)) if b.dtype.kind == "f" else 0
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * scale)


ASKED = [(shape, name) for shape, names in EIGHT.items() for name in names if name != "shared"]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "question"), ASKED)
def test_eight_devices_equal_one(eight, shape, question):
    compare(eight, shape, question)


@pytest.mark.slow
def test_the_shared_product_is_used_where_a_device_has_enough_points(eight):
    assert not eight["8x1 shared 0"]
    assert eight["2x4 shared 0"]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    argv = ["tests/devices.py", tmp_path / "two.npz", *words(TWO), "--join"]
    for done in command.hosts(lambda address, host: [*argv, address, "2", host]):
        assert done.returncode == 0, done.stderr
    found = dict(np.load(tmp_path / "two.npz"))
    for question in TWO["1x2"]:
        compare(found, "1x2", question)


def test_a_mesh_that_cannot_be_is_refused():
    with pytest.raises(js.InputError, match=r"at most 1, .* found 2 and 3"):
        js.devices.mesh(points=2, samples=3)
    with pytest.raises(js.InputError, match="found 1 and 0"):
        js.devices.mesh(samples=0)
    other = jax.make_mesh((1,), ("data",))
    with pytest.raises(js.InputError, match="axes points and samples"):
        answer("delta", other)


@pytest.mark.parametrize(
    ("count", "points", "wanted"),
    [(8, 256, 8), (8, 257, 8), (8, 5, 1), (8, 10, 2), (6, 2, 2), (1, 7, 1)],
)
def test_points_come_first_unless_devices_would_be_idle(count, points, wanted):
    assert across(count, points) == wanted
