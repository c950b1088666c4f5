"""Unit 00. The bank of the self-checks in lecture 00: references, random inputs, known mistakes, other right answers.

Section numbers in the messages are those of lecture 00. References are plain loops where that saves compilation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import DTypeLike

from course_lib.checks import Case, Exercise

FLOATS = (np.float64, np.float32)


# ---- inputs: sizes differ from seed to seed, and none equals another ----


def _example_loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """A small network with one output: half the squared error of one example."""
    hidden = jnp.tanh(params["W"] @ x + params["b"])
    return 0.5 * (params["a"] @ hidden - y) ** 2


def _batch_cases(rng: np.random.Generator) -> list[Case]:
    """(loss, params, x, y): n examples, 2 inputs, 3 hidden units, so P = 12."""
    n = int(rng.integers(5, 9))

    def case(dtype: DTypeLike) -> Case:
        def draw(*shape: int) -> jax.Array:
            return jnp.asarray(rng.normal(size=shape).astype(dtype))

        return _example_loss, {"W": draw(3, 2), "a": draw(3), "b": draw(3)}, draw(n, 2), 2 + draw(n)

    return [case(dtype) for dtype in FLOATS]


def _function(rng: np.random.Generator, size: int, dtype: DTypeLike) -> tuple[Callable, jax.Array]:
    """A smooth function of `size` numbers that is no quadratic, Hessian from ¼ to about 3; and a point."""
    A = jnp.asarray((rng.normal(size=(size + 2, size)) / np.sqrt(size)).astype(dtype))
    c = jnp.asarray(rng.normal(size=size).astype(dtype))

    def f(theta: jax.Array) -> jax.Array:
        return jnp.sum(jnp.logaddexp(A @ theta, 0)) + 0.125 * theta @ theta - c @ theta

    return f, jnp.asarray(rng.normal(size=size).astype(dtype))


def _direction_cases(rng: np.random.Generator) -> list[Case]:
    """A function that bends up, then one that bends down along v: a curvature has a sign."""
    size = int(rng.integers(3, 6))

    def case(dtype: DTypeLike, less: float) -> Case:
        f, theta = _function(rng, size, dtype)
        v = rng.normal(size=size)
        v *= rng.uniform(1.5, 2.5) / np.linalg.norm(v)
        return lambda t: f(t) - less * t @ t, theta, jnp.asarray(v.astype(dtype))

    return [case(np.float64, 0.0), case(np.float32, 4.0)]


def _descent_cases(rng: np.random.Generator) -> list[Case]:
    size, num_steps = int(rng.integers(2, 4)), int(rng.integers(5, 8))

    def case(dtype: DTypeLike) -> Case:
        f, theta = _function(rng, size, dtype)
        return f, theta, float(rng.uniform(0.1, 0.3)), num_steps

    return [case(dtype) for dtype in FLOATS]


# ---- 1. gradient_norms ----


def _gradients(loss, params, x, y):
    """A pytree like params, with one axis more in front: (n, ...)."""
    return jax.vmap(jax.grad(loss), (None, 0, 0))(params, x, y)


def _rows(loss, params, x, y):
    """The gradients as rows: (n, P)."""
    return jnp.concatenate([g.reshape(len(x), -1) for g in jax.tree.leaves(_gradients(loss, params, x, y))], axis=1)


def gradient_norms(loss, params, x, y):
    """(n,): the norm of each example's gradient over all leaves together."""
    return jnp.linalg.norm(_rows(loss, params, x, y), axis=1)


def _norms_by_loop(loss, params, x, y):
    gradients = [ravel_pytree(jax.grad(loss)(params, a, b))[0] for a, b in zip(x, y, strict=True)]
    return np.array([np.sqrt(np.sum(np.asarray(g) ** 2)) for g in gradients])


def _norms_by_leaves(loss, params, x, y):
    leaves = jax.tree.leaves(_gradients(loss, params, x, y))
    return jnp.sqrt(sum(jnp.sum(g.reshape(len(x), -1) ** 2, axis=1) for g in leaves))


