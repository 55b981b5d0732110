"""The bounds command against plain Python formulas and float64 NumPy on a tiny network."""

import json
import math

import drawing
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import at64, float64, increments64, mlp_losses64
from jax.flatten_util import ravel_pytree

from experiments import bounds
from experiments.common import bounds as bounds_of
from experiments.common import prepare
from experiments.common import problem as problems
from jaxscape import InputError, losses

pytestmark = [pytest.mark.usefixtures("in_haste"), pytest.mark.slow]
K_MAX, DIM, SIGMA, POINTS = 60, 2, 0.05, 30


def flags(folder, **arrays):
    rng = np.random.default_rng(0)
    targets = rng.integers(3, size=80)
    inputs = rng.normal(size=(80, 4)) + np.eye(3, 4)[targets]
    path = folder / "clouds.npz"
    np.savez(path, **{"inputs": inputs.astype(np.float32), "targets": targets} | arrays)
    return [
        *("--dataset", f"npz:{path}", "--k-max", str(K_MAX), "--hidden", "5", "--layers", "1"),
        *("--epochs", "1", "--dim", str(DIM), "--sigma", str(SIGMA), "--points", str(POINTS)),
    ]


class Run:
    """A finished run, and its network, samples and points in float64."""

    def __init__(self, folder):
        self.out = folder / "run"
        argv = flags(folder)
        with drawing.coarsely():
            assert bounds.main([*argv, "--out", str(self.out)]) == 0
        with np.load(self.out / "results.npz") as file:
            self.arrays = dict(file)
        self.found = json.loads((self.out / "summary.json").read_text())
        config = bounds.BoundsConfig(dataset=argv[1], k_max=K_MAX, hidden=5, layers=1, epochs=1)
        problem = problems.load(config)
        store = self.out / "checkpoint"
        params = prepare.trained(problem, config, store)  # restored
        self.space = prepare.directions(problem, params, "hessian", DIM, store).space
        self.samples = problem.samples
        with jax.enable_x64(True):
            self.quadratic, self.norms = self._dense()

    def _dense(self):
        """c_i, Vᵀ∇ℓ_i, Vᵀ∇²ℓ_iV, and ‖J_iᵀ(diag p − p pᵀ)J_i‖ from the whole matrix."""
        doubles = jax.tree.map(jnp.asarray, float64(self.space.origin))
        flat, unravel = ravel_pytree(doubles)
        basis = jax.vmap(lambda v: ravel_pytree(v)[0])(self.space.basis).astype(float)
        data = jax.tree.map(jnp.asarray, float64(self.samples))

        def outputs(w, x):
            first, last = (unravel(w)[f"Dense_{i}"] for i in range(2))
            hidden = jax.nn.relu(x @ first["kernel"] + first["bias"])
            return hidden @ last["kernel"] + last["bias"]

        def one(x, y):
            loss = lambda w: losses.cross_entropy(outputs(w, x)[None], y[None])[0]  # noqa: E731
            hessian = basis @ jax.hessian(loss)(flat) @ basis.T
            p = jax.nn.softmax(outputs(flat, x))
            jacobian = jax.jacobian(outputs)(flat, x)
            newton = jacobian.T @ (jnp.diag(p) - jnp.outer(p, p)) @ jacobian
            return loss(flat), basis @ jax.grad(loss)(flat), hessian, newton

        *parts, newton = jax.jit(jax.vmap(one))(data["inputs"], data["targets"])
        return [np.asarray(x) for x in parts], np.linalg.norm(newton, ord=2, axis=(1, 2))

    def losses_at(self, coordinates):
        layers = [at64(self.space, theta) for theta in coordinates]
        plain = [bounds_of.layers_of(tree) for tree in layers]
        return np.stack([mlp_losses64(params, self.samples) for params in plain])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("bounds"))


def entry(done, name):
    (found,) = [e for e in done.found["bounds"] if e["name"].startswith(name)]
    return found


def norm_bound(done, *, radius, corrected, weight_norm=None):
    """The Hessian-norm bound in plain Python, of the network without biases."""
    layers = bounds_of.layers_of(float64(done.space.origin))
    spectral = []
    for index, (weight, bias) in enumerate(layers):
        matrix = np.vstack([weight, bias])
        if index < len(layers) - 1:
            matrix = np.hstack([matrix, np.eye(len(matrix))[:, -1:]])
        spectral.append(np.linalg.svd(matrix)[1].max())
    square = (weight_norm or (max(spectral) + radius)) ** 2
    inputs = 1 + (float64(done.samples)["inputs"] ** 2).sum(1).max()
    series = sum(square**p for p in range(1, 3))
    whole = math.sqrt(2) * (2 * inputs * square**2 + series)
    return whole / square if corrected else whole


def test_the_norm_bound_and_what_it_bounds(done):
    np.testing.assert_allclose(done.arrays["gauss_newton_norms"], done.norms, rtol=1e-4)
    row = entry(done, "norm of")
    largest = math.log10(done.norms.max())
    for form in ("published", "corrected"):
        exact = math.log10(norm_bound(done, radius=0, corrected=form == "corrected"))
        assert row[form] == pytest.approx(exact, abs=1e-5)
        assert row[f"{form}_looseness"] == pytest.approx(exact - largest, abs=1e-4)
    assert row["median"] == pytest.approx(math.log10(np.median(done.norms)), abs=1e-4)


