"""Operators over batches against those over the same samples in memory, and against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import mlp_apply, mlp_loss, mlp_problem
from test_curvature import flat64, linear, logistic, logistic_case, logistic_hessian

import jaxscape as js
from jaxscape import InputError, losses

KEY = jax.random.key(3)
N = 101
PARAMS, DATA = mlp_problem(n=N)
HOST = jax.tree.map(np.asarray, DATA)
RAGGED = (20, 31, 1, 40, 9)
VECTOR = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), PARAMS)


def parts(data=HOST, sizes=RAGGED):
    """The samples in batches of these sizes."""
    ends = np.cumsum(sizes)
    rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [jax.tree.map(lambda leaf, rows=rows: leaf[rows], data) for rows in rows]


class Loader:
    """What a DataLoader is; it fills the same memory with each batch, and spoils it at the end."""

    def __init__(self, batches):
        self.batches = batches
        most = max(len(batch["targets"]) for batch in batches)
        self.memory = jax.tree.map(lambda x: np.zeros((most, *x.shape[1:]), x.dtype), batches[0])

    def __iter__(self):
        for batch in self.batches:
            jax.tree.map(lambda own, new: own.__setitem__(slice(len(new)), new), self.memory, batch)
            yield jax.tree.map(lambda own, new: own[: len(new)], self.memory, batch)
            jax.tree.map(lambda own: own.fill(99), self.memory)

    def __len__(self):
        return len(self.batches)


KINDS = {
    "list": parts(),
    "function": lambda: iter(parts()),
    "generator function": lambda: (batch for batch in parts()),
    "loader of one buffer": Loader(parts()),
    "arrays of JAX": parts(DATA),
    "one batch": [HOST],
    "equal batches": parts(sizes=(25, 25, 25, 26)),
}


def alike(found, expected, rtol=1e-6):
    """Equal to ``rtol`` of the largest entry."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("batch_size", [7, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_that_of_the_samples_in_memory(kind, batch_size):
    options = {"batch_size": batch_size, "weight_decay": 0.1}
    operator = js.hessian_operator(mlp_loss, PARAMS, KINDS[kind], **options)
    expected = js.hessian_operator(mlp_loss, PARAMS, DATA, **options)(VECTOR)
    for _ in range(2):
        alike(operator(VECTOR), expected)


def test_products_with_the_first_k_against_float64():
    params, data, vector = logistic_case(N)
    output_loss = lambda f, batch: jax.nn.softplus(-batch["targets"] * f)  # noqa: E731
    model = lambda w, batch: linear(w, batch["inputs"])  # noqa: E731
    for count in (None, 1, 20, 21, 60, N):
        first = jax.tree.map(lambda leaf, count=count: leaf[:count], data)
        expected = logistic_hessian(params, first) @ flat64(vector)
        options = {"batch_size": 8, "count": count}
        for operator in (
            js.hessian_operator(logistic, params, Loader(parts(data)), **options),
            js.ggn_operator(model, output_loss, params, Loader(parts(data)), **options),
        ):
            np.testing.assert_allclose(flat64(operator(vector)), expected, rtol=5e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["hessian", pytest.param("gauss_newton", marks=pytest.mark.slow)])
def test_spectra_are_those_of_the_samples_in_memory(name):
    def operator(data):
        if name == "hessian":
            return js.hessian_operator(mlp_loss, PARAMS, data, batch_size=16)
        model = lambda w, batch: mlp_apply(w, batch["inputs"])  # noqa: E731
        loss = lambda f, batch: losses.cross_entropy(f, batch["targets"])  # noqa: E731
        return js.ggn_operator(model, loss, PARAMS, data, batch_size=16)

    memory, batches = operator(DATA), operator(Loader(parts()))
    few = {"which": "magnitude", "krylov_dim": 9, "max_restarts": 9, "find_repeated": False}
    for options in ({},) if name == "hessian" else ({}, few):
        want = js.top_eigenpairs(KEY, memory, PARAMS, 4, **options)
        found = js.top_eigenpairs(KEY, batches, PARAMS, 4, **options)
        np.testing.assert_allclose(found.values, want.values, rtol=1e-6)
        alike(found.vectors, want.vectors, 1e-4)
        assert found.converged.all()
        assert int(found.matvecs) == int(want.matvecs)
    one, two = (
        js.spectral_density(KEY, own, PARAMS, num_probes=2, num_steps=9)
        for own in (memory, batches)
    )
    alike(two.nodes, one.nodes, 2e-6)
    alike(two.weights, one.weights, 2e-5)
    alike(*(js.trace(KEY, own, PARAMS, num_probes=4) for own in (batches, memory)))


