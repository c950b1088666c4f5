"""The few networks of the course, small and readable: an MLP, a residual conv net, a tiny ViT and an MLP-Mixer.

    net = Network(MLP((64, 64), outputs=10))      # a Flax Linen module as a pure function
    params = net.init(jax.random.key(0), x)       # nested dicts: {"Dense_0": {"kernel": ..., "bias": ...}, ...}
    model = Model(net, Categorical())             # net(params, x: (n, ...)) -> z: (n, outputs)

All of them are made of one layer, `dense`. A convolution is dense on patches (im2col, by shifted slices): lax.conv is
several times slower on a CPU as soon as one jit holds two gradients or a scan. x is (n, *space, c), c channels, over
one space axis (a signal), two (an image) or more; parameters take the dtype of x.

The stateless norm has no parameters, and a learned place is a dense layer too: so every parameter belongs to a dense
layer, which is what K-FAC (unit 06) needs. Its `tape` is how it sees the layers; everything else leaves it at None.

Sources: He et al. 2016 (ResNet, §4.2), Dosovitskiy et al. 2021 (ViT), Tolstikhin et al. 2021 (Mixer).
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Params = Any  # nested dicts of arrays
State = Any  # the running means and variances of batch norm, nested dicts too
Layer = Mapping[str, Array]  # kernel: (d, k) or (*window, c, k); bias: (k,), or none
Tape = Callable[
    [Layer, Array, Array], Array
]  # (layer, x, z) -> z, perhaps shifted; sees every layer (curvature.kronecker)


def dense(layer: Layer, x: Float[Array, "n *places d"], tape: Tape | None = None) -> Float[Array, "n *places k"]:
    """z = x W + b, at every place alike. A (*window, c, k) kernel is W in d = prod(window)·c rows."""
    kernel = layer["kernel"]
    z = x @ kernel.reshape(-1, kernel.shape[-1])
    z = z + layer["bias"] if "bias" in layer else z
    return z if tape is None else tape(layer, x, z)


def patches(
    x: Float[Array, "n *space c"], window: tuple[int, ...], stride: int = 1, padding: bool = True
) -> Float[Array, "n *places d"]:
    """im2col: at every place, what the window sees, (*window, c) flattened; d = prod(window)·c. By shifted slices.

    padding: zeros around, (w-1)//2 on each side, for odd windows: the places are the points 0, stride, 2·stride, ...
    Without it the window stays inside. ValueError unless the window has one size a space axis.
    """
    space = x.shape[1:-1]
    if len(window) != len(space):
        raise ValueError(f"a window needs one size for each space axis; got {window} for x {x.shape}")
    edges = [((w - 1) // 2 if padding else 0,) * 2 for w in window]
    x = jnp.pad(x, [(0, 0), *edges, (0, 0)])
    # From the first corner to the last, on each axis: the places of the window's first entry.
    spans = [size + 2 * edge[0] - w + 1 for size, edge, w in zip(space, edges, window, strict=True)]

    def shifted(corner: tuple[int, ...]) -> Array:
        return x[(slice(None), *(slice(i, i + span, stride) for i, span in zip(corner, spans, strict=True)))]

    return jnp.concatenate([shifted(corner) for corner in itertools.product(*map(range, window))], axis=-1)


class Dense(nn.Module):
    """`dense` with parameters kernel (d, features) and bias (features,). LeCun's start: variance 1/d, and zero."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None) -> Array:
        return dense(_layer(self, (x.shape[-1], self.features), x.dtype), x, tape)


class Conv(nn.Module):
    """`dense` on 3-wide patches: kernel (3, ..., 3, c, features), zero padding, every space axis divided by stride."""

    features: int
    stride: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None) -> Array:
        window = (3,) * (x.ndim - 2)
        layer = _layer(self, (*window, x.shape[-1], self.features), x.dtype)
        return dense(layer, patches(x, window, self.stride), tape)


def _layer(module: Any, shape: tuple[int, ...], dtype: Any) -> Layer:
    kernel = module.param("kernel", nn.initializers.lecun_normal(), shape, dtype)
    if not module.use_bias:
        return {"kernel": kernel}
    return {"kernel": kernel, "bias": module.param("bias", nn.initializers.zeros, shape[-1:], dtype)}


