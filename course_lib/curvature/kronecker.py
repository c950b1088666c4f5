"""Unit 06. K-FAC: the Fisher block of a layer as a Kronecker product of two small matrices, A ⊗ G.

A dense layer s = aᵀW + b has the gradient a gᵀ, with a its input and g = d(-log p)/ds. So its block of F is
E[(a ⊗ g)(a ⊗ g)ᵀ] = E[a aᵀ ⊗ g gᵀ], and K-FAC's one approximation is to take the expectation of each side:

    A = E[a aᵀ], (d, d)      G = E[g gᵀ], (k, k)      F ≈ A ⊗ G      (A ⊗ G) vec(V) = vec(A V G)

The bias is one more row of W, whose input is 1. vec reads V: (d, k) row by row, as JAX ravels a kernel. Exact for one
example, and for a linear network with Gaussian outputs.

Sources: Martens & Grosse 2015 (K-FAC: §3, §6.3); Grosse & Martens 2016 (KFC, for convolutions); slides, K-FAC.

Which layers there are is read from the parameters (`layers`), and what flows through them from a tape that the network
hands to each: `apply(params, x, tape=None)`, every layer being `networks.dense(layer, x, tape)`, or code of one's own
that goes on with `tape(layer, a, s)` for s, outside of any jit, vmap or scan in apply. Nothing is guessed from the
program: a layer that the tape has not seen is an error.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from course_lib.curvature.products import wide
from course_lib.models import Batch, Model, Params, checked

Labels = Literal["sampled", "exact", "observed"]


class Factors(NamedTuple):
    """The two sides of one layer's block, A ⊗ G; or of its inverse, A⁻¹ ⊗ G⁻¹."""

    a: Float[Array, "d d"]  # inputs, the bias's 1 last
    g: Float[Array, "k k"]  # outputs


def layers(params: Params) -> dict[str, dict[str, int]]:
    """{name: {"kernel": i, "bias": j}}: the numbers of each layer's leaves, as jax.tree.leaves counts.

    A layer is a node with a `kernel` (..., k), and perhaps a `bias` (k,). Its name is its path: "Dense_0", "Block/out".
    ValueError that names the parameters of anything else.
    """
    found: dict[str, dict[str, int]] = {}
    leaves = jax.tree.leaves_with_path(params)
    for number, (path, _) in enumerate(leaves):
        name, kind = (jax.tree_util.keystr(p, simple=True, separator="/") for p in (path[:-1], path[-1:]))
        found.setdefault(name, {})[kind] = number
    for parts in found.values():
        shapes = {kind: jnp.shape(leaves[number][1]) for kind, number in parts.items()}
        kernel = shapes.pop("kernel", ())
        if len(kernel) < 2 or shapes not in ({}, {"bias": kernel[-1:]}):
            unknown = ", ".join(jax.tree_util.keystr(leaves[number][0]) for number in parts.values())
            raise ValueError(
                f"K-FAC knows layers with a kernel (..., k) and perhaps a bias (k,). Not one of those: params{unknown}"
            )
    return found


def to_matrices(tree: Params) -> dict[str, Float[Array, "d k"]]:
    """{layer: [W; b]} of a tree like the parameters: kernels in d rows, the bias as one row more."""
    leaves = jax.tree.leaves(tree)

    def matrix(kernel: int, bias: int | None = None) -> Array:
        w = leaves[kernel].reshape(-1, leaves[kernel].shape[-1])
        return w if bias is None else jnp.concatenate([w, leaves[bias][None]])

    return {name: matrix(**parts) for name, parts in layers(tree).items()}


def from_matrices(matrices: Mapping[str, Float[Array, "d k"]], like: Params) -> Params:
    """The inverse of to_matrices: a tree in the structure of `like`, in the dtypes of the matrices."""
    leaves, treedef = jax.tree.flatten(like)
    for name, parts in layers(like).items():
        shape = leaves[parts["kernel"]].shape
        leaves[parts["kernel"]] = matrices[name][: -1 if "bias" in parts else None].reshape(shape)
        if "bias" in parts:
            leaves[parts["bias"]] = matrices[name][-1]
    return jax.tree.unflatten(treedef, leaves)


class Tape:
    """What a network plays its layers on: adds a layer's shift to its s, and keeps its input a.

    A layer is known by its kernel: it has to be the very array that is in the parameters.
    """

    def __init__(self, params: Params, shifts: Mapping[str, Array] | None = None) -> None:
        leaves = jax.tree.leaves(params)
        self.known = {name: {k: leaves[i] for k, i in parts.items()} for name, parts in layers(params).items()}
        self.shifts = shifts
        self.inputs: dict[str, Array] = {}
        self.outputs: dict[str, Array] = {}

    def __call__(self, layer: Mapping[str, Array], a: Array, s: Array) -> Array:
        name = self.name(layer)
        if name in self.inputs:
            raise ValueError(f"K-FAC takes a layer's block from one use, and {name!r} is used twice")
        self.inputs[name], self.outputs[name] = a, s
        return s if self.shifts is None else s + self.shifts[name]

    def name(self, layer: Mapping[str, Array]) -> str:
        """The layer's name in the parameters, or a ValueError."""
        for name, known in self.known.items():
            if known.keys() == layer.keys() and all(known[kind] is layer[kind] for kind in known):
                return name
        shapes = {kind: array.shape for kind, array in layer.items()}
        raise ValueError(
            f"K-FAC was handed a layer {shapes} that is not in the parameters as it is (transposed or cast on the way, "
            f"or without its bias?); they have {sorted(self.known)}"
        )

    def check_complete(self) -> None:
        """ValueError that names the layers it has not seen."""
        if missing := sorted(self.known.keys() - self.inputs.keys()):
            raise ValueError(f"K-FAC never saw the layers {missing}: call networks.dense(layer, x, tape) for them")


