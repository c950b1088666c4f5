"""Units 08 and 10. Eigenvalues of a symmetric matrix that is only a matvec: a tree like `like` to another.

`like` gives the structure and the shapes; all is computed in at least float32. Jit what calls these more than once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from course_lib.curvature.diagonals import mean_and_error
from course_lib.curvature.products import Matvec, Tree, flat_matvec, norm, unit

Scalar = float | Float[Array, ""]


def power_iteration(
    matvec: Matvec, key: Key[Array, ""], like: Tree, max_iters: int = 100, tol: Scalar = 1e-4
) -> tuple[Float[Array, ""], Tree, Float[Array, ""]]:
    """(λ, v, ‖Av - λv‖): the eigenvalue of largest magnitude, with its sign, ‖v‖ = 1, and this very pair's residual.

    Repeats v <- Av/‖Av‖, λ = vᵀAv from a random direction until the residual is at most tol·|λ| or max_iters products
    are spent: read the residual. Some eigenvalue of A lies within it of λ. The error shrinks by |λ₂/λ₁| a product, and
    not at all where λ₂ = -λ₁: then use lanczos. ValueError for max_iters < 1.
    """
    if max_iters < 1:
        raise ValueError(f"power_iteration needs max_iters of at least 1, got {max_iters}")
    product, theta, unravel = flat_matvec(matvec, like)
    start = jax.random.normal(key, theta.shape, theta.dtype)
    zero, inf = jnp.zeros((), theta.dtype), jnp.full((), jnp.inf, theta.dtype)

    def unfinished(carry: tuple) -> Array:
        i, _, _, value, residual = carry
        return (i < max_iters) & (residual > tol * jnp.abs(value))

    def step(carry: tuple) -> tuple:
        i, _, image, _, _ = carry
        v = unit(image)
        image = product(v)
        value = v @ image
        return i + 1, v, image, value, norm(image - value * v)

    _, v, _, value, residual = jax.lax.while_loop(unfinished, step, (0, start, start, zero, inf))
    return value, unravel(v), residual


def lanczos(
    matvec: Matvec, key: Key[Array, ""], like: Tree, order: int
) -> tuple[Float[Array, " order"], Float[Array, " order-1"], Float[Array, "order P"]]:
    """(alphas, betas, basis Q) with Q A Qᵀ = T = tridiagonal(alphas, betas), by full reorthogonalisation.

    One matvec a row. Rows of Q are orthonormal, in ravel_pytree order; the first is a random direction. The eigenvalues
    of T (Ritz values) approach those at both ends of A's spectrum first. Golub & Van Loan §10.1, 10.3.

    Breakdown: where the Krylov space is exhausted, that beta is 0 and a new direction, orthogonal to all rows, goes on,
    so repeated eigenvalues are found too. For order > P the rows, alphas and betas past P are zeros: drop them.
    Memory: order·P numbers. ValueError for order < 1.
    """
    if order < 1:
        raise ValueError(f"lanczos needs an order of at least 1, got {order}")
    product, theta, _ = flat_matvec(matvec, like)
    noise = 10 * jnp.finfo(theta.dtype).eps

    def fresh(basis: Array) -> Array:
        """The part outside the rows' span of the coordinate vector that is farthest from it."""
        outside = 1 - jnp.sum(basis**2, axis=0)
        return _orthogonal_to(basis, jax.nn.one_hot(jnp.argmax(outside), theta.size, dtype=theta.dtype))

    def step(carry: tuple, i: Array) -> tuple[tuple, tuple]:
        basis, q, largest = carry
        basis = basis.at[i].set(q)
        image = product(q)
        rest = _orthogonal_to(basis, image)
        largest, beta = jnp.maximum(largest, norm(image)), norm(rest)
        broken = beta <= noise * largest  # only rounding is left of the image
        rest = jax.lax.cond(broken, lambda: fresh(basis), lambda: rest)
        return (basis, unit(rest), largest), (q @ image, jnp.where(broken, 0, beta))

    rows = min(order, theta.size)
    start = unit(jax.random.normal(key, theta.shape, theta.dtype))
    carry = jnp.zeros((order, theta.size), theta.dtype), start, jnp.zeros((), theta.dtype)
    (basis, _, _), coefficients = jax.lax.scan(step, carry, jnp.arange(rows))
    alphas, betas = (jnp.pad(c, (0, order - rows)) for c in coefficients)
    return alphas, betas[: order - 1], basis


def tridiagonal(alphas: Float[Array, " k"], betas: Float[Array, " k-1"]) -> Float[Array, "k k"]:
    """T: alphas on the diagonal, betas above and below it. jnp.linalg.eigvalsh(T) are the Ritz values, ascending."""
    return jnp.diag(alphas) + jnp.diag(betas, 1) + jnp.diag(betas, -1)


def spectral_density(
    matvec: Matvec,
    key: Key[Array, ""],
    like: Tree,
    grid: Float[Array, " m"],
    width: Scalar,
    order: int = 30,
    num_probes: int = 8,
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """(density at the points of `grid`, its standard error over the probes): the eigenvalues' histogram, smoothed.

    φ(t) = (1/P) Σ_i N(t; λ_i, width²), by stochastic Lanczos quadrature: each probe's Ritz values, with the squared
    first entries of T's eigenvectors as weights. Its integral over all t is 1, so over `grid` it is 1 where the grid
    reaches several widths beyond the spectrum and its spacing is below the width. width: a standard deviation, in the
    unit of the eigenvalues. One probe: the error is nan. Ghorbani, Krishnan & Xiao 2019, alg. 1 and 2.
    """

    def draw(key: Array) -> Array:
        alphas, betas, _ = lanczos(matvec, key, like, order)
        values, vectors = jnp.linalg.eigh(tridiagonal(alphas, betas))
        return jax.scipy.stats.norm.pdf(grid[:, None], values, width) @ vectors[0] ** 2

    return mean_and_error(draw, key, num_probes)


def _orthogonal_to(basis: Float[Array, "k P"], v: Float[Array, " P"]) -> Float[Array, " P"]:
    """v less its part in the rows' span. Twice, since one pass leaves what rounding put back; zero rows do nothing."""
    v = v - (basis @ v) @ basis
    return v - (basis @ v) @ basis
