"""Models with closed-form or slow-and-obvious float64 NumPy answers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape import losses

SIZES = (12, 8, 6, 4)


def mlp_apply(params, inputs):
    """A plain-JAX multilayer perceptron with ReLU; params is a list of (weights, biases)."""
    for i, (w, b) in enumerate(params):
        inputs = inputs @ w + b
        if i < len(params) - 1:
            inputs = jax.nn.relu(inputs)
    return inputs


mlp_loss = losses.supervised(mlp_apply)


def mlp_problem(seed=0, n=101):
    """Parameters and n samples of a small classification problem."""
    rng = np.random.default_rng(seed)
    params = [
        (
            jnp.asarray(rng.normal(size=(a, b)) / np.sqrt(a), jnp.float32),
            jnp.asarray(0.1 * rng.normal(size=b), jnp.float32),
        )
        for a, b in itertools.pairwise(SIZES)
    ]
    data = {
        "inputs": jnp.asarray(rng.normal(size=(n, SIZES[0])), jnp.float32),
        "targets": jnp.asarray(rng.integers(SIZES[-1], size=n), jnp.int32),
    }
    return params, data


def float64(tree):
    """The same tree as float64 (or integer) NumPy arrays."""
    return jax.tree.map(
        lambda x: np.asarray(x, np.float64 if np.issubdtype(x.dtype, np.floating) else None), tree
    )


def mlp_losses64(params, data):
    """ℓ_i(w) of every sample in float64 NumPy."""
    params, data = float64(params), float64(data)
    z = data["inputs"]
    for i, (w, b) in enumerate(params):
        z = z @ w + b
        if i < len(params) - 1:
            z = np.maximum(z, 0)
    top = z.max(1, keepdims=True)
    logsum = np.log(np.exp(z - top).sum(1)) + top[:, 0]
    return logsum - z[np.arange(len(z)), data["targets"]]


def transformer64(params, inputs, answers):
    """The last logits of ``jaxscape.lab.transformer`` in float64 NumPy, position after position."""
    p = float64(params)
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]  # noqa: E731

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p[name]["scale"] + p[name]["bias"]
        )

    inputs = np.asarray(inputs)
    x = p["Embed_0"]["embedding"][inputs] + p["positions"]
    n, length, width = x.shape
    heads = max(np.gcd(4, width), width // 64)
    layers = (len(p) - 4) // 6
    for layer in range(layers):
        names = [f"Dense_{4 * layer + i}" for i in range(4)]
        joint = dense(names[0], norm(f"LayerNorm_{2 * layer}", x))
        query, key, value = (part.reshape(n, length, heads, -1) for part in np.split(joint, 3, -1))
        attended = np.zeros_like(query)
        for t in range(length):
            scores = np.einsum("nhe,nshe->nsh", query[:, t], key[:, : t + 1])
            weights = np.exp(scores / np.sqrt(width // heads))
            weights /= weights.sum(1, keepdims=True)
            attended[:, t] = np.einsum("nsh,nshe->nhe", weights, value[:, : t + 1])
        x = x + dense(names[1], attended.reshape(n, length, width))
        x = x + dense(
            names[3], np.maximum(dense(names[2], norm(f"LayerNorm_{2 * layer + 1}", x)), 0)
        )
    return dense(f"Dense_{4 * layers}", norm(f"LayerNorm_{2 * layers}", x))[:, -answers:]


def sequence_losses64(params, data):
    """Mean cross-entropy of each sequence's tokens that count, in float64 NumPy, one by one."""
    losses = []
    targets = np.asarray(data["targets"])
    outputs = transformer64(params, data["inputs"], targets.shape[1])
    for logits, row in zip(outputs, targets, strict=True):
        tokens = [
            np.log(np.exp(z - z[y]).sum()) for z, y in zip(logits, row, strict=True) if y >= 0
        ]
        losses.append(np.mean(tokens))
    return np.asarray(losses)


def at64(space, coordinates):
    """w* + Σ_j θ_j v_j in float64 NumPy, one direction after the other."""
    origin, basis = float64(space.origin), float64(space.basis)
    point = origin
    for j, theta in enumerate(np.asarray(coordinates, np.float64)):
        point = jax.tree.map(lambda w, v, j=j, theta=theta: w + theta * v[j], point, basis)
    return point


def increments64(losses):
    """δ_1..δ_{n−1} of the rows of ``losses`` [m, n], by the definition, sample after sample."""
    losses = np.asarray(losses, np.float64)
    n = losses.shape[1]
    columns = []
    for k in range(1, n):
        columns.append(losses[:, : k + 1].mean(1) - losses[:, :k].mean(1))
    return np.stack(columns, 1)


def deltas_in_random_orders(seed, losses, num_orders):
    """Δ_k, k = 1..n−1, of ``losses`` [m, n] in each of R random orders [R, n−1], in float64."""
    rng, losses = np.random.default_rng(seed), np.asarray(losses, np.float64)
    k, deltas = np.arange(1, losses.shape[1]), []
    for _ in range(num_orders):
        shuffled = rng.permutation(losses, axis=1)
        innovations = shuffled[:, 1:] - np.cumsum(shuffled, 1)[:, :-1] / k
        deltas.append(((innovations / (k + 1)) ** 2).mean(0))
    return np.stack(deltas)


def law64(model, sigma):
    """The law of DESIGN 1.3 k by k, in float64."""
    c, g, h = (np.asarray(x, np.float64) for x in model)
    rows = []
    for k in range(1, len(c)):
        a, b, A = (x[: k + 1].mean(0) - x[:k].mean(0) for x in (c, g, h))
        trace, square = np.trace(A), (A**2).sum()
        own = np.diag(A)
        rows.append(
            (a**2, sigma**2 * a * trace, sigma**2 * (b @ b), sigma**4 / 4 * (2 * square + trace**2),
             a**2 + sigma**2 * (a * trace + b @ b) + sigma**4 / 4 * (2 * square + trace**2),
             sigma**2 * (b @ b) + sigma**4 / 2 * square,
             sigma**4 / 4 * (2 * (own**2).sum() + own.sum() ** 2))
        )  # fmt: skip
    return np.array(rows).T
