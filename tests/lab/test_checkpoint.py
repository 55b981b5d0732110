"""Checkpoints: bit for bit, atomic, and one line where something is wrong."""

import dataclasses
import logging
import resource
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape.lab import checkpoint
from jaxscape.types import InputError


class Carry(NamedTuple):
    mean: jax.Array
    parts: tuple


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Basis:
    vectors: jax.Array


def awkward_tree():
    """Every kind of node, and values that a careless format changes (-0, NaN, subnormals)."""
    bits = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    kernel = jnp.asarray(bits.view(np.float32))
    return {
        "params": {"Dense_0": {"kernel": kernel, "bias": -jnp.zeros(3)}},
        "carry": Carry(jnp.float32(0.1), (np.array([5e-324, np.nan, -0.0]), None, [jnp.arange(3)])),
        "basis": Basis(jnp.ones((2, 5), jnp.bfloat16)),
        "count": np.int64(2**60),
        "seen": np.array([True, False]),
    }


def assert_identical(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("abstract", [False, True])
def test_round_trip_is_bit_identical(tmp_path, abstract):
    tree = awkward_tree()
    checkpoint.save(tmp_path, "all", tree)
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    found = checkpoint.restore(tmp_path, "all", like if abstract else tree)
    assert_identical(found, tree)
    assert isinstance(found["params"]["Dense_0"]["kernel"], jax.Array)


def test_items_are_independent_and_each_save_replaces_its_own(tmp_path):
    folder = tmp_path / "checkpoint"
    assert not checkpoint.exists(folder, "params")
    assert not folder.exists()  # looking does not create
    checkpoint.save(folder, "params", {"w": jnp.ones(3)})
    for value in (1.0, 2.0, 3.0):
        checkpoint.save(folder, "carry", jnp.full(4, value))
    assert checkpoint.exists(folder, "params")
    assert not checkpoint.exists(folder, "basis")
    np.testing.assert_array_equal(checkpoint.restore(folder, "carry", jnp.zeros(4)), jnp.full(4, 3))
    np.testing.assert_array_equal(
        checkpoint.restore(folder, "params", {"w": jnp.zeros(3)})["w"], jnp.ones(3)
    )
    assert len(list((folder / "carry").iterdir())) == 1  # earlier versions are gone


@pytest.mark.parametrize(
    ("like", "said"),
    [
        ({"w": np.zeros(3, np.float32)}, "carry/b to be absent"),
        ({"w": np.zeros(3, np.float32), "b": np.int32(0), "c": np.int32(0)}, "carry/c .* absent"),
        ({"w": np.zeros(4, np.float32), "b": np.int32(0)}, r"float32\[4\], found float32\[3\]"),
        ({"w": np.zeros(3, np.int32), "b": np.int32(0)}, r"int32\[3\], found float32\[3\]"),
    ],
)
def test_other_settings_are_refused_in_one_line(tmp_path, like, said):
    checkpoint.save(tmp_path, "carry", {"w": np.zeros(3, np.float32), "b": np.int32(0)})
    with pytest.raises(InputError, match=f"{said}.*a checkpoint of other settings") as caught:
        checkpoint.restore(tmp_path, "carry", like)
    assert "\n" not in str(caught.value)


def test_missing_or_damaged_checkpoint_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"'params' in .*found none"):
        checkpoint.restore(tmp_path, "params", jnp.zeros(3))
    checkpoint.save(tmp_path, "params", np.random.default_rng(0).normal(size=5000))
    for file in (tmp_path / "params").rglob("*"):
        if file.is_file() and file.stat().st_size > 5000:
            file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match="expected a readable checkpoint 'params'") as caught:
        checkpoint.restore(tmp_path, "params", np.zeros(5000))
    assert "\n" not in str(caught.value)


def test_full_disk_is_one_clear_line_and_keeps_the_last_good_save(tmp_path, capfd):
    draw = np.random.default_rng(0)
    good, large = ({name: draw.normal(size=n) for name in "abcdefgh"} for n in (100, 100_000))
    checkpoint.save(tmp_path, "carry", good)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"'carry' in .*File too large; free some") as caught:
            checkpoint.save(tmp_path, "carry", large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert_identical(checkpoint.restore(tmp_path, "carry", good), good)
    checkpoint.save(tmp_path, "carry", large)
    assert_identical(checkpoint.restore(tmp_path, "carry", large), large)
    assert len(list((tmp_path / "carry").iterdir())) == 1  # the failed save is cleared away
    assert capfd.readouterr() == ("", "")


def test_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"expected to write checkpoint 'carry' in .*file"):
        checkpoint.save(tmp_path / "file", "carry", jnp.zeros(3))


def test_logging_is_as_it_was(tmp_path, capfd, caplog):
    logger = logging.getLogger("absl")
    level = logger.level
    checkpoint.save(tmp_path, "carry", jnp.zeros(3))
    checkpoint.restore(tmp_path, "carry", jnp.zeros(3))
    assert logger.level == level
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


# One process imports everything; each of its forks saves 1, then is killed while saving 2: at its
# n-th operation on files, or after a random while (the array data is written by other threads).
KILLED = """
import os, random, signal, sys, time
import numpy as np
from jaxscape.lab import checkpoint

folder, stride = sys.argv[1], int(sys.argv[2])

def tree(value):
    return {"curve": np.full(100_000, value), "k": np.full(3, value)}

def save_then_die(here, instant):
    checkpoint.save(here, "carry", tree(1))
    seen = 0
    def count(event, _):
        nonlocal seen
        if event == "open" or event.startswith(("os.", "shutil.")):
            seen += 1
            if seen == instant:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    checkpoint.save(here, "carry", tree(2))
    os._exit(0)

def save_forever(here):
    checkpoint.save(here, "carry", tree(1))
    open(here + "/begun", "w").close()
    while True:
        checkpoint.save(here, "carry", tree(2))

instant, ended = 1, None
while ended != 0:
    child = os.fork()
    if child == 0:
        save_then_die(f"{folder}/at{instant}", instant)
    ended = os.waitpid(child, 0)[1]
    instant += stride

for trial in range(8):
    here = f"{folder}/random{trial}"
    child = os.fork()
    if child == 0:
        save_forever(here)
    while not os.path.exists(here + "/begun"):
        time.sleep(0.01)
    time.sleep(random.Random(trial).uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_kill_at_any_instant_leaves_a_whole_version(tmp_path):
    subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, tmp_path, "3"], check=True)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) > 15
    like = {"curve": np.zeros(100_000, int), "k": np.zeros(3, int)}
    versions = set()
    for folder in folders:
        found = checkpoint.restore(folder, "carry", like)
        versions.add(int(found["k"][0]))
        np.testing.assert_array_equal(found["curve"], found["k"][0])
        checkpoint.save(folder, "carry", like)
        assert_identical(checkpoint.restore(folder, "carry", like), like)
        assert len(list((folder / "carry").iterdir())) == 1  # what the dead process left is gone
    assert versions == {1, 2}
