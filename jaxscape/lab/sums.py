"""The embedded data set of sequences: sums of two numbers, character by character."""

import numpy as np
from jaxtyping import Int

from jaxscape.lab.readers import Arrays

CHARACTERS = "0123456789+="
"""The characters that the tokens 0, 1, 2, ... stand for."""

TRAIN, TEST = 60_000, 10_000


def draw(*, seed: int = 0) -> Arrays:
    """60,000 training and 10,000 test sums such as ``347+085=0432``, as int32 tokens.

    Inputs [n, 11] are all characters but the last; targets [n, 4] are the sum's digits, each what
    follows one of the last four inputs. What follows those before, nobody can know. No two
    numbers meet twice, in either order, so that no test sum is that of a training sample's numbers.
    The same seed gives the same arrays with the same version of NumPy.
    """
    rng = np.random.default_rng(seed)
    low, high = np.triu_indices(1000)  # numbers of three digits
    chosen = rng.permutation(len(low))[: TRAIN + TEST]
    swapped = rng.random(len(chosen)) < 0.5
    first = np.where(swapped, high[chosen], low[chosen])
    second = np.where(swapped, low[chosen], high[chosen])
    plus, equals = (np.full((len(chosen), 1), CHARACTERS.index(sign)) for sign in "+=")
    parts = [_digits(first, 3), plus, _digits(second, 3), equals, _digits(first + second, 4)]
    text = np.concatenate(parts, axis=1).astype(np.int32)
    inputs, targets = text[:, :-1], text[:, -4:]
    return Arrays(inputs[:TRAIN], targets[:TRAIN], inputs[TRAIN:], targets[TRAIN:])


def _digits(numbers: Int[np.ndarray, "n"], count: int) -> Int[np.ndarray, "n count"]:
    """The last ``count`` decimal digits, leading zeros and all."""
    return numbers[:, None] // 10 ** np.arange(count)[::-1] % 10
