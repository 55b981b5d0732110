"""Rows of memory-mapped files: the same values, nothing left in memory, a file that changes."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxscape.lab import mapped, npz
from jaxscape.lab.mapped import Mapped
from jaxscape.types import InputError


def saved(path, array):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1"])
@pytest.mark.parametrize("rows", [slice(None), slice(5, 300), slice(700, 2000), "order"])
def test_rows_are_those_of_the_array(dtype, rows, tmp_path):
    array = np.random.default_rng(0).integers(200, size=(701, 3)).astype(dtype)
    rows = np.random.default_rng(1).permutation(701)[:600] if isinstance(rows, str) else rows
    found = mapped.read(saved(tmp_path / "x.npy", array), rows)
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, array[rows])
    whole = Mapped(saved(tmp_path / "y.npy", array), lambda part: part.astype(np.float32) / 2)
    assert (whole.shape, whole.ndim, whole.dtype, len(whole)) == ((701, 3), 2, np.float32, 701)
    np.testing.assert_array_equal(whole[rows], array[rows].astype(np.float32) / 2)
    np.testing.assert_array_equal(np.asarray(whole), array.astype(np.float32) / 2)


def test_blocks_are_all_rows_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "PIECE", 100)
    array = np.arange(77.0).reshape(11, 7)
    for given in (array, saved(tmp_path / "x.npy", array)):
        parts = list(mapped.blocks(given))
        assert [len(part) for part in parts] == [1] * 11
        np.testing.assert_array_equal(np.concatenate(parts), array)


def resident():
    """Megabytes of mapped files in this process's memory."""
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
@pytest.mark.parametrize("way", ["blocks", "order"])
def test_what_was_read_leaves_memory(way, tmp_path):
    array = saved(tmp_path / "x.npy", np.ones((40_000, 400), np.float32))  # 64 MB
    before = resident()
    if way == "blocks":
        assert all(part.all() for part in mapped.blocks(array))
    else:
        assert mapped.read(array, np.random.default_rng(0).permutation(40_000)).all()
    assert resident() < before + 5
    assert array[:].all()
    assert resident() > before + 50  # what it would be without


def test_changes_to_a_copy_on_write_map_are_kept(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(5))
    array = np.load(tmp_path / "x.npy", mmap_mode="c")
    array[3] = 1
    mapped.read(array, slice(None))
    assert array[3] == 1


def test_a_file_cut_short_meanwhile_is_told(tmp_path):
    array = saved(tmp_path / "x.npy", np.zeros((3000, 2)))
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(OSError, match=r"x\.npy to keep its 48128 bytes .* found 0; put"):
        mapped.read(array, slice(0, 10))


@pytest.mark.filterwarnings("ignore:Stored array in format 2.0")
@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, {}]),
        np.asfortranarray(np.ones((3, 2))),
        np.float64(3),
        np.zeros((0, 4)),
        np.zeros(2, [(f"{'long' * 5}{i}", float) for i in range(3000)]),  # a header of version 2
    ],
    ids=["objects", "Fortran", "one value", "empty", "long header"],
)
def test_what_cannot_be_mapped(array, tmp_path):
    np.save(tmp_path / "x.npy", array)
    assert mapped.of_npy(tmp_path / "x.npy") is None


def test_a_member_whose_own_header_differs_from_the_directory(tmp_path):
    array = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", array)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("first.txt", "hello")
        info = zipfile.ZipInfo("x.npy")
        info.extra = b"\xfe\xca\x03\x00abc"  # an extra field of three bytes: nothing is aligned
        archive.writestr(info, (tmp_path / "x.npy").read_bytes())
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        start = mapped.member_start(archive.fp, archive.getinfo("x.npy"))
    found = mapped.of_npy(tmp_path / "x.zip", start)
    assert not found.flags.aligned
    np.testing.assert_array_equal(mapped.read(found, slice(None)), array)


def test_a_member_cut_short_does_not_run_on_into_the_next(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.ones((30, 10), np.float32))
    targets = io.BytesIO()
    np.save(targets, np.zeros(30, np.int64))
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        archive.writestr("inputs.npy", whole.getvalue()[:-200])
        archive.writestr("targets.npy", targets.getvalue())
    with pytest.raises(InputError, match=r"1200 bytes of entries, found 1000"):
        npz.read(tmp_path / "cut.npz")
