"""Unit 02. The bank of exercise 02: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 02.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse.linalg
from numpy.typing import ArrayLike, DTypeLike

from course_lib.checks import Case, Exercise

FLOATS = (np.float64, np.float32)


# ---- inputs: functions with their derivatives in closed form, so that no mistake has to trace and compile them ----


@dataclass(frozen=True)
class _Quartic:
    """p x⁴/4 + q x²/2 + r x + s."""

    p: Any
    q: Any
    r: Any
    s: Any

    def __call__(self, x):
        return self.p * x**4 / 4 + self.q * x**2 / 2 + self.r * x + self.s

    def slope(self, x):
        return self.p * x**3 + self.q * x + self.r

    def curvature(self, x):
        return 3 * self.p * x**2 + self.q


@dataclass(frozen=True)
class _Waves:
    """Σ sin(Aθ): a dense, indefinite Hessian where A has more rows than columns."""

    a: np.ndarray

    def __call__(self, theta):
        return jnp.sum(jnp.sin(self.a @ theta))

    def derivatives(self, theta):
        """(H, g)."""
        z = self.a @ np.asarray(theta)
        return -self.a.T @ (np.sin(z)[:, None] * self.a), self.a.T @ np.cos(z)


@dataclass(frozen=True)
class _Bowl:
    """½ θᵀAθ + bᵀθ + Σ θ⁴."""

    a: np.ndarray
    b: np.ndarray

    def __call__(self, theta):
        return 0.5 * theta @ self.a @ theta + self.b @ theta + (theta**4).sum()

    def derivatives(self, theta):
        """(H, g)."""
        theta = np.asarray(theta)
        return self.a + 12 * np.diag(theta**2), self.a @ theta + self.b + 4 * theta**3


def _cast(values: ArrayLike, dtype: DTypeLike) -> jax.Array:
    return jnp.asarray(np.asarray(values, dtype))


def _curve_cases(rng: np.random.Generator) -> list[Case]:
    """(f, x, num_steps): quartics, convex at x and, in the last case, concave; f, f' and f'' differ and are not 0."""

    def case(curvature: float, x: float, num_steps: int, dtype: DTypeLike) -> Case:
        p, r, s = rng.uniform(0.5, 1.5, 3)
        return _Quartic(*np.asarray([p, curvature, r, s], dtype)), _cast(x, dtype), num_steps

    bowl, start = rng.uniform(0.5, 1.5), rng.uniform(1.2, 1.8)
    convex = [case(bowl, start, 1, np.float64), case(bowl, -start, 3, np.float64), case(bowl, start, 2, np.float32)]
    return [*convex, case(-rng.uniform(2, 3), rng.uniform(0.1, 0.2), 2, np.float64)]


def _symmetric(rng: np.random.Generator, eigenvalues: np.ndarray) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(len(eigenvalues), len(eigenvalues))))
    return (q * eigenvalues) @ q.T


def _eigenvalues(rng: np.random.Generator, size: int, lowest: float) -> np.ndarray:
    """From `lowest` (of either sign) and then at least 0.4 up to 3: well conditioned, so that float32 is enough."""
    return np.r_[lowest, 0.4, rng.uniform(0.6, 2.5, size - 3), 3]


def _hvp_cases(rng: np.random.Generator) -> list[Case]:
    """(h, θ, v)."""
    rows, size = int(rng.integers(7, 10)), int(rng.integers(3, 6))

    def case(dtype: DTypeLike) -> Case:
        a, theta, v = (np.asarray(rng.normal(size=s), dtype) for s in ((rows, size), size, size))
        return _Waves(a), jnp.asarray(theta), jnp.asarray(v)

    return [case(np.float64), case(np.float64), case(np.float32)]


def _damping_cases(rng: np.random.Generator) -> list[Case]:
    """(h, θ, λ): convex quartics, and one whose Hessian at θ has the eigenvalue -1, with a λ beyond 1."""
    size = int(rng.integers(4, 7))

    def case(lowest: float, damping: float, dtype: DTypeLike) -> Case:
        a = _symmetric(rng, _eigenvalues(rng, size, lowest)).astype(dtype)
        b, theta = rng.normal(size=size).astype(dtype), 0.05 * rng.normal(size=size).astype(dtype)
        return _Bowl(a, b), _cast(theta, dtype), damping

    small, large = float(rng.uniform(0.3, 0.6)), float(rng.uniform(1.6, 2.4))
    return [case(0.5, small, np.float64), case(-1, large, np.float64), case(0.5, small, np.float32)]


def _cg_cases(rng: np.random.Generator) -> list[Case]:
    """(matvec, b, num_steps): fewer steps than unknowns, so that nothing has converged."""
    size = int(rng.integers(6, 9))

    def case(num_steps: int, dtype: DTypeLike) -> Case:
        a = _symmetric(rng, _eigenvalues(rng, size, 0.2)).astype(dtype)
        return lambda v: a @ v, _cast(rng.normal(size=size), dtype), num_steps

    return [case(1, np.float64), case(2, np.float64), case(4, np.float64), case(3, np.float32)]


