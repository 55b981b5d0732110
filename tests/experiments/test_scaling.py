"""How far measured times are from growing in a line."""

import types

import numpy as np
import pytest

from experiments.benchmark import scaling


def test_times_on_the_line_do_not_deviate():
    times = {(n, m): n * (3.0 + 0.25 * m) for n in (10, 20, 40) for m in (64, 128, 256)}
    np.testing.assert_allclose(list(scaling.off_line(times).values()), 0, atol=1e-12)


@pytest.mark.parametrize("grow", [lambda n, m: n**1.3 * m, lambda n, m: n * m**1.5])
def test_another_growth_deviates(grow):
    times = {(n, m): grow(n, m) for n in (10, 20, 40) for m in (64, 128, 256)}
    found = scaling.off_line(times)
    assert list(found) == list(times)
    assert max(map(abs, found.values())) > 0.1


def test_the_data_are_repeated_in_their_order(tmp_path):
    values = np.arange(10.0).reshape(5, 2)
    given = types.SimpleNamespace(order=np.arange(5), read=lambda at: {"inputs": values[at]})
    scaling._repeat(given, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "inputs.npy"), np.tile(values, (4, 1)))
