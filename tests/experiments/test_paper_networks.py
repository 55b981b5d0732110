"""Figure 1 and the times of three estimators: many networks, and sums of seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import papers
import pytest
from jax.flatten_util import ravel_pytree

from experiments.common import run_folder
from experiments.paper import curvature_aligned, spectrum
from jaxscape import losses
from jaxscape.lab import train
from jaxscape.quadratic import Quadratic

SMALL = {"networks": 2, "network_hidden": 2, "network_dim": 12, "network_samples": 90}
pytestmark = pytest.mark.usefixtures("in_haste")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with papers.bench(tmp_path_factory.mktemp("paper"), **SMALL) as found:
        yield found


def dense64(params, samples):
    """The Hessian of the mean loss of a network of one hidden layer, in float64."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, float), params))
        inputs = jnp.asarray(samples["inputs"], float)

        def mean(w):
            first, last = (unravel(w)[f"Dense_{i}"] for i in range(2))
            hidden = jax.nn.relu(inputs @ first["kernel"] + first["bias"])
            outputs = hidden @ last["kernel"] + last["bias"]
            return losses.cross_entropy(outputs, samples["targets"]).mean()

        return np.asarray(jax.jit(jax.hessian(mean))(flat))


def test_eigenvalues_are_those_of_the_dense_hessians_of_the_networks(bench, monkeypatch):
    fit, fitted = train.fit, []
    noted = lambda *a, **options: fitted.append(fit(*a, **options)) or fitted[0]  # noqa: E731
    monkeypatch.setattr(train, "fit", noted)
    found = spectrum.fig1(bench)
    samples = jax.tree.map(lambda x: np.asarray(x[:90]), bench.problem.samples)
    expected = []
    for row in range(2):
        params = jax.tree.map(lambda x, row=row: np.asarray(x[row]), fitted[0].params)
        values = np.linalg.eigvalsh(dense64(params, samples))
        expected.append(sorted(sorted(values, key=abs)[:-13:-1], reverse=True))
    assert np.min(expected) < 0  # of other sign than the magnitude
    values = found.arrays["eigenvalues"]
    np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-3 * np.max(expected))
    magnitudes = np.sort(np.abs(values))[:, ::-1]
    np.testing.assert_array_equal(found.arrays["published_eigenvalues"], magnitudes)
    assert found.summary["negative"] == np.sum(values < 0)
    np.testing.assert_allclose(found.summary["mean"], values.mean(0), rtol=1e-6)
    spread = np.abs(values[0] - values[1]) / np.sqrt(2)
    np.testing.assert_allclose(found.summary["standard_deviation"], spread, rtol=1e-4)
    assert found.summary["converged"] == found.summary["eigenpairs"] == 24
    assert f"largest eigenvalue is {values[:, 0].mean():.3g}" in found.summary["seen"]


def test_the_time_of_an_estimator_is_the_sum_of_its_stages(bench, monkeypatch):
    clock = {"eigenpairs": 3.0, "project": 5.0, "law": 7.0, "quadratic points": 11.0,
             "direct points": 12.0, "forward": 2.0}  # fmt: skip
    times = iter(clock.values())
    monkeypatch.setattr(curvature_aligned, "seconds", lambda call, **options: next(times))
    zeros = Quadratic(np.zeros(300), np.zeros((300, 16)), np.zeros((300, 16, 16)))
    run_folder.write_arrays(bench.store / "project.npz", zeros._asdict())
    found = curvature_aligned.stages(bench)
    products, parts = 40, 300 / (300 // curvature_aligned.PART)
    passes = dict(zip(found.arrays["stage"].tolist(), found.arrays["forward_passes"], strict=True))
    assert passes["eigenpairs"] == 3 * products / 2
    assert passes["project"] == 5 * parts / 2
    assert found.summary["totals"] == {
        "closed form": (3 * products + 5 * parts + 7) / 2,
        "quadratic Monte-Carlo": (3 * products + 5 * parts + 11) / 2,
        "direct Monte-Carlo": (3 * products + 12) / 2,
    }
    assert "direct Monte-Carlo 66" in found.summary["seen"]