def test_a_subspace_of_batches_is_that_of_the_samples_in_memory():
    want = js.hessian_subspace(KEY, mlp_loss, PARAMS, DATA, 4, batch_size=16)
    found = js.hessian_subspace(KEY, mlp_loss, PARAMS, Loader(parts()), 4, batch_size=16)
    np.testing.assert_allclose(found.eigenvalues, want.eigenvalues, rtol=1e-6)
    alike(found.basis, want.basis, 1e-4)


def test_one_program_serves_batches_of_all_sizes_and_all_operators_of_a_loss():
    traces = []

    def loss(params, batch):
        traces.append(len(batch["targets"]))
        return mlp_loss(params, batch)

    def products(sizes):
        operator = js.hessian_operator(loss, PARAMS, parts(sizes=sizes), batch_size=50)
        before = len(traces)
        js.top_eigenpairs(KEY, operator, PARAMS, 2)
        return traces[before:]

    assert set(products(RAGGED)) == {40}
    assert products((20, 40, 7, 8, 9, 2, 3, 12)) == []


def test_memory_does_not_grow_with_the_number_of_batches():
    params, _, vector = logistic_case(1)

    def peak(count):
        seen = []

        def read():
            for index in range(count):
                rng = np.random.default_rng(index)
                yield {
                    "inputs": rng.normal(size=(500, 3)),
                    "targets": np.sign(rng.normal(size=500)),
                }
                seen.append(sum(array.nbytes for array in jax.live_arrays()))

        operator = js.hessian_operator(logistic, params, read, batch_size=500)
        before = sum(array.nbytes for array in jax.live_arrays())
        seen.clear()
        jax.block_until_ready(operator(vector))
        assert len(seen) == count
        return max(seen) - before

    batch = 500 * 4 * 4
    assert batch <= peak(4) <= 2.5 * batch
    assert peak(16) <= 2.5 * batch


def test_a_batch_is_taken_up_only_once_the_one_before_the_last_is_done():
    order = []

    def loss(params, batch):
        jax.debug.callback(lambda first: order.append(("done", int(first))), batch["inputs"][0, 0])
        return logistic(params, batch)

    def read():
        for index in range(6):
            order.append(("read", index))
            yield {"inputs": np.full((4, 3), index, np.float32), "targets": np.ones(4, np.float32)}

    params, _, vector = logistic_case(1)
    operator = js.hessian_operator(loss, params, read)
    jax.effects_barrier()
    order.clear()
    jax.block_until_ready(operator(vector))
    jax.effects_barrier()
    for index in range(2, 6):
        assert order.index(("done", index - 2)) < order.index(("read", index))


class Growing:
    """A loader that finds one more batch in each pass."""

    def __init__(self):
        self.count = 1

    def __iter__(self):
        self.count += 1
        return iter(parts()[: self.count])


class Shuffling:
    """A loader that gives the samples in a new order each time, 20 at a time; noise is added."""

    def __init__(self, *, drop_last=False, noise=0.0):
        self.random, self.noise = np.random.default_rng(0), noise
        self.end = len(HOST["targets"]) // 20 * 20 if drop_last else None

    def __iter__(self):
        rows = self.random.permutation(len(HOST["targets"]))[: self.end]
        for some in np.split(rows, range(20, len(rows), 20)):
            added = self.noise * self.random.normal(size=HOST["inputs"][some].shape)
            inputs = HOST["inputs"][some] + added.astype(np.float32)
            yield {"inputs": inputs, "targets": HOST["targets"][some]}


def test_the_order_of_all_samples_does_not_matter():
    expected = js.hessian_operator(mlp_loss, PARAMS, DATA)(VECTOR)
    operator = js.hessian_operator(mlp_loss, PARAMS, Shuffling())
    for _ in range(2):
        alike(operator(VECTOR), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, np.int64, bool, complex])
