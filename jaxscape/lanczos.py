"""The leading eigenpairs of a symmetric operator, by thick-restart Lanczos.

``_solve`` is the compiled loop: a basis grows by one vector (``_propose``) and its product
(``_absorb``) at a time, and shrinks to its leading Ritz vectors when it is full (``_restart``). Of
an operator over batches the host goes through the same loop (``_Host``), each step compiled.

A vector is a tuple of arrays (``_pack``), a basis has one axis more in each. On one device that is
one flat array. Leaves that the host shards over devices stay as they are: nothing is gathered.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from jaxscape import devices
from jaxscape.arguments import check_choice, explained
from jaxscape.batching import check_eager
from jaxscape.curvature import OverBatches, linearised
from jaxscape.losses import bind
from jaxscape.trees import automatic, check_floating, check_like, length, num_parameters, working
from jaxscape.types import InputError, Matvec, Params, Scalar

Vectors = tuple[Float[Array, "..."], ...]


class Eigenpairs(NamedTuple):
    """Eigenpairs (λ_i, v_i) of H."""

    values: Float[Array, "num"]
    vectors: Params
    """Leaves [num, ...], orthonormal as flat vectors."""
    residuals: Float[Array, "num"]
    """‖H v_i − λ_i v_i‖."""
    converged: Bool[Array, "num"]
    """Whether the residual is small beside the eigenvalue."""
    matvecs: Int[Array, ""]
    """Products with H that it took."""


class Ritz(NamedTuple):
    """All Ritz pairs (θ_i, Vᵀs_i), the wanted ones first, with residuals of the first ``num``."""

    values: Float[Array, "r"]
    coefficients: Float[Array, "r r"]  # row i holds s_i
    residuals: Float[Array, "num"]
    converged: Bool[Array, "num"]
    pending: Bool[Array, "num"]  # present in the basis, not yet converged
    nearly: Bool[Array, "num"]  # present, with a residual of at most 4 times the limit
    rounding: Float[Array, ""]  # residuals below this are noise


class State(NamedTuple):
    """The basis, its products with H, and what is known from them."""

    basis: Vectors  # V, [r, ...], orthonormal rows; unused rows are zero
    images: Vectors  # V H, kept so that residuals are computed, not estimated
    projected: Float[Array, "r r"]  # T = V H Vᵀ
    size: Int[Array, ""]  # rows in use
    last: Vectors  # the newest image, made orthogonal to the basis
    ritz: Ritz
    searched: Int[Array, ""]  # products of the search for repeated eigenvalues since its last find
    restarts: Int[Array, ""]
    matvecs: Int[Array, ""]
    key: Key[Array, ""]


@jax.tree_util.register_static
@dataclass(frozen=True)
class Options:
    """What the compiled steps are specialised to."""

    num: int
    which: str
    dim: int
    find_repeated: bool
    tree: Any  # of an eigenvector
    leaves: tuple[jax.ShapeDtypeStruct, ...]  # with their sharding, where that is over devices


@explained
def top_eigenpairs(
    key: Key[Array, ""],
    matvec: Matvec,
    like: Params,
    num: int,
    *,
    which: str = "largest",
    tol: Scalar = 1e-4,
    max_restarts: int = 100,
    krylov_dim: int | None = None,
    find_repeated: bool = True,
) -> Eigenpairs:
    """The ``num`` leading eigenpairs of the symmetric operator ``matvec``.

    Thick-restart Lanczos (Wu & Simon 2000, "Thick-restart Lanczos method for large symmetric
    eigenvalue problems") with full reorthogonalisation. Pair i is converged when ‖H v_i − λ_i v_i‖
    ≤ tol·|λ_i|. The search also ends at a residual of 10 ε max|θ| (machine epsilon, largest Ritz
    value by magnitude), which is rounding: an eigenvalue as small as that cannot converge. An
    argument out of range, or a product of another shape, is an ``InputError``.

    Args:
        key: Of the random starting vectors, and of each eigenvector's sign.
        matvec: H. A pytree (``hessian_operator``, or ``jax.tree_util.Partial(f, arrays)``) is
            compiled once per set of shapes; a plain closure once per call. One of NumPy's arrays is
            called from the compiled program, one over batches from the host.
        like: A pytree like an eigenvector, half precision raised to float32; values are not read.
            All vectors are spread over devices as its leaves are by a ``NamedSharding``. Under
            ``jit`` arrays do not tell: give there ``jax.ShapeDtypeStruct`` with their sharding.
        num: How many, 1 ≤ num ≤ P.
        which: Algebraically "largest" (descending) or "smallest" (ascending), or by "magnitude"
            (descending, sign kept).
        tol: Relative residual that counts as converged.
        max_restarts: Afterwards, or when a product is not finite, the best pairs are returned.
        krylov_dim: Vectors kept, from min(num + 3, P), which leaves no room to search for repeated
            eigenvalues, to P; by default min(2·num + 20, P). Memory is 4·krylov_dim·P numbers, and
            on a CPU up to 1 GiB that the products of a ``hessian_operator`` share.
        find_repeated: Whether to search on, for about a third more products, for copies of repeated
            eigenvalues. The Hessian of a trained network repeats no leading one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> matvec = jax.tree_util.Partial(jnp.multiply, jnp.arange(-9.0, 41.0))
        >>> pairs = top_eigenpairs(jax.random.key(0), matvec, jnp.zeros(50), 3)
        >>> pairs.values.round(3).tolist(), bool(pairs.converged.all())
        ([40.0, 39.0, 38.0], True)
    """
    like = automatic(like)
    check_floating(like)
    p = num_parameters(like)
    dim = min(2 * num + 20, p) if krylov_dim is None else krylov_dim
    if not 1 <= num <= p:
        raise InputError(f"expected 1 <= num <= {p} (the parameters), found {num}; change num")
    check_choice("which", which, ("largest", "smallest", "magnitude"))
    if not isinstance(tol, jax.core.Tracer) and not 0 < tol < math.inf:
        raise InputError(f"expected a finite tol above 0, found {tol}; 1e-4 suits float32")
    if max_restarts < 0:
        raise InputError(f"expected max_restarts of at least 0, found {max_restarts}; raise it")
    if not (least := min(num + 3, p)) <= dim <= p:
        raise InputError(f"expected {least} <= krylov_dim <= {p}, found {dim}; change krylov_dim")
    # without the values, which may lie on other devices than the operator
    shapes = jax.eval_shape(working, like)
    leaves, tree = jax.tree.flatten(jax.tree.map(_described, shapes, like))
    options = Options(num, which, dim, find_repeated, tree, tuple(leaves))
    return _solve(hoist(matvec, shapes), key, tol, max_restarts, options)


def _described(shape: jax.ShapeDtypeStruct, leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape with how the leaf is sharded, where it is over several devices, and tells."""
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=devices.sharding_of(leaf))