def _search_cases(rng: np.random.Generator) -> list[Case]:
    """(h, θ, d, g, c, max_halvings): bowls along whose d Armijo's condition holds up to a chosen t, never near a tie.

    The last is a bowl upside down: t = 1 wins more than the slope promises, and no t up to 1 wins anything along -d.
    With s = -gᵀd and q = dᵀAd it holds up to t = 2 (1 - c) s/q; the length of d sets that, the scale of A sets ‖g‖²/s.
    """
    size = int(rng.integers(2, 5))

    def case(c: float, halvings: int, place: float, ratio: float, most: int = 12) -> Case:
        a = _symmetric(rng, rng.uniform(0.5, 2, size))
        theta = rng.normal(size=size)
        d = -(a @ theta) - 0.3 * theta
        limit = 2 * (1 - c) * (-theta @ a @ d) / (d @ a @ d)
        d = d * limit / (2.0**-halvings * place)
        a = a * (ratio * -theta @ a @ d) / (theta @ a @ a @ theta)
        return lambda t: 0.5 * t @ a @ t, jnp.asarray(theta), jnp.asarray(d), jnp.asarray(a @ theta), c, most

    cases = [
        case(c, halvings, place, ratio)
        for c, ratio in ((1e-4, 1.0), (0.3, 0.3), (0.5, 1.6), (0.7, 0.2))
        for halvings, place in ((0, 1.15), (2, 1.5), (3, 1.85))
    ]
    cases = [*cases, case(0.4, 6, 1.5, 0.5, most=4)]
    peak, theta = -_symmetric(rng, rng.uniform(0.5, 2, size)), rng.normal(size=size)
    g = peak @ theta
    concave = lambda t: 0.5 * t @ peak @ t, *map(jnp.asarray, (theta, 0.3 * theta, g)), 0.3, 12
    return [*cases, concave]


def _region_cases(rng: np.random.Generator) -> list[Case]:
    """(g, H, Δ): H ≻ 0 with Newton's step inside and outside the ball, indefinite H with H⁻¹g inside and outside."""
    size = int(rng.integers(4, 7))

    def case(lowest: float, share: float) -> Case:
        matrix, g = _symmetric(rng, _eigenvalues(rng, size, lowest)), rng.normal(size=size)
        return jnp.asarray(g), jnp.asarray(matrix), share * float(np.linalg.norm(np.linalg.solve(matrix, g)))

    shares = rng.uniform(1.5, 2), rng.uniform(0.3, 0.6)
    return [case(lowest, share) for lowest in (0.5, -1.2) for share in shares]


# ---- 1. newton_1d ----


def _iterate(update: Callable) -> Callable:
    """num_steps times x <- update(f, f', f'', x), with the derivatives in closed form."""

    def run(f, x, num_steps):
        x = np.asarray(x)[()]
        with np.errstate(all="ignore"):  # some mistakes run away
            for _ in range(num_steps):
                x = update(f, f.slope, f.curvature, x)
        return x

    return run


def newton_1d(f, x, num_steps):
    """num_steps times x <- x - f'/f''."""
    slope = jax.grad(f)
    curvature = jax.grad(slope)
    for _ in range(num_steps):
        x = x - slope(x) / curvature(x)
    return x


_exact = _iterate(lambda f, f1, f2, x: x - f1(x) / f2(x))


def _newton_1d_by_jvp(f, x, num_steps):
    def body(_, x):
        slope, curvature = jax.jvp(jax.grad(f), (x,), (jnp.ones_like(x),))
        return x - slope / curvature

    return jax.lax.fori_loop(0, num_steps, body, x)


def _newton_1d_by_hessian(f, x, num_steps):
    if num_steps == 0:
        return x
    d = -jax.jacrev(f)(x) / jax.hessian(f)(x)
    return _newton_1d_by_hessian(f, x + d, num_steps - 1)


def _old_curvature(f, x, num_steps):
    x = np.asarray(x)[()]
    return _iterate(lambda f, f1, f2, now: now - f1(now) / f2(x))(f, x, num_steps)


