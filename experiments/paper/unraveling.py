"""|L_{k+1} − L_k| at w* over widths and depths, of Kiselev and Grabovoy (2024).

Networks without biases, of every width and depth, see the same samples. Those of one depth are one
stack of the widest: further weights are 0, and Adam leaves them at exactly 0, since a unit whose
incoming weights are 0 puts out 0, where the derivative of ReLU is taken as 0.

Exactly, |δ_k| = |ℓ_{k+1} − L_k| / (k+1), whose numerator keeps its level along k.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key
from matplotlib.figure import Figure
from scipy.signal import lfilter

import jaxscape as js
from experiments.common import console, tables
from experiments.common.run_folder import Record, plain
from experiments.common.tables import Arrays
from experiments.paper.bench import Bench
from jaxscape import InputError, losses, prefix
from jaxscape.lab import models, train
from jaxscape.lab.style import PREFIX, canvas, colour, finish
from jaxscape.prefix_spectra import geometric
from jaxscape.types import Batch, Params

BETA = 0.99  # of the exponential average along k
AVERAGES = {"smoothed": "exponential average along $k$", "published": "average as published"}
COLUMNS = {
    "layers": ("depth", "d"), "units": ("width", "d"), "training loss": ("train_loss", ".3g"),
    "accuracy": ("train_accuracy", ".1%"), "(k+1) |δ_k|": ("level", ".3g"),
    "over law": ("level_over_law", ".3f"), "average over law": ("smoothed_over_law", ".2f"),
    "as published": ("published_over_law", ".1f"), "exponent": ("exponent", ".3f"),
}  # fmt: skip
DRAWN = 400  # values of k, equally spaced in their logarithm, at which curves are drawn


def unraveling(bench: Bench) -> Record:
    """|L_{k+1} − L_k| at w* over widths and depths, networks without biases, mean over orders."""
    config, (at_w, entries) = bench.config, trained(bench)
    *shape, n = at_w.shape
    flat, k = at_w.reshape(-1, n), np.arange(1, n)
    keys = jax.random.split(bench.problem.keys["order"], config.orders)
    with console.timed("orders", f"{config.orders} of {n:,} samples"):
        increment = np.asarray(over_orders(keys, flat))
    found = {
        "increment": increment,
        "smoothed": exponential(increment),
        "published": exponential(increment, as_published=True),
        "deviation": deviation(flat),
    }
    law = first_order_law(found["deviation"][:, None], n, k)
    rows = [[*COLUMNS]]
    for row, entry in enumerate(entries):
        entry |= measures(law[row], {x: found[x][row] for x in ("increment", *AVERAGES)})
        rows.append([tables.cell(entry[name], style) for name, style in COLUMNS.values()])
    arrays = {"depth": np.asarray(config.depths), "width": np.asarray(config.widths), "k": k}
    arrays |= {name: np.reshape(x, (*shape, *x.shape[1:])) for name, x in found.items()}
    draw = partial(_draw, config.orders, arrays, law.reshape(*shape, n - 1))
    figures = {"increments": draw("smoothed"), "increments-as-published": draw("published")}
    first = k[tables.late(k)][0]
    notes = [
        f"mean over {config.orders} orders of {n:,} samples, k ≥ {first}",
        f"law: M n/(n−1), M the mean absolute deviation; averages (β = {BETA:g}) at k = {first}",
        "depth: hidden layers; a network of L layers in the paper's code has L + 1 of them",
    ]
    return Record(arrays, {"tables": [rows], "notes": notes, "networks": entries}, figures)


def task_of(samples: Batch) -> Batch:
    """The samples, their inputs scaled to span −1 to 1; an ``InputError`` if all are equal."""
    inputs = samples["inputs"]
    low, high = float(jnp.min(inputs)), float(jnp.max(inputs))
    if not low < high:
        wanted = "inputs that differ, to be scaled to [-1, 1]"
        raise InputError(f"expected {wanted}, found {low} everywhere; look at the data")
    return samples | {"inputs": 2 * (inputs - low) / (high - low) - 1}


def trained(bench: Bench) -> tuple[Float[np.ndarray, "d w n"], list[dict[str, Any]]]:
    """ℓ_i(w*) of d depths by w widths, and an entry per network, depth after depth."""
    problem, config, found, entries = bench.problem, bench.config, [], []
    samples, widths = task_of(problem.samples), config.widths
    for depth in config.depths:
        build = partial(
            models.build, "mlp", num_outputs=problem.dataset.num_classes, layers=depth, bias=False
        )
        keys = (jax.random.fold_in(problem.keys[name], depth) for name in ("init", "train"))
        init, fit = (jax.random.split(key, len(widths)) for key in keys)
        initial = stacked_initial(build, widths, init, samples["inputs"])
        apply = build(hidden=max(widths)).apply
        loss = losses.supervised(apply)
        with console.timed(f"depth {depth}", f"{len(widths)} networks, {config.epochs} epochs"):
            params = bench.fit(fit, loss, initial, samples, together=len(widths)).params
        for row, width in enumerate(widths):
            w = jax.tree.map(lambda leaf, row=row: leaf[row], params)
            found.append(np.asarray(js.per_sample_losses(loss, w, samples)))
            entries.append({
                "depth": depth, "width": width,
                "train_loss": float(found[-1].mean(dtype=np.float64)),
                "train_accuracy": float(train.accuracy(apply, w, **samples, batch_size=1000)),
            })  # fmt: skip
    return np.reshape(found, (len(config.depths), len(widths), -1)), entries


def stacked_initial(
    build: Callable[..., models.Model], widths: Sequence[int], keys: Key[Array, "R"],
    inputs: Float[Array, "n ..."],
) -> Params:  # fmt: skip
    """Initial parameters, leaves ``[R, a, b]``.

    Each network, an mlp without biases ``build(hidden=width)``, is a corner of one of the widest,
    drawn from its key, times √(fan-in of the widest / own fan-in): LeCun's normal, which is Flax's
    default, has a standard deviation of 1/√fan-in. Thus one compiled program draws them all.
    """
    wide = jax.vmap(lambda key: build(hidden=max(widths)).init(key, inputs))(keys)
    shapes = [jax.eval_shape(build(hidden=width).init, keys[0], inputs) for width in widths]

    def corners(drawn: Float[Array, "R a b"], *kept: jax.ShapeDtypeStruct) -> np.ndarray:
        leaf = np.asarray(drawn)
        padded = np.zeros_like(leaf)
        for row, (rows, columns) in enumerate(like.shape for like in kept):
            scale = np.sqrt(leaf.shape[1] / rows, dtype=leaf.dtype)
            padded[row, :rows, :columns] = scale * leaf[row, :rows, :columns]
        return padded

    return jax.tree.map(corners, wide, *shapes)


@jax.jit
def over_orders(keys: Key[Array, "R"], losses: Float[Array, "m n"]) -> Float[Array, "m n-1"]:
    """The mean of |δ_k|, k = 1..n−1, over R random orders, the same for all m points."""
    m, n = losses.shape
    losses -= jnp.median(losses, -1, keepdims=True)  # δ stays; exactly 0 where all losses are equal

    def add(total: Array, key: Key[Array, ""]) -> tuple[Array, None]:
        return total + jnp.abs(prefix.increments(losses[:, jax.random.permutation(key, n)])), None

    total, _ = jax.lax.scan(add, jnp.zeros((m, n - 1), losses.dtype), keys)
    return total / len(keys)


def deviation(losses: Float[ArrayLike, "m n"]) -> Float[np.ndarray, "m"]:
    """M = (1/n) Σ_i |ℓ_i − L_n|, the mean absolute deviation at each point."""
    losses = np.asarray(losses, np.float64)
    losses = losses - np.median(losses, -1, keepdims=True)  # exactly 0 where all are equal
    return np.abs(losses - losses.mean(-1, keepdims=True)).mean(-1)


def first_order_law(
    deviation: Float[ArrayLike, "*m"], n: int, k: Int[np.ndarray, "*k"]
) -> Float[np.ndarray, "..."]:
    """M n / ((n−1) (k+1)): the average of |δ_k| over all orders of n samples, as k grows.

    Given that sample i comes next, ℓ_i − L_k is n/(n−1) (ℓ_i − L_n) plus a remainder of mean 0. By
    Jensen's inequality the average of |δ_k| is therefore nowhere below this law, and equals it at
    k = n−1, where the remainder is 0; nor is it above √(S²/(k(k+1))), the root of the order law of
    δ_k² (``jaxscape.order_law``). The arguments broadcast.
    """
    return np.asarray(deviation) * n / (n - 1) / (np.asarray(k, np.float64) + 1)


def exponential(
    values: Float[ArrayLike, "... K"], *, beta: float = BETA, as_published: bool = False
) -> Float[np.ndarray, "... K"]:
    """s_k of |δ_k|, ``values`` at k = 1..K: a / (k+1), with a the average of (j+1) |δ_j|, j ≤ k.

    Weights are in proportion to β^(k−j) and sum to one at every k, as Adam's do (Kingma & Ba 2015,
    section 3). A multiple of 1/(k+1) is its own average. Averaging |δ_k| itself is too high at
    every k: for an exact 1/(k+1) and β = 0.99 more than twice at k = 100.

    As published: s_1 = |δ_1|, then s_k = β s_{k−1} + (1−β) |δ_k|.
    """
    values = np.asarray(values)
    k = np.arange(1, values.shape[-1] + 1)
    step = partial(lfilter, [1 - beta], [1, -beta])  # s_k = β s_{k−1} + (1−β) y_k
    if as_published:
        found, _ = step(values, zi=beta * values[..., :1])
    else:
        found = step(values * (k + 1.0)) / (1 - beta**k) / (k + 1)
    return found.astype(values.dtype)


def measures(law: Float[np.ndarray, "K"], curves: Arrays) -> dict[str, float | None]:
    """Level and exponent of |δ_k| over late k; over its law, or None, the level and averages."""
    k = np.arange(1, len(law) + 1)
    late = tables.late(k)
    increment, start = curves["increment"][late], int(np.argmax(late))
    level = float(((k + 1.0)[late] * increment).mean())
    ratio = lambda value, of: plain(value / of) if of > 0 else None  # noqa: E731
    return {
        "level": level,
        "level_over_law": ratio(level, law[0] * 2),
        **{f"{name}_over_law": ratio(curves[name][start], law[start]) for name in AVERAGES},
        "exponent": plain(tables.decay_exponent(k[late], jnp.asarray(increment)).exponent),
    }


def _draw(orders: int, arrays: Arrays, law: Float[np.ndarray, "d w K"], average: str) -> Figure:
    """|δ_k| averaged along k, a panel per depth, a curve per width, with its law; without zeros."""
    size, k = "$|L_{k+1} - L_k|$", geometric(1, len(arrays["k"]), DRAWN)
    title = f"{size} at $w^*$, mean of {orders} orders, {AVERAGES[average]}"
    names = [f"hidden layers: {depth}" for depth in arrays["depth"]]
    figure, panels = canvas(title, PREFIX, f"{size}   (nats)", names)
    for axes, *curves in zip(panels, arrays[average][..., k - 1], law[..., k - 1], strict=True):
        for row, (width, values, own) in enumerate(zip(arrays["width"], *curves, strict=True)):
            some = values > 0
            axes.plot(k[some], values[some], color=colour(row), lw=2.2, label=f"{width} units")
            axes.plot(k[some], own[some], "--", color="0.15", lw=0.9, label="order law")
    note = r"dashed: $M n / ((n-1)(k+1))$, $M$ the mean absolute deviation of the losses"
    return finish(figure, note)
