"""The figure of the bounds against plain Python formulas and float64 NumPy on a tiny network."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from cases import float64, increments64
from jax.flatten_util import ravel_pytree

from experiments.paper import bounds
from jaxscape import InputError, losses

pytestmark = pytest.mark.slow
DIM, SIGMA, POINTS = 10, 0.01, 30
K = np.arange(1, 300)


class Run:
    """The figure, and its network, samples and points in float64."""

    def __init__(self, folder):
        bench = papers.bench(folder, hidden=5, points=POINTS)
        self.record = bounds.bounds(bench)
        self.arrays = self.record.arrays
        self.space, self.samples = bench.directions("hessian", DIM), bench.problem.samples
        self.points = SIGMA * bench.normals(POINTS, DIM)
        self.layers = [
            (layer["kernel"], layer["bias"])
            for layer in (float64(bench.trained)[f"Dense_{i}"] for i in range(2))
        ]
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
        return papers.losses64(self.samples, self.space, coordinates)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("bounds"))


def entry(done, name):
    (found,) = [e for e in done.record.summary["bounds"] if e["name"].startswith(name)]
    return found


def folded(weight, bias):
    """A layer's weights and biases as those of one without biases."""
    matrix = np.vstack([weight, bias])
    return np.hstack([matrix, np.eye(len(matrix))[:, -1:]])


def norm_bound(done, *, radius, corrected, weight_norm=None):
    """The Hessian-norm bound in plain Python, of the network without biases."""
    first, last = done.layers
    spectral = [np.linalg.svd(matrix)[1].max() for matrix in (folded(*first), np.vstack(last))]
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
    units = max(weight.shape[1] for weight, _ in done.layers)
    published = units * max(np.abs(weight).max() for weight, _ in done.layers)
    corrected = 0.0
    for matrix in (folded(*layer) for layer in done.layers):
        corrected = max(corrected, math.sqrt(matrix.size) * np.abs(matrix).max())
        assert np.linalg.norm(matrix, 2) <= corrected
    row, largest = entry(done, "norm, from"), math.log10(done.norms.max())
    for form, size in (("published", published), ("corrected", corrected)):
        exact = norm_bound(done, radius=0, corrected=form == "corrected", weight_norm=size)
        assert row[form] == pytest.approx(math.log10(exact), abs=1e-5)
        assert row[form] > largest


def test_the_loss_step_bound_and_what_it_bounds(done):
    radius = math.sqrt(max((theta**2).sum() for theta in done.points.astype(float)))
    assert done.record.summary["constants"]["R"] == pytest.approx(radius, rel=1e-5)
    largest_loss = done.quadratic[0].max()
    for where, at, r in (("origin", np.zeros((1, DIM)), 0), ("probe", done.points, radius)):
        steps = np.abs(increments64(done.losses_at(at))).max(0)
        name = "step_at_origin" if where == "origin" else "step_in_probe"
        np.testing.assert_allclose(done.arrays[name], steps, rtol=1e-3, atol=1e-7)
        row = entry(done, "(k+1)·|δ_k| " + ("at" if where == "origin" else "within"))
        assert row["largest"] == pytest.approx(math.log10(((K + 1) * steps).max()), abs=1e-4)
        for index, form in enumerate(("published", "corrected")):
            # only the corrected form lets the curvature grow with the distance from w*
            norm = norm_bound(done, radius=r * index, corrected=bool(index))
            exact = np.log10(2 / (K + 1) * (largest_loss + norm * r**2))
            np.testing.assert_allclose(done.arrays[f"bound_{name}"][index], exact, atol=1e-4)
            gap = exact - np.log10(steps)
            assert gap.min() > 0
            assert row[f"{form}_looseness"] == pytest.approx(gap.min(), abs=1e-4)


def test_the_rate_bound_and_what_it_bounds(done):
    values, gradients, hessians = done.quadratic
    loss = values.max()
    slope = np.linalg.norm(gradients, axis=1).max()
    curved = np.linalg.norm(hessians, ord=2, axis=(1, 2)).max()
    a, b, matrix = (
        np.stack([part[: i + 1].mean(0) - part[:i].mean(0) for i in K]) for part in done.quadratic
    )
    trace = np.trace(matrix, axis1=1, axis2=2)
    law = (
        a**2 + SIGMA**2 * (a * trace + (b**2).sum(1))
        + SIGMA**4 / 4 * (2 * (matrix**2).sum((1, 2)) + trace**2)
    )  # fmt: skip
    np.testing.assert_allclose(done.arrays["law_total"], law, rtol=1e-3, atol=1e-12)
    measured = np.mean(increments64(done.losses_at(done.points)) ** 2, 0)
    np.testing.assert_allclose(done.arrays["delta"], measured, rtol=1e-3, atol=1e-12)
    for index, factor in enumerate((3, 12)):
        bound = 12 * loss**2 + factor * SIGMA**2 * slope**2
        bound += 3 * SIGMA**4 * (DIM**2 + 2 * DIM) * curved**2
        exact = np.log10(bound / (K + 1.0) ** 2)
        np.testing.assert_allclose(done.arrays["bound_rate"][index], exact, atol=1e-4)
        form = ("published", "corrected")[index]
        for name, curve in (("quadratic law", law), ("Monte-Carlo", measured)):
            row = entry(done, f"(k+1)²·Δ_k, {name}")
            gap = (exact - np.log10(curve)).min()
            assert row[f"{form}_looseness"] == pytest.approx(gap, abs=1e-3)
            assert row[form] == pytest.approx(math.log10(bound), abs=1e-4)
            assert gap > 0 or form == "published"


def test_the_table_has_every_bound_in_both_forms(done):
    header, *rows = done.record.summary["tables"][0]
    assert len(rows) == 6
    for row, found in zip(rows, done.record.summary["bounds"], strict=True):
        assert row[0] == found["name"]
        published, _, corrected, looseness = map(float, row[header.index("published") :])
        assert published == pytest.approx(found["published"], abs=0.006)
        assert corrected == pytest.approx(found["corrected"], abs=0.006)
        assert looseness == pytest.approx(found["corrected_looseness"], abs=0.006)
    assert set(done.record.figures) == {"looseness"}


def test_an_exceeded_bound_has_a_looseness_below_0_and_nothing_measured_is_refused(done):
    low = done.arrays | {"bound_norm": done.arrays["bound_norm"] - np.array([9.0, 0])}
    first, *others = bounds.compare(low)
    assert first["published_looseness"] < 0 < first["corrected_looseness"]
    assert others == done.record.summary["bounds"][1:]
    still = done.arrays | {"step_at_origin": np.zeros(299)}
    with pytest.raises(InputError, match="step_at_origin = 0 throughout"):
        bounds.compare(still)
