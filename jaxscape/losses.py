"""From a model's outputs to one loss per sample, and the check that a loss gives one."""

import functools
import hashlib
import re
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Shaped

from jaxscape.arguments import explained
from jaxscape.batching import equations, host, length_of
from jaxscape.trees import is_traced, short, working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


@explained
def cross_entropy(
    logits: Float[ArrayLike, "n *t c"], targets: Shaped[ArrayLike, "..."]
) -> Float[Array, "n *t"]:
    """ℓ_i = log Σ_c exp(z_c − z_y), in nats; of each token, where there is an axis of tokens.

    Written as log1p(Σ_{c≠y} exp(z_c − z_y)), so that a loss of 1e-6 keeps its digits in float32.
    NaN for a target that is not among the classes 0..c−1. Targets of the logits' shape are
    probabilities p, of which ℓ_i = log Σ_c exp(z_c) Σ_c p_c − Σ_c p_c z_c.

    >>> loss = cross_entropy(jnp.array([[0.0, 0.0], [20.0, 0.0]]), jnp.array([1, 0]))
    >>> print(f"{loss[0]:.4f} {loss[1]:.3g}")
    0.6931 2.06e-09

    Raises:
        InputError: targets of another shape than the logits', with or without their last axis.
    """
    targets = np.asarray(targets) if isinstance(targets, list) else targets
    z, shape = working(jnp.asarray(logits)), jnp.shape(targets)
    if z.ndim < 2:
        raise InputError(f"expected logits of shape (samples, classes), found {z.shape}")
    if shape == z.shape:
        p = jnp.asarray(targets, z.dtype)
        return jax.nn.logsumexp(z, -1) * p.sum(-1) - jnp.sum(jnp.where(p == 0, 0, p * z), -1)
    if shape != z.shape[:-1] or not jnp.issubdtype(jnp.result_type(targets), jnp.integer):
        raise InputError(
            f"expected integer classes of shape {z.shape[:-1]}, or probabilities of shape "
            f"{z.shape}, found {jnp.result_type(targets)} of shape {shape}; reshape them"
        )
    own = jnp.arange(z.shape[-1]) == jnp.asarray(targets)[..., None]
    margins = z - jnp.sum(jnp.where(own, z, 0), -1, keepdims=True)
    top = jax.lax.stop_gradient(margins.max(-1))  # at least 0, the margin of the own class
    rest = jnp.sum(jnp.where(own, 0, jnp.exp(margins - top[..., None])), -1)
    loss = top + jnp.where(top > 0, jnp.log(jnp.exp(-top) + rest), jnp.log1p(rest))
    return jnp.where(own.any(-1), loss, jnp.nan)


@explained
def squared_error(
    outputs: Float[ArrayLike, "n ..."], targets: Shaped[ArrayLike, "n ..."]
) -> Float[Array, "n"]:
    """ℓ_i = ½‖f(x_i) − y_i‖², summed over all axes but the first.

    >>> squared_error(jnp.array([[1.0, 2.0], [0.0, 3.0]]), jnp.zeros((2, 2))).tolist()
    [2.5, 4.5]

    Raises:
        InputError: outputs and targets of different shapes, which would broadcast.
    """
    _check_same_shape("outputs", outputs, targets)
    found, wanted = working((jnp.asarray(outputs), jnp.asarray(targets)))
    difference = (found - wanted).reshape(found.shape[0], -1)
    return 0.5 * jnp.sum(difference**2, -1)


