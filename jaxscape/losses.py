"""From a model's outputs to one loss per sample, and the check that a loss gives one."""

import contextlib
import hashlib
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxscape.arguments import explained
from jaxscape.batching import equations, host, length_of
from jaxscape.trees import automatic, is_key, is_traced, short, working
from jaxscape.types import Batch, InputError, Params, PerSampleLoss


@explained
def cross_entropy(
    logits: Float[ArrayLike, "n *t c"], targets: Shaped[ArrayLike, "..."]
) -> Float[Array, "n *t"]:
    """ℓ_i = log Σ_c exp(z_c − z_y), in nats; of each token, where there is an axis of tokens.

    Written as log1p(Σ_{c≠y} exp(z_c − z_y)), so that a loss of 1e-6 keeps its digits in float32.
    NaN for a target that is not among the classes 0..c−1. Targets of the logits' shape are
    probabilities p, of which ℓ_i = log Σ_c exp(z_c) Σ_c p_c − Σ_c p_c z_c. Raises an ``InputError``
    for targets of another shape than the logits', with or without their last axis.

    >>> loss = cross_entropy(jnp.array([[0.0, 0.0], [20.0, 0.0]]), jnp.array([1, 0]))
    >>> print(f"{loss[0]:.4f} {loss[1]:.3g}")
    0.6931 2.06e-09
    """
    z, y = working((jnp.asarray(logits), jnp.asarray(targets)))
    if z.ndim < 2:
        raise InputError(f"expected logits of shape (samples, classes), found {z.shape}")
    if y.shape == z.shape:
        p = y.astype(z.dtype)
        return jax.nn.logsumexp(z, -1) * p.sum(-1) - jnp.sum(jnp.where(p == 0, 0, p * z), -1)
    if y.shape != z.shape[:-1] or not jnp.issubdtype(y.dtype, jnp.integer):
        said = f"expected integer classes of shape {z.shape[:-1]}, or probabilities of {z.shape}"
        raise InputError(f"{said}, found {y.dtype} of shape {y.shape}; reshape them")
    own = jnp.arange(z.shape[-1]) == y[..., None]
    margins = z - jnp.sum(jnp.where(own, z, 0), -1, keepdims=True)
    top = jax.lax.stop_gradient(margins.max(-1))  # at least 0, the margin of the own class
    rest = jnp.sum(jnp.where(own, 0, jnp.exp(margins - top[..., None])), -1)
    loss = top + jnp.where(top > 0, jnp.log(jnp.exp(-top) + rest), jnp.log1p(rest))
    return jnp.where((y >= 0) & (y < jnp.int32(z.shape[-1])), loss, jnp.nan)


@explained
def squared_error(
    outputs: Float[ArrayLike, "n ..."], targets: Shaped[ArrayLike, "n ..."]
) -> Float[Array, "n"]:
    """ℓ_i = ½‖f(x_i) − y_i‖², over all axes but the first; an ``InputError`` if shapes differ.

    >>> squared_error(jnp.array([[1.0, 2.0], [0.0, 3.0]]), jnp.zeros((2, 2))).tolist()
    [2.5, 4.5]
    """
    found, wanted = _alike("outputs", outputs, targets)
    return 0.5 * jnp.sum((found - wanted).reshape(len(found), -1) ** 2, -1)


@explained
def binary_cross_entropy(
    logits: Float[ArrayLike, "n ..."], targets: Shaped[ArrayLike, "n ..."]
) -> Float[Array, "n"]:
    """ℓ_i = Σ y log(1 + exp(−z)) + (1 − y) log(1 + exp(z)), in nats, over all axes but the first.

    The negative log likelihood of independent labels y, anything from 0 to 1 or Boolean, with
    probabilities sigmoid(z). NaN for a target outside. Raises as ``squared_error`` does.

    >>> loss = binary_cross_entropy(jnp.array([0.0, 20.0]), jnp.array([True, True]))
    >>> print(f"{loss[0]:.4f} {loss[1]:.3g}")
    0.6931 2.06e-09
    """
    z, y = _alike("logits", logits, targets)
    y = y.astype(z.dtype)
    loss = y * jax.nn.softplus(-z) + (1 - y) * jax.nn.softplus(z)
    return jnp.sum(jnp.where((y >= 0) & (y <= 1), loss, jnp.nan).reshape(len(z), -1), -1)


