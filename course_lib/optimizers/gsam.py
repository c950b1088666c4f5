"""Unit 09. GSAM: SAM that also closes the surrogate gap h(w) = f_p(w) - f(w), f_p(w) = max over ‖δ‖₂ ≤ ρ of f(w + δ).

Source: Zhuang et al. 2022 (GSAM), eq. 1-6 and Algorithm 1. g is the gradient at w, g_p the one at w + ρ g/‖g‖: a step
takes the two gradients that a SAM step takes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from course_lib.optimizers.common import Number, at, wide
from course_lib.optimizers.sam import SAMState, Tree, descend, gradient_pair, unit


def decompose(tree: Tree, onto: Tree) -> tuple[Tree, Tree]:
    """(parallel, perpendicular): the tree's parts along and across `onto`, by one inner product over all leaves (GSAM
    eq. 6). In at least float32. Where `onto` is 0 all of the tree is perpendicular to it.
    """
    tree, u = wide(tree), unit(onto)
    length = optax.tree_utils.tree_vdot(tree, u)
    parallel = jax.tree.map(lambda u: length * u, u)
    return parallel, jax.tree.map(jnp.subtract, tree, parallel)


def min_fp_h(g: Tree, g_p: Tree, alpha: Number) -> Tree:
    """g_p - α g⊥, g⊥ the part of g perpendicular to g_p: f falls back towards f_p, which stays (GSAM Algorithm 1)."""
    _, across = decompose(g, onto=g_p)
    return jax.tree.map(lambda a, b: a - alpha * b, wide(g_p), across)


def min_f_h(g: Tree, g_p: Tree, alpha: Number) -> Tree:
    """g + α g_p⊥, g_p⊥ the part of g_p perpendicular to g: f_p falls, f stays (GSAM §6.4, `min(f, h)`)."""
    _, across = decompose(g_p, onto=g)
    return jax.tree.map(lambda a, b: a + alpha * b, wide(g), across)


def min_sum(g: Tree, g_p: Tree, alpha: Number) -> Tree:
    """g_p + α (g_p - g), the gradient of f_p + α h, whose two terms may conflict (GSAM §4.1, Table 2)."""
    return jax.tree.map(lambda a, b: b + alpha * (b - a), wide(g), wide(g_p))


def gsam(
    base: optax.GradientTransformation,
    rho: Number = 0.05,
    alpha: Number = 0.4,
    combine: Callable[[Tree, Tree, Any], Tree] = min_fp_h,
    ascent_steps: int = 1,
    adaptive: bool = False,
    m: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`base`, fed with g_p - α g⊥: GSAM Algorithm 1. alpha = 0 is `sam` with p = 2.

    rho: the radius, in units of w; `rho_like_learning_rate` makes the paper's ρ_t. alpha: the ascent's weight, ≥ 0.
    combine: (g, g_p, alpha) -> direction; `min_f_h` and `min_sum` are the paper's ablations.
    ascent_steps, adaptive, m: as in `sam`, and its errors. With m the groups' mean gradients are decomposed.
    """
    pair = gradient_pair(ascent_steps=ascent_steps, adaptive=adaptive, m=m)

    def direction(loss: Callable, params: Tree, batch: Any, grads: Tree, state: SAMState) -> Tree:
        g, g_p = pair(loss, params, batch, grads, at(rho, state.count))
        return combine(g, g_p, at(alpha, state.count))

    return descend("gsam", base, direction)


def rho_like_learning_rate(
    learning_rate: optax.Schedule, lr_max: Number, rho_max: Number, lr_min: Number = 0.0, rho_min: Number = 0.0
) -> optax.Schedule:
    """ρ_t = ρ_min + (ρ_max - ρ_min)(lr_t - lr_min)/(lr_max - lr_min), GSAM Algorithm 1, kept in [ρ_min, ρ_max].

    Without the clamp a warm-up from below lr_min would make ρ_t fall below ρ_min, even below 0.
    ValueError unless lr_min < lr_max: a constant rate has no ρ_t to follow.
    """
    if not isinstance(lr_max - lr_min, jax.core.Tracer) and not lr_min < lr_max:
        raise ValueError(f"rho_like_learning_rate needs lr_min < lr_max; got {lr_min} and {lr_max}")

    def rho(count: Any) -> Any:
        fraction = jnp.clip((learning_rate(count) - lr_min) / (lr_max - lr_min), 0, 1)
        return rho_min + (rho_max - rho_min) * fraction

    return rho