@explained
def binary_cross_entropy(
    logits: Float[ArrayLike, "n ..."], targets: Shaped[ArrayLike, "n ..."]
) -> Float[Array, "n"]:
    """ℓ_i = Σ y log(1 + exp(−z)) + (1 − y) log(1 + exp(z)), in nats, over all axes but the first.

    The negative log likelihood of independent labels y, anything from 0 to 1 or Boolean, with
    probabilities sigmoid(z), from the logits z. NaN for a target outside.

    >>> loss = binary_cross_entropy(jnp.array([0.0, 20.0]), jnp.array([True, True]))
    >>> print(f"{loss[0]:.4f} {loss[1]:.3g}")
    0.6931 2.06e-09

    Raises:
        InputError: logits and targets of different shapes, which would broadcast.
    """
    _check_same_shape("logits", logits, targets)
    z = working(jnp.asarray(logits))
    y = jnp.asarray(targets, z.dtype)
    loss = y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z)
    loss = jnp.where((y >= 0) & (y <= 1), loss, jnp.nan)
    return jnp.sum(loss.reshape(loss.shape[0], -1), -1)


@explained
def per_sequence(
    tokens: Float[ArrayLike, "n t"], mask: Bool[ArrayLike, "n t"], *, mean: bool = True
) -> Float[Array, "n"]:
    """The mean, or the sum, of the losses of each sequence's own tokens, not of its padding.

    A sequence, not a token, is then a sample.

    >>> tokens = jnp.array([[1.0, 3.0], [5.0, jnp.nan]])
    >>> per_sequence(tokens, jnp.array([[True, True], [True, False]])).tolist()
    [2.0, 5.0]

    Args:
        tokens: The loss of each token, anything (NaN too) where ``mask`` is False.
        mask: Which tokens are no padding.
        mean: Every sequence weighs the same, whatever its length, and one of padding alone is NaN.
            Otherwise every token weighs the same.

    Raises:
        InputError: token losses and a mask of different shapes, which would broadcast.
    """
    _check_same_shape("token losses", tokens, mask, "a mask")
    own = jnp.asarray(mask, bool)
    total = jnp.sum(working(jnp.asarray(tokens)), -1, where=own)
    return total / jnp.sum(own, -1) if mean else total


def supervised(
    apply: Callable[[Params, Any], Array],
    per_sample: Callable[[Array, Array], Float[Array, "n"]] = cross_entropy,
) -> PerSampleLoss:
    """The loss ``per_sample(apply(params, batch["inputs"]), batch["targets"])``."""

    def loss(params: Params, batch: Batch) -> Float[Array, "n"]:
        return per_sample(apply(params, batch["inputs"]), batch["targets"])

    return loss


class Remembering:
    """A function, equal to another one only where both would be traced to the same program.

    A compiled program keeps what its function closes over: arrays, attributes of the object that a
    method belongs to, globals. ``trace`` reads them anew each time.
    """

    def __init__(self, function: Callable, trace: Hashable) -> None:
        """Keep the function beside what its trace says."""
        self.function, self.trace = function, trace

    def __call__(self, *args: Any) -> Any:
        """The function's own value."""
        return self.function(*args)

    def __hash__(self) -> int:
        """Of the trace, and of the function where it has one."""
        return hash(self.trace)

    def __eq__(self, other: object) -> bool:
        """Whether both are the same function with the same trace."""
        if not isinstance(other, Remembering):
            return NotImplemented
        one: Any = self.function
        two: Any = other.function
        method = getattr(one, "__self__", None) is getattr(two, "__self__", self)
        same = one is two or (method and one.__func__ is two.__func__)
        return same and self.trace == other.trace