def _leaf_norms(loss, params, x, y):
    """(leaves, n)."""
    leaves = jax.tree.leaves(_gradients(loss, params, x, y))
    return jnp.stack([jnp.linalg.norm(g.reshape(len(x), -1), axis=1) for g in leaves])


def _of_rows(change: Callable) -> Callable:
    """A wrong answer made of the gradients (n, P)."""
    return lambda *arguments: change(_rows(*arguments))


GRADIENT_NORMS = Exercise(
    reference=gradient_norms,
    inputs=_batch_cases,
    right=(_norms_by_loop, _norms_by_leaves),
    mistakes={
        "this is one number, the norm of the mean gradient. Gradients of different examples cancel in a mean; take the "
        "norm of each, by vmap over the examples (lecture 00, §4).": _of_rows(lambda g: jnp.linalg.norm(g.mean(0))),
        "this is one number, the norm of the summed gradient. Every example has a norm of its own: vmap over the "
        "examples (lecture 00, §4).": _of_rows(lambda g: jnp.linalg.norm(g.sum(0))),
        "this is one number, the norm of all gradients together. The norm is taken for each example: inside the vmap, "
        "or over all axes but the first (lecture 00, §4).": _of_rows(jnp.linalg.norm),
        "these are the squared norms: the square root is missing (lecture 00, §9).": _of_rows(
            lambda g: jnp.sum(g**2, axis=1)
        ),
        "you added the norms of the arrays in params. The norm over all parameters together is the root of the SUM OF "
        "SQUARES, as if they were one vector: ravel_pytree makes them one (lecture 00, §5).": (
            lambda *a: _leaf_norms(*a).sum(0)
        ),
        "you took the largest of the norms of the arrays in params. All parameters together are one vector with one "
        "norm (lecture 00, §5).": lambda *a: _leaf_norms(*a).max(0),
        "the norms are of one array of params alone. All of them count: params is a pytree, and its gradient has the "
        "same arrays (lecture 00, §5).": lambda *a: _leaf_norms(*a)[0],
        "the examples are mixed: ravel_pytree over all of them puts array after array, and reshape cuts across them. "
        "Ravel the gradient of one example, inside the vmap (lecture 00, §5).": lambda *a: jnp.linalg.norm(
            ravel_pytree(_gradients(*a))[0].reshape(len(a[2]), -1), axis=1
        ),
        "the axes are exchanged: you have one number a parameter, over the examples. One an example is asked for "
        "(lecture 00, §4).": _of_rows(lambda g: jnp.linalg.norm(g, axis=0)),
        "every row was divided by n. That belongs to the gradient of the mean loss; each example's own is asked for "
        "(lecture 00, §4).": _of_rows(lambda g: jnp.linalg.norm(g, axis=1) / len(g)),
        "you differentiated in x. grad takes the first argument of the function that it is given, and argnums says "
        "otherwise: the parameters are asked for (lecture 00, §2).": lambda loss, params, x, y: jnp.linalg.norm(
            jax.vmap(jax.grad(loss, argnums=1), (None, 0, 0))(params, x, y), axis=1
        ),
        "these are the losses. Their gradients are asked for: grad inside the vmap (lecture 00, §2).": (
            lambda loss, params, x, y: jax.vmap(loss, (None, 0, 0))(params, x, y)
        ),
        "you added up the absolute values. The norm ‖·‖₂ is the root of the sum of squares (lecture 00, §5).": _of_rows(
            lambda g: jnp.abs(g).sum(1)
        ),
    },
)


# ---- 2. curvature_along ----


def curvature_along(f, theta, v):
    """vᵀ H v."""
    return v @ jax.jvp(jax.grad(f), (theta,), (v,))[1]


def _second_derivative(f, theta, v):
    return jax.grad(jax.grad(lambda t: f(theta + t * v)))(jnp.zeros((), theta.dtype))


def _of_derivatives(change: Callable) -> Callable:
    """A wrong number: change(gradient, Hessian, v)."""
    return lambda f, theta, v: change(jax.grad(f)(theta), jax.hessian(f)(theta), v)


