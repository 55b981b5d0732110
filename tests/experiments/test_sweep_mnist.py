"""The main command on all of MNIST, where it is on disk."""

import os

import numpy as np
import pytest
from cases import at64
from sweeps import flax_losses64, load, read, run


@pytest.mark.skipif(
    "JAXSCAPE_DATA_DIR" not in os.environ, reason="JAXSCAPE_DATA_DIR names no folder with MNIST"
)
def test_all_60000_samples_of_mnist(tmp_path, capsys):
    """The main job with fewer points: every direction, every k, against float64 NumPy."""
    argv = ["--dataset", "mnist", "--epochs", "1", "--points", "3", "--sigmas", "0.01", "1"]
    assert run(argv, tmp_path / "run", capsys)[0] == 0
    arrays, summary = read(tmp_path / "run")
    assert all(summary["eigenvalues_converged"])
    assert summary["hessian_products"] <= 60
    assert (arrays["eigenvalue_residuals"] <= 1e-4 * arrays["eigenvalues"]).all()
    found, (space, *_) = load(argv, tmp_path / "run")
    chosen = np.random.default_rng(0).integers(1, 60_000, 100)
    chosen = np.concatenate([[1, 2, 10, 1000, 59_999], chosen])
    for s in range(2):
        squares = 0
        for theta in arrays["coordinates"][s]:
            ell = flax_losses64(at64(space, theta), found.samples)
            mean = np.cumsum(ell) / np.arange(1, 60_001)
            squares = squares + (mean[1:] - mean[:-1]) ** 2 / 3
        # rounding of a margin is a relative error of a small loss, which 3 points do not average
        np.testing.assert_allclose(arrays["delta"][s][chosen - 1], squares[chosen - 1], rtol=2e-5)