def _groups(options: Options) -> dict[Any, list[int]]:
    """Which leaves make one array: those not sharded, and those alike in shape and sharding."""
    found: dict[Any, list[int]] = {}
    for index, leaf in enumerate(options.leaves):
        found.setdefault(leaf.sharding and (leaf.sharding, leaf.shape), []).append(index)
    return found


def _pack(vector: Params, options: Options) -> Vectors:
    """Leaves that are not sharded end to end in one array, those sharded alike side by side.

    So many leaves take few operations, which would take long to compile, and nothing moves.
    """
    leaves, dtype, parts = jax.tree.leaves(vector), jnp.result_type(*options.leaves), []
    for group, members in _groups(options).items():
        own = [leaves[index].astype(dtype) for index in members]
        parts.append(jnp.stack(own) if group else jnp.concatenate(list(map(jnp.ravel, own))))
    return _placed(parts, options)


def _unpack(vector: Vectors, options: Options) -> Params:
    """Undo ``_pack``."""
    leaves = list(options.leaves)
    for (group, members), part in zip(_groups(options).items(), vector, strict=True):
        ends = np.cumsum([math.prod(leaves[index].shape) for index in members])
        for index, own in zip(members, part if group else jnp.split(part, ends[:-1]), strict=True):
            leaves[index] = own.reshape(leaves[index].shape).astype(leaves[index].dtype)
    return options.tree.unflatten(leaves)


