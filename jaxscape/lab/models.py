"""The reference networks: an MLP, a CNN and a transformer (Flax Linen), as pure functions."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from jaxscape.types import InputError, Params

HEADS, WIDE = 4, 64  # heads of a narrow transformer, as divide its width; each head of a wide one
SCANNED = 3  # from so many equal blocks on a transformer has one program for all of them


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
    dtype: Any = None
    mesh: Mesh | None = None


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
    layer norm and a dense layer come last. Heads are 4, from width 256 on of 64 each; of three and
    more equal blocks there is one program. ``num_outputs`` is the number of different tokens. All
    sequences have the length of those that the network was initialised on.
    """

    @nn.compact
    def __call__(self, inputs: Shaped[Array, "n ..."]) -> Float[Array, "n a c"]:
        """The outputs before any softmax."""
        if inputs.ndim != 2 or not jnp.issubdtype(inputs.dtype, jnp.integer):
            found = f"{inputs.dtype} of shape {inputs.shape}; give sequences of tokens"
            raise InputError(f"expected integer tokens [n, length], found {found}, or take the mlp")
        options: dict[str, Any] = {"use_bias": self.bias, "dtype": self.dtype}
        layer = lambda kind, i, x, *size: kind(*size, **options, name=f"{kind.__name__}_{i}")(x)  # noqa: E731
        length, few = inputs.shape[1], self.num_outputs <= len(inputs)
        asked = length if self.answers is None else self.answers
        shape = length, self.hidden
        positions = self.param("positions", nn.initializers.normal(0.02), shape)
        tokens = nn.Embed(self.num_outputs, self.hidden).embedding
        x = self.placed(jnp.asarray(tokens[inputs] + positions, self.dtype))
        # the last block needs only keys and values of the tokens before those asked for
        alike = range(1 if few else 0, self.layers if asked == length else self.layers - 1)
        if len(alike) < SCANNED or self.is_initializing():
            alike = range(0)
        for index in range(self.layers):
            if index in alike:
                x = self.scanned(alike, options, x) if index == alike[0] else x
                continue
            # ``joint`` holds queries, keys and values of every token, [n, t, 3 * hidden]; in the
            # first block they depend on token and position alone, often fewer pairs than tokens
            joint = None
            if index == 0 and few:
                table = layer(nn.LayerNorm, 0, tokens + positions[:, None])
                joint = layer(nn.Dense, 0, table, 3 * self.hidden)[jnp.arange(length), inputs]
            x = block(layer, index, x, asked if index == self.layers - 1 else length, joint)
        x = layer(nn.LayerNorm, 2 * self.layers, x[:, -asked:])
        x = layer(nn.Dense, 4 * self.layers, x, self.num_outputs)
        return self.placed(x.astype(jnp.promote_types(x.dtype, jnp.float32)))

    def scanned(self, alike: range, options: dict, x: Array) -> Float[Array, "n t w"]:
        """The tokens after equal blocks, of one compiled block; gradients compute each anew."""
        params = self.variables["params"]
        own = lambda kind, n, index: [params[f"{kind}_{n * index + i}"] for i in range(n)]  # noqa: E731
        each = [{"LayerNorm": own("LayerNorm", 2, i), "Dense": own("Dense", 4, i)} for i in alike]

        def one(x: Array, own: dict[str, list[Params]]) -> tuple[Array, None]:
            own = self.placed(own, whole=True)

            def layer(kind: Any, number: int, x: Array, *size: int) -> Array:
                weights = {"params": own[kind.__name__][number]}
                return kind(*size, **options, parent=None).apply(weights, x)

            return self.placed(block(layer, 0, self.placed(x), x.shape[1], None)), None

        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        return jax.lax.scan(jax.checkpoint(one, prevent_cse=False), x, stacked)[0]

    def placed(self, tree: Any, whole: bool = False) -> Any:
        """Some sequences on each device of the mesh, or a block's weights whole on each of them."""
        if self.mesh is None or (not whole and len(tree) % self.mesh.size):
            return tree
        to = NamedSharding(self.mesh, PartitionSpec(None if whole else self.mesh.axis_names))
        return jax.lax.with_sharding_constraint(tree, to)


def block(layer, index: int, x: Float[Array, "n t w"], asked: int, joint) -> Float[Array, "n a w"]:
    """The tokens asked for after the block of layers ``layer(kind, number, x, *size)``."""
    width, norm, dense = x.shape[-1], 2 * index, 4 * index
    if joint is None:
        joint = layer(nn.Dense, dense, layer(nn.LayerNorm, norm, x), 3 * width)
    heads = max(math.gcd(width, HEADS), width // WIDE if width % WIDE == 0 else 1)
    x = x[:, -asked:] + layer(nn.Dense, dense + 1, attention(joint, heads, asked), width)
    hidden = nn.relu(layer(nn.Dense, dense + 2, layer(nn.LayerNorm, norm + 1, x), 4 * width))
    return x + layer(nn.Dense, dense + 3, hidden, width)


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
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = jax.nn.softmax(jnp.where(earlier, wide, -jnp.inf)).astype(scores.dtype)
    return jnp.einsum("nhts,nshe->nthe", weights, value).reshape(n, asked, width // 3)


ARCHITECTURES = {"mlp": MLP, "cnn": CNN, "transformer": Transformer}


def build(
    name: str, *, num_outputs: int, hidden: int = 256, layers: int = 2, bias: bool = True,
    answers: int | None = None, dtype: Any = None, mesh: Mesh | None = None,
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
        dtype: of a transformer's activations, as ``jnp.bfloat16``; by default of its parameters.
        mesh: over all devices of which a transformer spreads sequences, whoever holds its weights.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"expected a model among {list(ARCHITECTURES)}, found {name!r}; name one")
    sizes = {"num_outputs": (num_outputs, 1), "hidden": (hidden, 1), "layers": (layers, 0)}
    for what, (size, least) in sizes.items():
        if size < least:
            raise InputError(f"expected {what} of at least {least}, found {size}; raise it")
    module = ARCHITECTURES[name](num_outputs, hidden, layers, bias, answers, dtype, mesh)
    first = jax.jit(module.init)

    def apply(params: Params, inputs: Any) -> Any:
        return module.apply({"params": params}, inputs)

    return Model(lambda key, inputs: first(key, jnp.asarray(inputs[:1]))["params"], apply)
