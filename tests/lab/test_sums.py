"""The embedded sums: what they say, that no pair of numbers comes twice, what counts."""

import numpy as np
import pytest

from jaxscape.lab import data, sums


@pytest.fixture(scope="module")
def drawn():
    return sums.draw()


@pytest.fixture(scope="module")
def texts(drawn):
    """Every sum of the training and of the test split, as it reads."""
    splits = (drawn.train_inputs, drawn.train_targets), (drawn.test_inputs, drawn.test_targets)
    whole = (np.concatenate([inputs, targets[:, -1:]], axis=1) for inputs, targets in splits)
    return [["".join(sums.CHARACTERS[token] for token in row) for row in rows] for rows in whole]


def test_every_sum_is_right(texts):
    for text in texts[0] + texts[1]:
        question, answer = text.split("=")
        first, second = question.split("+")
        assert (len(first), len(second), len(answer)) == (3, 3, 4)
        assert int(first) + int(second) == int(answer)


def test_no_two_numbers_meet_twice_in_either_order(texts):
    assert [len(split) for split in texts] == [60_000, 10_000]
    pairs = {frozenset(text[:7].split("+")) for split in texts for text in split}
    assert len(pairs) == 70_000


def test_numbers_are_drawn_alike(texts):
    """No number stands out, in either place."""
    for split in texts:
        for place in (slice(0, 3), slice(4, 7)):
            counts = np.bincount([int(text[place]) for text in split], minlength=1000)
            expected = len(split) / 1000
            assert abs(counts - expected).max() < 6 * np.sqrt(expected)


def test_the_digits_of_the_answer_are_what_follows(drawn):
    for inputs, targets in (drawn[:2], drawn[2:]):
        assert (inputs.shape, targets.shape) == ((len(inputs), 11), (len(inputs), 4))
        assert inputs.dtype == targets.dtype == np.int32
        np.testing.assert_array_equal(targets[:, :-1], inputs[:, 8:])
        assert (inputs[:, 7] == sums.CHARACTERS.index("=")).all()


def test_the_seed_alone_decides(drawn):
    again, other = sums.draw(), sums.draw(seed=1)
    for field in drawn._fields:
        np.testing.assert_array_equal(getattr(drawn, field), getattr(again, field))
        assert not np.array_equal(getattr(drawn, field), getattr(other, field))


def test_by_name(alone, drawn):
    found = data.load("sums")
    np.testing.assert_array_equal(found.train_inputs, drawn.train_inputs)
    np.testing.assert_array_equal(found.test_targets, drawn.test_targets)
    assert (found.has_tokens, found.num_classes, found.label, found.note) == (True, 12, "sums", "")
    assert len(set(found.sha256.values())) == 4
    assert not list(alone.iterdir())  # nothing to keep
