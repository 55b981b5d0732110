"""What the increments over widths and depths tell, in numbers.

Figures of |δ_k| over widths and depths of a network, from arrays.

|δ_k| at single points of parameter space, on average over the orders of the samples.

Exponential average of |δ_k| along k.

Exactly, |δ_k| = |ℓ_{k+1} − L_k| / (k+1). The numerator, what sample k+1 brings that is new, keeps
its level along k where samples are exchangeable; the factor 1/(k+1) is algebra. So it is the
numerator that is averaged, each average then divided by k+1. Averaging |δ_k| itself over about
1/(1−β) past values, each larger than the present one, is too high at every k: for an exact 1/(k+1)
and β = 0.99 more than twice at k = 100, even without the bias of the start.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key
from matplotlib.figure import Figure

from experiments.common import tables
from experiments.common.problem import Problem
from experiments.common.run_folder import plain
from experiments.common.tables import decay_exponent
from jaxscape import prefix
from jaxscape.lab.style import MARKERS, PREFIX, Keywords, canvas, colour, legend
from jaxscape.types import InputError

STUCK = 0.95
"""Share of a constant guess's loss above which a network counts as one that failed to train."""


CURVES = ("increment", "smoothed", "published")


def summarise(
    arrays: Mapping[str, np.ndarray], entries: Sequence[Mapping[str, Any]], problem: Problem
) -> dict[str, Any]:
    """``networks``, the entries with what their curves add, and a constant guess's loss."""
    guess, k = constant_guess(problem), arrays["k"]
    late = tables.late(k)
    increments = jnp.asarray(arrays["increment"][..., late].reshape(len(entries), -1))
    exponents = jax.jit(jax.vmap(lambda y: decay_exponent(k[late], y).exponent))(increments)
    networks = []
    for number, entry in enumerate(entries):
        place = divmod(number, len(arrays["width"]))
        curves = {name: arrays[name][place] for name in CURVES if name in arrays}
        spread = {name: float(arrays[name][place]) for name in ("deviation", "loss_variance")}
        told = measures(k, spread["deviation"], curves) | {"exponent": plain(exponents[number])}
        networks.append({**entry, "stuck": guess.beats(entry), **spread, **told})
    from_k = int(k[late][0])
    return {"networks": networks, **guess._asdict(), "late_from": from_k}


class Guess(NamedTuple):
    """Outputs that are the same for every sample, at their best."""

    guess_loss: float
    guess_accuracy: float | None

    def beats(self, entry: Mapping[str, Any]) -> bool:
        """Whether a network does no better, by its loss or by its accuracy."""
        if self.guess_accuracy is not None and entry["train_accuracy"] <= self.guess_accuracy:
            return True
        return bool(entry["train_loss"] > STUCK * self.guess_loss)


def constant_guess(problem: Problem) -> Guess:
    """The least mean loss, and the share of the commonest class."""
    targets = np.asarray(problem.samples["targets"])
    if problem.dataset.num_classes:
        shares = np.unique(targets, return_counts=True)[1] / len(targets)
        return Guess(float(-(shares * np.log(shares)).sum()), float(np.max(shares)))
    spread = targets.reshape(len(targets), -1).var(0, dtype=np.float64)
    return Guess(float(0.5 * spread.sum()), None)


