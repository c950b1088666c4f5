"""Unit 08. Sharpness-aware minimisation: the gradient is taken at w + ε̂, the worst point of a ball around w.

    sam          ε̂ = argmax over ‖ε‖_p ≤ ρ of εᵀ∇L(w)             SAM eq. 1-3, Algorithm 1
    random_sam   ε̂ = ρ z/‖z‖, z ~ N(0, I): the ablation of SAM C.5

Sources: Foret et al. 2021 (SAM); Kwon et al. 2021 (ASAM, `adaptive`). `base` is any optax transformation: it turns the
gradient at w + ε̂ into a step from w. The gradient at w comes from outside, so a step costs one gradient more.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from course_lib.optimizers.common import (
    Number,
    all_finite,
    at,
    cast_like,
    require_loss,
    require_params,
    where,
    wide,
)

Tree = Any  # a pytree of float arrays, like the parameters


class SAMState(NamedTuple):
    """count: steps taken; skipped: calls that moved nothing, a gradient being inf or nan; base: the base's state."""

    count: Int[Array, ""]  # type: ignore[assignment]  # a tuple has a method of this name, which nobody needs here
    skipped: Int[Array, ""]
    base: Any


def sam(
    base: optax.GradientTransformation,
    rho: Number = 0.05,
    p: float = 2,
    ascent_steps: int = 1,
    second_order: bool = False,
    adaptive: bool = False,
    m: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`base`, fed with ∇L(w + ε̂(w)) instead of ∇L(w): SAM Algorithm 1.

    rho: the radius, in units of w, ≥ 0. p: the norm of the ball, in [1, ∞].
    ascent_steps: n steps of ρ/n, each along the gradient where the last one ended: ‖ε̂‖ never exceeds ρ. Costs n - 1
    gradients more.
    second_order: the exact gradient of w ↦ L(w + ε̂(w)), with the term in dε̂/dw that eq. 3 drops. It takes ε̂ from its
    own gradient at w, and costs a Hessian-vector product an ascent step.
    adaptive: ASAM, the ball ‖ε/w‖₂ ≤ ρ: rescaling two layers so that the network stays the same does not change it.
    ρ is then some ten times larger.
    m: m-sharpness (SAM §4.1): every m consecutive examples get their own ε̂, from their own gradient. `grads` is then
    only looked at for inf and nan. Needs a loss that is a mean over examples.

    ValueError: p < 1, ascent_steps < 1, m < 1, adaptive with p ≠ 2; at update, no `loss`, no params, or an m that does
    not divide the n examples of `batch`.
    """
    pair = gradient_pair(p, ascent_steps, second_order, adaptive, m)

    def direction(loss: Callable, params: Tree, batch: Any, grads: Tree, state: SAMState) -> Tree:
        return pair(loss, params, batch, grads, at(rho, state.count))[1]

    return descend("sam", base, direction)


def random_sam(
    base: optax.GradientTransformation, rho: Number = 0.05, seed: int | Int[Array, ""] = 0
) -> optax.GradientTransformationExtraArgs:
    """`sam` with a random ε̂ of the same length, ρ z/‖z‖₂, z ~ N(0, I): SAM C.5. A new z each step."""

    def direction(loss: Callable, params: Tree, batch: Any, grads: Tree, state: SAMState) -> Tree:
        z = optax.tree_utils.tree_random_like(step_key(seed, state), wide(params))
        epsilon = dual_norm_perturbation(z, at(rho, state.count), p=2)
        return jax.grad(loss)(shifted(params, epsilon), batch)

    return descend("random_sam", base, direction)


def dual_norm_perturbation(grads: Tree, rho: Number, p: float = 2) -> Tree:
    """ε̂ = ρ sign(g) |g|^(q-1) / (‖g‖_q^q)^(1/p), 1/p + 1/q = 1: the ε with ‖ε‖_p ≤ ρ and the largest εᵀg, which is
    ρ‖g‖_q (SAM eq. 2). One norm over all leaves, in at least float32.

    p = 1 moves the largest coordinate alone, and equal ones share ρ, as in the limit p → 1. p = ∞ is ρ sign(g). g = 0
    gives 0. Only the direction of g counts, so g is divided by its largest entry first: no power over- or underflows.
    """
    g = wide(grads)
    largest = jax.lax.stop_gradient(_largest(g))
    if p == 1:
        top = jax.tree.map(lambda g: (jnp.abs(g) == largest).astype(g.dtype), g)
        share = rho / _total(top)
        return jax.tree.map(lambda g, top: share * jnp.sign(g) * top, g, top)
    q = 1.0 if p == math.inf else p / (p - 1)
    tiny = jnp.finfo(largest.dtype).tiny  # XLA divides by multiplying with 1/scale, which must not be 0 or inf
    scale = jnp.clip(largest, tiny, 1 / tiny)
    a = jax.tree.map(lambda g: jnp.abs(g) / scale, g)
    length = rho / _or_one(_total(jax.tree.map(lambda a: a**q, a))) ** (1 / p)
    # sign(0) = 0 takes care of a zero entry; the power only has to stay differentiable there.
    return jax.tree.map(lambda g, a: length * jnp.sign(g) * _or_one(a) ** (q - 1), g, a)


def unit(tree: Tree) -> Tree:
    """tree/‖tree‖₂ over all leaves together, in at least float32; 0 for a zero tree."""
    return dual_norm_perturbation(tree, 1.0, p=2)


def ascend(
    loss: Callable,
    params: Tree,
    batch: Any,
    grads: Tree,
    rho: Any,
    p: float = 2,
    ascent_steps: int = 1,
    adaptive: bool = False,
) -> Tree:
    """w + ε̂(w), `grads` being the gradient at w. The options are those of `sam`."""
    epsilon = _perturbation(grads, params, rho / ascent_steps, p, adaptive)
    for _ in range(ascent_steps - 1):
        grads = jax.grad(loss)(shifted(params, epsilon), batch)
        step = _perturbation(grads, params, rho / ascent_steps, p, adaptive)
        epsilon = jax.tree.map(jnp.add, epsilon, step)
    return shifted(params, epsilon)


def gradient_pair(
    p: float = 2, ascent_steps: int = 1, second_order: bool = False, adaptive: bool = False, m: int | None = None
) -> Callable:
    """A function (loss, params, batch, grads, rho) -> (g, g_p): the gradient at w and the one at w + ε̂.

    The arguments, and the errors, are those of `sam`. With m both are means over the groups.
    """
    if not p >= 1:
        raise ValueError(f"‖ε‖_p is a norm for p in [1, ∞]; got p = {p}")
    if adaptive and p != 2:
        raise ValueError(f"adaptive (ASAM) is defined here for p = 2 only; got p = {p}")
    if ascent_steps < 1 or (m is not None and m < 1):
        raise ValueError(f"ascent_steps and m must be at least 1; got ascent_steps = {ascent_steps}, m = {m}")

    perturbed_point = functools.partial(ascend, p=p, ascent_steps=ascent_steps, adaptive=adaptive)

    def perturbed(loss: Callable, params: Tree, batch: Any, grads: Tree, rho: Any) -> Tree:
        """g_p: with eq. 3 the point w + ε̂ is a constant, with second_order a function of w."""
        if second_order:
            return jax.grad(lambda w: loss(perturbed_point(loss, w, batch, jax.grad(loss)(w, batch), rho), batch))(
                params
            )
        return jax.grad(loss)(perturbed_point(loss, params, batch, grads, rho), batch)

    def pair(loss: Callable, params: Tree, batch: Any, grads: Tree, rho: Any) -> tuple[Tree, Tree]:
        if m is None:
            return grads, perturbed(loss, params, batch, grads, rho)

        def one(group: Any) -> tuple[Tree, Tree]:
            g = jax.grad(loss)(params, group)
            return g, perturbed(loss, params, group, g, rho)

        return jax.tree.map(lambda a: jnp.mean(a, axis=0), wide(jax.vmap(one)(groups(batch, m))))

    return pair


def descend(
    name: str, base: optax.GradientTransformation, direction: Callable
) -> optax.GradientTransformationExtraArgs:
    """`base` fed with direction(loss, params, batch, grads, state), a tree like params, instead of the gradient.

    Where `grads` or the direction is not finite, nothing moves: the updates are 0, the state stays, `skipped` counts.
    """
    base = optax.with_extra_args_support(base)

    def init(params: Tree) -> SAMState:
        return SAMState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), base.init(params))

    def update(
        grads: Tree,
        state: SAMState,
        params: Tree = None,
        *,
        loss: Callable | None = None,
        batch: Any = None,
        **extra: Any,
    ) -> tuple[Tree, SAMState]:
        loss, params = require_loss(loss, name), require_params(params, name)
        d = cast_like(direction(loss, params, batch, grads, state), params)
        finite = all_finite(grads, d)
        updates, new = base.update(d, state.base, params, loss=loss, batch=batch, **extra)
        updates = where(finite, updates, jax.tree.map(jnp.zeros_like, updates))
        return updates, SAMState(state.count + finite, state.skipped + ~finite, where(finite, new, state.base))

    return optax.GradientTransformationExtraArgs(init, update)


def groups(batch: Any, m: int) -> Any:
    """Leaves (n, ...) to (n/m, m, ...): m consecutive examples a group.

    ValueError where the batch has no leaf, the leaves have no common n > 0, or m does not divide n.
    """
    shapes = [jnp.shape(a) for a in jax.tree.leaves(batch)]
    sizes = {shape[:1] for shape in shapes}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(f"m needs a batch whose leaves all have the same n > 0 examples in front; got shapes {shapes}")
    ((n,),) = sizes
    if m < 1 or n % m:
        raise ValueError(f"m must divide the number of examples: n = {n}, m = {m}")
    return jax.tree.map(lambda a: jnp.reshape(a, (n // m, m, *jnp.shape(a)[1:])), batch)


def shifted(params: Tree, epsilon: Tree) -> Tree:
    """w + ε in the dtypes of w, added in at least float32."""
    return cast_like(jax.tree.map(jnp.add, wide(params), epsilon), params)


def step_key(seed: int | Int[Array, ""], state: SAMState) -> Key[Array, ""]:
    """The random key of this call: from the state alone, and another one after a skipped step too."""
    return jax.random.fold_in(jax.random.key(seed), state.count + state.skipped)


def _perturbation(grads: Tree, params: Tree, rho: Any, p: float, adaptive: bool) -> Tree:
    """SAM eq. 2, or with adaptive ρ w² g/‖w g‖₂ (ASAM): eq. 2 in the coordinates ε/w."""
    if not adaptive:
        return dual_norm_perturbation(grads, rho, p)
    w = wide(params)
    return jax.tree.map(jnp.multiply, w, dual_norm_perturbation(jax.tree.map(jnp.multiply, w, wide(grads)), rho, p))


def _largest(tree: Tree) -> Float[Array, ""]:
    """The largest absolute entry of all leaves; 0 for an empty tree, nan where one is nan."""
    peaks = [jnp.max(jnp.abs(a), initial=0) for a in jax.tree.leaves(tree)]
    return functools.reduce(jnp.maximum, peaks, jnp.zeros((), jnp.float32))


def _total(tree: Tree) -> Float[Array, ""]:
    """The sum of all entries of all leaves."""
    return sum((jnp.sum(a) for a in jax.tree.leaves(tree)), start=jnp.zeros((), jnp.float32))


def _or_one(a: Array) -> Array:
    """a, with 1 in place of 0: a divisor or base whose numerator is 0 there."""
    return jnp.where(a == 0, 1, a)