def norm(x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    """Each example and place by itself: mean 0 and variance 1 over its c channels. No state and no parameters."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


class MLP(nn.Module):
    """x flattened, then dense layers with `activation` between. P = Σ (d_in + 1) d_out; widths () is one layer."""

    widths: tuple[int, ...]
    outputs: int
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None) -> Array:
        x = x.reshape(len(x), -1)
        for width in self.widths:
            x = self.activation(Dense(width)(x, tape))
        return Dense(self.outputs)(x, tape)


class ResNet(nn.Module):
    """A residual network of `depth` layers with weights, for depth 8, 14, 20, ...: He et al. §4.2.

    A conv, three stages of (depth-2)/6 blocks with w, 2w, 4w channels (w = `width`), the second and third starting with
    stride 2, the mean over places, a dense layer. A block is relu(x + norm(conv(relu(norm(conv(x)))))); where the shape
    changes, x is subsampled and gets channels of zeros. With w = 16, on (32, 32, 3) and 10 outputs: depth 8 has 75,050
    parameters, depth 20 has 269,034.

    batch_norm: Flax's, with scale and offset and a state (StatefulNetwork), instead of `norm` and conv biases: 75,290
    and 269,722 parameters then. ValueError for another depth.
    """

    depth: int
    outputs: int
    width: int = 16
    batch_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None, train: bool = False) -> Array:
        if self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(f"a ResNet has 6n + 2 layers, n >= 1: 8, 14, 20, ...; got depth {self.depth}")

        def conv_norm(x: Array, features: int, stride: int = 1) -> Array:
            z = Conv(features, stride, use_bias=not self.batch_norm)(x, tape)
            return nn.BatchNorm(not train, momentum=0.9)(z) if self.batch_norm else norm(z)

        x = nn.relu(conv_norm(x, self.width))
        for stage, block in itertools.product(range(3), range((self.depth - 2) // 6)):
            features, stride = self.width * 2**stage, 2 if stage > 0 and block == 0 else 1
            branch = conv_norm(nn.relu(conv_norm(x, features, stride)), features)
            x = nn.relu(shortcut(x, features, stride) + branch)
        return Dense(self.outputs)(x.reshape(len(x), -1, x.shape[-1]).mean(1), tape)


def shortcut(x: Float[Array, "n *space c"], features: int, stride: int) -> Float[Array, "n *places features"]:
    """x at every stride-th point, with channels of zeros up to `features`: He et al.'s option A, no parameters."""
    x = x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, features - x.shape[-1])])


def tokens(x: Float[Array, "n *space c"], size: int) -> Float[Array, "n t d"]:
    """x cut into t patches without overlap, `size` wide on every space axis. ValueError where they do not fit."""
    if any(length % size for length in x.shape[1:-1]):
        raise ValueError(f"patches {size} wide do not fill the space of x {x.shape}")
    cut = patches(x, (size,) * (x.ndim - 2), size, padding=False)
    return cut.reshape(len(x), -1, cut.shape[-1])


class ViT(nn.Module):
    """A vision transformer: t patches embedded in `width` channels, `depth` blocks, the tokens' mean, a dense layer.

    A block: x + attention(norm(x)), then x + mlp(norm(x)) with 2·width hidden units. The place is learned: a dense
    layer without bias on its one-hot. With w = width, patches of d entries and k outputs,
    P = (d+1) w + t w + depth (8 w² + 7 w) + (w+1) k. ValueError unless the heads divide the width.
    """

    patch: int
    outputs: int
    width: int = 32
    depth: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None) -> Array:
        x = tokens(x, self.patch)
        place = jnp.broadcast_to(jnp.eye(x.shape[1], dtype=x.dtype), (len(x), x.shape[1], x.shape[1]))
        x = Dense(self.width, name="embed")(x, tape) + Dense(self.width, use_bias=False, name="place")(place, tape)
        for _ in range(self.depth):
            x = x + Attention(self.heads)(norm(x), tape)
            x = x + Perceptron(2 * self.width)(norm(x), tape)
        return Dense(self.outputs, name="head")(norm(x).mean(1), tape)


