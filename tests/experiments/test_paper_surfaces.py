"""Figures 2, 3, 6 and 7 and the trajectory against float64 NumPy."""

from unittest import mock

import jax
import numpy as np
import papers
import pytest
from cases import at64, increments64
from sweeps import flax_losses64

import jaxscape as js
from experiments.common import prepare
from experiments.common import surfaces as shared_surfaces
from experiments.paper import bench as benches
from experiments.paper import surfaces

pytestmark = pytest.mark.usefixtures("in_haste")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with papers.bench(tmp_path_factory.mktemp("paper")) as found:
        yield found


def grid64(bench, space, radius):
    """The losses at the nine points of the grid, row by row, [9, n]."""
    steps = np.linspace(-radius, radius, 3)
    return papers.losses64(bench, space, [(a, b) for a in steps for b in steps])


PAIRS = [("filter", surfaces.fig2, surfaces.fig3), ("hessian", surfaces.fig6, surfaces.fig7)]


@pytest.mark.parametrize(("kind", "loss", "step"), PAIRS, ids=lambda x: getattr(x, "__name__", x))
def test_surfaces_are_float64_loops(bench, kind, loss, step):
    found = loss(bench)
    with mock.patch.object(shared_surfaces, "evaluate", None):  # the second figure from the file
        second = step(bench)
    rows = grid64(bench, benches.directions(bench, kind, 2), bench.config.radius)
    steps = increments64(rows)
    for record in (found, second):
        arrays = {name: np.reshape(x, (2, 9)) for name, x in record.arrays.items() if x.ndim == 3}
        assert record.arrays["k"].tolist() == [1, 299]
        for column, k in enumerate((1, 299)):
            np.testing.assert_allclose(arrays["loss"][column], rows[:, :k].mean(1), rtol=1e-5)
            np.testing.assert_allclose(
                arrays["increment"][column], steps[:, k - 1], rtol=1e-4, atol=1e-7
            )
        check_published(bench, rows, arrays)
    assert record.arrays["published_k"].tolist() == [1, 4]
    for record, name in ((found, "loss"), (second, "increment")):
        sheet = record.arrays[f"published_{name}"][0]
        assert f"a roughness of {roughness(sheet):.2g}" in record.summary["seen"]


def check_published(bench, rows, arrays):
    """k in batches, drawn anew at each point; of all batches but one, the last one is random."""
    for point, losses in enumerate(rows):
        key = jax.random.fold_in(bench.problem.keys["order"], point)
        drawn = losses[np.asarray(jax.random.permutation(key, 300))[:128]]
        first, second = drawn[:64].mean(), drawn[64:].mean()
        last = drawn[-44:].mean()  # 300 samples are four batches of 64 and one of 44
        before = (losses.sum() - 44 * last) / 256
        expected = {
            "published_loss": (first, before),
            "published_increment": ((second - first) / 2, (last - before) / 5),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(arrays[name][:, point], values, rtol=1e-3, atol=1e-6)


def roughness(sheet):
    """Root mean square second difference, over √6 times the standard deviation."""
    a = np.asarray(sheet, np.float64)
    bends = [(a[i - 1] - 2 * a[i] + a[i + 1]) for i in range(1, len(a) - 1)]
    bends += [(a[:, i - 1] - 2 * a[:, i] + a[:, i + 1]) for i in range(1, len(a) - 1)]
    return np.sqrt(np.mean(np.square(bends)) / 6) / a.std()


def test_the_trajectory_is_a_projection_and_its_plane_a_float64_loop(bench):
    """The networks before training and after each of two epochs."""
    found = surfaces.trajectory(bench)
    points, _ = prepare.trajectory(bench.problem, bench.config, bench.store)  # restored
    leaves = [np.asarray(x, np.float64).reshape(3, -1) for x in jax.tree.leaves(points)]
    moves = np.concatenate(leaves, 1)
    moves = moves - moves[-1]
    values, vectors = np.linalg.eigh(moves.T @ moves)
    axes, path = vectors[:, :-3:-1], found.arrays["trajectory"]
    np.testing.assert_allclose(np.abs(path), np.abs(moves @ axes), atol=1e-5)
    np.testing.assert_allclose(found.summary["explained"], values[:-3:-1] / values.sum(), rtol=1e-4)
    plane = js.trajectory_subspace(points, 2).space
    reach = shared_surfaces.REACH * np.abs(path).max()
    np.testing.assert_allclose(found.arrays["steps"], [-reach, 0, reach], rtol=1e-6)
    rows = grid64(bench, plane, reach)
    for column, k in enumerate((1, 300)):
        expected = rows[:, :k].mean(1).reshape(3, 3)
        np.testing.assert_allclose(found.arrays["loss"][column], expected, rtol=1e-5)
    ends = jax.tree.map(lambda x: x[-1], points)
    whole = flax_losses64(at64(js.Subspace(ends, plane.basis), (0, 0)), bench.problem.samples)
    assert f"and {whole.mean():.3g} at w*" in found.summary["seen"]
    assert set(found.figures) == {"loss", "loss_3d"}