def measures(
    k: np.ndarray, deviation: float, curves: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
    """Of one network: the level of (k+1) |δ_k| over late k, its law, averages at its start.

    A ratio to the law is None where the law is 0.
    """
    late = tables.late(k)
    law = first_order_law(deviation, len(k) + 1, k)
    level = float(((k + 1.0) * curves["increment"])[late].mean())
    start = int(np.argmax(late))
    ratio = lambda value, of: plain(value / of) if of > 0 else None  # noqa: E731
    averages = {name: curves[name][start] for name in CURVES[1:] if name in curves}
    return {"level": level, "level_over_law": ratio(level, law[0] * 2)} | {
        f"{name}_over_law": ratio(value, law[start]) for name, value in averages.items()
    }


def seen(found: Mapping[str, Any]) -> str:
    """What is seen, in one paragraph."""
    networks = found["networks"]
    alive = [entry for entry in networks if entry["level_over_law"] is not None]
    widths, depths = (sorted({entry[name] for entry in networks}) for name in ("width", "depth"))
    what = (
        f"{len(networks)} fully connected networks without biases, {_list(widths)} units in "
        f"{_list(depths)} layers; mean over {found['orders']} orders of {found['num_samples']:,} "
        "samples."
    )
    text = [what]
    if alive:
        text += _of_curves(alive, found)
    text.append(_of_training(networks, found["guess_loss"]))
    return " ".join(text)


def _of_curves(alive: list[dict[str, Any]], found: Mapping[str, Any]) -> list[str]:
    unit, first = found["unit"], found["late_from"]
    low, high = (choose(alive, key=lambda entry: entry["level"]) for choose in (min, max))
    fitted = [entry["exponent"] for entry in alive if entry["exponent"] is not None]
    text = []
    if fitted:
        text.append(f"From k = {first} on, |δ_k| falls as k^−α with α {_span(fitted, '.3f')}.")
    text.append(
        "Its mean times k+1 is "
        f"{_span([entry['level_over_law'] for entry in alive], '.3f')} times the order law "
        "M n/(n−1), which needs no orders: what differs between networks is the level, from "
        f"{low['level']:.3g} {unit} ({_name(low)}, training loss {low['train_loss']:.3g}) to "
        f"{high['level']:.3g} ({_name(high)}, training loss {high['train_loss']:.3g})."
    )
    smoothed = _span([entry["smoothed_over_law"] for entry in alive], ".2f")
    average = f"the exponential average (β = {found['beta']:g}) is {smoothed} times the law"
    if "published_over_law" in alive[0]:
        published = _span([entry["published_over_law"] for entry in alive], ".1f")
        average += f"; as published, seeded by its first value, {published} times"
    return [*text, f"At k = {first} {average}."]


def _of_training(networks: list[dict[str, Any]], guess: float) -> str:
    text = ""
    if networks[0]["train_accuracy"] is not None:
        low, high = (
            choose(networks, key=lambda entry: entry["train_accuracy"]) for choose in (min, max)
        )
        text = (
            f"Training accuracy goes from {low['train_accuracy']:.1%} ({_name(low)}) to "
            f"{high['train_accuracy']:.1%} ({_name(high)}). "
        )
    stuck = [_name(entry) for entry in networks if entry["stuck"]]
    flat = [_name(entry) for entry in networks if entry["level_over_law"] is None]
    if stuck:
        text += (
            f"{len(stuck)} failed to train: their accuracy is no better than that of a constant "
            f"guess, or their loss above {STUCK:.0%} of its {guess:.3g}: {'; '.join(stuck)}."
        )
    else:
        text += f"All do better than a constant guess, whose loss is {guess:.3g}."
    if flat:
        text += f" All losses are equal, and |δ_k| is 0, in {'; '.join(flat)}."
    return text


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['depth']} layers of {entry['width']}"


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _span(values: Sequence[float], style: str) -> str:
    low, high = f"{min(values):{style}}", f"{max(values):{style}}"
    return low if low == high else f"{low} to {high}"