CURVATURE_ALONG = Exercise(
    reference=curvature_along,
    inputs=_direction_cases,
    right=(_second_derivative, lambda f, theta, v: v @ jax.hessian(f)(theta) @ v),
    mistakes={
        "this is the slope gᵀv, the FIRST derivative along v. You took jvp of f, or the first of the two values of jvp "
        "of grad, which is the gradient: Hv is the second (lecture 00, §3).": _of_derivatives(lambda g, H, v: g @ v),
        "this is the vector Hv. The curvature along v is the number vᵀHv: its product with v (lecture 00, §3).": (
            _of_derivatives(lambda g, H, v: H @ v)
        ),
        "this is half of it. The ½ belongs to the second-order term of a Taylor series; the curvature is vᵀHv itself "
        "(lecture 00, §3).": _of_derivatives(lambda g, H, v: 0.5 * v @ H @ v),
        "you divided by vᵀv, or made v a unit vector first. Here v counts with its length: twice as long, four times "
        "the number (lecture 00, §9).": _of_derivatives(lambda g, H, v: v @ H @ v / (v @ v)),
        "you divided by the length of v once. Here v counts with its length, twice, and nothing is divided "
        "(lecture 00, §9).": _of_derivatives(lambda g, H, v: v @ H @ v / jnp.linalg.norm(v)),
        "this is Σ H_ii v_i²: the diagonal of H alone. The entries beside it count too; jvp of grad has them all "
        "(lecture 00, §3).": _of_derivatives(lambda g, H, v: jnp.diag(H) @ v**2),
        "this is gᵀHv: you multiplied Hv with the gradient, the first value of jvp of grad. Multiply it with v "
        "(lecture 00, §3).": _of_derivatives(lambda g, H, v: g @ H @ v),
        "this is the sum of the entries of Hv. Multiply it entry by entry with v first: v @ Hv (lecture 00, §3).": (
            _of_derivatives(lambda g, H, v: jnp.sum(H @ v))
        ),
        "this is (gᵀv)², a product of two first derivatives. The curvature is a second derivative: differentiate the "
        "gradient (lecture 00, §3).": _of_derivatives(lambda g, H, v: (g @ v) ** 2),
        "this is ‖Hv‖ or its square. H stands once between the two v (lecture 00, §3).": _of_derivatives(
            lambda g, H, v: jnp.sum((H @ v) ** 2)
        ),
        "this is v * Hv, entry by entry, without the sum: v @ Hv is one number (lecture 00, §3).": _of_derivatives(
            lambda g, H, v: v * (H @ v)
        ),
        "θ and v have changed places: H is to be taken at θ, and it is v that the gradient is differentiated along. In "
        "jvp(f, (where,), (along,)) the point comes first (lecture 00, §3).": lambda f, theta, v: (
            theta @ jax.hessian(f)(v) @ theta
        ),
        "this is the size |vᵀHv|. A curvature has a sign: below zero the function bends down "
        "(lecture 00, §9).": _of_derivatives(lambda g, H, v: jnp.abs(v @ H @ v)),
        "this is the curvature along the gradient, gᵀHg. The direction is v: it is the second of the pairs that jvp "
        "takes (lecture 00, §3).": _of_derivatives(lambda g, H, v: g @ H @ g),
    },
)


# ---- 3. descent_losses ----


def _path(f, theta, learning_rate, num_steps):
    """θ_0, ..., θ_num_steps as a list."""
    return _path_along(jax.grad(f), theta, learning_rate, num_steps)


def _path_along(slope, theta, learning_rate, num_steps):
    path = [theta]
    for _ in range(num_steps):
        path.append(path[-1] - learning_rate * slope(path[-1]))
    return path


def descent_losses(f, theta, learning_rate, num_steps):
    """(num_steps + 1,): the loss before each step and after the last."""
    return jnp.stack([f(t) for t in _path(f, theta, learning_rate, num_steps)])


def _losses_by_scan(f, theta, learning_rate, num_steps):
    def step(theta, _):
        new = theta - learning_rate * jax.grad(f)(theta)
        return new, f(new)

    return jnp.concatenate([f(theta)[None], jax.lax.scan(step, theta, None, num_steps)[1]])