NEWTON_1D = Exercise(
    reference=newton_1d,
    inputs=_curve_cases,
    right=(_newton_1d_by_jvp, _newton_1d_by_hessian),
    mistakes={
        "the sign is turned: you add f'/f''. Where f'' > 0 the step must go against f', downhill (lecture 02, §2).": (
            _iterate(lambda f, f1, f2, x: x + f1(x) / f2(x))
        ),
        "this is f/f', Newton's method for a root of f. A minimum is a root of f': everything has one derivative more, "
        "f'/f'' (lecture 02, §2).": _iterate(lambda f, f1, f2, x: x - f(x) / f1(x)),
        "you divide by f where f'' belongs. Look at the units: f'/f is one over metres, and a step is in metres "
        "(lecture 02, §2).": _iterate(lambda f, f1, f2, x: x - f1(x) / f(x)),
        "you multiply by f'' where you have to divide: a strong curvature asks for a SHORT step (lecture 02, §2).": (
            _iterate(lambda f, f1, f2, x: x - f1(x) * f2(x))
        ),
        "this is gradient descent with step size 1: f'' is missing. Newton's step size is 1/f'' (lecture 02, §2).": (
            _iterate(lambda f, f1, f2, x: x - f1(x))
        ),
        "the quotient is upside down: f''/f' instead of f'/f''. At the minimum, where f' is 0, it would blow up "
        "(lecture 02, §2).": _iterate(lambda f, f1, f2, x: x - f2(x) / f1(x)),
        "this is one step, whatever num_steps is. Repeat it, and take f' and f'' anew at each x (lecture 02, §2).": (
            lambda f, x, num_steps: _exact(f, x, 1)
        ),
        "f'' is taken once, at the start, and kept. Then the error shrinks by a constant factor; it is squared only "
        "if f'' is that of the present x (lecture 02, §2).": _old_curvature,
        "this is right where f'' > 0 and not where f'' < 0: you divide by |f''|. That is a good idea for descent, but "
        "a root of f' is asked for, and its tangent has the sign of f'' (lecture 02, §2).": _iterate(
            lambda f, f1, f2, x: x - f1(x) / np.abs(f2(x))
        ),
        "this is half of Newton's step: the model is f + f'd + ½f''d², and its derivative f' + f''d has no ½ left "
        "(lecture 02, §2).": _iterate(lambda f, f1, f2, x: x - 0.5 * f1(x) / f2(x)),
        "this is one step fewer than num_steps (lecture 02, §2).": (
            lambda f, x, num_steps: _exact(f, x, num_steps - 1)
        ),
        "this is one step more than num_steps (lecture 02, §2).": (lambda f, x, num_steps: _exact(f, x, num_steps + 1)),
        "you return the last step and not the place: x + the step is asked for (lecture 02, §2).": (
            lambda f, x, num_steps: _exact(f, x, num_steps) - _exact(f, x, num_steps - 1)
        ),
    },
)


# ---- 2. hvp ----


def hvp(h, theta, v):
    """Hv, the derivative of the gradient along v."""
    return jax.jvp(jax.grad(h), (theta,), (v,))[1]


def _of_derivatives(change: Callable) -> Callable:
    """A wrong product: change(H, g, v) with NumPy arrays."""
    return lambda h, theta, v: change(*h.derivatives(theta), np.asarray(v))


HVP = Exercise(
    reference=hvp,
    inputs=_hvp_cases,
    right=(
        lambda h, theta, v: jax.grad(lambda t: jax.grad(h)(t) @ v)(theta),
        lambda h, theta, v: jax.hessian(h)(theta) @ v,
    ),
    mistakes={
        "you multiply the gradient by v, entry by entry. Hv is how the gradient CHANGES along v: entry i is "
        "Σ_j H_ij v_j (lecture 02, §5).": _of_derivatives(lambda H, g, v: g * v),
        "this is the diagonal of H times v, entry by entry: the entries of H off the diagonal are missing. "
        "Hv mixes all coordinates of v (lecture 02, §5).": _of_derivatives(lambda H, g, v: np.diag(H) * v),
        "H * v multiplies each column of H by an entry of v, a matrix. The product with a vector also adds up the "
        "columns: H @ v (lecture 02, §5).": _of_derivatives(lambda H, g, v: H * v),
        "this is gᵀv, one number: the change of the loss along v. Hv is the change of the GRADIENT along v, a vector "
        "(lecture 02, §5).": _of_derivatives(lambda H, g, v: g @ v),
        "this is vᵀHv, one number. Hv itself is asked for, a vector (lecture 02, §5).": _of_derivatives(
            lambda H, g, v: v @ H @ v
        ),
        "this is Hg/‖g‖, the gradient of the NORM of the gradient: v does not occur in it (lecture 02, §5).": (
            _of_derivatives(lambda H, g, v: H @ g / np.linalg.norm(g))
        ),
        "this is Hg, the derivative of the gradient along the gradient. The direction is v (lecture 02, §5).": (
            _of_derivatives(lambda H, g, v: H @ g)
        ),
        "these are the row sums of H, its product with a vector of ones. The direction is v itself "
        "(lecture 02, §5).": _of_derivatives(lambda H, g, v: H.sum(axis=1)),
        "the row sums of H are multiplied by v, entry by entry. Put v in as the direction, and do not multiply after "
        "(lecture 02, §5).": _of_derivatives(lambda H, g, v: H.sum(axis=1) * v),
        "this is H⁻¹v: you solve with H where you have to multiply by it (lecture 02, §5).": _of_derivatives(
            lambda H, g, v: np.linalg.solve(H, v)
        ),
        "the direction is divided by its length. Hv is linear in v: twice the v gives twice the product "
        "(lecture 02, §5).": _of_derivatives(lambda H, g, v: H @ v / np.linalg.norm(v)),
        "this is g (gᵀv), a product with the matrix g gᵀ. That is an outer product of gradients, not a matrix of "
        "second derivatives (lecture 02, §5).": _of_derivatives(lambda H, g, v: g * (g @ v)),
        "you return the gradient, jvp's first result. It gives a pair, the value and its derivative along v: "
        "the second is Hv (lecture 02, §5).": _of_derivatives(lambda H, g, v: g),
        "the gradient is taken at v: derivatives of h are taken at θ, and v is only the direction (lecture 02, §5).": (
            lambda h, theta, v: h.derivatives(v)[0] @ np.asarray(v)
        ),
    },
)