def increments(
    k: Int[np.ndarray, "K"],
    curves: Float[np.ndarray, "d w K"],
    law: Float[np.ndarray, "d w K"],
    depths: Sequence[int],
    widths: Sequence[int],
    *,
    average: str,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """|δ_k| averaged along k as ``average`` says, a panel per depth, a curve per width, its law.

    What is 0, the whole curve of a network that gives every sample the same loss, is not drawn.
    """
    title = f"$|L_{{k+1}} - L_k|$ at $w^*$, {average}: {dataset}"
    ylabel = rf"$|L_{{k+1}} - L_k|$   ({unit})"
    figure, panels = canvas(title, PREFIX, ylabel, fallback=fallback, panels=len(depths))
    for axes, depth, rows, laws in zip(panels, depths, curves, law, strict=True):
        axes.set_title(f"hidden layers: {depth}")
        for row, (width, values) in enumerate(zip(widths, rows, strict=True)):
            shown = values > 0
            label = f"{width} units"
            axes.plot(k[shown], values[shown], color=colour(row), lw=2.2, alpha=0.8, label=label)
            if not shown.any():
                axes.text(
                    0.04, 0.05 + 0.08 * row, f"{label}: all losses equal",
                    transform=axes.transAxes, color=colour(row), fontsize=9.5,
                )  # fmt: skip
        for values in laws[(laws > 0).all(-1)]:
            axes.plot(k, values, "--", color="0.15", lw=0.9)
        axes.set(xscale="log", yscale="log")
    panels[0].plot([], [], "--", color="0.15", lw=0.9, label="order law")
    legend(figure, r"dashed: $M n / ((n-1)(k+1))$, $M$ the mean absolute deviation of the losses")
    return figure


def levels(
    widths: Sequence[int],
    depths: Sequence[int],
    deviation: Float[np.ndarray, "d w"],
    level: Float[np.ndarray, "d w"],
    train_loss: Float[np.ndarray, "d w"],
    *,
    dataset: str,
    fallback: bool = False,
    unit: str = "nats",
) -> Figure:
    """The level of (k+1) |δ_k|, by law and over orders, beside the training loss, over widths."""
    title = f"What a network sets is the level: {dataset}"
    figure, (left, right) = canvas(
        title, "units per hidden layer", f"loss ({unit})", fallback=fallback, panels=2
    )
    left.set_title("$M$ (line), $(k+1)\\,|\\delta_k|$ (marker)")
    right.set_title("training loss $L_n(w^*)$")
    for row, depth in enumerate(depths):
        style: Keywords = {"color": colour(row), "lw": 1.6}
        marker: Keywords = {"marker": MARKERS[row % len(MARKERS)], "ms": 6, "mfc": "none"}
        some = deviation[row] > 0  # a logarithmic axis has no place for 0
        at = np.asarray(widths)
        left.plot(at[some], deviation[row][some], **style)
        left.plot(at[some], level[row][some], **(style | {"lw": 0}), **marker)
        right.plot(at, train_loss[row], label=f"hidden layers: {depth}", **style, **marker)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.margins(x=0.06)
        axes.set_xticks(widths, [str(width) for width in widths])
    legend(figure, "a network that gives every sample the same loss has no level to draw")
    return figure


class Orders(NamedTuple):
    """Means over R random orders, at m points for k = 1..n−1."""

    mean: Float[Array, "m n-1"]
    """Of |δ_k|."""
    square: Float[Array, "m n-1"]
    """Of δ_k²."""


def over_orders(key: Key[Array, ""], losses: Float[ArrayLike, "m n"], num_orders: int) -> Orders:
    """The mean of |δ_k| and of δ_k² over ``num_orders`` orders drawn with equal probability.

    ``losses`` holds ℓ_i of n samples at m points; all points see the same orders, those that
    ``random_orders`` draws from this key. Memory is that of a few copies of the losses.

    Raises:
        InputError: losses that are not [m, n ≥ 2], or fewer than one order.
    """
    shape = jnp.shape(losses)
    if len(shape) != 2 or shape[1] < 2 or num_orders < 1:
        raise InputError(
            "expected losses of shape (points, samples) with at least 2 samples, over at least 1 "
            f"order, found {shape} over {num_orders}; give one row per point"
        )
    return _over_orders(jax.random.split(key, num_orders), jnp.asarray(losses))


@jax.jit
def _over_orders(keys: Key[Array, "R"], losses: Float[Array, "m n"]) -> Orders:
    m, n = losses.shape
    losses -= jnp.median(losses, -1, keepdims=True)  # δ stays; exactly 0 where all losses are equal

    def add(total: Orders, key: Key[Array, ""]) -> tuple[Orders, None]:
        size = jnp.abs(prefix.increments(losses[:, jax.random.permutation(key, n)]))
        return Orders(total.mean + size, total.square + size**2), None

    zeros = jnp.zeros((m, n - 1), losses.dtype)
    total, _ = jax.lax.scan(add, Orders(zeros, zeros), keys)
    return jax.tree.map(lambda x: x / len(keys), total)


def deviation(losses: Float[ArrayLike, "m n"]) -> Float[np.ndarray, "m"]:
    """M = (1/n) Σ_i |ℓ_i − L_n|, the mean absolute deviation at each point."""
    losses = np.asarray(losses, np.float64)
    losses = losses - np.median(losses, -1, keepdims=True)  # exactly 0 where all are equal
    return np.abs(losses - losses.mean(-1, keepdims=True)).mean(-1)


def first_order_law(
    deviation: Float[ArrayLike, "*m"], n: int, k: Int[np.ndarray, "*k"]
) -> Float[np.ndarray, "..."]:
    """M n / ((n−1) (k+1)): what |δ_k| comes to on average over all orders of n samples as k grows.

    Given that sample i comes next, L_k is on average (n L_n − ℓ_i) / (n−1), so that ℓ_i − L_k is
    n/(n−1) (ℓ_i − L_n) plus a remainder of mean 0. By Jensen's inequality the average of |δ_k| is
    therefore nowhere below this law; at k = n−1 the remainder is 0, and they are equal. Since a
    mean is at most a root mean square, it is nowhere above √(S²/(k(k+1))), the root of the order
    law of δ_k² (``jaxscape.order_law``). The arguments broadcast.
    """
    return np.asarray(deviation) * n / (n - 1) / (np.asarray(k, np.float64) + 1)


BETA = 0.99


def exponential(
    values: Float[Array, "... K"], *, beta: float = BETA, as_published: bool = False
) -> Float[Array, "... K"]:
    """s_k of |δ_k|, ``values`` at k = 1..K: a / (k+1), with a the average of (j+1) |δ_j|, j ≤ k.

    Weights are in proportion to β^(k−j) and sum to one at every k, as Adam's do (Kingma & Ba 2015,
    section 3). A multiple of 1/(k+1) is its own average. Where (k+1) |δ_k| has a trend, its average
    lags 1/(1−β) values behind, as that of any past does.

    As published: s_1 = |δ_1|, then s_k = β s_{k−1} + (1−β) |δ_k|, in which the first value keeps
    the weight β^(k−1) and the past is not scaled to the present.

    Raises:
        InputError: a beta outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise InputError(f"expected a beta of at least 0, below 1, found {beta}; change it")
    values = jnp.asarray(values)
    k = np.arange(1, values.shape[-1] + 1, dtype=np.float64)
    if as_published:
        return _average(values, np.where(k == 1, 1, 1 - beta))
    return _average(values * (k + 1), (1 - beta) / (1 - beta**k)) / (k + 1)


@jax.jit
def _average(values: Float[Array, "... K"], gains: Float[Array, "K"]) -> Float[Array, "... K"]:
    """s_k = s_{k−1} + gain_k (y_k − s_{k−1}), s_0 = 0."""

    def step(average: Array, entry: tuple[Array, Array]) -> tuple[Array, Array]:
        value, gain = entry
        average = average + gain * (value - average)
        return average, average

    along = jnp.moveaxis(values, -1, 0)
    gains = gains.astype(values.dtype)
    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(along[0]), (along, gains))[1], 0, -1)
