"""Whether a benchmark's figure meets its target."""

import pytest

from experiments.benchmark.__main__ import Ratio, missed


@pytest.mark.parametrize(
    ("values", "target", "word"),
    [
        ([0.8, 0.9, 0.84], ">= 0.85", ", missed"),
        ([0.8, 0.9, 0.86], ">= 0.85", ""),
        ([29.0], "<= 30", ""),
        ([31.0, 33.0, 20.0], "<= 30", ", missed"),
        ([5.0], "", ""),
    ],
)
def test_a_missed_target_is_marked_by_the_median(values, target, word):
    assert missed(Ratio("figure", values, target)) == word
