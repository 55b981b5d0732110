"""Data sets in memory: types, scaling, checksums."""

import hashlib

import numpy as np
import pytest

from jaxscape.lab.dataset import Arrays, build, check_labels, check_lengths
from jaxscape.types import InputError


def test_bytes_are_scaled_to_the_unit_interval():
    inputs = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1)
    built = build("x", "y", Arrays(inputs, np.arange(4), inputs[:2], np.arange(2)), 4, "z")
    for found, size in ((built.train_inputs, 4), (built.test_inputs, 2)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, inputs[:size].astype(float) / 255, rtol=1e-7)
    assert built.train_inputs.max() == 1
    assert built.train_targets.dtype == built.test_targets.dtype == np.int32
    assert (built.name, built.source, built.num_classes, built.note) == ("x", "y", 4, "z")


def test_floats_are_kept():
    inputs = np.array([[-3.5], [1e30]])
    built = build("x", "y", Arrays(inputs, np.array([0.25, 2]), None, None), 0)
    np.testing.assert_array_equal(built.train_inputs, inputs.astype(np.float32))
    np.testing.assert_array_equal(built.train_targets, np.array([0.25, 2], np.float32))
    assert built.test_inputs is None


def test_integers_are_tokens():
    inputs, targets = np.array([[3, 0, 1], [1, 2, 1]]), np.array([[-1, 1], [2, 0]], np.int8)
    built = build("x", "y", Arrays(inputs, targets, inputs, targets), 4)
    assert built.has_tokens
    for found, given in ((built.train_inputs, inputs), (built.test_targets, targets)):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, given)
    images = np.zeros((2, 4, 4, 1), np.uint8)
    assert not build("x", "y", Arrays(images, np.arange(2), None, None), 2).has_tokens


def test_checksums_are_those_of_the_bytes():
    inputs = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    built = build("x", "y", Arrays(inputs, np.array([1, 0]), None, None), 2)
    raw = b"".join(np.float32(value).tobytes() for value in range(6))
    assert built.sha256 == {
        "train_inputs": hashlib.sha256(raw).hexdigest(),
        "train_targets": hashlib.sha256(np.int32([1, 0]).tobytes()).hexdigest(),
    }


@pytest.mark.parametrize(("num_inputs", "num_targets"), [(0, 0), (3, 2), (0, 1), (1, 0)])
def test_lengths_that_do_not_fit(num_inputs, num_targets):
    message = f"in HERE, found {num_inputs} inputs with {num_targets} targets"
    with pytest.raises(InputError, match=message):
        check_lengths(np.zeros(num_inputs), np.zeros(num_targets), "HERE")


def test_labels_in_range():
    check_labels(np.array([0, 9]), 10, "HERE")
    for labels in ([0, 10], [-1, 5]):
        with pytest.raises(InputError, match="labels from 0 to 9 in HERE"):
            check_labels(np.array(labels), 10, "HERE")
