import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxscape import InputError, batching


@given(st.integers(1, 200), st.integers(1, 250), st.integers(1, 9))
@settings(deadline=None)
def test_every_entry_is_fresh_exactly_once(length, size, hands):
    cut = batching.cut(length, size, hands)
    assert cut.size <= size
    assert len(cut.starts) % hands == 0
    np.testing.assert_array_equal(cut.positions[cut.fresh], np.arange(length))
    turns = batching.turns(len(cut.starts), hands).reshape(hands, -1)
    for hand, mine in enumerate(turns):
        np.testing.assert_array_equal(mine, np.arange(hand, len(cut.starts), hands))


@pytest.mark.parametrize("hands", [1, 3, 8])
@pytest.mark.parametrize(("length", "size"), [(10, 3), (10, 10), (10, 99), (7, 1), (1, 1)])
def test_join_undoes_cut(length, size, hands):
    data = {"a": jnp.arange(length), "b": jnp.arange(2.0 * length).reshape(length, 2)}
    cut = batching.cut(length, size, hands)
    rows = jax.lax.map(lambda start: batching.take(data, start, cut.size), jnp.asarray(cut.starts))
    jax.tree.map(np.testing.assert_array_equal, batching.join(cut, rows), data)


@pytest.mark.parametrize(
    ("data", "word"),
    [({"a": np.zeros(3), "b": np.zeros(4)}, "common leading"), (np.float32(1), "common leading"),
     (np.zeros((0, 3)), "at least one sample"), ({}, "common leading")],
)  # fmt: skip
def test_arrays_without_a_sample_axis_are_refused(data, word):
    with pytest.raises(InputError, match=word):
        batching.length_of(data)


def test_an_iterator_is_no_array():
    with pytest.raises(InputError, match="found an iterator"):
        batching.length_of(iter([np.zeros(3)]))


def test_a_chunk_size_of_zero_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        batching.cut(5, 0)