# ---- 3. damped_newton_step ----


def damped_newton_step(h, theta, damping):
    """d = -(H + λI)⁻¹ g."""
    matrix = jax.hessian(h)(theta) + damping * jnp.eye(theta.size, dtype=theta.dtype)
    return -jnp.linalg.solve(matrix, jax.grad(h)(theta))


def _damped_by_eigenvectors(h, theta, damping):
    H, g = h.derivatives(theta)
    values, vectors = np.linalg.eigh(H)
    return (-vectors @ ((vectors.T @ g) / (values + damping))).astype(theta.dtype)


def _damped_by_penalty(h, theta, damping):
    def penalised(t):  # its own Newton step: the penalty has no gradient at θ
        return h(t) + 0.5 * damping * jnp.sum((t - theta) ** 2)

    return -jnp.linalg.inv(jax.hessian(penalised)(theta)) @ jax.grad(penalised)(theta)


def _of_model(change: Callable) -> Callable:
    """A wrong step: change(H, g, λ, I) with NumPy arrays, in the dtype of θ."""
    return _of_model_at(lambda H, g, damping, eye, theta: change(H, g, damping, eye))


def _of_model_at(change: Callable) -> Callable:
    """The same for change(H, g, λ, I, θ)."""

    def step(h, theta, damping):
        H, g = h.derivatives(theta)
        return np.asarray(change(H, g, damping, np.eye(g.size, dtype=g.dtype), np.asarray(theta)), g.dtype)

    return step


def _solve(a, b):
    return np.linalg.solve(a, b)


DAMPED_NEWTON_STEP = Exercise(
    reference=damped_newton_step,
    inputs=_damping_cases,
    right=(_damped_by_eigenvectors, _damped_by_penalty),
    mistakes={
        "the sign is turned: this step goes uphill where H + λI is positive definite. The model g + (H + λI)d is zero "
        "at MINUS the solution (lecture 02, §4).": _of_model(lambda H, g, lam, eye: _solve(H + lam * eye, g)),
        "you multiply by H + λI where you have to solve with it. Steep directions need short steps; and Hg is not in "
        "the units of θ (lecture 02, §3).": _of_model(lambda H, g, lam, eye: -(H + lam * eye) @ g),
        "you multiply by H: this is -Hg, minus the gradient of ½‖g‖². Newton's step solves with H (lecture 02, §3).": (
            _of_model(lambda H, g, lam, eye: -H @ g)
        ),
        "λ is added after the inverse: -(H⁻¹ + λI)g. That leaves the dangerous H⁻¹ as it is and adds a gradient step. "
        "Add λ to H, then solve (lecture 02, §4).": _of_model(
            lambda H, g, lam, eye: -(np.linalg.inv(H) + lam * eye) @ g
        ),
        "λ is added to every entry of H: NumPy adds a number everywhere. Only the diagonal gets it, "
        "λ times the identity (lecture 02, §4).": _of_model(lambda H, g, lam, eye: -_solve(H + lam, g)),
        "the damping is missing: this is Newton's own step, which goes to a saddle as gladly as to a minimum "
        "(lecture 02, §4).": _of_model(lambda H, g, lam, eye: -_solve(H, g)),
        "λ is left out where H is positive definite, and added elsewhere. Here it is always added: it also "
        "shortens a step (lecture 02, §4).": _of_model(
            lambda H, g, lam, eye: -_solve(H + lam * eye * (np.linalg.eigvalsh(H)[0] <= 0), g)
        ),
        "λ is subtracted: H - λI has smaller eigenvalues than H, or negative ones. Damping raises them "
        "(lecture 02, §4).": _of_model(lambda H, g, lam, eye: -_solve(H - lam * eye, g)),
        "only the diagonal of H is used: -g / (diag H + λ). The equation is coupled, "
        "solve with the whole matrix (lecture 02, §4).": _of_model(lambda H, g, lam, eye: -g / (np.diag(H) + lam)),
        "you scale the diagonal by 1 + λ. That is Marquardt's damping, λ diag(H); here it is λI, which also lifts a "
        "diagonal that is negative (lecture 02, §4).": _of_model(
            lambda H, g, lam, eye: -_solve(H + lam * np.diag(np.diag(H)), g)
        ),
        "the undamped step is divided by λ. Damping is added to H before solving, so that flat directions are damped "
        "most (lecture 02, §4).": _of_model(lambda H, g, lam, eye: -_solve(H, g) / lam),
        "this is -g/λ, a gradient step: the limit for large λ, without H (lecture 02, §4).": _of_model(
            lambda H, g, lam, eye: -g / lam
        ),
        "the undamped step is divided by 1 + λ, so all directions are shortened alike. λ belongs on the diagonal of H, "
        "before solving (lecture 02, §4).": _of_model(lambda H, g, lam, eye: -_solve(H, g) / (1 + lam)),
        "you return the new θ. The step d alone is asked for (lecture 02, §4).": _of_model_at(
            lambda H, g, lam, eye, theta: theta - _solve(H + lam * eye, g)
        ),
        "the gradient is divided by its length. Newton's step needs the whole of it: near a minimum it must shrink "
        "(lecture 02, §3).": _of_model(lambda H, g, lam, eye: -_solve(H + lam * eye, g / np.linalg.norm(g))),
    },
)


