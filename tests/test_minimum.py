"""T = tr(H⁻¹C) against float64 NumPy: closed forms, full Hessians, refitted models."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxscape as js
from jaxscape import InputError
from jaxscape.minimum import TakeuchiTrace

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, P = 300, 5
X = RNG.normal(size=(N, P)) * [3, 2, 1, 1, 0.3]
Y = X @ np.ones(P) + RNG.standard_t(5, size=N)
DATA = {"x": X.astype(np.float32), "y": Y.astype(np.float32)}
DECAYS = np.array([0.01, 0.1, 1.0])


def squared(w, batch):
    return 0.5 * (batch["x"] @ w - batch["y"]) ** 2


def logistic(w, batch):
    return jnp.logaddexp(0, -jnp.sign(batch["y"]) * (batch["x"] @ w))


def ridge(rows, decay):
    """The minimum of ridge regression on some rows, in closed form."""
    x, y = X[rows], Y[rows]
    return np.linalg.solve(x.T @ x / len(x) + decay * np.eye(P), x.T @ y / len(x))


def linear64(w):
    """H and the per-sample gradients of ``squared``."""
    return X.T @ X / N, X * (X @ w - Y)[:, None]


def logistic64(w):
    """H and the per-sample gradients of ``logistic``."""
    sign, p = np.sign(Y), 1 / (1 + np.exp(-X @ w))
    q = 1 / (1 + np.exp(sign * (X @ w)))
    return (X.T * (p * (1 - p))) @ X / N, -X * (sign * q)[:, None]


def trace64(hessian, gradients, decay):
    covariance = np.cov(gradients.T, ddof=1)
    return np.trace(np.linalg.solve(hessian + decay * np.eye(len(hessian)), covariance))


@pytest.mark.parametrize(("loss", "model64"), [(squared, linear64), (logistic, logistic64)])
def test_all_gradients_and_all_steps_give_the_trace_itself(loss, model64):
    w = ridge(slice(None), 0.1)
    want = [trace64(*model64(w), decay) for decay in DECAYS]
    found = js.takeuchi_trace(
        KEY, loss, jnp.asarray(w, jnp.float32), DATA, weight_decay=DECAYS, num_samples=N,
        batch_size=70,
    )  # fmt: skip
    np.testing.assert_allclose(found.value, want, rtol=1e-3)
    np.testing.assert_array_equal(found.sem, 0)
    smallest = np.linalg.eigvalsh(model64(w)[0])[0]
    np.testing.assert_allclose(found.smallest, smallest, rtol=1e-3)
    one = js.takeuchi_trace(
        KEY, loss, jnp.asarray(w, jnp.float32), DATA, weight_decay=0.1, num_samples=N
    )
    np.testing.assert_allclose(one.value, found.value[1], rtol=1e-5)


def network(w, batch):
    return 0.5 * (jnp.tanh(batch["x"] @ w["in"] + w["b"]) @ w["out"] - batch["y"]) ** 2


def test_of_a_network_with_its_full_hessian():
    w = {"in": 0.3 * jax.random.normal(KEY, (P, 3)), "b": jnp.ones(3), "out": jnp.ones(3)}
    flat, unravel = jax.flatten_util.ravel_pytree(w)
    own = lambda v: network(unravel(v), DATA)  # noqa: E731
    hessian = np.asarray(jax.hessian(lambda v: own(v).mean())(flat), np.float64)
    gradients = np.asarray(jax.jacobian(own)(flat), np.float64)
    decay = 0.5 - np.linalg.eigvalsh(hessian)[0]  # not at a minimum: some eigenvalues are negative
    want = trace64(hessian, gradients, decay)
    found = js.takeuchi_trace(KEY, network, w, DATA, weight_decay=decay, num_samples=N)
    np.testing.assert_allclose(found.value, want, rtol=1e-3)
    assert found.smallest < 0
    fewer = js.takeuchi_trace(KEY, network, w, DATA, weight_decay=decay, num_samples=N, num_steps=4)
    assert fewer.change > 10 * found.change
    z = gradients - gradients.mean(0)
    terms = np.einsum("ip,pq,iq->i", z, np.linalg.inv(hessian + decay * np.eye(len(flat))), z)
    np.testing.assert_allclose(found.effective, terms.sum() ** 2 / (terms**2).sum(), rtol=1e-2)


def test_gradients_of_other_samples():
    w = ridge(slice(None), 0.1)
    other = {"x": RNG.normal(size=(120, P)), "y": RNG.normal(size=120)}
    gradients = other["x"] * (other["x"] @ w - other["y"])[:, None]
    want = trace64(linear64(w)[0], gradients, 0.1)
    single = jax.tree.map(lambda a: a.astype(np.float32), other)
    found = js.takeuchi_trace(
        KEY, squared, jnp.asarray(w, jnp.float32), DATA, weight_decay=0.1, gradient_data=single,
        num_samples=120,
    )  # fmt: skip
    np.testing.assert_allclose(found.value, want, rtol=1e-3)


def test_two_standard_errors_cover_the_trace():
    """At w = 0 with targets of ±1, so that no few gradients dominate."""
    signs, w = {"x": DATA["x"], "y": np.sign(DATA["y"])}, jnp.zeros(P)
    want = trace64(X.T @ X / N, -X * np.sign(Y)[:, None], 0.1)

    def one(key):
        found = js.takeuchi_trace(key, squared, w, signs, weight_decay=0.1, num_samples=40)
        return found.value, found.sem

    values, sems = jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, 200))
    assert abs(np.mean(values) / want - 1) < 0.03
    held = np.mean(np.abs(np.asarray(values) - want) < 2 * np.asarray(sems))
    assert 0.88 < held < 0.99


def test_in_a_subspace_it_is_that_of_the_projected_problem():
    w = jnp.asarray(ridge(slice(None), 0.1), jnp.float32)
    hessian, gradients = linear64(np.asarray(w, np.float64))
    values, vectors = np.linalg.eigh(hessian)
    covariance = np.cov(gradients.T, ddof=1)
    space = js.hessian_subspace(KEY, squared, w, DATA, dim=P)
    parts = np.diag(vectors.T @ covariance @ vectors) / (values + 0.1)
    whole = js.takeuchi_trace_in(space, squared, DATA, weight_decay=0.1)
    np.testing.assert_allclose(whole, parts.sum(), rtol=1e-3)
    top = js.Subspace(w, space.basis[:2])
    np.testing.assert_allclose(
        js.takeuchi_trace_in(top, squared, DATA, weight_decay=0.1), parts[-2:].sum(), rtol=1e-3
    )


def test_the_minimum_moves_most_along_the_leading_directions_of_the_sandwich():
    decay, k = 0.1, 100
    w = ridge(slice(None), decay)
    hessian, gradients = linear64(w)
    inverse = np.linalg.inv(hessian + decay * np.eye(P))
    sandwich = inverse @ np.cov(gradients.T, ddof=1) @ inverse
    values, vectors = np.linalg.eigh(sandwich)
    space = js.influence_subspace(
        KEY, squared, jnp.asarray(w, jnp.float32), DATA, 3, weight_decay=decay, num_samples=N,
        batch_size=70,
    )  # fmt: skip
    np.testing.assert_allclose(space.eigenvalues, values[::-1][:3], rtol=1e-3)
    along = abs(np.sum(np.asarray(space.basis) * vectors.T[::-1][:3], 1))
    np.testing.assert_allclose(along, 1, atol=1e-3)
    moves = [ridge(RNG.choice(N, k, replace=False), decay) - w for _ in range(1000)]
    seen = np.var(np.asarray(moves) @ np.asarray(space.basis, np.float64).T, axis=0)
    assert np.all(abs(seen / (values[::-1][:3] * (1 / k - 1 / N)) - 1) < 0.2)


def test_numbers_that_are_not_finite_are_told_and_equal_gradients_are_zero():
    lost = {"x": DATA["x"], "y": DATA["y"].copy()}
    lost["y"][7] = np.nan
    for ask in (js.takeuchi_trace, lambda *a, **b: js.influence_subspace(*a, 2, **b)):
        with pytest.raises(InputError, match=r"1 samples \(at positions 7\)"):
            ask(KEY, squared, jnp.ones(P), lost, num_samples=20)
    alike = {"x": np.ones((30, P), np.float32), "y": np.ones(30, np.float32)}
    found = js.takeuchi_trace(KEY, squared, jnp.ones(P), alike, num_samples=20, weight_decay=0.1)
    assert (found.value, found.change) == (0, 0)
    bent = lambda w, batch: jnp.abs(batch["x"] @ w) ** 1.5  # noqa: E731  # at 0 only the Hessian is NaN
    with pytest.raises(InputError, match="finite losses: a derivative"):
        js.takeuchi_trace(KEY, bent, jnp.zeros(P), DATA, num_samples=20, weight_decay=0.1)


def test_parameters_at_no_minimum_are_told():
    w = {"in": 0.3 * jax.random.normal(KEY, (P, 3)), "b": jnp.ones(3), "out": jnp.ones(3)}
    with pytest.warns(UserWarning, match="at no minimum, and the result means little"):
        js.influence_subspace(KEY, network, w, DATA, 2, num_samples=20)
    for decay in (0.0, np.array([100.0, 0.0])):  # one of which is enough
        with pytest.warns(UserWarning, match="at no minimum, and the result means little") as told:
            js.takeuchi_trace(KEY, network, w, DATA, weight_decay=decay, num_samples=20)
        assert len(told) == 1
        assert "\n" not in str(told[0].message)
    flat = lambda w, batch: batch["x"] @ w  # noqa: E731  # a Hessian of 0 is no minimum either
    with pytest.warns(UserWarning, match="a Ritz value of 0, at or below −λ = 0"):
        js.takeuchi_trace(KEY, flat, jnp.ones(P), DATA, num_samples=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        js.takeuchi_trace(KEY, network, w, DATA, weight_decay=100.0, num_samples=20)
        jax.jit(lambda key: js.takeuchi_trace(key, network, w, DATA, num_samples=20))(KEY)
    with pytest.raises(InputError, match="dim of at most num_samples, 20, found 21"):
        js.influence_subspace(KEY, network, w, DATA, 21, num_samples=20)


def test_the_law_is_the_excess_of_refitted_models():
    decay, k = 0.1, 100
    trace = trace64(*linear64(ridge(slice(None), decay)), decay)

    def objective(w):
        return 0.5 * np.mean((X @ w - Y) ** 2) + decay / 2 * w @ w

    end = objective(ridge(slice(None), decay))
    chosen = [RNG.choice(N, k, replace=False) for _ in range(2000)]
    excess = np.mean([objective(ridge(rows, decay)) for rows in chosen]) - end
    law = float(js.excess_law(trace, k, N))
    assert abs(excess / law - 1) < 0.1
    size = js.excess_size(jnp.float32(trace), jnp.float32(law * 1.0001), to=N)
    assert abs(int(size.k) - k) <= 1


def test_the_regime_of_a_ridge_regression_is_told_by_its_gap():
    """The mean gap over training sets is T/N; ten times T is not."""
    trace, gaps = trace64(*linear64(ridge(slice(None), 0.1)), 0.1), []
    for _ in range(1000):  # of one training set alone, its noise outweighs the gap
        x = RNG.normal(size=(2 * N, P)) * [3, 2, 1, 1, 0.3]
        y = x @ np.ones(P) + RNG.standard_t(5, size=2 * N)
        w = np.linalg.solve(x[:N].T @ x[:N] / N + 0.1 * np.eye(P), x[:N].T @ y[:N] / N)
        squares = 0.5 * (x @ w - y) ** 2
        gaps.append(squares[N:].mean() - squares[:N].mean())
    gap = np.mean(gaps)
    assert 0.7 < gap / (trace / N) < 1.4
    smallest = np.linalg.eigvalsh(X.T @ X / N)[0]
    good = [trace, 0.0, 100.0, smallest, 0.0]

    def verdict(weight_decay=0.1, gap=gap, gap_sem=0.0, **changes):
        fields = dict(zip(TakeuchiTrace._fields, good, strict=True)) | changes
        found = TakeuchiTrace(**{name: jnp.float32(value) for name, value in fields.items()})
        holds, known = js.excess_law_holds(found, N, gap, gap_sem=gap_sem,
                                           weight_decay=weight_decay)  # fmt: skip
        return bool(holds) if known else None

    assert verdict() is True
    assert verdict(gap=10 * gap) is False
    assert verdict(value=trace * 10) is False
    assert verdict(smallest=-0.2) is False
    assert verdict(smallest=-0.2, weight_decay=0.3) is True
    assert verdict(smallest=-0.2, effective=2) is False
    for unsure in ({"sem": trace}, {"gap_sem": gap}, {"effective": 9.0}, {"change": 0.2}):
        assert verdict(**unsure) is None
    assert verdict(gap=-gap) is False  # no gap that T/N could be


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_samples": 1}, "num_samples from 2 to 300"), ({"num_samples": 301}, "to 300"),
     ({"num_steps": 0}, "num_steps"), ({"weight_decay": "small"}, "weight_decay")],
)  # fmt: skip
def test_bad_input_is_one_line(changes, message):
    with pytest.raises(InputError, match=message):
        js.takeuchi_trace(KEY, squared, jnp.ones(P), DATA, **changes)