def bind(function: Callable, *args: Any) -> tuple[jax.tree_util.Partial, Any]:
    """A function as a pytree, and the shapes of what it gives for ``args``.

    Of a ``jax.tree_util.Partial`` the arrays are leaves. What a function closes over becomes a
    constant of each compiled program; it is looked at anew in each call (``Remembering``), unless
    this happens under a transformation of JAX.
    """
    partial = jax.tree_util.Partial
    own, held, named = function, (), {}
    if isinstance(function, partial):
        own, held, named = function.func, function.args, function.keywords
    odd = [x for x in jax.tree.leaves((held, named)) if callable(x)]
    if odd:
        raise InputError(
            f"expected arrays in a Partial, found {short(odd[0])}; close over what is no array"
        )
    if isinstance(own, jax.stages.Wrapped):  # its own cache would give what it was traced to
        own = getattr(own, "__wrapped__", own)
    if is_traced((args, held, named)):
        return partial(own, *held, **named), jax.eval_shape(function, *args)
    # A new function each time: tracing is cached, so what a known one closes over may be stale.
    call = lambda held, named, args: own(*held, *args, **named)  # noqa: E731
    inputs = held, named, args
    closed, shape = jax.make_jaxpr(call, return_shape=True)(*inputs)
    if is_traced(closed.consts):
        return partial(own, *held, **named), shape
    program = re.sub("0x[0-9a-f]+", "", str(closed.jaxpr))  # addresses differ from trace to trace
    trace = program, *(_content(const) for const in closed.consts), _hidden(program, call, *inputs)
    return partial(Remembering(own, trace), *held, **named), shape


def _hidden(program: str, call: Callable, *inputs: Any) -> Hashable:
    """What a printed program does not show: derivatives of its own, and calls of the host."""
    if "callback" in program:
        return object()  # unlike any other
    rules = re.findall(r"custom_jvp_call\[\s*name=(\w+)", program)
    if "custom_vjp_call" not in program and all(hasattr(jax.nn, name) for name in rules):
        return None
    total = lambda *inputs: jnp.sum(call(*inputs))  # noqa: E731
    try:
        closed = jax.make_jaxpr(jax.grad(total, argnums=2, allow_int=True))(*inputs)
    except TypeError:
        return object()
    shown = re.sub("0x[0-9a-f]+", "", str(closed.jaxpr))
    return shown, *(_content(const) for const in closed.consts)


def has_forward_mode(function: Callable, *args: Any) -> bool:
    """Whether ``function``, which takes derivatives in forward mode, can be compiled for ``args``.

    Of a ``jax.custom_vjp`` it cannot.
    """
    try:
        closed = jax.make_jaxpr(function)(*args)
    except (TypeError, NotImplementedError):
        return False
    return all(e.primitive.name != "custom_lin" for e, _ in equations(closed.jaxpr))


def _content(const: Any) -> Hashable:
    array = np.asarray(jax.random.key_data(const) if _is_key(const) else const)
    return array.shape, str(array.dtype), hashlib.blake2b(array.tobytes()).digest()


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def ready(
    loss: PerSampleLoss, params: Params, data: Batch, point: jax.tree_util.Partial | None = None
) -> tuple[int, jax.tree_util.Partial]:
    """The number of samples in ``data``, and the loss as a pytree; see ``bind``.

    ``params`` may be shapes alone; ``point()`` then gives parameters of these shapes.

    Raises:
        InputError: a loss that has no real value for each sample; samples that see each other.
    """
    n, bound = one_each(loss, params, data)
    if isinstance(bound.func, Remembering) and n > 1 and jax.process_count() == 1:
        _check_apart(bound, point or jax.tree_util.Partial(working, params), data, n)
    return n, bound


def one_each(loss: PerSampleLoss, params: Params, data: Batch) -> tuple[int, jax.tree_util.Partial]:
    """As ``ready``; whether samples see each other is not looked at."""
    n = length_of(data)
    shapes = jax.eval_shape(working, params)
    if not callable(loss):
        raise InputError(
            f"expected loss(params, batch), found {short(loss)}; pass such a function first"
        )
    bound, found = bind(loss, params if is_traced((params, data)) else shapes, data)
    shape = getattr(found, "shape", None)
    if shape != (n,):
        raise InputError(
            f"expected loss(params, batch) to return one loss per sample, shape ({n},), "
            f"found {short(found) if shape is None else f'shape {shape}'}; "
            "return the losses before any mean or sum over samples"
        )
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise InputError(
            f"expected real losses, found {found.dtype}; return numbers that can be differentiated"
        )
    return n, bound


def check(loss: PerSampleLoss, params: Params, data: Batch) -> int:
    """The number of samples in ``data``; see ``ready``."""
    return ready(loss, params, data)[0]


