"""The spectra command against dense float64 Hessians of a tiny network."""

import json
from pathlib import Path

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxscape as js
from experiments import spectra
from experiments.common import prepare
from experiments.common import problem as problems
from jaxscape import losses
from jaxscape.prefix_spectra import PrefixSpectra

K_MAX, DIM, SIGMA = 60, 2, 0.3


def flags(folder):
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=80)
    inputs = rng.normal(size=(80, 4)) + np.eye(3, 4)[targets]
    path = folder / "clouds.npz"
    np.savez(path, inputs=inputs.astype(np.float32), targets=targets)
    return [
        *("--dataset", f"npz:{path}", "--k-max", str(K_MAX), "--hidden", "5", "--layers", "1"),
        *("--epochs", "1", "--dim", str(DIM), "--num-ks", "4"),
        *("--sigma", str(SIGMA)),
    ]


def losses64(params, batch):
    """A network of one hidden ReLU layer, on a pytree of float64."""
    first, last = params["Dense_0"], params["Dense_1"]
    hidden = jax.nn.relu(batch["inputs"] @ first["kernel"] + first["bias"])
    return losses.cross_entropy(hidden @ last["kernel"] + last["bias"], batch["targets"])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The arrays and the summary of a run; dense H_i, g_i, c_i and the basis in float64."""
    folder = tmp_path_factory.mktemp("spectra")
    out = folder / "run"
    argv = flags(folder)
    with drawing.coarsely():
        assert spectra.main([*argv, "--out", str(out)]) == 0
    with np.load(out / "results.npz") as file:
        arrays = dict(file)
    found = json.loads((out / "summary.json").read_text())
    config = spectra.SpectraConfig(
        dataset=argv[1], k_max=K_MAX, hidden=5, layers=1, epochs=1, dim=DIM
    )
    problem = problems.load(config)
    params = prepare.trained(problem, config, out / "checkpoint")  # restored
    space, _ = prepare.eigenspace(problem, params, DIM, out / "checkpoint")
    basis = np.asarray(jax.vmap(lambda v: ravel_pytree(v)[0])(space.basis), float)
    with jax.enable_x64(True):
        doubles = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, float)), params)
        flat, unravel = ravel_pytree(doubles)
        inputs = jnp.asarray(np.asarray(problem.samples["inputs"], float))

        def one(x, y):
            batch = {"inputs": x[None], "targets": y[None]}
            loss = lambda w: losses64(unravel(w), batch)[0]  # noqa: E731
            return loss(flat), jax.grad(loss)(flat), jax.hessian(loss)(flat)

        dense = jax.jit(jax.vmap(one))(inputs, problem.samples["targets"])
        dense = [np.asarray(part) for part in dense]
    return out, arrays, found, dense, basis


@pytest.mark.slow
def test_eigenvalues_are_those_of_the_dense_hessians(done):
    _, arrays, _, (_, _, hessians), _ = done
    assert arrays["k"][0] == 10
    assert arrays["k"][-1] == K_MAX
    assert arrays["converged"].all()
    for row, k in enumerate(arrays["k"]):
        exact = np.linalg.eigvalsh(hessians[:k].mean(0))[::-1]
        np.testing.assert_allclose(arrays["values"][row], exact[:DIM], rtol=1e-4)
        gaps = np.abs(arrays["values"][row][:, None] - exact).min(1)
        assert np.all(gaps <= arrays["residuals"][row] + 2e-6 * exact[0])


@pytest.mark.slow
def test_overlap_is_the_mean_squared_cosine(done):
    _, arrays, found, (_, _, hessians), basis = done
    for row, k in enumerate(arrays["k"]):
        leading = np.linalg.eigh(hessians[:k].mean(0))[1][:, ::-1][:, :DIM].T
        expected = np.mean(np.linalg.svd(leading @ basis.T)[1] ** 2)
        assert arrays["overlap"][row] == pytest.approx(expected, abs=2e-3)
    assert arrays["overlap"][-1] == pytest.approx(1, abs=1e-5)
    assert found["overlap"] == arrays["overlap"].tolist()


@pytest.mark.slow
def test_ritz_values_of_every_k_lie_below(done):
    _, arrays, _, (_, _, hessians), basis = done
    for k in range(1, K_MAX + 1):
        exact = np.linalg.eigvalsh(basis @ hessians[:k].mean(0) @ basis.T)[::-1]
        np.testing.assert_allclose(arrays["ritz_values"][k - 1], exact, rtol=1e-4, atol=1e-6)
    excess = arrays["ritz_values"][arrays["k"] - 1] - arrays["values"]
    limit = arrays["residuals"] + 3e-6 * arrays["values"][:, :1]
    assert np.all(excess <= limit)


@pytest.mark.slow
def test_theorem_one_beside_the_law(done):
    """Every number of the second table, from the dense matrices, at each k with a successor."""
    _, arrays, _, (values, gradients, hessians), basis = done
    assert len(arrays["pair_k"]) >= 2
    for row, k in enumerate(arrays["pair_k"]):
        steps = np.subtract(
            *(np.linalg.eigvalsh(hessians[:n].mean(0))[::-1][:DIM] for n in (k + 1, k))
        )
        theorem = SIGMA**4 / 4 * (2 * (steps**2).sum() + steps.sum() ** 2)
        assert abs(arrays["theorem1"][row] - theorem) <= arrays["theorem1_error"][row]
        assert arrays["theorem1_error"][row] < 0.1 * theorem
        a, b, matrix = (part[: k + 1].mean(0) - part[:k].mean(0) for part in
                        (values, gradients @ basis.T, basis @ hessians @ basis.T))  # fmt: skip
        curvature = SIGMA**4 / 4 * (2 * (matrix**2).sum() + np.trace(matrix) ** 2)
        total = a**2 + SIGMA**2 * (a * np.trace(matrix) + (b**2).sum()) + curvature
        diagonal = np.diag(matrix)
        diagonal = SIGMA**4 / 4 * (2 * (diagonal**2).sum() + diagonal.sum() ** 2)
        for name, exact in (("total", total), ("curvature", curvature), ("diagonal", diagonal)):
            assert arrays[f"law_{name}"][k - 1] == pytest.approx(exact, rel=1e-3)


@pytest.mark.slow
def test_theorem_one_is_the_diagonal_law_where_eigenvectors_are_shared():
    """Linear regression on coordinate axes: every H_k is diagonal, in the same order."""
    inputs = np.concatenate([np.diag([9.0, 6, 3])] * 3)
    inputs *= np.linspace(1, 1.05, 9)[:, None]
    data, params = jnp.asarray(inputs), jnp.zeros(3)

    def loss(w, batch):
        return (batch @ w) ** 2 / 2

    found = js.prefix_spectra(jax.random.key(0), loss, params, data, 3, ks=range(3, 10))
    delta = spectra.theorem(found, 0.1)
    law = js.quadratic_delta(js.project(loss, js.Subspace(params, jnp.eye(3)), data), 0.1)
    np.testing.assert_array_equal(delta["pair_k"], range(3, 9))
    np.testing.assert_allclose(delta["theorem1"], law.diagonal[2:], rtol=1e-3)


@pytest.mark.slow
def test_figures_and_tables(done):
    out, arrays, _, _, _ = done
    assert drawing.drawn(out) == {"eigenvalues"}
    rows = spectra.table(arrays)
    assert [int(row[0]) for row in rows[1:]] == arrays["k"].tolist()
    assert [float(row[2]) for row in rows[1:]] == pytest.approx(arrays["values"][:, 0], rel=1e-3)
    assert [float(row[-1]) for row in rows[1:]] == pytest.approx(arrays["overlap"], abs=1e-3)
    theorems = spectra.theorem_table(arrays)[1:]
    assert [int(row[0]) for row in theorems] == arrays["pair_k"].tolist()
    law = arrays["law_total"][arrays["pair_k"] - 1]
    assert [float(row[-1]) for row in theorems] == pytest.approx(law, rel=6e-3)


def test_the_error_of_an_eigenvalue_is_its_residual_or_less():
    """Known eigenvalues 4 and 3 of [[4, 0], [0, 3]] against the Rayleigh quotients of bent vectors.

    A vector at angle a to an eigenvector has r = gap·sin a·cos a and is off by gap·sin²a.
    """
    bent, dim = np.sin(0.01), 2
    values = np.array([[4 - bent**2, 3 + bent**2], [4.0, 3.0]])
    residuals = np.array([[bent * np.cos(0.01)] * dim, [0, 0]])
    solved = PrefixSpectra(np.array([7, 8]), values, residuals, *[None] * 4)
    rounding = 10 * np.finfo(np.float32).eps * values[:, :1].repeat(dim, 1)
    found = spectra.eigenvalue_errors(solved) - rounding
    off = np.abs(values - [4, 3])
    assert np.all(found >= off * (1 - 1e-6))
    np.testing.assert_allclose(found, off, rtol=1e-3)
    step = off[0] + rounding.sum(0)
    own = SIGMA**4 / 4 * (2 * (step**2).sum() + step.sum() ** 2)
    both = spectra.theorem(solved, SIGMA)
    bound = 2 * np.sqrt(both["theorem1"] * own) + own
    np.testing.assert_allclose(both["theorem1_error"], bound, rtol=1e-3)
    together = solved._replace(values=np.full((2, 2), 4.0))
    found = spectra.eigenvalue_errors(together) - 40 * np.finfo(np.float32).eps
    np.testing.assert_allclose(found, residuals, rtol=1e-6, atol=1e-15)


def test_the_grid():
    ks = spectra.grid(60_000, 24)
    assert ks[0] == 10
    assert ks[-1] == 60_000
    assert len(ks) == 28
    assert np.sum(np.diff(ks) == 1) == 4
    assert spectra.grid(2, 24).tolist() == [1, 2]


def test_bad_input_is_one_line(tmp_path, capsys):
    out = tmp_path / "run"
    for more, word in (
        (["--dim", "33"], "from 1 to 32"),
        (["--num-ks", "1"], "at least 2"),
        (["--sigma", "0"], "above 0"),
        (["--k-max", "81"], "at most 80"),
        (["--hidden", "1", "--layers", "0", "--dim", "16"], "from 1 to 15"),
    ):
        assert spectra.main([*flags(tmp_path), *more, "--out", str(out)]) == 2
        err = capsys.readouterr().err
        assert word in err
        assert len(err.splitlines()) == 1
    assert [path for path in Path(tmp_path).iterdir() if path.name != "clouds.npz"] == []