@explained
def per_sequence(
    tokens: Float[ArrayLike, "n t"], mask: Bool[ArrayLike, "n t"], *, mean: bool = True
) -> Float[Array, "n"]:
    """The mean, or the sum, of the losses of each sequence's own tokens, not of its padding.

    A sequence, not a token, is then a sample. Raises as ``squared_error`` does.

    >>> tokens = jnp.array([[1.0, 3.0], [5.0, jnp.nan]])
    >>> per_sequence(tokens, jnp.array([[True, True], [True, False]])).tolist()
    [2.0, 5.0]

    Args:
        tokens, mask: The loss of each token, anything (NaN too) where the mask is False.
        mean: Every sequence weighs the same, whatever its length, and one of padding alone is NaN.
            Otherwise every token weighs the same.
    """
    found, own = _alike("token losses", tokens, mask)
    own = own.astype(bool)
    total = jnp.sum(found, -1, where=own)
    return total / jnp.sum(own, -1) if mean else total


def _alike(name: str, found: Any, other: Any) -> tuple[Array, Array]:
    """Both as arrays, in float32 at least, or an ``InputError`` where their shapes differ."""
    x, y = working((jnp.asarray(found), jnp.asarray(other)))
    if x.shape != y.shape:
        said = f"expected an array of the {name}' shape {x.shape}, found {y.shape}"
        raise InputError(f"{said}; reshape one of them")
    return x, y


def supervised(
    apply: Callable[[Params, Any], Array],
    per_sample: Callable[[Array, Array], Float[Array, "n"]] = cross_entropy,
) -> PerSampleLoss:
    """The loss ``per_sample(apply(params, batch["inputs"]), batch["targets"])``."""
    return lambda params, batch: per_sample(apply(params, batch["inputs"]), batch["targets"])


def coupled(loss: PerSampleLoss) -> PerSampleLoss:
    """The same loss, of samples that may see each other; results then depend on the batch size.

    Without it such a loss is refused: batch normalisation in training mode, dropout with one key
    for the batch, negatives from the batch.
    """

    def meant(params: Params, batch: Batch) -> Float[Array, "n"]:
        return loss(params, batch)

    meant.samples_see_each_other = True  # type: ignore[attr-defined]
    return meant


def are_coupled(bound: Partial) -> bool:
    """Whether ``coupled`` says that the samples of this loss may see each other."""
    return hasattr(getattr(bound.func, "function", bound.func), "samples_see_each_other")


def ready(
    loss: PerSampleLoss, params: Params, data: Batch, point: Any = None, *, apart: bool = True
) -> tuple[int, Partial]:
    """The number of samples in ``data``, and the loss as a pytree; see ``bind``.

    ``params`` may be shapes alone; ``point()``, a ``Partial``, then gives parameters of these
    shapes. Raises an ``InputError`` for a loss that has no real value for each sample, or, with
    ``apart``, whose samples see each other. A loss that this has given is not looked at again,
    which with small batches would take longer than their work.
    """
    (params, data), n = automatic((params, data)), length_of(data)
    loss = automatic(loss) if isinstance(loss, Partial) else loss
    shapes = jax.eval_shape(working, params)
    if seen := isinstance(loss, Partial) and isinstance(loss.func, Remembering):
        bound, found = loss, jax.eval_shape(loss, shapes, data)
    else:
        bound, found = bind(loss, params if is_traced((params, data)) else shapes, data)
    shape = getattr(found, "shape", short(found))
    if shape != (n,):
        said = f"expected loss(params, batch) to return one loss per sample, shape ({n},), found"
        now = "return the losses before any mean or sum over samples"
        raise InputError(f"{said} shape {shape}; {now}")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise InputError(f"expected real losses, found {found.dtype}; return floating-point ones")
    unknown = apart and not seen and n > 1 and jax.process_count() == 1
    if unknown and isinstance(bound.func, Remembering):
        _check_apart(bound, point or Partial(working, params), data, n)
    return n, bound


@dataclass(frozen=True)
class Remembering:
    """A function, equal to another one only where both would be traced to the same program.

    A compiled program keeps what its function closes over: arrays, attributes of the object that a
    method belongs to, globals. The trace in ``key`` reads them anew each time.
    """

    function: Callable = field(compare=False)
    key: Hashable

    def __call__(self, *args: Any, **named: Any) -> Any:
        """The function's own value."""
        return self.function(*args, **named)