# ---- 4. conjugate_gradient ----


def _cg(
    length: Callable = lambda r, p, Ap: r @ r / (p @ Ap),
    beta: Callable = lambda new, old, p, Ap: new @ new / (old @ old),
    rest: Callable = lambda r, a, Ap, b: r - a * Ap,
    turn: Callable = lambda new, old, p, beta: new + beta * p,
    move: Callable = lambda r, p: p,
) -> Callable:
    """CG from x = 0, with parts that a mistake replaces."""

    def run(matvec, b, num_steps):
        b = np.asarray(b)
        x, r, p = np.zeros_like(b), b, b
        for _ in range(num_steps):
            Ap = matvec(p)
            a = length(r, p, Ap)
            x, new = x + a * move(r, p), rest(r, a, Ap, b)
            p, r = turn(new, r, p, beta(new, r, p, Ap)), new
        return x

    return run


def conjugate_gradient(matvec, b, num_steps):
    """x after num_steps steps of CG from 0."""
    return _cg()(matvec, b, num_steps)


def _cg_with_the_next_direction(matvec, b, num_steps):
    b = np.asarray(b)
    x, r, p = np.zeros_like(b), b, b
    for _ in range(num_steps):
        Ap = matvec(p)
        a = r @ r / (p @ Ap)
        new = r - a * Ap
        p = new + new @ new / (r @ r) * p
        x, r = x + a * p, new
    return x


def _best_in_krylov_space(matvec, b, num_steps):
    columns = [np.asarray(b, float)]
    for _ in range(num_steps - 1):
        columns.append(np.asarray(matvec(_cast(columns[-1], b.dtype)), float))
    q, _ = np.linalg.qr(np.stack(columns, axis=1))
    image = np.stack([np.asarray(matvec(_cast(c, b.dtype)), float) for c in q.T], axis=1)
    return (q @ np.linalg.solve(q.T @ image, q.T @ np.asarray(b, float))).astype(b.dtype)


def _scipy_cg(matvec, b, num_steps):
    operator = scipy.sparse.linalg.LinearOperator(
        (b.size, b.size), matvec=lambda v: np.asarray(matvec(_cast(v, b.dtype)))
    )
    return scipy.sparse.linalg.cg(operator, np.asarray(b), rtol=0, maxiter=num_steps)[0].astype(b.dtype)


