"""A small decoder-only transformer (Flax Linen)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxscape.types import InputError

HEADS = 4
"""Heads of attention, or as many of them as divide the width."""


class Transformer(nn.Module):
    """The logits of the token that follows each of the last ``answers`` tokens, given those before.

    Embeddings of tokens and of positions, then ``layers`` pre-norm blocks (Radford et al. 2019,
    "Language models are unsupervised multitask learners", section 2.3) of width ``hidden``: causal
    self-attention and a layer of 4·hidden units, which are ReLU as in the other networks and take a
    CPU half the time of GELU. A layer norm and a dense layer come last. ``num_outputs`` is the
    number of different tokens; all sequences have the length of those it was initialised on.
    The last block computes nothing for tokens whose outputs are not asked for but what the others
    attend to. ``answers`` of None asks for all.
    """

    num_outputs: int
    hidden: int
    layers: int
    bias: bool = True
    answers: int | None = None

    @nn.compact
    def __call__(self, inputs: Int[Array, "n t"]) -> Float[Array, "n a c"]:
        """The outputs before any softmax."""
        if inputs.ndim != 2 or not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise InputError(
                f"expected integer tokens [n, length], found {inputs.dtype} of shape "
                f"{inputs.shape}; give the transformer sequences of tokens, or take the mlp"
            )
        norm = lambda x: nn.LayerNorm(use_bias=self.bias)(x)  # noqa: E731
        dense = lambda width, x: nn.Dense(width, use_bias=self.bias)(x)  # noqa: E731
        length = inputs.shape[1]
        asked = length if self.answers is None else self.answers
        start = nn.initializers.normal(0.02)
        positions = self.param("positions", start, (length, self.hidden))
        tokens = nn.Embed(self.num_outputs, self.hidden)(jnp.arange(self.num_outputs))
        x = tokens[inputs] + positions
        for layer in range(self.layers):
            if layer == 0 and self.num_outputs <= len(inputs):
                # one row for each token at each place, which are fewer than in the sequences
                table = dense(3 * self.hidden, norm(tokens + positions[:, None]))
                joint = table[jnp.arange(length), inputs]
            else:
                joint = dense(3 * self.hidden, norm(x))
            if layer == self.layers - 1:
                x = x[:, -asked:]
            attended = attention(joint, math.gcd(self.hidden, HEADS), x.shape[1])
            x = x + dense(self.hidden, attended)
            x = x + dense(self.hidden, nn.relu(dense(4 * self.hidden, norm(x))))
        return dense(self.num_outputs, norm(x[:, -asked:]))


def attention(joint: Float[Array, "n t 3*w"], heads: int, asked: int) -> Float[Array, "n a w"]:
    """Causal scaled dot-product attention of the last ``asked`` tokens.

    ``joint`` holds queries, keys and values side by side. Vaswani et al. 2017, "Attention is all
    you need", section 3.2.
    """
    n, length, width = joint.shape
    split = joint.reshape(n, length, 3, heads, width // 3 // heads)
    query, key, value = (split[:, :, part] for part in range(3))
    query = query[:, -asked:]
    scores = jnp.einsum("nthe,nshe->nhts", query, key) / math.sqrt(query.shape[-1])
    earlier = jnp.tril(jnp.ones((length, length), bool))[-asked:]
    weights = jax.nn.softmax(jnp.where(earlier, scores, -jnp.inf))
    return jnp.einsum("nhts,nshe->nthe", weights, value).reshape(n, asked, width // 3)