def bind(function: Callable, *args: Any) -> tuple[Partial, Any]:
    """A function as a pytree (arrays of a ``Partial`` are leaves), and the shapes of its result.

    What it closes over becomes a constant of each compiled program; it is looked at anew in each
    call (``Remembering``), unless this happens under a transformation of JAX.
    """
    own, held, named = function, (), {}
    if isinstance(function, Partial):
        own, held, named = function.func, function.args, function.keywords
    for odd in filter(callable, jax.tree.leaves((held, named))):
        said = f"expected arrays in a Partial, found {short(odd)}"
        raise InputError(f"{said}; close over what is no array")
    if isinstance(own, jax.stages.Wrapped):  # its own cache would give what it was traced to
        own = getattr(own, "__wrapped__", own)
    inputs = held, named, args
    if is_traced(inputs):
        return Partial(own, *held, **named), jax.eval_shape(function, *args)
    # A new function each time: tracing is cached, so what a known one closes over may be stale.
    call = lambda held, named, args: own(*held, *args, **named)  # noqa: E731
    closed, shape = jax.make_jaxpr(call, return_shape=True)(*inputs)
    if not is_traced(closed.consts):
        # of a method the object and the function, as Python makes a new method each time
        own_id = id(getattr(own, "__self__", own)), id(getattr(own, "__func__", own))
        content = _content(closed)
        own = Remembering(own, (own_id, content, _hidden(content[0], call, inputs)))
    return Partial(own, *held, **named), shape


def _content(closed: ClosedJaxpr) -> tuple:
    """A program and its constants, without addresses, which differ from trace to trace."""
    consts = [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in closed.consts]
    digests = [(x.shape, str(x.dtype), hashlib.blake2b(x.tobytes()).digest()) for x in consts]
    return re.sub("0x[0-9a-f]+", "", str(closed.jaxpr)), *digests


def _hidden(program: str, call: Callable, inputs: tuple) -> Hashable:
    """What a printed program does not show: derivatives of its own, and calls of the host."""
    rules = re.findall(r"custom_jvp_call\[\s*name=(\w+)", program)
    if "callback" in program:
        return object()  # unlike any other
    if "custom_vjp_call" not in program and all(hasattr(jax.nn, name) for name in rules):
        return None
    total = lambda *inputs: jnp.sum(call(*inputs))  # noqa: E731
    try:
        return _content(jax.make_jaxpr(jax.grad(total, argnums=2, allow_int=True))(*inputs))
    except TypeError:
        return object()


def has_forward_mode(function: Callable, *args: Any) -> bool:
    """Whether ``function`` can take its forward derivatives; of ``jax.custom_vjp`` it cannot."""
    try:
        closed = jax.make_jaxpr(function)(*args)
    except (TypeError, NotImplementedError):
        return False
    return all(e.primitive.name != "custom_lin" for e, _ in equations(closed.jaxpr))


def _check_apart(bound: Partial, point: Partial, data: Batch, n: int) -> None:
    """Raise an ``InputError`` where a sample's loss depends on those beside it."""
    held = jax.tree.leaves(point)
    if (
        are_coupled(bound)
        or is_traced(held)
        or any(isinstance(x, jax.ShapeDtypeStruct) for x in held)
    ):
        return
    rows = np.unique(np.linspace(0, n - 1, 4).astype(int))  # the first and last are seen alone too
    with host():
        few, last = jax.tree.map(lambda leaf: jnp.asarray(leaf[rows]), data), len(rows) - 1
    # on a CPU a program that runs once is compiled in half the time without optimisation
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    look, found = jax.jit(_apart, compiler_options=quick), ()
    # alone; together where a model refuses that, or a loss has no value then
    for groups in ([[0], [last]], [[0, last]]):
        with host(), contextlib.suppress(Exception):  # a loss may be of exactly so many samples
            if not (found and np.isfinite(found[2]).all()):
                found = look(bound, point, few, np.array(groups))
    if not found:
        return
    every, among, apart = (np.asarray(x, np.float64) for x in found)
    rounding = 32 * float(jnp.finfo(jnp.float32).eps) * np.abs(every).max()
    if not (np.isfinite(every).all() and np.isfinite(apart).all()):
        return
    worst = np.argmax(np.abs(among - apart))
    off = abs(among[worst] - apart[worst])
    if off > 1e-2 * np.ptp(every) + rounding:
        raise InputError(
            "expected losses of samples that do not see each other, found "
            f"{among[worst]:.4g} for a sample among {len(rows)} and {apart[worst]:.4g} beside "
            "fewer; put the model into evaluation mode (model.eval(), use_running_average), give "
            "each sample its own key, or say js.losses.coupled(loss)"
        )


def _apart(loss: PerSampleLoss, point: Partial, few: Batch, groups: Int[Array, "g s"]) -> tuple:
    """The losses of a few samples; those in the groups, among all and in each group alone."""

    def moved(x: Array) -> Array:  # a little: at the start of training much may be 0 or alike
        step = jnp.sin(jnp.arange(jnp.size(x), dtype=jnp.result_type(x))).reshape(jnp.shape(x))
        return x + 1e-2 * step

    params = jax.tree.map(moved, working(point()))
    with jax.default_matmul_precision("highest"):
        every = loss(params, few)
        alone = [loss(params, jax.tree.map(lambda x, g=g: x[g], few)) for g in groups]
        return every, every[groups.ravel()], jnp.concatenate(alone)
