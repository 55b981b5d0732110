"""Figures 1 to 9, and the published computations, against float64 NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from cases import increments64, law64
from jax.flatten_util import ravel_pytree
from papers import close
from sweeps import flax_losses64

from experiments.common.surfaces import square
from experiments.paper import bench as benches
from experiments.paper import nikitin, published
from experiments.paper.bench import SIGMAS, leading
from jaxscape import losses

K = np.arange(1, 300)
LATE = K >= 100


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return papers.bench(tmp_path_factory.mktemp("paper"))


def dense64(params, samples):
    """The Hessian of the mean loss of a network of one hidden layer, in float64."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, float), params))
        inputs = jnp.asarray(samples["inputs"], float)

        def mean(w):
            first, last = (unravel(w)[f"Dense_{i}"] for i in range(2))
            hidden = jax.nn.relu(inputs @ first["kernel"] + first["bias"])
            outputs = hidden @ last["kernel"] + last["bias"]
            return losses.cross_entropy(outputs, jnp.asarray(samples["targets"])).mean()

        return np.asarray(jax.jit(jax.hessian(mean))(flat))


@pytest.mark.slow
def test_figure_1_has_the_eigenvalues_of_the_dense_hessians_of_its_networks(bench):
    few = replace(bench.problem, order=bench.problem.order[:90])
    bench, samples = replace(bench, problem=few), few.samples
    found = nikitin.fig1(bench)
    fitted = bench.networks(2)  # again: the same keys, the same networks
    values = found.arrays["eigenvalues"]
    assert np.min(values) < 0  # of other sign than the magnitude
    assert (np.diff(values) <= 0).all()
    for row, own in enumerate(values):
        params = jax.tree.map(lambda x, row=row: np.asarray(x[row]), fitted.params)
        dense = np.linalg.eigvalsh(dense64(params, samples))
        leading = [sorted(x, key=abs)[:-7:-1] for x in (own, dense)]
        np.testing.assert_allclose(*leading, rtol=2e-3)
        # close pairs apart, which 1e-2 does not tell, all the others are eigenvalues too
        assert np.abs(own[:, None] - dense).min(1).max() < 1e-3 * dense.max()
    magnitudes = np.sort(np.abs(values))[:, ::-1]
    np.testing.assert_array_equal(found.arrays["published_eigenvalues"], magnitudes)
    spread = np.abs(values[0, 0] - values[1, 0]) / np.sqrt(2)
    row = found.summary["tables"][0][1]
    assert row[:3] == ["1", f"{values[:, 0].mean():.3g}", f"{spread:.3g}"]
    assert found.summary["notes"][1].startswith(f"{np.sum(values < 0)} of 24")
    assert found.summary["notes"][2].startswith("0 did not")


def check_curve(bench, found, space, sigma, row):
    """Every number of one curve; ``found`` has those of a case."""
    theta = sigma * bench.normals(papers.POINTS, space.dim)
    samples = bench.problem.samples
    rows = papers.losses64(samples, space, theta)
    squares = increments64(rows) ** 2
    close(found["delta"], squares.mean(0))
    close(found["delta_sem"], squares.std(0, ddof=1) / 2, rtol=1e-3)
    np.testing.assert_allclose(found["loss_variance"], rows.var(1, ddof=1).mean(), rtol=1e-5)
    key = jax.random.fold_in(bench.problem.keys["order"], row)
    first = papers.losses64(samples, leading(space, 1), theta[:, :1])
    close(found["published_delta"], papers.published64(key, first), rtol=2e-3)
    close(found["all_directions_delta"], papers.published64(key, rows), rtol=2e-3)


def check_figure(bench, found, cases):
    """``cases`` are subspaces with their σ; the levels are those of the arrays."""
    table = found.summary["tables"][0][1:]
    for row, (space, sigma) in enumerate(cases):
        arrays = {name: x[row] for name, x in found.arrays.items()}
        check_curve(bench, arrays, space, sigma, row)
        levels = (
            np.mean((arrays["delta"] * K**2.0)[LATE]),
            *(
                np.mean((arrays[name] * np.arange(1, 5) ** 2.0)[1:])  # later half of few batches
                for name in ("published_delta", "all_directions_delta")
            ),
            arrays["loss_variance"],
        )
        np.testing.assert_allclose([float(x) for x in table[row][1:]], levels, rtol=6e-3)