CONJUGATE_GRADIENT = Exercise(
    reference=conjugate_gradient,
    inputs=_cg_cases,
    right=(_best_in_krylov_space, _scipy_cg),
    mistakes={
        "the first step is right and the next are not: β is upside down. It is the NEW r'ᵀr' over the old rᵀr "
        "(lecture 02, §5).": _cg(beta=lambda new, old, p, Ap: old @ old / (new @ new)),
        "the first step is right and the next are not: the residual is never updated. It is r - a·Ap after each step "
        "(lecture 02, §5).": _cg(rest=lambda r, a, Ap, b: r),
        "the first step is right and the next are not: β is missing, so this is steepest descent. Without β the "
        "directions are not conjugate (lecture 02, §5).": _cg(beta=lambda new, old, p, Ap: 0),
        "the first step is right and the next are not: the direction stays b. It is r' + βp, new each time "
        "(lecture 02, §5).": _cg(turn=lambda new, old, p, beta: p),
        "β is a ratio of norms, not of squared norms: rᵀr has no square root (lecture 02, §5).": _cg(
            beta=lambda new, old, p, Ap: np.sqrt(new @ new / (old @ old))
        ),
        "β has the wrong sign. With r' = r - a·Ap it comes out as + r'ᵀr'/rᵀr (lecture 02, §5).": _cg(
            beta=lambda new, old, p, Ap: -new @ new / (old @ old)
        ),
        "β has pᵀAp below the line, where rᵀr belongs: that is the step length's denominator. Once Ap is written as "
        "(r - r')/a, β is r'ᵀr' over the old rᵀr (lecture 02, §5).": _cg(
            beta=lambda new, old, p, Ap: new @ new / (p @ Ap)
        ),
        "β is 1 in each step: r is overwritten before β takes the old rᵀr. Keep the old value until then "
        "(lecture 02, §5).": _cg(beta=lambda new, old, p, Ap: 1),
        "the new direction is built from the old residual. r must be updated before p = r + βp (lecture 02, §5).": _cg(
            turn=lambda new, old, p, beta: old + beta * p
        ),
        "the step length lacks A: rᵀr/pᵀp is 1 at first. The minimum along p is at rᵀr over pᵀAp "
        "(lecture 02, §5).": _cg(length=lambda r, p, Ap: r @ r / (p @ p)),
        "the step length has pᵀp over pᵀAp. Above stands rᵀr (or rᵀp, which is equal): the slope along p "
        "(lecture 02, §5).": _cg(length=lambda r, p, Ap: p @ p / (p @ Ap)),
        "the residual grows: r + a·Ap. It is b - Ax, so a longer x takes A times that away (lecture 02, §5).": _cg(
            rest=lambda r, a, Ap, b: r + a * Ap
        ),
        "x moves along the residual where it should move along p, the conjugate direction (lecture 02, §5).": _cg(
            move=lambda r, p: r
        ),
        "x moves along the NEW p, with the length that belongs to the old one. Update x first, then r, β and p "
        "(lecture 02, §5).": _cg_with_the_next_direction,
        "this is one step more than asked for: num_steps is the number of products with A (lecture 02, §5).": (
            lambda matvec, b, num_steps: conjugate_gradient(matvec, b, num_steps + 1)
        ),
        "this is one step fewer than asked for. The first step goes along p = b (lecture 02, §5).": (
            lambda matvec, b, num_steps: conjugate_gradient(matvec, b, num_steps - 1)
        ),
        "this is the last residual b - Ax. The solution x is asked for (lecture 02, §5).": (
            lambda matvec, b, num_steps: b - matvec(conjugate_gradient(matvec, b, num_steps))
        ),
        "the sign of x is turned, as if the residual were Ax - b. It is b - Ax, minus the gradient "
        "(lecture 02, §5).": lambda matvec, b, num_steps: -conjugate_gradient(matvec, b, num_steps),
    },
)


# ---- 5. line_search ----


def _search(enough: Callable) -> Callable:
    """The first t of 1, ½, ¼, ... with enough(rise of h, t, slope gᵀd, d, g, c), or the last one allowed."""

    def run(h, theta, d, g, c, max_halvings):
        theta, d, g = np.asarray(theta), np.asarray(d), np.asarray(g)
        t, start = 1.0, h(theta)
        for _ in range(max_halvings):
            if enough(h(theta + t * d) - start, t, g @ d, d, g, c):
                break
            t = t / 2
        return t

    return run


_line_search = _search(lambda rise, t, slope, d, g, c: rise <= c * t * slope)


def line_search(h, theta, d, g, c, max_halvings):
    """The first t of 1, ½, ¼, ... with h(θ + td) <= h(θ) + c t gᵀd, or the last one allowed."""
    return _line_search(h, theta, d, g, c, max_halvings)


def _line_search_recursive(h, theta, d, g, c, max_halvings, t=1.0):
    if max_halvings == 0 or h(theta + t * d) <= h(theta) + c * t * jnp.dot(g, d):
        return t
    return _line_search_recursive(h, theta, d, g, c, max_halvings - 1, t / 2)


def _line_search_table(h, theta, d, g, c, max_halvings):
    lengths = 0.5 ** np.arange(max_halvings + 1)
    losses = np.array([float(h(theta + t * d)) for t in lengths])
    ok = losses <= float(h(theta)) + c * lengths * float(g @ d)
    return lengths[np.argmax(ok) if ok.any() else -1]


def _best_of_all(h, theta, d, g, c, max_halvings):
    lengths = 0.5 ** np.arange(max_halvings + 1)
    return lengths[np.argmin([float(h(theta + t * d)) for t in lengths])]


def _shifted(factor: float) -> Callable:
    return lambda h, theta, d, g, c, most: factor * line_search(h, theta, d, g, c, most)