class Attention(nn.Module):
    """Self-attention: softmax(q kᵀ/√(w/heads)) v over tokens in each head, then dense. 4 (w² + w) parameters."""

    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "n t w"], tape: Tape | None = None) -> Float[Array, "n t w"]:
        n, t, w = x.shape
        if w % self.heads:
            raise ValueError(f"the heads must divide the width; got {self.heads} heads and width {w}")
        q, k, v = (Dense(w, name=name)(x, tape).reshape(n, t, self.heads, -1) for name in ("query", "key", "value"))
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / (w // self.heads) ** 0.5
        mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v)
        return Dense(w, name="out")(mixed.reshape(n, t, w), tape)


class Perceptron(nn.Module):
    """Two dense layers on the last axis, `hidden` wide between, and gelu. 2·w·hidden + hidden + w parameters."""

    hidden: int

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None) -> Array:
        hidden = nn.gelu(Dense(self.hidden)(x, tape))
        return Dense(x.shape[-1])(hidden, tape)


class Mixer(nn.Module):
    """MLP-Mixer: as ViT, but a block mixes tokens with a perceptron across them, then channels with one across those.

    With `token_hidden` h, w = width, t patches of d entries and k outputs,
    P = (d+1) w + depth (2 t h + h + t + 4 w² + 3 w) + (w+1) k.
    """

    patch: int
    outputs: int
    width: int = 32
    depth: int = 2
    token_hidden: int = 32

    @nn.compact
    def __call__(self, x: Array, tape: Tape | None = None) -> Array:
        x = Dense(self.width, name="embed")(tokens(x, self.patch), tape)
        for _ in range(self.depth):
            x = x + jnp.swapaxes(Perceptron(self.token_hidden)(jnp.swapaxes(norm(x), 1, 2), tape), 1, 2)
            x = x + Perceptron(2 * self.width)(norm(x), tape)
        return Dense(self.outputs, name="head")(norm(x).mean(1), tape)


@dataclass(frozen=True)
class Network:
    """A Linen module without state as the pure function that Model takes. Equal modules are equal networks."""

    module: nn.Module

    def init(self, key: Key[Array, ""], x: Array) -> Params:
        """Random parameters for inputs like x: (n, ...). ValueError for a module that has a state."""
        variables = self.module.init(key, x)
        if set(variables) != {"params"}:
            raise ValueError(
                f"{type(self.module).__name__} has a state, {set(variables) - {'params'}}: StatefulNetwork"
            )
        return variables["params"]

    def __call__(self, params: Params, x: Array, tape: Tape | None = None) -> Float[Array, "n k"]:
        return jnp.asarray(self.module.apply({"params": params}, x, tape))


@dataclass(frozen=True)
class StatefulNetwork:
    """A module with batch norm. The state goes in and comes out, so that the caller says which pass it is from.

    `train` normalises with the batch's own statistics, and z does not depend on the state: SAM's loss throws the new
    state away, and what the next step starts from is the state of the clean pass, the one at w and not at w + ε̂:

        def loss_and_state(params, batch): ...      # z, new = net.train(params, state, x)
        grads, state = jax.grad(loss_and_state, has_aux=True)(params, batch)
        updates, opt_state = opt.update(grads, opt_state, params, loss=lambda *a: loss_and_state(*a)[0], batch=batch)
    """

    module: nn.Module

    def init(self, key: Key[Array, ""], x: Array) -> tuple[Params, State]:
        """Random parameters, and a state with means 0 and variances 1."""
        variables = self.module.init(key, x)
        return variables["params"], variables["batch_stats"]

    def train(self, params: Params, state: State, x: Array) -> tuple[Float[Array, "n k"], State]:
        """z by the statistics of x, in which the examples depend on each other, and 0.9·state + 0.1·statistics."""
        variables = {"params": params, "batch_stats": state}
        z, new = self.module.apply(variables, x, train=True, mutable=["batch_stats"])
        return z, new["batch_stats"]

    def evaluate(self, params: Params, state: State, x: Array) -> Float[Array, "n k"]:
        """z by the state: every example by itself, as Model wants it."""
        return jnp.asarray(self.module.apply({"params": params, "batch_stats": state}, x))
