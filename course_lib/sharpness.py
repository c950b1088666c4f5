"""Units 08-10. How sharp a minimum is, and what SAM's bound says of it.

surrogate_gap            max over the ρ-ball of L, less L            GSAM eq. 4; SAM C.6
m_sharpness              the same, a mean over groups of m examples   SAM §4.1
block_eigenvalues        the dominant eigenvalue of each block of H   Chen et al. 2022 (VIT), Table 3
ntk_condition_number     κ of the neural tangent kernel               VIT Table 1
pac_bayes_bound          the right-hand side of SAM Theorem 2         SAM eq. 4
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from course_lib.curvature.products import hvp
from course_lib.curvature.spectrum import power_iteration
from course_lib.models import Model, Params, flat_grad
from course_lib.optimizers.common import cast_like, global_norm, wide
from course_lib.optimizers.sam import dual_norm_perturbation, groups, shifted


def surrogate_gap(
    loss: Callable, params: Params, batch: Any, rho: Any, steps: int = 1, p: float = 2, start: Params | None = None
) -> Float[Array, ""]:
    """h(w) = max over ‖ε‖_p ≤ ρ of L(w + ε) - L(w), from below, in the unit of the loss.

    One step is GSAM eq. 4: ε = ρ g/‖g‖ (SAM eq. 2 for other p). Each further step solves eq. 2 anew with the gradient
    at w + ε, and the highest loss met counts, so h never falls with more steps; on a convex loss every step climbs.
    All of them go the whole ρ: where L is highest inside the ball, h is too small, even below 0.

    Take several near a minimum: there g hardly says which way is steep, and on a quadratic these steps become the power
    iteration, which ends at h = ρ² σ_max/2 (GSAM Lemma 3.3). At a minimum itself g = 0, so h = 0 unless `start`, a
    first ε like params, is given.
    """
    first = jax.tree.map(jnp.zeros_like, wide(params)) if start is None else wide(start)

    def climb(epsilon: Params, _: None) -> tuple[Params, Array]:
        grads = jax.grad(loss)(shifted(params, epsilon), batch)
        epsilon = cast_like(dual_norm_perturbation(grads, rho, p), epsilon)
        return epsilon, loss(shifted(params, epsilon), batch)

    _, values = jax.lax.scan(climb, first, length=steps)
    return jnp.max(values) - loss(params, batch)


def m_sharpness(
    loss: Callable, params: Params, batch: Any, rho: Any, m: int, steps: int = 1, p: float = 2
) -> Float[Array, ""]:
    """The mean over groups of m consecutive examples of the group's own surrogate gap (SAM §4.1). m = n is h itself.

    ValueError where m does not divide the number of examples.
    """
    return jnp.mean(jax.vmap(lambda group: surrogate_gap(loss, params, group, rho, steps, p))(groups(batch, m)))


def block_eigenvalues(
    loss: Callable, params: Mapping, batch: Any, key: Key[Array, ""], max_iters: int = 100, tol: float = 1e-4
) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """For each entry of params {name: subtree}: the eigenvalue of largest magnitude of its diagonal block of the
    Hessian, and the residual ‖Hv - λv‖ of power_iteration, which says whether to believe it. VIT Table 3.

    TypeError unless params is a mapping (of Flax's variables, pass what is under "params").
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"a block is an entry of params, so params must be a mapping; got {type(params).__name__}")

    def dominant(name: str, key: Array) -> tuple[Array, Array]:
        def block_loss(block: Any, batch: Any) -> Array:
            return loss({**params, name: block}, batch)

        def matvec(v: Any) -> Any:
            return hvp(block_loss, params[name], batch, v)

        eigenvalue, _, residual = power_iteration(matvec, key, params[name], max_iters, tol)
        return eigenvalue, residual

    return {name: dominant(name, k) for name, k in zip(params, jax.random.split(key, len(params)), strict=True)}


def ntk_condition_number(model: Model, params: Params, x: Array) -> Float[Array, ""]:
    """κ = λ_max/λ_min of the neural tangent kernel J Jᵀ, J = dz/dθ of n examples and k outputs: (n k, P). VIT Table 1.

    From the singular values of J, which keeps twice the digits. inf where n k > P: the kernel is then singular.
    Memory: n k P numbers.
    """

    def rows(x: Array) -> Array:
        outputs = jnp.eye(model.output_one(params, x).size)
        return jax.vmap(lambda e: flat_grad(lambda w: e @ model.output_one(w, x), params))(outputs)

    jacobian = jax.vmap(rows)(x)
    jacobian = jacobian.reshape(-1, jacobian.shape[-1])
    if jacobian.shape[0] > jacobian.shape[1]:
        return jnp.array(jnp.inf)
    s = jnp.linalg.svd(jacobian, compute_uv=False)
    return (s[0] / s[-1]) ** 2


def pac_bayes_bound(worst_loss: Any, params: Params, n: int, rho: Any, delta: float = 0.05) -> Float[Array, ""]:
    """max L_S(w + ε) + √[(k log(1 + ‖w‖²/ρ² (1 + √(log n / k))²) + 4 log(n/δ) + 8 log(6n + 3k)) / (n - 1)]: SAM eq. 4,
    with its Õ(1) written out as in the last line of its proof.

    worst_loss: the largest training loss in the ρ-ball, of a loss within [0, 1] (the 0-1 loss, say).
    n: training examples, at least 2. k: the number of parameters.

    It bounds the expected loss with probability 1 - δ over training sets, for a ρ chosen before seeing the data, and
    where Gaussian noise on w would not lower that loss. Above 1 it says nothing.
    """
    k = sum(a.size for a in jax.tree.leaves(params))
    spread = (global_norm(params) / rho) ** 2 * (1 + jnp.sqrt(jnp.log(n) / k)) ** 2
    complexity = k * jnp.log1p(spread) + 4 * jnp.log(n / delta) + 8 * jnp.log(6 * n + 3 * k)
    return worst_loss + jnp.sqrt(complexity / (n - 1))