LINE_SEARCH = Exercise(
    reference=line_search,
    inputs=_search_cases,
    right=(_line_search_recursive, _line_search_table),
    mistakes={
        "t is accepted where the loss RISES: with h - c·t·gᵀd on the right, which lies above h because gᵀd < 0. It is "
        "h + c·t·gᵀd (lecture 02, §4).": _search(lambda rise, t, slope, d, g, c: rise <= -c * t * slope),
        "you use ‖g‖² where the slope along d belongs. The loss falls at the rate gᵀd along d; only for d = -g is that "
        "-‖g‖² (lecture 02, §4).": _search(lambda rise, t, slope, d, g, c: rise <= -c * t * (g @ g)),
        "you use the norm ‖g‖ where the slope along d belongs. The promised decrease is gᵀd times t, and "
        "it depends on d (lecture 02, §4).": _search(
            lambda rise, t, slope, d, g, c: rise <= -c * t * np.linalg.norm(g)
        ),
        "you use ‖d‖² where the slope gᵀd belongs. For that d would have to be -g (lecture 02, §4).": _search(
            lambda rise, t, slope, d, g, c: rise <= -c * t * (d @ d)
        ),
        "t is missing on the right: a short step cannot promise as much as a long one. It is c·t·gᵀd "
        "(lecture 02, §4).": _search(lambda rise, t, slope, d, g, c: rise <= c * slope),
        "any decrease is accepted. Armijo asks for a share c of the promised one, or steps could win ever less and "
        "stall (lecture 02, §4).": _search(lambda rise, t, slope, d, g, c: rise <= 0),
        "c is missing: you ask for the whole decrease t·gᵀd that the slope promises, and a convex loss never gives it "
        "(lecture 02, §4).": _search(lambda rise, t, slope, d, g, c: rise <= t * slope),
        "you use 1 - c where c belongs: the share asked for is c, a small one (lecture 02, §4).": _search(
            lambda rise, t, slope, d, g, c: rise <= (1 - c) * t * slope
        ),
        "the comparison is turned: you shorten t while the condition HOLDS, and stop where it fails "
        "(lecture 02, §4).": _search(lambda rise, t, slope, d, g, c: rise > c * t * slope),
        "t is halved once too often: the t that passed the test is asked for (lecture 02, §4).": _shifted(0.5),
        "you return the t before the accepted one, which did not pass the test (lecture 02, §4).": _shifted(2),
        "t is always 1: the step is never shortened (lecture 02, §4).": lambda *arguments: 1.0,
        "you return the step t·d. The number t alone is asked for (lecture 02, §4).": (
            lambda h, theta, d, g, c, most: line_search(h, theta, d, g, c, most) * d
        ),
        "you return the new θ. The number t is asked for (lecture 02, §4).": (
            lambda h, theta, d, g, c, most: theta + line_search(h, theta, d, g, c, most) * d
        ),
        "you try θ - t·d. d leads downhill as it is: the new place is θ + t·d (lecture 02, §4).": (
            lambda h, theta, d, g, c, most: _search(lambda rise, t, slope, d, g, c: rise <= -c * t * slope)(
                h, theta, -d, g, c, most
            )
        ),
        "you return the t with the smallest loss of all. The first t that passes the test is asked for "
        "(lecture 02, §4).": _best_of_all,
        "t is halved once more than max_halvings allows, where no t passes the test (lecture 02, §4).": (
            lambda h, theta, d, g, c, most: line_search(h, theta, d, g, c, most + 1)
        ),
        "you search along -g. The direction is d (lecture 02, §4).": lambda h, theta, d, g, c, most: line_search(
            h, theta, -g, g, c, most
        ),
        "max_halvings is ignored, and one case of the check needs more. Stop after that many (lecture 02, §4).": (
            lambda h, theta, d, g, c, most: line_search(h, theta, d, g, c, 60)
        ),
    },
)


# ---- 6. trust_region_step ----


def _spectrum(g, H):
    values, vectors = np.linalg.eigh(np.asarray(H))
    return values, vectors, vectors.T @ np.asarray(g)


def _boundary(g, H, radius, lowest=None):
    """λ > lowest with ‖d(λ)‖ = radius, by halving; lowest is minus the smallest eigenvalue unless given."""
    values, _, c = _spectrum(g, H)
    low = -values[0] if lowest is None else lowest
    high = np.linalg.norm(c) / radius - values[0]
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(c / (values + middle)) > radius else (low, middle)
    return (low + high) / 2


def _damped(g, H, lam):
    return -np.linalg.solve(np.asarray(H) + lam * np.eye(len(g)), np.asarray(g))


def _inside(g, H, radius):
    return np.linalg.eigvalsh(np.asarray(H))[0] > 0 and np.linalg.norm(_damped(g, H, 0)) <= radius


def trust_region_step(g, H, radius):
    """(d, λ): the minimiser of gᵀd + ½ dᵀHd over ‖d‖ <= radius, and its multiplier."""
    lam = 0.0 if _inside(g, H, radius) else _boundary(g, H, radius)
    return _damped(g, H, lam), lam


def _region_by_newton(g, H, radius):
    """Moré and Sorensen's: Newton on 1/radius - 1/‖d(λ)‖, which is nearly linear in λ."""
    values, vectors, c = _spectrum(g, H)
    if values[0] > 0 and np.linalg.norm(c / values) <= radius:
        return -vectors @ (c / values), 0.0
    lam = np.max(np.abs(c) / radius - values)  # ‖d‖ >= radius here: Newton comes from the left and never overshoots
    for _ in range(100):
        length = np.linalg.norm(c / (values + lam))
        slope = -np.sum(c**2 / (values + lam) ** 3) / length
        lam = lam + (length - radius) / radius * length / -slope
    return -vectors @ (c / (values + lam)), lam