def _losses_one_step_more(f, theta, learning_rate, num_steps):
    def step(theta, _):
        value, gradient = jax.value_and_grad(f)(theta)
        return theta - learning_rate * gradient, value

    return jax.lax.scan(step, theta, None, num_steps + 1)[1]


def _gradient_at_the_start(f, theta, learning_rate, num_steps):
    g = jax.grad(f)(theta)
    return jnp.stack([f(theta - t * learning_rate * g) for t in range(num_steps + 1)])


def _of_path(change: Callable) -> Callable:
    """A wrong answer: change(f, [θ_0, ..., θ_(num_steps + 1)], learning rate)."""
    return lambda f, theta, rate, n: change(f, _path(f, theta, rate, n + 1), rate)


def _unit_steps(f, theta, learning_rate, num_steps):
    def unit(theta):
        g = jax.grad(f)(theta)
        return g / jnp.linalg.norm(g)

    return _losses(f, _path_along(unit, theta, learning_rate, num_steps))


def _losses(f, path):
    return jnp.stack([f(t) for t in path])


DESCENT_LOSSES = Exercise(
    reference=descent_losses,
    inputs=_descent_cases,
    right=(_losses_by_scan, _losses_one_step_more),
    mistakes={
        "the first loss is missing: you start with the loss after the first step. f(θ_0) comes before it, so there are "
        "num_steps + 1 losses (lecture 00, §7).": _of_path(lambda f, path, rate: _losses(f, path[1:-1])),
        "the last loss is missing: each step gives out the loss at its old point, so the point after the last step "
        "never gets its loss. Let scan run once more, or add it (lecture 00, §7).": _of_path(
            lambda f, path, rate: _losses(f, path[:-2])
        ),
        "you have the right number of losses, but from θ_1 on: let a step give out the loss at its OLD point, or put "
        "f(θ_0) in front and take one step less (lecture 00, §7).": _of_path(
            lambda f, path, rate: _losses(f, path[1:])
        ),
        "f(θ_0) is there twice: you put it in front of losses that begin with it (lecture 00, §7).": _of_path(
            lambda f, path, rate: _losses(f, [path[0], *path[:-2]])
        ),
        "this is the last loss alone, from the carry. Scan stacks what each step gives out as its second value: "
        "scan(...)[1] (lecture 00, §7).": _of_path(lambda f, path, rate: f(path[-2])),
        "these are the points θ_t. The losses f(θ_t) are asked for (lecture 00, §9).": _of_path(
            lambda f, path, rate: jnp.stack(path[:-1])
        ),
        "you climb: the step is against the gradient, θ - learning_rate ∇f (lecture 00, §7).": lambda f, t, rate, n: (
            descent_losses(f, t, -rate, n)
        ),
        "the learning rate is not used: each step has the length of the gradient itself (lecture 00, §7).": (
            lambda f, t, rate, n: descent_losses(f, t, 1.0, n)
        ),
        "every step uses the gradient at θ_0. Take it at the carry: an outer variable of the same name does not move "
        "(lecture 00, §7).": _gradient_at_the_start,
        "all losses are f(θ_0): the step gives back its carry as it came, or the loss is taken at the outer variable. "
        "The new point is the first value that step returns (lecture 00, §7).": _of_path(
            lambda f, path, rate: jnp.stack([f(path[0])] * (len(path) - 1))
        ),
        "the last loss is there twice, and num_steps + 1 of them in all: one step too few was taken "
        "(lecture 00, §7).": _of_path(lambda f, path, rate: _losses(f, [*path[:-2], path[-3]])),
        "you made the gradient a unit vector. The step is learning_rate times the gradient as it is "
        "(lecture 00, §7).": _unit_steps,
        "the losses are in the wrong order: the first is f(θ_0) (lecture 00, §7).": _of_path(
            lambda f, path, rate: _losses(f, path[-2::-1])
        ),
    },
)


EXERCISES = {
    "gradient_norms": GRADIENT_NORMS,
    "curvature_along": CURVATURE_ALONG,
    "descent_losses": DESCENT_LOSSES,
}
