"""Figures 4, 5, 8 and 9 and the family of criteria against float64 NumPy."""

import itertools
from types import SimpleNamespace
from unittest import mock

import jax
import numpy as np
import papers
import pytest
from cases import increments64, law64
from sweeps import flax_losses64

import jaxscape as js
from experiments.paper import bench as benches
from experiments.paper import curvature_aligned, increments, replication, theorem
from jaxscape.lab import train
from jaxscape.lanczos import Eigenpairs
from jaxscape.prefix_spectra import PrefixSpectra

K = np.arange(1, 300)
LATE = K >= 100
pytestmark = pytest.mark.usefixtures("in_haste")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with papers.bench(tmp_path_factory.mktemp("paper")) as found:
        yield found


def close(found, expected, rtol=1e-4):
    """Curves agree after k² has taken out their fall."""
    scale = (np.arange(1, np.shape(expected)[-1] + 1) + 1.0) ** 2
    np.testing.assert_allclose(
        found * scale, expected * scale, rtol=rtol, atol=rtol * 1e-2 * np.max(expected * scale)
    )


def check_curves(bench, found, cases):
    """Every array of a figure of curves; ``cases`` are subspaces with their σ."""
    for row, (space, sigma) in enumerate(cases):
        theta = sigma * benches.normals(bench, papers.POINTS, space.dim)
        losses = papers.losses64(bench, space, theta)
        squares = increments64(losses) ** 2
        close(found.arrays["delta"][row], squares.mean(0))
        close(found.arrays["delta_sem"][row], squares.std(0, ddof=1) / 2, rtol=1e-3)
        variance = losses.var(1, ddof=1).mean()
        np.testing.assert_allclose(found.arrays["loss_variance"][row], variance, rtol=1e-5)
        key = jax.random.fold_in(bench.problem.keys["order"], row)
        first = papers.losses64(bench, benches.leading(space, 1), theta[:, :1])
        old = papers.published64(key, first)
        close(found.arrays["published_delta"][row], old, rtol=2e-3)
        if "all_directions_delta" in found.arrays:
            every = papers.published64(key, losses)
            close(found.arrays["all_directions_delta"][row], every, rtol=2e-3)
        entry = found.summary["curves"][row]
        level = np.mean((squares.mean(0) * K**2.0)[LATE])
        np.testing.assert_allclose(entry["mean_delta_k2"], level, rtol=1e-4)
        np.testing.assert_allclose(entry["order_law_k2"], variance, rtol=1e-5)
        chosen = np.arange(1, 5) >= 2  # the later half of so few batches
        level = np.mean((old * np.arange(1, 5) ** 2)[chosen])
        np.testing.assert_allclose(entry["published_mean_delta_k2"], level, rtol=1e-3)
        assert f"{level:.3g}" in found.summary["seen"]


def test_figure_4_is_a_float64_loop_at_every_sigma(bench):
    space = benches.directions(bench, "filter", 10)
    found = increments.fig4(bench)
    assert found.arrays["sigma"].tolist() == [np.float32(0.1), 1, 5, 10]
    check_curves(bench, found, zip([space] * 4, (0.1, 1.0, 5.0, 10.0), strict=True))


def test_figure_5_is_a_float64_loop_in_every_dimension(bench, monkeypatch):
    monkeypatch.setattr(increments, "DIMS", (2, 10, 16))
    found = increments.fig5(bench)
    space = benches.directions(bench, "filter", 16)
    spaces = [benches.leading(space, dim) for dim in (2, 10, 16)]
    check_curves(bench, found, zip(spaces, itertools.repeat(1.0), strict=False))
    levels = [entry["mean_delta_k2"] for entry in found.summary["curves"]]
    assert levels == sorted(levels)  # more directions change more, but not as published:
    old = [entry["published_mean_delta_k2"] for entry in found.summary["curves"]]
    assert max(old) / min(old) < levels[2] / levels[0]


def test_figure_8_is_a_float64_loop_along_the_eigenvectors(bench, monkeypatch):
    monkeypatch.setattr(replication, "add", lambda bench, found: found)
    space = benches.directions(bench, "hessian", 10)
    check_curves(bench, increments.fig8(bench), zip([space] * 2, benches.SIGMAS, strict=True))
    monkeypatch.setattr(increments, "measure", None)  # the second time from the file
    again = increments.fig8(bench)
    check_curves(bench, again, zip([space] * 2, benches.SIGMAS, strict=True))


