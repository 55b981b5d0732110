"""The reference networks: an MLP, a CNN and a transformer (Flax Linen), as pure functions."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from jaxscape.types import InputError, Params

HEADS = 4  # attention heads of a transformer, or as many of them as divide its width


class Model(NamedTuple):
    """``init(key, inputs) -> params`` and ``apply(params, inputs) -> outputs [n, c]``.

    A transformer gives outputs of the last a tokens, [n, a, c].
    """

    init: Callable[[jax.Array, Any], Params]
    apply: Callable[[Params, Any], Float[Array, "n *a c"]]


class Network(nn.Module):
    """The arguments of ``build``."""

    num_outputs: int
    hidden: int
    layers: int
    bias: bool = True
    answers: int | None = None


class MLP(Network):
    """Flattened inputs, ``layers`` dense ReLU layers of ``hidden`` units, a dense output."""

    @nn.compact
    def __call__(self, inputs: Float[Array, "n ..."]) -> Float[Array, "n c"]:
        """The outputs before any softmax."""
        x = inputs.reshape(inputs.shape[0], -1)
        for _ in range(self.layers):
            x = nn.relu(nn.Dense(self.hidden, use_bias=self.bias)(x))
        return nn.Dense(self.num_outputs, use_bias=self.bias)(x)


class CNN(Network):
    """``layers`` ReLU convolutions, then a dense output.

    Convolution b is 3×3 with stride 2 and hidden·2^b/8 channels: it halves the image and doubles
    the channels. It is written as a dense layer on patches. A matrix product stays fast where the
    kernels of many points of parameter space are mapped over, and in gradients on a CPU, where
    XLA's convolution is some 30 times slower.
    """

    @nn.compact
    def __call__(self, inputs: Float[Array, "n ..."]) -> Float[Array, "n c"]:
        """The outputs before any softmax."""
        if inputs.ndim != 4:
            found = f"shape {inputs.shape}; take the mlp"
            raise InputError(f"expected images [n, h, w, c] as inputs, found {found}")
        x = inputs
        for block in range(self.layers):
            # the 3×3 neighbourhood of every second pixel, zero outside; a kernel's axes lie flat
            height, width = x.shape[1:3]
            padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            shifts = itertools.product(range(3), range(3))
            parts = [padded[:, i : i + height : 2, j : j + width : 2] for i, j in shifts]
            patches, channels = jnp.concatenate(parts, -1), max(1, self.hidden * 2**block // 8)
            x = nn.relu(nn.Dense(channels, use_bias=self.bias)(patches))
        return nn.Dense(self.num_outputs, use_bias=self.bias)(x.reshape(x.shape[0], -1))


class Transformer(Network):
    """The logits of the token that follows each of the last ``answers`` tokens, given those before.

    Embeddings of tokens and of positions, then ``layers`` pre-norm blocks (Radford et al. 2019,
    "Language models are unsupervised multitask learners", section 2.3) of width ``hidden``: causal
    self-attention and a layer of 4·hidden ReLU units, which take a CPU half the time of GELU. A
    layer norm and a dense layer come last. ``num_outputs`` is the number of different tokens. All
    sequences have the length of those that the network was initialised on.
    """

    @nn.compact
    def __call__(self, inputs: Shaped[Array, "n ..."]) -> Float[Array, "n a c"]:
        """The outputs before any softmax."""
        if inputs.ndim != 2 or not jnp.issubdtype(inputs.dtype, jnp.integer):
            found = f"{inputs.dtype} of shape {inputs.shape}; give sequences of tokens"
            raise InputError(f"expected integer tokens [n, length], found {found}, or take the mlp")
        norm = lambda x: nn.LayerNorm(use_bias=self.bias)(x)  # noqa: E731
        dense = lambda width, x: nn.Dense(width, use_bias=self.bias)(x)  # noqa: E731
        length = inputs.shape[1]
        asked = length if self.answers is None else self.answers
        shape = length, self.hidden
        positions = self.param("positions", nn.initializers.normal(0.02), shape)
        tokens = nn.Embed(self.num_outputs, self.hidden)(jnp.arange(self.num_outputs))
        x = tokens[inputs] + positions
        for layer in range(self.layers):
            # ``joint`` holds queries, keys and values of every token, [n, t, 3 * hidden]; in the
            # first block they depend on token and position alone, often fewer pairs than tokens
            if layer == 0 and self.num_outputs <= len(inputs):
                table = dense(3 * self.hidden, norm(tokens + positions[:, None]))
                joint = table[jnp.arange(length), inputs]
            else:
                joint = dense(3 * self.hidden, norm(x))
            if layer == self.layers - 1:
                x = x[:, -asked:]  # the last block needs only keys and values of the other tokens
            attended = attention(joint, math.gcd(self.hidden, HEADS), x.shape[1])
            x = x + dense(self.hidden, attended)
            x = x + dense(self.hidden, nn.relu(dense(4 * self.hidden, norm(x))))
        return dense(self.num_outputs, norm(x[:, -asked:]))


def attention(joint: Float[Array, "n t joint_w"], heads: int, asked: int) -> Float[Array, "n a w"]:
    """Causal attention of the last ``asked`` tokens, from queries, keys and values side by side.

    Scaled dot products (Vaswani et al. 2017, "Attention is all you need", section 3.2).
    """
    n, length, width = joint.shape
    split = joint.reshape(n, length, 3, heads, width // 3 // heads)
    query, key, value = (split[:, :, part] for part in range(3))
    query = query[:, -asked:]
    scores = jnp.einsum("nthe,nshe->nhts", query, key) / math.sqrt(query.shape[-1])
    earlier = jnp.tril(jnp.ones((length, length), bool))[-asked:]
    weights = jax.nn.softmax(jnp.where(earlier, scores, -jnp.inf))
    return jnp.einsum("nhts,nshe->nthe", weights, value).reshape(n, asked, width // 3)


ARCHITECTURES = {"mlp": MLP, "cnn": CNN, "transformer": Transformer}


def build(
    name: str, *, num_outputs: int, hidden: int = 256, layers: int = 2, bias: bool = True,
    answers: int | None = None,
) -> Model:  # fmt: skip
    """A network with float32 parameters, without dropout and batch normalisation.

    The loss of a sample thus depends on that sample and the parameters alone. On 28×28 inputs and
    10 outputs the default mlp has 269,322 parameters, the default cnn 50,186.

    Args:
        name: "mlp", "cnn" or "transformer", else an ``InputError``.
        num_outputs: classes, or different tokens; at least 1, else an ``InputError``.
        hidden: width of each layer, likewise.
        layers: number of hidden layers or blocks, at least 0.
        bias: False leaves every layer its weights alone.
        answers: of how many last tokens a transformer gives outputs, by default of all.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"expected a model among {list(ARCHITECTURES)}, found {name!r}; name one")
    sizes = {"num_outputs": (num_outputs, 1), "hidden": (hidden, 1), "layers": (layers, 0)}
    for what, (size, least) in sizes.items():
        if size < least:
            raise InputError(f"expected {what} of at least {least}, found {size}; raise it")
    module = ARCHITECTURES[name](num_outputs, hidden, layers, bias, answers)
    first = jax.jit(module.init)

    def apply(params: Params, inputs: Any) -> Any:
        return module.apply({"params": params}, inputs)

    return Model(lambda key, inputs: first(key, jnp.asarray(inputs[:1]))["params"], apply)
