"""The experiments of "Curvature-Aligned Probing" against float64 NumPy."""

import jax
import numpy as np
import papers
import pytest
from cases import increments64
from papers import close
from sweeps import flax_losses64

import jaxscape as js
from experiments.paper import curvature_aligned
from experiments.paper.bench import leading
from experiments.paper.curvature_aligned import ERROR_DIMS, ERROR_SIGMAS

K = np.arange(1, 300)
LATE = K >= 100


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return papers.bench(tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def model(bench):
    return papers.quadratic64(bench.directions("hessian", 16), bench.problem.samples)


@pytest.mark.slow
def test_every_member_of_the_family_is_a_float64_loop(bench):
    found = curvature_aligned.family(bench).arrays
    ratios = found["ratio"]
    space, samples = bench.directions("hessian", 16), bench.problem.samples
    single = np.abs(increments64(flax_losses64(space.origin, samples)[None])[0])
    np.testing.assert_allclose(found["single"], single, rtol=1e-4, atol=1e-9)
    for row, sigma in enumerate((1e-4, 1e-3, 1e-2)):
        probe = js.isotropic(bench.problem.keys["probe"], space.origin, papers.POINTS, sigma)
        points = jax.jit(jax.vmap(probe.at))(np.arange(papers.POINTS))
        losses = [
            flax_losses64(jax.tree.map(lambda x, i=i: x[i], points), samples)
            for i in range(papers.POINTS)
        ]
        members = [np.stack(losses)]
        for dim in (1, 4, 16):
            theta = sigma * bench.normals(papers.POINTS, dim)
            members.append(papers.losses64(samples, leading(space, dim), theta))
        squares = [increments64(losses) ** 2 for losses in members]
        curve = [found["isotropic"][row], *found["subspace"][row]]
        error = [found["isotropic_sem"][row], *found["subspace_sem"][row]]
        for mean, sem, square in zip(curve, error, squares, strict=True):
            close(mean, square.mean(0))
            scale = (K + 1.0) ** 2  # where all points are close to w*, rounding is of their mean
            np.testing.assert_allclose(
                sem * scale, square.std(0, ddof=1) / 2 * scale, rtol=2e-3,
                atol=1e-6 * np.max(square.mean(0) * scale),
            )  # fmt: skip
        levels = [np.mean((square.mean(0) * K**2.0)[LATE]) for square in squares]
        np.testing.assert_allclose(ratios[row], np.divide(levels[1:], levels[0]), rtol=1e-4)


def modelled64(model, theta):
    c, g, h = model
    return c + theta @ g.T + np.einsum("nij,mi,mj->mn", h, theta, theta) / 2


def steps64(losses):
    """k δ_k over late k."""
    return (increments64(losses) * K)[:, LATE]


def test_levels_and_errors_of_the_model_are_those_of_a_float64_loop(bench, model):
    found = curvature_aligned.model_error(bench)
    arrays, space = found.arrays, bench.directions("hessian", 16)
    for row, dim in enumerate(ERROR_DIMS):
        normals = np.where(np.arange(16) < dim, bench.normals(2, 16), 0).astype(np.float64)
        for column in (0, 4, 8):
            sigma = ERROR_SIGMAS[column]
            theta = sigma * normals
            direct = steps64(papers.losses64(bench.problem.samples, space, theta))
            quadratic = steps64(modelled64(model, theta))
            each = np.mean(direct**2, 1)
            expected = {
                "direct": each.mean(),
                "direct_sem": each.std(ddof=1) / np.sqrt(2),
                "quadratic": np.mean(quadratic**2),
                "relative_error": abs(np.mean(quadratic**2) / each.mean() - 1),
                "pointwise": np.sqrt(np.mean((direct - quadratic) ** 2) / each.mean()),
            }
            for name, value in expected.items():
                slack = {"relative_error": 1e-5, "pointwise": 2e-6, "direct_sem": 1e-6}
                np.testing.assert_allclose(
                    arrays[name][row, column], value, rtol=2e-4, atol=slack.get(name, 0)
                )
    last = curvature_aligned.last_within(arrays["relative_error"][-1])
    assert found.summary["tables"][0][-1] == ["16", f"{last:.3g}"]


def test_the_last_sigma_within_is_the_one_before_the_first_beyond():
    for off, last in (
        ([0.01, 0.1, 0.2, 0.05, 0.3, 1, 1, 1, 1], ERROR_SIGMAS[1]),
        ([0.2, 0.01] + [0.01] * 7, None),
        ([0.05] * 9, ERROR_SIGMAS[-1]),
    ):
        assert curvature_aligned.last_within(np.array(off)) == last
