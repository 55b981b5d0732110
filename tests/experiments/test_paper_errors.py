"""The error of the quadratic model, figures of "Curvature-Aligned Probing", against float64."""

import numpy as np
import papers
import pytest
from cases import increments64, law64

from experiments.paper import bench as benches
from experiments.paper import curvature_aligned

DIMS, SIGMAS = (2, 16), (1e-3, 10.0)
K = np.arange(1, 300)
pytestmark = pytest.mark.usefixtures("in_haste")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with (
        papers.bench(tmp_path_factory.mktemp("paper")) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(curvature_aligned, "DIMS", DIMS)
        patch.setattr(curvature_aligned, "SIGMAS", SIGMAS)
        yield found


@pytest.fixture(scope="module")
def model(bench):
    return papers.quadratic64(curvature_aligned.leading_space(bench), bench.problem.samples)


def modelled64(model, theta):
    c, g, h = model
    return c + theta @ g.T + np.einsum("nij,mi,mj->mn", h, theta, theta) / 2


def steps64(losses):
    """k δ_k over late k."""
    return (increments64(losses) * K)[:, K >= 100]


def law_level(model, sigma):
    return np.mean((law64(model, sigma)[4] * K**2.0)[K >= 100])


def test_levels_and_errors_are_those_of_a_float64_loop(bench, model):
    arrays = curvature_aligned.error_map(bench).arrays
    for row, dim in enumerate(DIMS):
        normals = np.where(np.arange(16) < dim, benches.normals(bench, 2, 16), 0)
        for column, sigma in enumerate(SIGMAS):
            theta = sigma * normals.astype(np.float64)
            direct = steps64(papers.losses64(bench, curvature_aligned.leading_space(bench), theta))
            quadratic = steps64(modelled64(model, theta))
            each = np.mean(direct**2, 1)
            few = [part[(slice(None), *[slice(dim)] * (part.ndim - 1))] for part in model]
            expected = {
                "direct": each.mean(),
                "direct_sem": each.std(ddof=1) / np.sqrt(2),
                "quadratic": np.mean(quadratic**2),
                "closed": law_level(few, sigma),
                "relative_error": abs(np.mean(quadratic**2) / each.mean() - 1),
            }
            for name, value in expected.items():
                found = arrays[name][row, column]
                np.testing.assert_allclose(found, value, rtol=2e-4, atol=1e-5 * (name[0] == "r"))
            apart = np.sqrt(np.mean((direct - quadratic) ** 2) / each.mean())
            np.testing.assert_allclose(
                arrays["pointwise"][row, column], apart, rtol=2e-4, atol=1e-6
            )


def test_the_second_figure_is_of_the_same_numbers(bench, monkeypatch):
    first = curvature_aligned.error_map(bench)
    monkeypatch.setattr(curvature_aligned, "_of_dim", None)
    second = curvature_aligned.model_error(bench)
    for name in ("direct", "quadratic", "closed", "pointwise"):
        np.testing.assert_array_equal(second.arrays[name], first.arrays[name])
    off = first.arrays["relative_error"][1]
    assert off[0] < 0.1 < off[1]
    assert second.summary["within_ten_percent"] == SIGMAS[0]
    assert "up to σ = 0.001;" in second.summary["seen"]


def test_estimates_come_closer_to_the_closed_form_as_points_grow(bench, model):
    arrays = curvature_aligned.convergence(bench).arrays
    closed = law_level(model, curvature_aligned.MANY_SIGMA)
    np.testing.assert_allclose(arrays["closed_form"], closed, rtol=1e-4)
    theta = curvature_aligned.MANY_SIGMA * benches.normals(bench, 8, 16).astype(np.float64)
    assert arrays["points"].tolist() == [2]
    for name, losses in (
        ("direct", papers.losses64(bench, curvature_aligned.leading_space(bench), theta)),
        ("quadratic", modelled64(model, theta)),
    ):
        levels = np.mean(steps64(losses) ** 2, 1)
        np.testing.assert_allclose(arrays[f"{name}_level"], levels, rtol=1e-4)
        blocks = [(levels[i] + levels[i + 1]) / 2 for i in range(0, 8, 2)]
        error = np.sqrt(np.mean([(block / closed - 1) ** 2 for block in blocks]))
        np.testing.assert_allclose(arrays[f"{name}_error"], [error], rtol=2e-3)
