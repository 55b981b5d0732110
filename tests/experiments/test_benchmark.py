"""How far measured times are from growing in a line."""

import numpy as np
import pytest

from experiments.benchmark.measure import off_line


def test_times_on_the_line_do_not_deviate():
    times = {(n, m): n * (3.0 + 0.25 * m) for n in (10, 20, 40) for m in (64, 128, 256)}
    np.testing.assert_allclose(list(off_line(times).values()), 0, atol=1e-12)


@pytest.mark.parametrize("grow", [lambda n, m: n**1.3 * m, lambda n, m: n * m**1.5])
def test_another_growth_deviates(grow):
    times = {(n, m): grow(n, m) for n in (10, 20, 40) for m in (64, 128, 256)}
    found = off_line(times)
    assert list(found) == list(times)
    assert max(map(abs, found.values())) > 0.1
