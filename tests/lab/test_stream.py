"""Samples from memory and from files: the same rows, a file that changes."""

import jax
import numpy as np
import pytest
from cases import mlp_loss, mlp_problem

import jaxscape as js
from jaxscape.lab import stream

THREE = [slice(0, 40), slice(40, 80), slice(80, 101)]


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
    found = js.delta(mlp_loss, probe, (stream.take(mapped, rows) for rows in THREE))
    np.testing.assert_allclose(found.mean, js.delta(mlp_loss, probe, data).mean, rtol=1e-5)