def kronecker_factors(
    model: Model, params: Params, batch: Batch, key: Key[Array, ""] | None = None, labels: Labels = "sampled"
) -> dict[str, Factors]:
    """{layer: (A, G)} over the batch's n examples, of the gradients of one example: nothing is divided by n twice.

    labels: whose y the gradients g are at.
        "sampled": one y an example from the model, drawn with `key`: an unbiased G.
        "exact": the expectation over the model's y, at the price of one backward pass for each output of the network.
        "observed": the batch's y. The empirical Fisher, NOT the Fisher (unit 04). The others ignore y: (x, None) works.

    A layer with T places an example (a convolution, tokens) has A = E Σ_t a_t a_tᵀ and G = E (1/T) Σ_t g_t g_tᵀ: KFC,
    for places that are alike and whose gradients are uncorrelated.

    All is in at least float32. TypeError for an apply without a tape; ValueError for labels not of the three, "sampled"
    without a key, and a layer that K-FAC does not know (its name in the message).
    """
    check_words(model, key, labels)
    x, y = checked(batch if labels == "observed" else (batch[0], batch[0]))
    # New arrays, so that a layer is known by its own even where two of the parameters are one array.
    params = jax.tree.map(jnp.copy, wide(params))
    apply: Any = model.apply

    def play(shifts: Mapping[str, Array] | None) -> tuple[Array, tuple[dict[str, Array], dict[str, Array]]]:
        tape = Tape(params, shifts)
        z = replace(model, apply=partial(apply, tape=tape)).outputs(params, x)
        tape.check_complete()
        return z, (tape.inputs, tape.outputs)

    shapes = jax.eval_shape(play, None)[1][1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    z, pull_back, (inputs, _) = jax.vjp(play, zeros, has_aux=True)
    (slopes,) = jax.vmap(pull_back)(output_slopes(model, z, y, key, labels))
    biased = {name: "bias" in parts for name, parts in layers(params).items()}
    return {name: layer_factors(inputs[name], slopes[name], biased[name]) for name in biased}


def check_words(model: Model, key: Any, labels: Any) -> None:
    """The errors of kronecker_factors that its words alone can make."""
    if labels not in get_args(Labels):
        raise ValueError(f"labels is one of {get_args(Labels)}; got {labels!r}")
    if labels == "sampled" and key is None:
        raise ValueError('labels="sampled" draws y from the model and needs a key')
    if "tape" not in inspect.signature(model.apply).parameters:
        raise TypeError("K-FAC needs an apply(params, x, tape=None) whose layers are networks.dense(layer, x, tape)")


def output_slopes(model: Model, z: Float[Array, "n k"], y: Any, key: Any, labels: Labels) -> Float[Array, "m n k"]:
    """Vectors v at the outputs z, m an example, with Σ_m v vᵀ = E_y[(d log r/dz)(d log r/dz)ᵀ], or its unbiased draw.

    Sent back through the network they are the g whose Σ_m g gᵀ is wanted.
    """
    if labels == "exact":
        values, vectors = jnp.linalg.eigh(jax.vmap(model.likelihood.fisher)(z))
        return jnp.moveaxis(vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :], 2, 0)
    if labels == "sampled":
        y = jax.vmap(model.likelihood.sample)(jax.random.split(key, len(z)), z)
    return jax.vmap(jax.grad(model.likelihood.nll))(z, y)[None]


def layer_factors(a: Float[Array, "n *places d"], g: Float[Array, "m n *places k"], bias: bool) -> Factors:
    """A and G of a layer with inputs a and pre-activation gradients g, as kronecker_factors says."""
    n, places = len(a), a[0, ..., 0].size
    a, g = wide((a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])))  # x itself may be half precision
    a = jnp.concatenate([a, jnp.ones((len(a), 1), a.dtype)], axis=1) if bias else a
    return Factors(a.T @ a / n, g.T @ g / (n * places))


def kronecker_vp(factors: Mapping[str, Factors], v: Params) -> Params:
    """(A ⊗ G) vec(V) = vec(A V G), layer by layer: d²k + dk² products, not the d²k² of A ⊗ G, which is never formed.

    v is a tree like the parameters. With the factors' inverses it is a product with the inverse.
    """
    return from_matrices({name: factors[name].a @ m @ factors[name].g for name, m in to_matrices(v).items()}, v)


def damped(factors: Factors, damping: Any) -> Factors:
    """(A + π√λ I) ⊗ (G + √λ/π I): A ⊗ G + λI, and two terms more, which keep it a product. Martens & Grosse §6.3.

    π² is the mean eigenvalue of A over that of G: so the two terms are equally large. It is 1 where one of them is 0.
    """
    (a, g), root = factors, jnp.sqrt(damping)
    mean_a, mean_g = jnp.trace(a) / len(a), jnp.trace(g) / len(g)
    both = (mean_a > 0) & (mean_g > 0)
    pi = jnp.where(both, jnp.sqrt(mean_a) / jnp.sqrt(jnp.where(both, mean_g, 1)), 1)
    return Factors(a + pi * root * jnp.eye(len(a), dtype=a.dtype), g + root / pi * jnp.eye(len(g), dtype=g.dtype))


def inverse(factors: Factors) -> Factors:
    """A⁻¹ ⊗ G⁻¹ = (A ⊗ G)⁻¹, each by Cholesky. nan where a factor is not positive definite."""
    return Factors(
        *(jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(m), True), jnp.eye(len(m), dtype=m.dtype)) for m in factors)
    )
