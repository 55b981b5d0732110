"""The claims of the papers: verdicts from numbers, and the numbers against float64 NumPy."""

import jax
import numpy as np
import papers
import pytest
from cases import increments64

import jaxscape as js
from experiments.paper import claims
from experiments.paper.bench import leading

pytestmark = pytest.mark.usefixtures("in_haste")
K = np.arange(1, 300)
LATE = K >= 100


def numbers(**changed):
    """Of two networks, in which every claim but those of theory holds."""
    ones = np.ones(2)
    found = {
        "top_ten": 9.5 * ones,
        "trace": 10 * ones,
        "level_dim": np.ones((2, 7)) * 50,
        "level_random_dim": np.ones((2, 4)),
        "level_random_sigma": np.ones((2, 4)),
        "exponent": 2 * ones,
        "shift_share": np.zeros((2, 2)),
        "theory_above": np.array([[0.5, 1.0], [0.5, 0.9]]),
    }
    return found | changed


def test_a_verdict_is_that_of_all_networks():
    verdicts = [claims.verdict(claim) for claim in claims.claims_of(numbers())]
    assert verdicts == [*["holds"] * 10, "does not hold", "holds for 1 of 2"]
    worse = numbers(
        top_ten=np.array([9.5, 2.7]),
        level_dim=np.tile([0.1, 0.2, 1, 2, 3, 4, 5], (2, 1)),
        level_random_dim=np.tile([1.0, 1.1, 1.9, 2.1], (2, 1)),
        level_random_sigma=np.array([[1, 1, 0.4, 1], [1, 1, 1.2, 20.0]]),
        exponent=np.array([2.05, 1.8]),
        shift_share=np.array([[0.99, 0.05], [0.98, 0.2]]),
    )
    found = {c.text: (claims.verdict(c), c.numbers) for c in claims.claims_of(worse)}
    words = [word for word, _ in found.values()][:10]
    half, no = "holds for 1 of 2", "does not hold"
    assert words == [half, no, half, half, "holds", no, no, half, no, half]
    np.testing.assert_allclose(found["d = 10 directions suffice"][1], 5 / 3)


@pytest.mark.slow
def test_the_numbers_of_a_network_are_float64_loops(tmp_path):
    bench = papers.bench(tmp_path)
    w = jax.tree.map(lambda leaf: leaf[1], claims.networks(bench))
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
        rest = a[:, 0] ** 2 + sigma**2 * a[:, 0] * trace + sigma**2 * (b**2).sum(1)
        weight = (K * (K + 1.0))[LATE]
        share = (weight * rest[LATE]).sum() / (weight * (rest + curved)[LATE]).sum()
        np.testing.assert_allclose(found["shift_share"][column], share, rtol=1e-3)
        above = np.mean(curved[LATE] > squares(eigen, 10, sigma)[LATE])
        np.testing.assert_allclose(found["theory_above"][column], above, atol=0.011)
    probes = [js.trace(jax.random.key(s), operator, w, num_probes=64).mean for s in range(4)]
    assert abs(found["trace"] - np.mean(probes)) < 5 * found["trace_sem"]
    np.testing.assert_allclose(found["top_ten"], np.sum(pairs.values[:10]), rtol=1e-5)