def _placed(parts: list[Array], options: Options, rows: int = 0) -> Vectors:
    """The arrays of a vector, or of rows, sharded as the leaves in them are."""
    for index, group in enumerate(_groups(options)):
        if group:  # else on one device
            to = NamedSharding(group[0].mesh, PartitionSpec(*[None] * (rows + 1), *group[0].spec))
            parts[index] = jax.lax.with_sharding_constraint(parts[index], to)
    return tuple(parts)


def _noise(key: Key[Array, ""], options: Options) -> Vectors:
    """A vector of normally distributed numbers."""
    like = jax.eval_shape(lambda tree: _pack(tree, options), options.tree.unflatten(options.leaves))
    keys = [key, *(jax.random.fold_in(key, index) for index in range(1, len(like)))]
    drawn = [jax.random.normal(own, x.shape, x.dtype) for own, x in zip(keys, like, strict=True)]
    return _placed(drawn, options)


class _Host:
    """The loops of ``jax.lax`` on the host."""

    @staticmethod
    def while_loop(unfinished: Callable, step: Callable, state: Any) -> Any:
        while unfinished(state):
            state = step(state)
        return state

    @staticmethod
    def scan(step: Callable, carry: Any, xs: Any) -> tuple[Any, Any]:
        rows = []
        for x in xs:
            carry, row = step(carry, x)
            rows.append(row)
        return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *rows)


step = partial(jax.jit, donate_argnums=0)
"""What is in a loop, compiled; on the host it writes its result over its first argument."""


def compiled(function: Callable, **options: Any) -> Callable:
    """``function(loops, matvec, ...)`` under ``jax.jit``; over batches with loops on the host."""
    program = jax.jit(partial(function, jax.lax), **options)

    def run(matvec: Matvec, *args: Any, **named: Any) -> Any:
        if not isinstance(matvec, OverBatches):
            return program(matvec, *args, **named)
        check_eager()
        return function(_Host, matvec, *args, **named)

    return run


@compiled
def _solve(loops, matvec: Matvec, key: Array, tol, max_restarts, options: Options) -> Eigenpairs:
    like = options.tree.unflatten(options.leaves)
    p, num, matvec = num_parameters(like), options.num, linearised(matvec)

    def product(vector: Vectors) -> Vectors:
        image = matvec(_unpack(vector, options))
        check_like(image, like, "the operator's product")
        return _pack(image, options)

    def unfinished(state: State) -> Bool[Array, ""]:
        done = state.ritz.converged.all() & (_searched_enough(state) | (not options.find_repeated))
        return ~done & (state.size < p) & jnp.isfinite(state.projected).all()

    def grow(state: State) -> State:
        state, vector = _propose(state, options)
        return _absorb(state, vector, product(vector), tol, options)

    def cycle(state: State) -> State:
        room = lambda s: unfinished(s) & (s.size < options.dim)  # noqa: E731
        return loops.while_loop(room, grow, _restart(state, options))

    # Two nested loops, so that the product is compiled once and no step copies the basis.
    more = lambda s: unfinished(s) & (s.restarts < max_restarts)  # noqa: E731
    end = loops.while_loop(more, cycle, _empty(key, options))
    found, values = end.ritz, end.ritz.values[:num]
    vectors = combine(found.coefficients[:num], end.basis)
    # Each with the sign that points along one random vector. It would otherwise depend on rounding,
    # and so on the devices that share the samples, and so would the points of a probe along them.
    direction = _noise(jax.random.fold_in(key, p), options)
    signs = jnp.where(inner(vectors, direction) < 0, -1, 1).astype(values.dtype)
    vectors = jax.tree.map(lambda rows: jax.vmap(jnp.multiply)(signs, rows), vectors)
    vectors = jax.vmap(lambda vector: _unpack(vector, options))(vectors)
    # A residual below rounding ends the search, but says nothing of a far smaller eigenvalue.
    converged = found.converged & (found.residuals <= tol * jnp.abs(values))
    return Eigenpairs(values, vectors, found.residuals, converged, end.matvecs)