def test_figure_4_is_a_float64_loop_at_every_sigma(bench):
    sigmas = (0.1, 1.0, 5.0, 10.0)
    found = nikitin.fig4(bench)
    assert found.arrays["sigma"].tolist() == [np.float32(0.1), 1, 5, 10]
    assert found.arrays["dim"].tolist() == [2] * 4
    space = bench.directions("unit-filter", 2)
    check_figure(bench, found, zip([space] * 4, sigmas, strict=True))


@pytest.mark.slow
def test_figure_5_is_a_float64_loop_in_every_dimension(bench):
    found = nikitin.fig5(bench)
    space = bench.directions("unit-filter", 256)
    check_figure(bench, found, [(leading(space, dim), 1.0) for dim in (2, 16, 64, 256)])


@pytest.mark.slow
def test_figures_8_and_9_are_float64_loops_along_the_eigenvectors(bench):
    space = bench.directions("hessian", 10)
    curves = nikitin.along_eigenvectors(bench)
    for row, sigma in enumerate(SIGMAS):
        check_curve(bench, {name: x[row] for name, x in curves.items()}, space, sigma, row)
    made = nikitin.fig9(bench)
    found, samples = made.arrays, bench.problem.samples
    model = papers.quadratic64(space, samples)
    names = ("offset", "mixed", "gradient", "curvature", "total", "centered", "diagonal")
    for row, sigma in enumerate(SIGMAS):
        np.testing.assert_array_equal(found["delta"][row], curves["delta"][row])
        for name, expected in zip(names, law64(model, sigma), strict=True):
            scale = (K + 1.0) ** 2
            np.testing.assert_allclose(
                found[f"law_{name}"][row] * scale, expected * scale, rtol=1e-3,
                atol=1e-5 * np.max(np.abs(expected * scale)),
            )  # fmt: skip
    check_theory(bench, made)
    check_sizes(made)


def check_theory(bench, made):
    """Of four batches the last three: eigenvalues by magnitude, paired by index, against dense."""
    found, samples = made.arrays, bench.problem.samples
    magnitudes = []
    for k in (192, 256):
        first = jax.tree.map(lambda x, k=k: np.asarray(x[:k]), samples)
        values = np.linalg.eigvalsh(dense64(bench.trained, first))
        magnitudes.append(np.sort(np.abs(values))[:-11:-1])
    np.testing.assert_allclose(found["published_eigenvalues"], magnitudes, rtol=1e-3)
    change = magnitudes[1] - magnitudes[0]
    theory = (2 * np.sum(change**2) + np.sum(change) ** 2) / 4
    np.testing.assert_allclose(found["published_theory"], [theory], rtol=2e-2)
    assert found["published_theory_k"].tolist() == [3]
    at_origin = flax_losses64(bench.trained, samples)
    np.testing.assert_allclose(found["published_loss"], [at_origin[:192].mean()], rtol=1e-5)
    seen, theory = found["published_delta"][1][2], found["published_theory"][0]
    share = nikitin.above(found["published_theory"], found["published_delta"][1][[2]])
    assert share["each"] == share["sliding"] == (theory > seen)
    assert share["as_drawn"] == (theory / 2 + 1.2e-4 > seen)
    np.testing.assert_allclose(share["ratio"], theory / seen, rtol=1e-6)


def check_sizes(made):
    """One past the last k at which a curve is not below the tolerance, in samples."""
    names = ("delta", "law_total", "law_curvature", "law_diagonal", "published_delta")
    _, *rows = made.summary["tables"][1]
    for place, cells in enumerate(rows[:-1]):
        row, name = divmod(place, len(names))
        values = made.arrays[names[name]][row]
        step = 64 if names[name] == "published_delta" else 1
        for tolerance, cell in zip(nikitin.TOLERANCES, cells[2:], strict=True):
            over = np.flatnonzero(values >= np.float32(tolerance))
            wanted = over[-1] + 2 if over.size else 1
            assert cell == (f"{step * wanted:,}" if wanted <= len(values) else "not by the end")
    assert "from 192 on" in rows[-1][1]


def test_sliding_means_repeat_the_ends():
    values = np.arange(20.0) ** 2
    padded = [values[0]] * 5 + [*values] + [values[-1]] * 5
    means = [np.mean(padded[i : i + 11]) for i in range(20)]
    np.testing.assert_allclose(nikitin.sliding(values), means)


