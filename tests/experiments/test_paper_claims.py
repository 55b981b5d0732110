"""The claims of the papers: verdicts from numbers, and the numbers against float64 NumPy."""

import jax
import numpy as np
import papers
import pytest
from cases import increments64
from sweeps import flax_losses64

import jaxscape as js
from experiments.paper import claims, nikitin, published
from experiments.paper.bench import leading

K = np.arange(1, 300)
GRID = [(a, b) for a in np.linspace(-1, 1, 11) for b in np.linspace(-1, 1, 11)]
LATE = K >= 100


def numbers(**changed):
    """Of two networks, in which every claim holds."""
    ones = np.ones(2)
    found = {
        "top_ten": 9.5 * ones,
        "trace": 10 * ones,
        "effective_rank": 1e-4 * ones,
        "level_dim": np.ones((2, 7)) * 50,
        "level_random_dim": np.ones((2, 4)),
        "level_random_sigma": np.ones((2, 4)),
        "exponent": 2 * ones,
        "gradient_share": np.zeros((2, 2)),
        "offset_share": np.zeros((2, 2)),
        "law": np.ones((2, 2)),
        "theory_above": np.ones((2, 2)),
        "theory_size": np.ones((2, 2)),
        "published_above": ones,
        "published_ratio": ones,
        "aligned": np.ones((2, 3)),
        "extremal": 2 * ones,
        "roughness": np.tile([0.9, 0.9, 0.01], (2, 1)),
        "looseness": np.ones((2, 6)),
    }
    return found | changed


def test_a_verdict_is_that_of_all_networks():
    assert {claims.verdict(claim) for claim in claims.claims_of(numbers())} == {"holds"}
    half, no = "holds for 1 of 2", "does not hold"
    looseness = np.ones((2, 6))
    looseness[1, 3] = -0.1
    for change, text, word in (
        ({"top_ten": np.array([9.5, 2.7])}, "the top ten modes hold nearly all curvature", half),
        ({"level_dim": np.tile([50, 50, 50, 50, 50, 50, 99.0], (2, 1))}, "d = 10 directions", no),
        (
            {"level_random_sigma": np.array([[1, 1, 0.4, 1], [1, 1, 1.2, 1]])},
            "effect up to 5",
            half,
        ),
        ({"level_random_sigma": np.array([[1, 1, 1, 9.0]] * 2)}, "σ has no effect up to 10", no),
        ({"level_random_dim": np.array([[1, 1, 3.0, 1]] * 2)}, "no effect up to 64", no),
        ({"level_random_dim": np.array([[1, 1, 1, 2.1]] * 2)}, "no effect up to 256", no),
        ({"level_dim": np.full((2, 7), 0.5)}, "eigenvectors give the higher", no),
        ({"exponent": np.array([2.05, 1.8])}, "Δ_k falls as 1/k²", half),
        ({"gradient_share": np.array([[0, 0.2]] * 2)}, "gradients at w* are negligible, σ = 1", no),
        (
            {"offset_share": np.array([[0.9, 0], [0, 0]])},
            "the move of L_k(w*) is negligible, σ = 0.01",
            half,
        ),
        ({"theory_above": np.array([[0.99, 1]] * 2)}, "for all k ≥ 100, σ = 0.01", no),
        ({"theory_size": np.array([[1, 0.9]] * 2)}, "is large enough, σ = 1", no),
        ({"published_above": np.array([1, 0.9])}, "at 8 k, both as published", half),
        ({"published_ratio": np.array([9.0, 1])}, "a tight bound", half),
        ({"law": np.array([[0.8, 1], [1, 9]])}, "closed form is the Monte-Carlo value", half),
        ({"aligned": np.array([[1, 1.2, 1]] * 2)}, "all parameters, σ = 0.001", no),
        ({"extremal": np.array([0.9, 2])}, "no eigenspace has more", half),
        ({"roughness": np.tile([0.1, 0.9, 0.01], (2, 1))}, "the same sample at all", no),
        ({"looseness": looseness}, "(k+1)·|δ_k| within R", half),
    ):
        found = {c.text: claims.verdict(c) for c in claims.claims_of(numbers(**change))}
        (key,) = (key for key in found if text in key)
        assert found.pop(key) == word, text
        assert set(found.values()) == {"holds"} or "effect" in text or "eigenvectors" in text


def test_claims_of_sizes_compare_the_ends():
    levels = {(1, 4): 1.0, (1, 64): 0.5, (10, 4): 3.0, (10, 64): 4.0}
    entries = [
        {"depth": d, "width": w, "level": x, "exponent": 1.0} for (d, w), x in levels.items()
    ]
    wide, deep, fall = claims.of_sizes(entries)
    np.testing.assert_allclose(wide.numbers, [0.5, 4 / 3])
    np.testing.assert_allclose(deep.numbers, [3, 8])
    verdicts = [claims.verdict(claim) for claim in (wide, deep, fall)]
    assert verdicts == ["holds for 1 of 2", "holds", "holds"]


