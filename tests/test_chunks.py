import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxscape import InputError, chunks


@given(st.integers(1, 200), st.integers(1, 250))
@settings(deadline=None)
def test_every_entry_is_fresh_exactly_once(length, size):
    cut = chunks.cut(length, size)
    assert cut.size <= size
    seen = (cut.starts[:, None] + np.arange(cut.size))[cut.fresh]
    np.testing.assert_array_equal(seen, np.arange(length))


@pytest.mark.parametrize(("length", "size"), [(10, 3), (10, 10), (10, 99), (7, 1), (1, 1)])
def test_join_undoes_cut(length, size):
    data = {"a": jnp.arange(length), "b": jnp.arange(2.0 * length).reshape(length, 2)}
    cut = chunks.cut(length, size)
    rows = jax.lax.map(lambda start: chunks.take(data, start, cut.size), jnp.asarray(cut.starts))
    jax.tree.map(np.testing.assert_array_equal, chunks.join(cut, rows), data)


@pytest.mark.parametrize(
    ("data", "word"),
    [({"a": np.zeros(3), "b": np.zeros(4)}, "common leading"), (np.float32(1), "common leading"),
     (np.zeros((0, 3)), "at least one sample"), ({}, "common leading")],
)  # fmt: skip
def test_arrays_without_a_sample_axis_are_refused(data, word):
    with pytest.raises(InputError, match=word):
        chunks.length_of(data)


def test_an_iterator_is_no_array():
    with pytest.raises(InputError, match="found an iterator"):
        chunks.length_of(iter([np.zeros(3)]))


def test_a_chunk_size_of_zero_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        chunks.cut(5, 0)