def test_a_network_trained_as_published_starts_and_sees_what_the_reference_code_gives_it(bench):
    """PyTorch's bounds layer by layer; the first samples of the data set, scaled by all inputs."""
    dense = {"kernel": jnp.zeros((400, 300)), "bias": jnp.zeros(300)}
    convolution = {"kernel": jnp.zeros((5, 4, 20, 90)), "bias": jnp.zeros(300)}
    for layer in benches.uniform(jax.random.key(0), {"a": dense, "b": convolution}).values():
        for name, leaf in layer.items():
            assert 0.049 < jnp.abs(leaf).max() < 0.05, name
            np.testing.assert_allclose(leaf.std(), 0.05 / np.sqrt(3), rtol=0.1)
    own, dataset = bench.as_published, bench.problem.dataset
    inputs = np.asarray(dataset.train_inputs, np.float64)
    expected = (inputs - inputs.mean()) / inputs.std()
    samples = own.problem.samples
    np.testing.assert_allclose(samples["inputs"], expected[:300], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(samples["targets"], dataset.train_targets[:300])


PAIRS = [("unit-filter", nikitin.fig2, nikitin.fig3), ("hessian", nikitin.fig6, nikitin.fig7)]


@pytest.mark.parametrize(("kind", "small", "large"), PAIRS, ids=["random", "hessian"])
def test_surfaces_are_float64_loops(bench, kind, small, large):
    rows = grid64(bench, bench.directions(kind, 2), square(bench.config.radius, 3))
    steps = increments64(rows)
    for column, record in enumerate((small(bench), large(bench))):
        assert set(record.figures) == {"relief", "relief_log10", "contours"}
        arrays = {name: np.reshape(x, (-1, 9)) for name, x in record.arrays.items() if x.ndim == 3}
        assert record.arrays["k"].tolist() == [1, 298, 300]
        for place, k in enumerate((1, 298)):
            np.testing.assert_allclose(arrays["loss"][place], rows[:, :k].mean(1), rtol=1e-5)
            np.testing.assert_allclose(
                arrays["increment"][place], steps[:, k - 1], rtol=1e-4, atol=1e-7
            )
        check_published(bench, rows, arrays)
        assert record.arrays["published_k"].tolist() == [1, 3]
        mine, theirs = record.arrays["loss"][column], record.arrays["published_loss"][column]
        said = record.summary["notes"][-2]
        assert f"of its own, {roughness(theirs):.2g}; with the same" in said
        assert said.endswith(f" {roughness(mine):.2g}")


def grid64(bench, space, steps):
    """The losses at the nine points of the grid, row by row, [9, n]."""
    return papers.losses64(
        bench.problem.samples, space, [(a, b) for a in steps[0] for b in steps[1]]
    )


def check_published(bench, rows, arrays):
    """k in batches, drawn anew at each point; of all batches but two, the last two are random."""
    for point, row in enumerate(rows):
        key = jax.random.fold_in(bench.problem.keys["order"], point)
        drawn = row[np.asarray(jax.random.permutation(key, 300))[:128]]
        first, second = drawn[:64].mean(), drawn[64:].mean()
        last = drawn[-44:].mean()  # 300 samples are four batches of 64 and one of 44
        before = (row.sum() - 44 * last - 64 * first) / 192
        expected = {
            "published_loss": (first, before),
            "published_increment": ((second - first) / 2, (first - before) / 4),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(arrays[name][:, point], values, rtol=1e-3, atol=1e-6)


def roughness(sheet):
    """Root mean square second difference, over √6 times the standard deviation."""
    a = np.asarray(sheet, np.float64)
    bends = [(a[i - 1] - 2 * a[i] + a[i + 1]) for i in range(1, len(a) - 1)]
    bends += [(a[:, i - 1] - 2 * a[:, i] + a[:, i + 1]) for i in range(1, len(a) - 1)]
    return np.sqrt(np.mean(np.square(bends)) / 6) / a.std()


def test_the_published_theorem_pairs_magnitudes_by_index():
    values, after = np.array([3.0, -5.0, 1.0]), np.array([2.0, -4.0, 2.0])
    change = np.array([4.0, 2.0, 2.0]) - np.array([5.0, 3.0, 1.0])
    expected = (2 * (change**2).sum() + change.sum() ** 2) / 4
    np.testing.assert_allclose(published.theorem(values, after), expected)