@jax.jit
def _empty(key: Key[Array, ""], options: Options) -> State:
    """A basis with room for ``dim`` vectors, each array its own: the host's steps write over it."""
    dim, num, count = options.dim, options.num, partial(jnp.zeros, (), jnp.int32)
    like = jax.eval_shape(_noise, key, options)
    zeros = partial(jnp.zeros, dtype=like[0].dtype)
    converged, pending, nearly = (jnp.zeros(num, bool) for _ in range(3))
    ritz = Ritz(zeros(dim), zeros((dim, dim)), zeros(num), converged, pending, nearly, zeros(()))
    some = lambda *rows: _placed([zeros((*rows, *x.shape)) for x in like], options, len(rows))  # noqa: E731
    basis = some(dim), some(dim), zeros((dim, dim)), count(), some()
    # -1 restarts, as the first cycle is none
    return State(*basis, ritz, count(), count() - 1, count(), jnp.copy(key))


@step
def _restart(state: State, options: Options) -> State:
    """The basis shrunk to its leading Ritz vectors, if it has as many as are to be kept."""
    size = jnp.minimum(state.size, options.num + (options.dim - options.num) // 2)
    kept = jnp.arange(len(state.projected)) < size
    rows = jnp.where(kept[:, None], state.ritz.coefficients, 0)
    basis = combine(rows, state.basis)
    # One Newton-Schulz step: the rounding of many restarts would otherwise add up in the basis.
    rows = dot(1.5 * jnp.eye(len(rows), dtype=rows.dtype) - 0.5 * inner(basis, basis), rows)
    basis, images = combine(rows, state.basis), combine(rows, state.images)
    projected = inner(basis, images)
    ritz = state.ritz._replace(coefficients=jnp.eye(len(rows), dtype=rows.dtype))
    state = state._replace(ritz=ritz, restarts=state.restarts + 1, size=size)
    return state._replace(basis=basis, images=images, projected=(projected + projected.T) / 2)


@step
def _propose(state: State, options: Options) -> tuple[State, Vectors]:
    """The next basis vector: the worst residual of a wanted pair, or noise and its Krylov space."""
    key, noise_key = jax.random.split(state.key)
    noise = _noise(noise_key, options)
    ritz = state.ritz
    worst = jnp.argmax(jnp.where(ritz.pending, ritz.residuals, -1))
    row = ritz.coefficients[worst]
    searching = (state.searched > 1) & (norm_of(state.last) > ritz.rounding)
    refine = ritz.pending.any() & ((state.searched == 0) | _searched_enough(state))
    pair = combine(row, state.images), combine(row, state.basis)
    residual = jax.tree.map(lambda image, vector: image - ritz.values[worst] * vector, *pair)
    elsewhere = jax.tree.map(partial(jnp.where, searching), state.last, noise)
    direction = jax.tree.map(partial(jnp.where, refine), residual, elsewhere)
    vector, share = orthonormalise(direction, state.basis)
    other = lambda: orthonormalise(noise, state.basis)[0]  # noqa: E731
    return state._replace(key=key), jax.lax.cond(share > 0.1, lambda: vector, other)


@step
def _absorb(state: State, vector: Vectors, image: Vectors, tol: Scalar, options: Options) -> State:
    """The basis with one more vector and its product, and the Ritz pairs of the larger basis."""
    write = lambda rows, own: rows.at[state.size].set(own)  # noqa: E731
    basis = jax.tree.map(write, state.basis, vector)
    images = jax.tree.map(write, state.images, image)
    row = inner(basis, image)
    projected = state.projected.at[state.size].set(row).at[:, state.size].set(row)
    last = jax.tree.map(jnp.subtract, image, combine(row, basis))
    found = _rayleigh_ritz(basis, images, projected, state.size + 1, tol, options)
    quiet = jnp.where(state.searched > 0, found.nearly.all(), found.converged.all())
    searched = jnp.where(quiet, state.searched + 1, 0)
    state = state._replace(basis=basis, images=images, projected=projected, size=state.size + 1)
    return state._replace(last=last, ritz=found, searched=searched, matvecs=state.matvecs + 1)


def _rayleigh_ritz(basis, images, projected, size: Array, tol: Scalar, options: Options) -> Ritz:
    """The eigenpairs of T over its first ``size`` rows, with the true residuals of the wanted."""
    # Unused rows get a value below all others: eigh puts them first, unmixed with the used.
    rows, num = jnp.arange(len(projected)), options.num
    bound = jnp.max(jnp.sum(jnp.abs(projected), 0))
    below = jnp.where(bound > 0, -2 * bound, -1)
    values, columns = jnp.linalg.eigh(projected + jnp.diag(jnp.where(rows < size, 0, below)))
    used = rows >= len(rows) - size
    norm = jnp.max(jnp.where(used, jnp.abs(values), 0))
    ranks = {"largest": -values, "smallest": values, "magnitude": -jnp.abs(values)}
    order = jnp.argsort(jnp.where(used, ranks[options.which], jnp.inf))
    values, coefficients = values[order], columns.T[order]

    wanted, present = coefficients[:num], rows[:num] < size
    residual = lambda image, vector: image - jax.vmap(jnp.multiply)(values[:num], vector)  # noqa: E731
    pairs = combine(wanted, images), combine(wanted, basis)
    residuals = norm_of(jax.tree.map(residual, *pairs), 1)
    rounding = 10 * jnp.finfo(values.dtype).eps * norm
    limits = jnp.maximum(tol * jnp.abs(values[:num]), rounding)
    small, nearly = residuals <= limits, residuals <= 4 * limits
    states = small & present, ~small & present, nearly & present
    return Ritz(values, coefficients, residuals, *states, rounding)


# The search for repeated eigenvalues. A Krylov space holds one vector of each eigenspace, so it
# shows a repeated eigenvalue once. When all pairs have converged, the search goes on from a random
# vector orthogonal to the basis, in whose Krylov space a further copy shows as a new wanted pair.
# That pair is refined, and the search starts anew, until enough products have brought none. A copy
# may be missed: of a threefold eigenvalue 1 above 300 others spread up to 0.999, 1 time in 200.
# The search disturbs the converged pairs a little. To stop for that would throw away its Krylov
# space, sometimes just before it shows a copy: it goes on while they are ``nearly`` converged.


def _searched_enough(state: State) -> Bool[Array, ""]:
    """Whether the last ``searched`` products are enough of a search.

    A third of the products before it, as a fixed number misses copies where convergence is slow;
    but at least as many as find, with probability 0.99, an eigenvalue far above the rest: k Lanczos
    steps from a random vector come within a fraction ε of the spectrum's width of its end, but for
    a probability of 1.648·√P·exp(−√ε·(2k − 1)) (Kuczynski & Wozniakowski 1992, "Estimating the
    largest eigenvalue by the power and Lanczos algorithms with a random start"), here ε = 1/2.
    """
    bound = math.log(1.648 * math.sqrt(num_parameters(state.last)) / 0.01)
    fewest = math.ceil((1 + bound / math.sqrt(0.5)) / 2)
    return state.searched > jnp.maximum(fewest, (state.matvecs - state.searched) // 3)


def orthonormalise(vector: Any, basis: Any) -> tuple[Any, Float[Array, ""]]:
    """The unit vector along the part of ``vector`` orthogonal to ``basis``; that part's share.

    Gram-Schmidt twice, which is enough (Giraud et al. 2005). A share at rounding level: none.
    Both are arrays, or trees of arrays.
    """
    dtype = jnp.result_type(*jax.tree.leaves(vector))
    least, share = jnp.finfo(dtype).tiny, jnp.ones((), dtype)
    divide = lambda vector, by: jax.tree.map(lambda x: x / jnp.maximum(by, least), vector)  # noqa: E731
    vector = divide(vector, norm_of(vector))
    for _ in range(2):
        along = combine(inner(basis, vector), basis)
        vector = jax.tree.map(jnp.subtract, vector, along)
        norm = norm_of(vector)
        vector, share = divide(vector, norm), share * norm
    return vector, share


def inner(rows: Any, other: Any) -> Float[Array, "r *s"]:
    """The inner products of each of the rows with a vector, or with each of other rows."""

    def leaf(a: Array, b: Array) -> Array:
        axes = tuple(range(1, a.ndim)), tuple(range(b.ndim - a.ndim + 1, b.ndim))
        return jnp.tensordot(a, b, axes, precision="highest")

    return jax.tree.reduce(jnp.add, jax.tree.map(leaf, rows, other))


def combine(coefficients: Float[Array, "*s r"], rows: Any) -> Any:
    """The linear combinations of the rows."""
    summed = lambda leaf: jnp.tensordot(coefficients, leaf, 1, precision="highest")  # noqa: E731
    return jax.tree.map(summed, rows)


def norm_of(vectors: Any, rows: int = 0) -> Float[Array, "*r"]:
    """The Euclidean norm of a vector, or of each of the rows."""
    leaves = jax.tree.leaves(vectors)
    each = [length(leaf, tuple(range(rows, leaf.ndim))) for leaf in leaves]
    return each[0] if len(each) == 1 else length(jnp.stack(each), 0)


def dot(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """The product of matrices or vectors in full precision on every device."""
    return jnp.matmul(a, b, precision="highest")


def flatten(matvec: Matvec, like: Params) -> tuple[Callable, Float[Array, "p"]]:
    """``matvec`` on raveled vectors, and ``like`` raveled."""
    (flat, unravel), matvec = ravel_pytree(like), linearised(matvec)

    def product(vector: Float[Array, "p"]) -> Float[Array, "p"]:
        image = matvec(unravel(vector))
        check_like(image, like, "the operator's product")
        return ravel_pytree(image)[0].astype(flat.dtype)

    return product, flat


def hoist(matvec: Matvec, like: Params) -> Matvec:
    """The same operator as a pytree, of which one compiled program serves all of a kind.

    A plain closure is traced here, each time: no array that it holds is a constant of a program.
    """
    is_partial = isinstance(matvec, jax.tree_util.Partial)
    if isinstance(matvec, OverBatches) or not (is_partial or jax.tree_util.all_leaves([matvec])):
        return matvec

    def on_host(vector: Params) -> Params:
        image = matvec(jax.tree.map(np.asarray, vector))
        check_like(image, like, "the operator's product")
        return jax.tree.map(lambda x, own: np.asarray(x, own.dtype), image, vector)

    try:  # a method's object may have changed since a partial of it was compiled
        return bind(matvec, like)[0] if is_partial else _hoisted(matvec, like)
    except jax.errors.TracerArrayConversionError:  # an operator of NumPy's or SciPy's arrays
        shape = lambda x: np.zeros(x.shape, x.dtype)  # noqa: E731  # ``like`` may be traced
        on_host(jax.tree.map(shape, like))  # here an error still has its own words
        return jax.tree_util.Partial(lambda vector: jax.pure_callback(on_host, vector, vector))


def _hoisted(matvec: Matvec, like: Params) -> Matvec:
    # A new function each time: tracing is cached, so what a known one closes over may be stale.
    closed, shape = jax.make_jaxpr(lambda vector: matvec(vector), return_shape=True)(like)

    def apply(consts: list[Array], vector: Params) -> Params:
        leaves = jax.core.eval_jaxpr(closed.jaxpr, consts, *jax.tree.leaves(vector))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    # ``apply`` keeps no constant alive: it reaches ``closed`` for its equations only.
    consts, closed = closed.consts, closed.replace(consts=[None] * len(closed.consts))
    return jax.tree_util.Partial(apply, consts)