@pytest.mark.slow
def test_the_numbers_of_a_network_are_float64_loops(tmp_path):
    bench = papers.bench(tmp_path)
    w = jax.tree.map(lambda leaf: leaf[1], bench.networks(5).params)
    found = claims.numbers_of(bench, w, 1)
    samples, key = bench.problem.samples, jax.random.fold_in(bench.problem.keys["subspace"], 1)
    operator = js.hessian_operator(bench.problem.loss, w, samples)
    pairs = js.top_eigenpairs(key, operator, w, 16, find_repeated=False)
    eigen = js.Subspace(w, pairs.vectors)
    random = js.random_subspace(key, w, 256, normalization="unit-filter")

    def squares(space, dim, sigma):
        theta = sigma * bench.normals(papers.POINTS, dim)
        return (increments64(papers.losses64(samples, leading(space, dim), theta)) ** 2).mean(0)

    def level(*which):
        return (squares(*which) * K**2.0)[LATE].mean()

    for column, dim in enumerate((1, 2, 4, 8, 10, 12, 16)):
        np.testing.assert_allclose(found["level_dim"][column], level(eigen, dim, 1.0), rtol=1e-3)
    for column, sigma in enumerate((0.1, 1.0, 5.0, 10.0)):
        want = level(random, 2, sigma)
        np.testing.assert_allclose(found["level_random_sigma"][column], want, rtol=1e-3)
    np.testing.assert_allclose(found["level_random_dim"][3], level(random, 256, 1.0), rtol=1e-3)
    value, gradient, hessian = papers.quadratic64(leading(eigen, 10), samples)
    a, b, bend = (increments64(x.reshape(300, -1).T).T for x in (value, gradient, hessian))
    bend = bend.reshape(299, 10, 10)
    trace = np.trace(bend, axis1=1, axis2=2)
    for column, sigma in enumerate((0.01, 1.0)):
        curved = sigma**4 / 4 * (2 * (bend**2).sum((1, 2)) + trace**2)
        offset = a[:, 0] ** 2 + sigma**2 * a[:, 0] * trace
        slope = sigma**2 * (b**2).sum(1)
        weight, seen = (K * (K + 1.0))[LATE], squares(eigen, 10, sigma)
        law = (weight * (offset + slope + curved)[LATE]).sum()
        for name, part in (("gradient_share", slope), ("offset_share", offset)):
            share = (weight * part[LATE]).sum() / law
            np.testing.assert_allclose(found[name][column], share, rtol=1e-3)
        np.testing.assert_allclose(
            found["law"][column], law / (weight * seen[LATE]).sum(), rtol=1e-3
        )
        above = np.mean(curved[LATE] > seen[LATE])
        np.testing.assert_allclose(found["theory_above"][column], above, atol=0.011)
        tolerance = 16 * np.mean((seen * K**2)[LATE]) / 300**2
        sizes = [K[x >= tolerance].max(initial=0) + 1 for x in (curved, seen)]
        theory, own = (min(size, 300) for size in sizes)
        np.testing.assert_allclose(found["theory_size"][column], theory / own, rtol=0.02)
    check_others(bench, eigen, random, found)
    probes = [js.trace(jax.random.key(s), operator, w, num_probes=64).mean for s in range(4)]
    assert abs(found["trace"] - np.mean(probes)) < 5 * found["trace_sem"]
    np.testing.assert_allclose(found["top_ten"], np.sum(pairs.values[:10]), rtol=1e-5)


def check_others(bench, eigen, random, found):
    """Published theory over published experiment, extremality, bounds: from their definitions."""
    samples, key = bench.problem.samples, jax.random.fold_in(bench.problem.keys["order"], 1)
    rows = papers.losses64(samples, leading(eigen, 1), bench.normals(papers.POINTS, 1))
    seen = papers.published64(key, rows)
    keys, ks = jax.random.fold_in(bench.problem.keys["subspace"], 1), [2, 3, 4]
    spectra = js.prefix_spectra(keys, bench.problem.loss, eigen.origin, samples, 10,
                                ks=[64 * k for k in ks], which="magnitude")  # fmt: skip
    values = np.asarray(spectra.values)
    theory = [published.theorem(values[i], values[i + 1]) for i in range(2)]
    ratios = np.array(theory) / seen[1:3]
    np.testing.assert_allclose(found["published_above"], np.mean(ratios > 1))
    np.testing.assert_allclose(found["published_ratio"], np.exp(np.log(ratios).mean()), rtol=1e-2)
    _, _, hessian = papers.quadratic64(eigen, samples)
    bend = increments64(hessian.reshape(300, -1).T).T.reshape(299, 16, 16)
    spans = []
    for part in (bend[:, :8, :8], bend[:, 8:, 8:]):
        curvature = 2 * (part**2).sum((1, 2)) + np.trace(part, axis1=1, axis2=2) ** 2
        spans.append(((K * (K + 1.0)) * curvature)[LATE].sum())
    np.testing.assert_allclose(found["extremal"], spans[0] / spans[1], rtol=1e-2)
    key = jax.random.fold_in(bench.problem.keys["probe"], 1)
    for column, sigma in enumerate((1e-4, 1e-3, 1e-2)):
        probe = js.isotropic(key, eigen.origin, papers.POINTS, sigma)
        everywhere = [flax_losses64(probe.at(i), samples) for i in range(papers.POINTS)]
        along = papers.losses64(samples, eigen, sigma * bench.normals(papers.POINTS, 16))
        levels = [
            ((increments64(np.stack(list(rows))) ** 2).mean(0) * K**2.0)[LATE].mean()
            for rows in (along, everywhere)
        ]
        np.testing.assert_allclose(found["aligned"][column], levels[0] / levels[1], rtol=1e-3)
    sheet = papers.losses64(samples, leading(random, 2), GRID)
    for column, values in ((0, sheet[:, 0]), (2, sheet.mean(1))):
        wanted = nikitin.roughness(values.reshape(11, 11))
        np.testing.assert_allclose(found["roughness"][column], wanted, rtol=1e-2)
    assert found["looseness"].shape == (6,)  # what they are made of: test_published_bounds