def coupled(loss: PerSampleLoss) -> PerSampleLoss:
    """The same loss, of samples that may see each other; results then depend on the batch size.

    Without it, a loss whose value for a sample depends on the other samples of its batch is
    refused: batch normalisation in training mode, dropout with one key for the batch, negatives
    from the batch.
    """

    def meant(params: Params, batch: Batch) -> Float[Array, "n"]:
        return loss(params, batch)

    meant.samples_see_each_other = True  # type: ignore[attr-defined]
    return meant


APART = 4  # samples, of which two are evaluated among these and alone


@functools.cache
def _compiled(backend: str) -> Callable:
    """``_apart``, run once on a few samples: on a CPU compiled in half the time."""
    quick = {"xla_backend_optimization_level": 0} if backend == "cpu" else None
    return jax.jit(_apart, compiler_options=quick, static_argnames="groups")


def _check_apart(
    bound: jax.tree_util.Partial, point: jax.tree_util.Partial, data: Batch, n: int
) -> None:
    """Raise an ``InputError`` where a sample's loss depends on those beside it."""
    if getattr(getattr(bound.func, "function", None), "samples_see_each_other", False):
        return
    held = jax.tree.leaves(point)
    if is_traced(held) or any(isinstance(x, jax.ShapeDtypeStruct) for x in held):
        return
    rows = np.unique(np.linspace(0, n - 1, APART).astype(int))
    with host():
        few, last = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), data), len(rows) - 1
    look, groups = _compiled(jax.default_backend()), (((0,), (last,)), ((0, last),))
    for each in groups:  # alone, or in pairs, as a model may refuse a single sample
        try:
            with host():
                found = look(bound, point, few, groups=each)
            every, among, apart = (np.asarray(x, np.float64) for x in found)
            break
        except Exception:  # a loss of exactly so many samples, never cut into batches
            continue
    else:
        return
    rounding = 32 * float(jnp.finfo(jnp.float32).eps) * np.abs(every).max()
    off = np.abs(among - apart)
    if np.isfinite(every.sum() + apart.sum()) and off.max() > 1e-2 * np.ptp(every) + rounding:
        raise InputError(
            f"expected losses of samples that do not see each other, found {among[0]:.4g} for a "
            f"sample among {len(rows)} and {apart[0]:.4g} beside fewer; put the model into "
            "evaluation mode (model.eval(), use_running_average), give each sample its own key, or "
            "say js.losses.coupled(loss)"
        )


def _beside(point: jax.tree_util.Partial) -> Params:
    """Parameters a little beside a point: at the start of training much may be 0 or alike."""

    def moved(x: Array) -> Array:
        step = jnp.sin(jnp.arange(jnp.size(x), dtype=jnp.result_type(x))).reshape(jnp.shape(x))
        return x + 1e-2 * step

    return jax.tree.map(moved, working(point()))


def _apart(
    loss: PerSampleLoss,
    point: jax.tree_util.Partial,
    few: Batch,
    groups: tuple[tuple[int, ...], ...],
) -> tuple[Array, Array, Array]:
    """The losses of a few samples; those of the first of each group among them, and in the group.

    The rows of a group are evaluated without the others.
    """
    w = _beside(point)
    with jax.default_matmul_precision("highest"):
        every = loss(w, few)
        apart = [
            loss(w, jax.tree.map(lambda leaf, g=group: leaf[np.array(g)], few))[0]
            for group in groups
        ]
    return every, every[np.array([group[0] for group in groups])], jnp.stack(apart)


def _check_same_shape(name: str, found: Any, other: Any, kind: str = "targets") -> None:
    shapes = jnp.shape(found), jnp.shape(other)
    if shapes[0] != shapes[1]:
        raise InputError(
            f"expected {kind} of the {name}' shape {shapes[0]}, found {shapes[1]}; "
            "reshape one of them"
        )