def test_one_number_that_changes_is_seen(dtype):
    data = {"x": np.ones((6, 3), dtype), "key": jax.random.split(KEY, 6)}
    operator = js.hessian_operator(lambda w, b: w * jnp.abs(b["x"]).sum(1), jnp.ones(()), [data])
    operator(1.0)
    data["x"][5, 1] = 0
    with pytest.raises(InputError, match="the same samples in every pass"):
        operator(1.0)


@pytest.mark.parametrize("change", [np.negative, lambda x: 2 * x, lambda x: np.roll(x, 1, 1)])
def test_a_change_of_all_numbers_is_seen(change):
    data = {"x": np.random.default_rng(0).normal(size=(10, 32)).astype(np.float32)}
    operator = js.hessian_operator(lambda w, b: w * jnp.abs(b["x"]).sum(1), jnp.ones(()), [data])
    data["x"][:] = change(data["x"])
    with pytest.raises(InputError, match="the same samples in every pass"):
        operator(1.0)


def test_a_list_of_arrays_of_one_length_is_said_to_be_one_batch():
    halves = [HOST["inputs"][:50], HOST["inputs"][50:100]]
    for call in (
        lambda: js.hessian_operator(lambda w, x: x[:, 0] * w, jnp.ones(()), halves),
        lambda: js.delta(lambda w, x: x[:, 0] * w, js.single(jnp.ones(())), halves),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert sum("is one batch" in note for note in caught.value.__notes__) == 1


ONCE = iter(parts())
OPERATOR = js.hessian_operator(mlp_loss, PARAMS, parts())
NAN = [parts()[0], jax.tree.map(lambda x: x * np.nan if x.dtype.kind == "f" else x, parts()[1])]


def of(data, **options):
    return js.hessian_operator(mlp_loss, PARAMS, data, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: of(iter(parts())), "can be read again: a list.* found list_iterator, which one"),
        (lambda: of(batch for batch in parts()), "found generator, which one pass uses up"),
        (lambda: of(lambda: ONCE)(VECTOR), "the same 81 samples in every pass over .* found 0"),
        (lambda: of(lambda: iter([])), "at least one batch that can be read again.* found none"),
        (lambda: of(Growing())(VECTOR), "the same 52 samples in every pass over .* found 92"),
        (lambda: of(Shuffling(drop_last=True))(VECTOR), "same samples in every pass.* drop_last"),
        (lambda: of(Shuffling(), count=50)(VECTOR), "same samples.* shuffling where count"),
        (lambda: of(Shuffling(noise=1e-6))(VECTOR), "same samples.* changes at random"),
        (lambda: of(lambda: HOST), "expected batches of arrays, found one dict; put it in a list"),
        (lambda: of(parts(), count=102), "count from 1 to 101"),
        (lambda: of(parts(), batch_size=0), "chunk size of at least 1"),
        (lambda: of(lambda: iter([{"inputs": np.ones((0, 12)), "targets": np.ones(0, int)}])),
         "at least one sample"),
        (lambda: jax.jit(OPERATOR)(VECTOR), "outside of jit"),
        (lambda: jax.vmap(OPERATOR)(jax.tree.map(lambda x: x[None], VECTOR)), "outside of jit"),
        (lambda: jax.jit(lambda w: of(parts())(w))(VECTOR), "outside of jit"),
        (lambda: jax.jit(lambda key: js.top_eigenpairs(key, OPERATOR, PARAMS, 2))(KEY),
         "outside of jit"),
        (lambda: jax.jit(lambda: js.trace(KEY, OPERATOR, PARAMS, num_probes=2))(),
         "outside of jit"),
        (lambda: js.top_eigenpairs(KEY, lambda v: OPERATOR(v), PARAMS, 2), "no function around it"),
        (lambda: js.hessian_subspace(KEY, mlp_loss, PARAMS, NAN, 2),
         r"infinity for 31 samples \(at positions 20, 21, 22, 23, 24, ...\)"),
        (lambda: js.takeuchi_trace(KEY, mlp_loss, PARAMS, parts(), gradient_data=DATA),
         "expected arrays, found batches"),
        (lambda: OPERATOR(jnp.ones(3)), "vector to be shaped like the parameters"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