def test_networks_trained_as_published_are_measured_on_their_own_samples(bench, monkeypatch):
    """Two networks, left as they start, and directions that are known."""
    monkeypatch.setattr(replication, "NETWORKS", 2)
    seen, along = [], benches.directions(bench, "hessian", 10).basis
    pairs = Eigenpairs(np.ones(10), along, np.ones(10), np.ones(10, bool), 0)

    def fit(key, loss, params, samples, **options):
        seen.append((params, samples))
        return train.Fitted(params, np.ones(1))

    monkeypatch.setattr(train, "fit", fit)
    monkeypatch.setattr(js, "top_eigenpairs", lambda *args, **options: pairs)
    found = replication.replicate(bench)
    for row, (params, samples) in enumerate(seen):
        keys = {n: jax.random.fold_in(key, row) for n, key in bench.problem.keys.items()}
        theta = np.asarray(jax.random.normal(keys["probe"], (papers.POINTS, 10)))
        there = bench._replace(problem=SimpleNamespace(samples=samples))
        space = js.Subspace(params, along)
        every = papers.losses64(there, space, theta)
        first = papers.losses64(there, benches.leading(space, 1), theta[:, :1])
        close(found.corrected[row], (increments64(every) ** 2).mean(0))
        close(found.published[row], papers.published64(keys["order"], first), rtol=2e-3)
        close(found.all_directions[row], papers.published64(keys["order"], every), rtol=2e-3)
        np.testing.assert_allclose(
            found.train_loss[row], flax_losses64(params, samples).mean(), rtol=1e-5
        )
    assert not np.array_equal(*(params["Dense_0"]["kernel"] for params, _ in seen))


def test_figure_9_is_the_float64_law_beside_monte_carlo(bench, monkeypatch):
    values = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    asked = []

    def spectra(*args, ks, **options):
        asked.extend(ks)
        return PrefixSpectra(ks, values[: len(ks)], *[np.ones((len(ks), 10))] * 2, *[None] * 3)

    monkeypatch.setattr(js, "prefix_spectra", spectra)
    found = theorem.fig9(bench).arrays
    model = papers.quadratic64(benches.directions(bench, "hessian", 10), bench.problem.samples)
    for row, sigma in enumerate(benches.SIGMAS):
        names = ("offset", "mixed", "gradient", "curvature", "total", "shape", "diagonal")
        for name, expected in zip(names, law64(model, sigma), strict=True):
            scale = (K + 1.0) ** 2
            np.testing.assert_allclose(
                found[f"law_{name}"][row] * scale, expected * scale, rtol=1e-3,
                atol=1e-5 * np.max(np.abs(expected * scale)),
            )  # fmt: skip
    assert asked == [64, 128]
    change = np.sort(np.abs(values[1]))[::-1] - np.sort(np.abs(values[0]))[::-1]
    expected = (2 * np.sum(change**2.0) + np.sum(change) ** 2.0) / 4
    np.testing.assert_allclose(found["published_theory"], [expected], rtol=1e-5)
    assert found["published_theory_k"].tolist() == [1]


def test_every_member_of_the_family_is_a_float64_loop(bench, monkeypatch):
    monkeypatch.setattr(curvature_aligned, "DIMS", (2, 16))
    monkeypatch.setattr(curvature_aligned, "SIGMAS", (1e-3, 0.5))
    found = curvature_aligned.family(bench).arrays
    space, samples = curvature_aligned.leading_space(bench), bench.problem.samples
    single = np.abs(increments64(flax_losses64(space.origin, samples)[None])[0])
    np.testing.assert_allclose(found["single"], single, rtol=1e-4, atol=1e-9)
    for row, sigma in enumerate((1e-3, 0.5)):
        probe = js.isotropic(bench.problem.keys["probe"], space.origin, papers.POINTS, sigma)
        points = jax.jit(jax.vmap(probe.at))(np.arange(papers.POINTS))
        losses = [
            flax_losses64(jax.tree.map(lambda x, i=i: x[i], points), samples)
            for i in range(papers.POINTS)
        ]
        members = [np.stack(losses)]
        for dim in (2, 16):
            theta = sigma * benches.normals(bench, papers.POINTS, dim)
            members.append(papers.losses64(bench, benches.leading(space, dim), theta))
        squares = [increments64(losses) ** 2 for losses in members]
        curve = [found["isotropic"][row], *found["subspace"][row]]
        error = [found["isotropic_sem"][row], *found["subspace_sem"][row]]
        for mean, sem, square in zip(curve, error, squares, strict=True):
            close(mean, square.mean(0))
            close(sem, square.std(0, ddof=1) / 2, rtol=2e-3)
        levels = [np.mean((square.mean(0) * K**2.0)[LATE]) for square in squares]
        with mock.patch.object(js, "delta", None):  # the second figure from the file
            ratio = curvature_aligned.ratio(bench).arrays["ratio"][row]
        np.testing.assert_allclose(ratio, np.divide(levels[1:], levels[0]), rtol=1e-4)
