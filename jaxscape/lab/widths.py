"""Networks of several widths as one stack of the widest.

A ReLU network of few units equals one of many units whose further weights are 0. Adam leaves them
at exactly 0: a unit whose incoming weights are 0 puts out 0, where the derivative of ReLU is taken
as 0, so no gradient reaches the weights on either side of it.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from jaxscape.lab.models import Model
from jaxscape.types import Params


def initial(
    build: Callable[[int], Model],
    widths: Sequence[int],
    keys: Key[Array, "R"],
    inputs: Float[Array, "n ..."],
) -> tuple[Params, list[int]]:
    """Initial parameters, leaves ``[R, a, b]``, and the number of parameters of each network.

    ``build(width)`` is an mlp without biases, of the same depth at every width. Each network is a
    corner of one of the widest, drawn from its key, times √(fan-in of the widest / own fan-in):
    LeCun's normal, which is Flax's default, has a standard deviation of 1/√fan-in. Thus one
    compiled program draws them all.
    """
    wide = jax.vmap(lambda key: build(max(widths)).init(key, inputs))(keys)
    shapes = [jax.eval_shape(build(width).init, keys[0], inputs) for width in widths]

    def corners(drawn: Float[Array, "R a b"], *kept: jax.ShapeDtypeStruct) -> np.ndarray:
        leaf = np.asarray(drawn)
        padded = np.zeros_like(leaf)
        for row, (rows, columns) in enumerate(like.shape for like in kept):
            scale = np.sqrt(leaf.shape[1] / rows, dtype=leaf.dtype)
            padded[row, :rows, :columns] = scale * leaf[row, :rows, :columns]
        return padded

    sizes = [sum(leaf.size for leaf in jax.tree.leaves(shape)) for shape in shapes]
    return jax.tree.map(corners, wide, *shapes), sizes