def test_the_norm_bound_from_the_largest_weight(done):
    """Lemma 1: hM in place of M_W; corrected, what bounds the norms of these very matrices."""
    layers = bounds_of.layers_of(float64(done.space.origin))
    units = max(weight.shape[1] for weight, _ in layers)
    published = units * max(np.abs(weight).max() for weight, _ in layers)
    corrected = 0.0
    for weight, bias in layers:
        matrix = np.vstack([weight, bias])
        matrix = np.hstack([matrix, np.eye(len(matrix))[:, -1:]])
        corrected = max(corrected, math.sqrt(matrix.size) * np.abs(matrix).max())
        assert np.linalg.norm(matrix, 2) <= corrected
    row, largest = entry(done, "norm, from"), math.log10(done.norms.max())
    for form, size in (("published", published), ("corrected", corrected)):
        exact = norm_bound(done, radius=0, corrected=form == "corrected", weight_norm=size)
        assert row[form] == pytest.approx(math.log10(exact), abs=1e-5)
        assert row[form] > largest


def test_the_loss_step_bound_and_what_it_bounds(done):
    points = done.arrays["coordinates"]
    radius = math.sqrt(max((theta**2).sum() for theta in points.astype(float)))
    assert done.found["constants"]["R"] == pytest.approx(radius, rel=1e-5)
    largest_loss = done.quadratic[0].max()
    k = np.arange(1, K_MAX)
    for where, at, r in (("origin", np.zeros((1, DIM)), 0), ("probe", points, radius)):
        steps = np.abs(increments64(done.losses_at(at))).max(0)
        name = "step_at_origin" if where == "origin" else "step_in_probe"
        np.testing.assert_allclose(done.arrays[name], steps, rtol=1e-3, atol=1e-7)
        row = entry(done, "(k+1)·|δ_k| " + ("at" if where == "origin" else "within"))
        assert row["largest"] == pytest.approx(math.log10(((k + 1) * steps).max()), abs=1e-4)
        for index, form in enumerate(("published", "corrected")):
            # only the corrected form lets the curvature grow with the distance from w*
            norm = norm_bound(done, radius=r * index, corrected=bool(index))
            exact = np.log10(2 / (k + 1) * (largest_loss + norm * r**2))
            np.testing.assert_allclose(done.arrays[f"bound_{name}"][index], exact, atol=1e-4)
            gap = exact - np.log10(steps)
            assert gap.min() > 0
            assert row[f"{form}_looseness"] == pytest.approx(gap.min(), abs=1e-4)


def test_the_rate_bound_and_what_it_bounds(done):
    values, gradients, hessians = done.quadratic
    k = np.arange(1, K_MAX)
    loss = values.max()
    slope = np.linalg.norm(gradients, axis=1).max()
    curved = np.linalg.norm(hessians, ord=2, axis=(1, 2)).max()
    a, b, matrix = (
        np.stack([part[: i + 1].mean(0) - part[:i].mean(0) for i in k]) for part in done.quadratic
    )
    trace = np.trace(matrix, axis1=1, axis2=2)
    law = (
        a**2 + SIGMA**2 * (a * trace + (b**2).sum(1))
        + SIGMA**4 / 4 * (2 * (matrix**2).sum((1, 2)) + trace**2)
    )  # fmt: skip
    np.testing.assert_allclose(done.arrays["law_total"], law, rtol=1e-3, atol=1e-12)
    measured = np.mean(increments64(done.losses_at(done.arrays["coordinates"])) ** 2, 0)
    np.testing.assert_allclose(done.arrays["delta"], measured, rtol=1e-3, atol=1e-12)
    for index, factor in enumerate((3, 12)):
        bound = 12 * loss**2 + factor * SIGMA**2 * slope**2
        bound += 3 * SIGMA**4 * (DIM**2 + 2 * DIM) * curved**2
        exact = np.log10(bound / (k + 1.0) ** 2)
        np.testing.assert_allclose(done.arrays["bound_rate"][index], exact, atol=1e-4)
        form = ("published", "corrected")[index]
        for name, curve in (("quadratic law", law), ("Monte-Carlo", measured)):
            row = entry(done, f"(k+1)²·Δ_k, {name}")
            gap = (exact - np.log10(curve)).min()
            assert row[f"{form}_looseness"] == pytest.approx(gap, abs=1e-3)
            assert row[form] == pytest.approx(math.log10(bound), abs=1e-4)
            assert gap > 0 or form == "published"


def test_tables_and_figures(done):
    rows = bounds.table(done.found["bounds"])
    assert len(rows) == 7
    assert len({len(row) for row in rows}) == 1
    for row, found in zip(rows[1:], done.found["bounds"], strict=True):
        assert float(row[-1]) == pytest.approx(found["corrected_looseness"], abs=0.006)
    assert bounds.verdict(done.found["bounds"]) == "no bound is exceeded"
    assert drawing.drawn(done.out) == {"looseness"}


def test_an_exceeded_bound_is_named_and_nothing_measured_is_refused(done):
    low = done.arrays | {"bound_norm": done.arrays["bound_norm"] - np.array([9.0, 0])}
    said = bounds.verdict(bounds_of.compare(low))
    assert said == "exceeded: the published bound on the norm of a sample's Hessian"
    still = done.arrays | {"step_at_origin": np.zeros(K_MAX - 1)}
    with pytest.raises(InputError, match="step_at_origin = 0 throughout"):
        bounds_of.compare(still)


def test_bad_input_is_one_line(tmp_path, capsys):
    numbers = {"targets": np.linspace(0, 1, 80, dtype=np.float32)}
    for more, arrays, word in (
        (["--model", "cnn"], {}, "which the bounds are of"),
        (["--points", "1"], {}, "at least 2"),
        (["--sigma", "inf"], {}, "above 0"),
        (["--dim", "33"], {}, "from 1 to 32"),
        ([], numbers, "classes as targets"),
    ):
        argv = [*flags(tmp_path, **arrays), *more, "--out", str(tmp_path / "run")]
        assert bounds.main(argv) == 2
        err = capsys.readouterr().err
        assert word in err
        assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clouds.npz"]
