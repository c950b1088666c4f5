"""Units 02 (Hv), 03 (Fv, Gv), 04 (F̄v). Curvature times a vector: pytree in, pytree out, nothing P x P is formed.

v is a tree like params, of any float dtype; ValueError or TypeError where its structure or shapes differ. All is
computed and returned in the dtype of params, in at least float32. `lambda v: hvp(loss, params, batch, v)` is the matvec
that diagonals and spectrum take.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from course_lib.models import Batch, Model, Params, checked

Tree = Any  # a pytree like params
Loss = Callable[[Any, Any], Array]  # loss(params, batch) -> ()
Matvec = Callable[[Any], Any]  # a symmetric linear map: a tree like params to another


def hvp(loss: Loss, params: Params, batch: Any, v: Tree) -> Tree:
    """Hv = d/dε ∇h(θ + εv) at ε = 0: the derivative of the gradient along v, forward over reverse.

    AdaHessian eq. 8 writes it d(gᵀv)/dθ: the same vector, since H is symmetric, but reverse over reverse costs more.
    """
    return value_grad_hvp(loss, params, batch, v)[2]


def value_grad_hvp(loss: Loss, params: Params, batch: Any, v: Tree) -> tuple[Float[Array, ""], Tree, Tree]:
    """(h(θ), ∇h(θ), Hv) from one linearisation: the gradient is a by-product of Hv. At most three gradients' FLOPs."""
    at = wide(params)
    value_and_grad = jax.value_and_grad(lambda p: loss(p, batch))
    (value, grad), (_, product) = jax.jvp(value_and_grad, (at,), (cast_like(v, at),))
    return value, grad, product


def fisher_vp(model: Model, params: Params, batch: Batch, v: Tree) -> Tree:
    """Fv = mean Jᵀ F_R(z) J v, J = dz/dθ, F_R in closed form: exact, nothing is sampled. Martens §5, §9.

    The batch's y is ignored: (x, None) works too. Memory: n matrices (k, k) beside the passes.
    """

    def middle(z: Float[Array, "n k"], dz: Float[Array, "n k"]) -> Float[Array, "n k"]:
        return jax.vmap(lambda z, dz: model.likelihood.fisher(z) @ dz)(z, dz)

    x, _ = checked((batch[0], batch[0]))
    return _sandwich(lambda p: model.outputs(p, x), params, v, middle)


def gauss_newton_vp(model: Model, params: Params, batch: Batch, v: Tree) -> Tree:
    """Gv = mean Jᵀ H_L J v, H_L the Hessian of L(y, z) = nll in z at the batch's y. Martens §9.

    Equal to Fv where z is the natural parameter of an exponential family.
    """
    x, y = checked(batch)

    def middle(z: Float[Array, "n k"], dz: Float[Array, "n k"]) -> Float[Array, "n k"]:
        slopes = jax.vmap(jax.grad(model.likelihood.nll))
        return jax.jvp(lambda z: slopes(z, y), (z,), (dz,))[1]

    return _sandwich(lambda p: model.outputs(p, x), params, v, middle)


def empirical_fisher_vp(model: Model, params: Params, batch: Batch, v: Tree) -> Tree:
    """F̄v = mean s_i (s_iᵀ v) with the batch's own y: NOT the Fisher (Martens §11, unit 04).

    The n scores are never formed: they are the Jacobian of the vector of nlls, up to a sign that cancels.
    """
    x, y = checked(batch)

    def nlls(p: Params) -> Float[Array, " n"]:
        return jax.vmap(model.likelihood.nll)(model.outputs(p, x), y)

    return _sandwich(nlls, params, v, lambda nll, dnll: dnll)


def _sandwich(f: Callable, params: Params, v: Tree, middle: Callable) -> Tree:
    """Jᵀ middle(z, J v) / n with z = f(params): (n, ...) and J = dz/dθ, both products from one linearisation of f."""
    at = wide(params)
    z, push = jax.linearize(lambda p: wide(f(p)), at)
    pull = jax.linear_transpose(push, at)
    return pull(middle(z, push(cast_like(v, at))) / len(z))[0]


def flat_matvec(matvec: Matvec, like: Tree) -> tuple[Callable, Float[Array, " P"], Callable]:
    """(A, theta, unravel): A is matvec on vectors (P,), theta is `like` as one vector, in at least float32.

    matvec is given trees of `like`'s structure and shapes, half-precision leaves widened to float32.
    """
    theta, unravel = ravel_pytree(wide(like))
    return (lambda v: ravel_pytree(matvec(unravel(v)))[0].astype(theta.dtype)), theta, unravel


def norm(v: Float[Array, " P"]) -> Float[Array, ""]:
    """‖v‖₂, scaled by the largest entry first, so that squares neither overflow nor vanish (1e-25 does in float32)."""
    largest = jnp.max(jnp.abs(v), initial=0)
    return largest * jnp.linalg.norm(v / jnp.where(largest > 0, largest, 1))


def unit(v: Float[Array, " P"]) -> Float[Array, " P"]:
    """v/‖v‖₂, and 0 for v = 0."""
    size = norm(v)
    return v / jnp.where(size > 0, size, 1)


def wide(tree: Tree) -> Tree:
    """Every leaf in at least float32: norms and moments of half-precision numbers overflow or vanish. float64 stays."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.promote_types(jnp.result_type(a), jnp.float32)), tree)


def cast_like(tree: Tree, like: Tree) -> Tree:
    """Every leaf in the dtype of the leaf of `like` in its place, so that no dtype drifts from step to step."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), tree, like)
