"""Samples from memory and from files: the same rows, batches read ahead, a file that changes."""

import jax
import numpy as np
import pytest
from cases import mlp_loss, mlp_problem

import jaxscape as js
from jaxscape.lab import stream

pytestmark = pytest.mark.usefixtures("in_haste")


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """The samples of a small problem as memory-mapped files."""
    params, data = mlp_problem(n=101)
    folder = tmp_path_factory.mktemp("data")
    mapped = {}
    for name, values in data.items():
        np.save(folder / f"{name}.npy", np.asarray(values))
        mapped[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return params, data, mapped


@pytest.mark.parametrize(("size", "ahead"), [(1, 0), (40, 1), (40, 5), (101, 1), (500, 2)])
def test_batches_are_the_samples_in_order(on_disk, size, ahead):
    _, data, mapped = on_disk
    parts = list(stream.batches(mapped, size, ahead=ahead))
    assert [len(part["targets"]) for part in parts[:-1]] == [size] * (len(parts) - 1)
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    jax.tree.map(np.testing.assert_array_equal, whole, data)


@pytest.mark.parametrize("count", [101, 60])
def test_batches_in_another_order(on_disk, count):
    _, data, mapped = on_disk
    order = np.random.default_rng(0).permutation(101)[:count]
    parts = stream.batches(mapped, 40, order=order)
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    wanted = jax.tree.map(lambda leaf: leaf[order], data)
    jax.tree.map(np.testing.assert_array_equal, whole, wanted)


@pytest.mark.parametrize("order", [[0, 101], [-1, 3], []])
def test_an_order_of_samples_that_are_not_there_is_refused_at_once(on_disk, order):
    with pytest.raises(js.InputError, match="samples from 0 to 100, found"):
        stream.batches(on_disk[2], 40, order=np.array(order, int))


def test_no_more_is_read_than_ahead():
    read = []

    class Watched(np.ndarray):
        def __getitem__(self, item):
            read.append(item.stop)
            return np.asarray(super().__getitem__(item))

    parts = stream.batches(np.zeros((100, 2)).view(Watched), 10, ahead=2)
    assert read == []
    next(parts)
    assert read == [10, 20, 30]
    next(parts)
    assert read == [10, 20, 30, 40]


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1"])
@pytest.mark.parametrize("rows", [slice(None), slice(5, 300), slice(700, 2000), "order"])
def test_mapped_rows_are_converted_as_they_are_read(dtype, rows, tmp_path):
    array = np.random.default_rng(0).integers(200, size=(701, 3)).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = np.random.default_rng(1).permutation(701)[:600] if isinstance(rows, str) else rows
    found = stream.Mapped(stored, lambda part: part.astype(np.float32) / 2)
    assert (found.shape, found.ndim, found.dtype, len(found)) == ((701, 3), 2, np.float32, 701)
    for part in (found[rows], stream.take(found, rows), stream.take(stored, rows) / 2):
        np.testing.assert_array_equal(part, array[rows].astype(np.float32) / 2)
    np.testing.assert_array_equal(np.asarray(found), array.astype(np.float32) / 2)
    assert type(stream.take(stored, rows)) is np.ndarray


def test_what_is_taken_has_memory_of_its_own(on_disk):
    array = np.zeros((5, 2))
    for rows in (slice(1, 3), np.array([1, 2])):
        assert not np.shares_memory(stream.take(array, rows), array)
        assert stream.take(on_disk[2], rows)["inputs"].flags.writeable


def test_blocks_are_all_rows_in_order(monkeypatch):
    monkeypatch.setattr(stream, "PIECE", 120)
    array = np.arange(77.0).reshape(11, 7)
    parts = list(stream.blocks(array))
    assert [len(part) for part in parts] == [2] * 5 + [1]
    np.testing.assert_array_equal(np.concatenate(parts), array)


def test_a_file_cut_short_meanwhile_is_named(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3000, 2)))
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    (tmp_path / "x.npy").write_bytes(b"")
    for leaf in (array, stream.Mapped(array, np.float32)):
        with pytest.raises(OSError, match=r"x\.npy to keep its 48128 bytes .* found 0; put"):
            stream.take(leaf, slice(0, 10))


def test_a_curve_from_a_file_is_the_curve_from_memory(on_disk):
    params, data, mapped = on_disk
    space = js.random_subspace(jax.random.key(0), params, 3)
    probe = js.gaussian(jax.random.key(1), space, 5, 0.5)
    found = js.delta(mlp_loss, probe, stream.batches(mapped, 40))
    np.testing.assert_allclose(found.mean, js.delta(mlp_loss, probe, data).mean, rtol=1e-5)


@pytest.mark.parametrize(("size", "ahead"), [(0, 1), (10, -1)])
def test_sizes_out_of_range_are_refused_at_once(size, ahead):
    with pytest.raises(js.InputError, match="batch_size >= 1 and ahead >= 0"):
        stream.batches(np.zeros((5, 2)), size, ahead=ahead)
