"""What must be true at the end of each notebook, asked in its kernel of the names it leaves."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import at64, float64, increments64, sequence_losses64
from sweeps import flax_losses64

import jaxscape as js


def quickstart(found):
    """Against losses in float64 NumPy at the points of the notebook."""
    for row, probe in enumerate(found.probes):
        losses = losses64(found.space, probe, found.samples)
        delta = (increments64(losses) ** 2).mean(0)
        np.testing.assert_allclose(found.delta[row], delta, rtol=1e-4, atol=1e-7 * delta.max())
        np.testing.assert_allclose(found.level[row], losses.var(1, ddof=1).mean(), rtol=1e-4)
        last = one_past_the_last(delta, found.TOLERANCES)
        np.testing.assert_array_equal(found.sizes[row].k, last)
    origin = flax_losses64(found.params, found.samples)
    middle = found.GRID**2 // 2
    means = [origin[:k].mean() for k in found.ks]
    np.testing.assert_allclose(found.sheet.loss[:, middle], means, rtol=1e-4)
    assert abs(found.ratios["full law, mean over k"][0] - 1) < 0.1
    assert abs(found.ratios["full law, median over k"][0] - 1) < 0.1


def your_model(found):
    """Against float64 NumPy for Linen, whole and in part; of the others, what any curve obeys."""
    statistics = float64(found.statistics)["BatchNorm_0"]

    def linen64(params):
        first, norm, second = (params[n] for n in ("Dense_0", "BatchNorm_0", "Dense_1"))
        z = np.asarray(found.data["x"], np.float64) @ first["kernel"] + first["bias"]
        z = (z - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
        z = np.tanh(z * norm["scale"] + norm["bias"]) @ second["kernel"] + second["bias"]
        return np.logaddexp(*z.T) - z[np.arange(len(z)), np.asarray(found.data["y"])]

    whole = js.random_subspace(found.key, found.linen, dim=2)
    part = js.random_subspace(found.key, found.last, dim=2)
    theta = js.gaussian(found.key, whole, found.POINTS, sigma=1.0).coordinates
    body = float64(found.body)
    for space, curve, rest in (
        (whole, found.curves["Flax Linen"], jax.tree.map(lambda leaf: None, body)),
        (part, found.last_layer, body),
    ):
        rows = np.stack([linen64(js.combine(at64(space, t), rest)) for t in theta])
        delta = (increments64(rows) ** 2).mean(0)
        np.testing.assert_allclose(curve.mean, delta, rtol=1e-3, atol=1e-7 * delta.max())
    for curve in [*found.curves.values(), found.smoothed]:
        k = np.asarray(curve.k, np.float64)
        level = np.mean(k * (k + 1) * curve.mean)  # exactly, whatever the network
        np.testing.assert_allclose(curve.loss_variance.mean(), level, rtol=1e-3)
    rows = np.concatenate(
        [
            np.asarray(leaf, np.float64).reshape(2, -1)
            for leaf in jax.tree.leaves(found.plane.basis)
        ],
        1,
    )
    for name, points in found.runs.items():  # the closest points of the plane
        flat = [np.asarray(x, np.float64).reshape(len(x), -1) for x in jax.tree.leaves(points)]
        end = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(found.end)]
        offsets = np.concatenate(flat, 1) - np.concatenate(end)
        closest = np.linalg.lstsq(rows.T, offsets.T)[0].T
        np.testing.assert_allclose(found.paths[name], closest, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found.paths["Adam"][-1], 0)
    alone = found.curves["Haiku"].loss_variance.mean()
    np.testing.assert_allclose(found.after, alone, rtol=1e-4)


def how_much_data(found):
    """Forecasts, level, K and the monitor's last look against float64 NumPy."""
    curve, ks = found.curve, np.array(found.PILOT_KS, float)
    fitted = curve.floor[0] + curve.scale[0] * ks ** -curve.exponent[0]
    assert np.sqrt(np.mean((fitted / found.pilots.mean(0) - 1) ** 2)) < 0.2
    assert found.pilots.shape == (found.ORDERS, len(ks))
    for k, seen in found.later.items():
        assert 1 / 3 < curve.at(k).value / seen < 3
    for sigma, probe in found.probes.items():
        truth = found.truth[sigma]
        losses = losses64(found.space, probe, found.fresh)
        np.testing.assert_allclose(truth["level"], losses.var(1, ddof=1).mean(), rtol=1e-4)
        delta = (increments64(losses) ** 2).mean(0)
        assert truth["last"].k == one_past_the_last(delta, [found.TOLERANCE])[0]
        assert found.shares[sigma].min() > 0.7
    variance, sizes = found.predict(js.evidence_of(jnp.asarray(losses)))
    value = losses.var(1, ddof=1).mean()  # of the last σ, the monitor's
    np.testing.assert_allclose(variance.interval.value, value, rtol=1e-4)
    root = np.sqrt(value / found.TOLERANCE)
    assert abs(int(sizes["K, mean over orders"][1].k) - root) <= 1
    assert abs(int(sizes["K_ε"][1].k) - value / found.EPSILON**2) <= 1
    *earlier, final = found.decisions
    met = int(final.num_samples)
    assert met == found.PILOT * len(found.decisions)
    level = losses[:, :met].var(1, ddof=1).mean()
    np.testing.assert_allclose(final.loss_variance.interval.value, level, rtol=1e-4)
    assert final.stop
    assert not any(decision.stop for decision in earlier)
    assert met >= int(final.law.high.k)


def language_model(found):
    """The sweep and the eigenvalues against losses and their differences in float64 NumPy."""
    data = {"inputs": found.text[:, :-1], "targets": found.text[:, 1:]}
    points = [at64(found.space, theta) for theta in found.probe.coordinates]
    losses = np.stack([sequence_losses64(point, data) for point in points])
    delta = (increments64(losses) ** 2).mean(0)
    np.testing.assert_allclose(found.curve.mean, delta, rtol=1e-3, atol=1e-6 * delta.max())
    step = 1e-3
    around = [step * np.eye(3)[0] * side for side in (-1, 0, 1)]
    means = [sequence_losses64(at64(found.space, theta), data).mean() for theta in around]
    bend = (means[0] - 2 * means[1] + means[2]) / step**2
    np.testing.assert_allclose(found.space.eigenvalues[0], bend, rtol=1e-2)


def losses64(space, probe, samples):
    """ℓ_i(w) of the network of both at every point, [m, n]."""
    points = [at64(space, theta) for theta in probe.coordinates]
    return np.stack([flax_losses64(point, samples) for point in points])


def one_past_the_last(delta, tolerances):
    """K of Definition 4, −1 where it is not reached."""
    last = [1 + np.max(np.flatnonzero(delta >= t), initial=-1) for t in np.asarray(tolerances)]
    return [k + 1 if k < len(delta) else -1 for k in last]