def _region_by_brentq(g, H, radius):
    if _inside(g, H, radius):
        return _damped(g, H, 0), 0.0
    values, _, c = _spectrum(g, H)
    # With μ = λ - λ_min > 0 the last term alone gives ‖d‖ >= |c_0|/μ.
    low, high = abs(c[0]) / radius, np.linalg.norm(c) / radius
    gap = lambda mu: 1 / radius - 1 / np.linalg.norm(c / (values - values[0] + mu))  # noqa: E731
    lam = scipy.optimize.brentq(gap, low, high, xtol=1e-14) - values[0]
    return _damped(g, H, lam), lam


def _of_region(change: Callable) -> Callable:
    """A wrong pair where the step is on the boundary: change(d, λ, g, H, radius)."""

    def step(g, H, radius):
        d, lam = trust_region_step(g, H, radius)
        return change(d, lam, np.asarray(g), np.asarray(H), radius)

    return step


def _to_length(d, radius):
    return d * (radius / np.linalg.norm(d))


def _clipped_newton(g, H, radius):
    d = _damped(g, H, 0)
    return d * min(1, radius / np.linalg.norm(d)), 0.0


def _no_test_of_definiteness(g, H, radius):
    d = _damped(g, H, 0)
    return (d, 0.0) if np.linalg.norm(d) <= radius else trust_region_step(g, H, radius)


def _damp_if_indefinite(g, H, radius):
    if np.linalg.eigvalsh(np.asarray(H))[0] > 0:
        return _damped(g, H, 0), 0.0
    return trust_region_step(g, H, radius)


def _eigenvectors_as_rows(g, H, radius):
    values, vectors, _ = _spectrum(g, H)
    d, lam = trust_region_step(vectors @ np.asarray(g), np.diag(values), radius)
    return vectors.T @ d, lam


def _always_on_the_boundary(g, H, radius):
    lam = _boundary(g, H, radius)
    return _damped(g, H, lam), lam


TRUST_REGION_STEP = Exercise(
    reference=trust_region_step,
    inputs=_region_cases,
    returns=("the first value, the step d,", "the second value, λ,"),
    rtol=1e-5,
    right=(_region_by_newton, _region_by_brentq),
    mistakes={
        "this is Newton's step with λ = 0 throughout: the radius is ignored. Outside the ball λ must grow until "
        "‖d(λ)‖ = Δ (lecture 02, §4).": lambda g, H, radius: (_damped(g, H, 0), 0.0),
        "you shorten Newton's step to the radius. A damped step also TURNS, towards -g; and for an indefinite H the "
        "shortened one may go uphill (lecture 02, §4).": _clipped_newton,
        "this goes along -g to the boundary. That is best for the linear model; the quadratic one turns the step "
        "(lecture 02, §4).": _of_region(lambda d, lam, g, H, radius: (_to_length(-g, radius), lam)),
        "the step is on the boundary even where Newton's step is inside and H ≻ 0. There λ = 0; yours is negative "
        "(lecture 02, §4).": _always_on_the_boundary,
        "for an indefinite H your step is Newton's where it fits into the ball: there it is a saddle of the model. "
        "Look at the smallest eigenvalue too, and search for λ above -λ_min only, not from 0 (lecture 02, §4).": (
            _no_test_of_definiteness
        ),
        "you take the rows of the matrix of eigenvectors. They are its columns: c = Vᵀg, "
        "and d = -V c/(λ_i + λ) (lecture 02, §4).": _eigenvectors_as_rows,
        "you damp only where H is indefinite. A positive definite H can ask for a step that is too long as well "
        "(lecture 02, §4).": _damp_if_indefinite,
        "λ is half of what (H + λI)d = -g needs, as it comes out with the constraint dᵀd <= Δ² in the Lagrangian. With "
        "½dᵀd it is the damping itself (lecture 02, §4).": _of_region(lambda d, lam, g, H, radius: (d, lam / 2)),
        "λ is twice what (H + λI)d = -g needs (lecture 02, §4).": _of_region(lambda d, lam, g, H, radius: (d, 2 * lam)),
        "the sign of d is turned: it solves (H + λI)d = +g, uphill (lecture 02, §4).": _of_region(
            lambda d, lam, g, H, radius: (-d, lam)
        ),
        "the sign of λ is turned. In (H + λI)d = -g it is never negative: it is the price of radius "
        "(lecture 02, §4).": _of_region(lambda d, lam, g, H, radius: (d, -lam)),
        "you compare ‖d‖² with Δ. Compare ‖d‖ with Δ, or the squares of both (lecture 02, §4).": (
            lambda g, H, radius: trust_region_step(g, H, np.sqrt(radius))
        ),
        "the two values are exchanged: first the step d, then λ (lecture 02, §4).": _of_region(
            lambda d, lam, g, H, radius: (lam, d)
        ),
    },
)


EXERCISES = {
    "newton_1d": NEWTON_1D,
    "hvp": HVP,
    "damped_newton_step": DAMPED_NEWTON_STEP,
    "conjugate_gradient": CONJUGATE_GRADIENT,
    "line_search": LINE_SEARCH,
    "trust_region_step": TRUST_REGION_STEP,
}
