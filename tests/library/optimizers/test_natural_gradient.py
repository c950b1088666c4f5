"""The natural gradient beside F solved whole, the KL ball searched by brute force, and other parametrisations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from course_lib.curvature import matrices
from course_lib.curvature.products import empirical_fisher_vp, gauss_newton_vp
from course_lib.likelihoods import Bernoulli, Categorical, Normal
from course_lib.models import Model
from course_lib.optimizers.natural_gradient import natural_gradient
from course_lib.optimizers.newton import Status, cg, dense, newton

EXACT = partial(cg, max_iters=300, tol=1e-13)
RNG = np.random.default_rng(0)
N, D, K = 12, 3, 2
X = RNG.normal(size=(N, D))
PARAMS = {"w": jnp.asarray(RNG.normal(size=(D, 4))), "out": jnp.asarray(RNG.normal(size=(4, K)))}
TARGETS = {
    Normal(0.7): RNG.normal(size=(N, K)),
    Categorical(): RNG.integers(0, K, N),
    Bernoulli(): RNG.integers(0, 2, (N, K)),
}


def mlp(params, x):
    return jnp.tanh(x @ params["w"]) @ params["out"]


def step(opt, params, model, batch, grads=None):
    """One compiled update from a fresh state: (updates, state). The gradient is that of the model's loss."""

    @jax.jit
    def update(params, batch, state):
        g = jax.grad(model.loss)(params, batch) if grads is None else grads
        return opt.update(g, state, params, loss=model.loss, batch=batch)

    return update(params, batch, opt.init(params))


def iterate(opt, params, loss, batch, steps):
    """(parameters after every step, the last state)."""

    def body(carry, _):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params, batch), state, params, loss=loss, batch=batch)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(lambda p, s: jax.lax.scan(body, (p, s), length=steps))(params, opt.init(params))
    return path, state


@partial(jax.jit, static_argnums=0)
def gradient(model, params, batch):
    return jax.grad(model.loss)(params, batch)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


# the step


@pytest.mark.claim("M-ngd", "SL-nat", "M-damp")
@pytest.mark.parametrize("solver", [EXACT, dense], ids=["cg", "dense"])
@pytest.mark.parametrize("likelihood", TARGETS, ids=repr)
def test_the_step_solves_the_damped_fisher(likelihood, solver):
    model, batch = Model(mlp, likelihood), (X, TARGETS[likelihood])
    updates, state = step(natural_gradient(model, 0.3, 0.05, solver=solver), PARAMS, model, batch)
    f = matrices.fisher(model, PARAMS, batch) + 0.05 * np.eye(flat(PARAMS).size)
    expected = -0.3 * np.linalg.solve(f, flat(gradient(model, PARAMS, batch)))
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-9, atol=1e-12)
    assert (state.count, state.skipped, state.solve.status) == (1, 0, Status.CONVERGED)


@pytest.mark.claim("M-cond")
def test_the_labels_enter_the_gradient_alone():
    model = Model(mlp, Categorical())
    grads = gradient(model, PARAMS, (X, TARGETS[Categorical()]))
    opt = natural_gradient(model)
    (a, _), (b, _) = (step(opt, PARAMS, model, (X, y), grads) for y in (TARGETS[Categorical()], None))
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.claim("M-ngd")
@pytest.mark.parametrize("solver", [EXACT, dense], ids=["cg", "dense"])
def test_a_linear_gaussian_model_takes_one_step(solver):
    """F = XᵀX/(nσ²) is the Hessian: the step lands on the least-squares solution, whatever σ."""
    model, y = Model(lambda w, x: x @ w, Normal(0.3)), TARGETS[Normal(0.7)]
    updates, _ = step(natural_gradient(model, 1.0, 0.0, solver=solver), jnp.ones((D, K)), model, (X, y))
    np.testing.assert_allclose(1 + updates, np.linalg.lstsq(X, y)[0], rtol=1e-9)


@pytest.mark.claim("M-ngd")
def test_a_singular_fisher_without_damping():
    """Softmax: adding a constant to all logits changes nothing, so F is singular. CG stays where F is not: the
    minimum-norm solution, that of the pseudo-inverse."""
    model, batch = Model(lambda w, x: x @ w, Categorical()), (X, TARGETS[Categorical()])
    params = jnp.zeros((D, K))
    updates, state = step(natural_gradient(model, 1.0, 0.0, solver=partial(cg, tol=1e-10)), params, model, batch)
    f = np.asarray(matrices.fisher(model, params, batch))
    expected = -np.linalg.pinv(f, rcond=1e-10, hermitian=True) @ flat(gradient(model, params, batch))
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-7, atol=1e-10)
    assert state.solve.status == Status.CONVERGED


@pytest.mark.claim("M-ggn")
def test_other_matrices_than_the_fisher():
    """The Gauss-Newton matrix gives the same step here; the empirical Fisher, with its own labels, another."""
    model, batch = Model(mlp, Categorical()), (X, TARGETS[Categorical()])
    expected, _ = step(natural_gradient(model, damping=0.1, solver=EXACT), PARAMS, model, batch)
    with_g = natural_gradient(model, damping=0.1, solver=EXACT, matvec=partial(gauss_newton_vp, model))
    np.testing.assert_allclose(flat(step(with_g, PARAMS, model, batch)[0]), flat(expected), rtol=1e-9, atol=1e-12)
    with_e = natural_gradient(model, damping=0.1, solver=EXACT, matvec=partial(empirical_fisher_vp, model))
    updates, _ = step(with_e, PARAMS, model, batch)
    f = matrices.empirical_fisher(model, PARAMS, batch) + 0.1 * np.eye(flat(PARAMS).size)
    expected_e = -np.linalg.solve(f, flat(gradient(model, PARAMS, batch)))
    np.testing.assert_allclose(flat(updates), expected_e, rtol=1e-9, atol=1e-12)
    assert np.linalg.norm(flat(updates) - flat(expected)) > 0.1 * np.linalg.norm(flat(expected))


# distance between distributions


class MeanLogScale:
    """N(z₁, e^{2 z₂}): one y, both moments from the network. F_R = diag(1/σ², 2)."""

    def nll(self, z, y):
        return 0.5 * jnp.log(2 * jnp.pi) + z[1] + 0.5 * ((y - z[0]) / jnp.exp(z[1])) ** 2

    def sample(self, key, z):
        return z[0] + jnp.exp(z[1]) * jax.random.normal(key)

    def fisher(self, z):
        return jnp.diag(jnp.asarray([jnp.exp(-2 * z[1]), 2.0]))


ONES = jnp.ones((40, 1))
DATA = ONES, jnp.asarray(1.5 + 0.5 * RNG.normal(size=40))
GAUSSIAN = Model(lambda p, x: x * p, MeanLogScale())  # θ = (mean, log σ)


def kl(p, q):
    """KL(p ‖ q) of two Gaussians by (mean, log σ), rows of p."""
    ratio = np.exp(2 * (p[..., 1] - q[1]))
    return q[1] - p[..., 1] + (ratio + ((p[..., 0] - q[0]) / np.exp(q[1])) ** 2 - 1) / 2


@pytest.mark.claim("M-arnold", "M-steepE")
@pytest.mark.parametrize("a", [np.array([[3.0, 1.0], [1.0, 0.5]]), np.eye(2)], ids=["A", "Euclidean"])
def test_the_direction_is_the_steepest_on_a_small_ball_of_any_norm(a):
    """Brute force over ‖d‖_A = ε: d/ε tends to -A⁻¹g/‖g‖_{A⁻¹}, with an error of order ε."""
    theta = jnp.array([0.3, 0.4])
    opt = natural_gradient(GAUSSIAN, 1.0, 0.0, matvec=lambda params, batch, v: a @ v, solver=dense)
    updates, _ = step(opt, theta, GAUSSIAN, DATA)
    limit = updates / np.sqrt(-gradient(GAUSSIAN, theta, DATA) @ updates)
    eps = 1e-3
    angles = np.linspace(0, 2 * np.pi, 20001)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rays *= eps / np.sqrt(np.einsum("ri,ij,rj->r", rays, a, rays))[:, None]
    losses = jax.vmap(lambda p: GAUSSIAN.loss(p, DATA))(theta + rays)
    np.testing.assert_allclose(rays[np.argmin(losses)] / eps, limit, atol=5e-3)


@pytest.mark.claim("M-klball", "SL-nat")
def test_the_direction_is_the_steepest_on_a_small_kl_ball():
    """Brute force over KL(θ+d ‖ θ) <= ε²: d/ε tends to -√2 F⁻¹g/‖g‖_{F⁻¹}, with an error of order ε."""
    theta = np.array([0.3, 0.4])
    updates, _ = step(natural_gradient(GAUSSIAN, 1.0, 0.0, solver=dense), jnp.asarray(theta), GAUSSIAN, DATA)
    g = gradient(GAUSSIAN, jnp.asarray(theta), DATA)
    limit = np.sqrt(2) * updates / np.sqrt(-g @ updates)
    eps = 1e-3
    angles = np.linspace(0, 2 * np.pi, 20001)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rays *= (eps / np.sqrt(kl(theta + 1e-4 * rays, theta)) * 1e-4)[:, None]  # KL is quadratic to order ε there
    losses = jax.vmap(lambda p: GAUSSIAN.loss(p, DATA))(theta + rays)
    np.testing.assert_allclose(rays[np.argmin(losses)] / eps, limit, atol=5e-3)


@pytest.mark.claim("M-inv")
def test_the_path_does_not_depend_on_the_parameters_in_the_limit():
    """(mean, log σ) against (mean³, σ²): after time 2 in steps of lr the gap is of order lr for the natural gradient.

    Newton's and the gradient's paths stay apart however small the step is.
    """

    def to_z(p):
        return jnp.stack([jnp.cbrt(p[0]), 0.5 * jnp.log(p[1])])

    other = Model(lambda p, x: x * to_z(p), MeanLogScale())
    start, other_start = jnp.asarray([0.5, 0.3]), jnp.asarray([0.5**3, np.exp(0.6)])

    def end(opt, model, params):
        """Where the path ends, as a function of the rate: compiled once."""

        def body(_, carry):
            params, state, rate = carry
            grads = jax.grad(model.loss)(params, DATA)
            updates, state = opt.update(grads, state, params, loss=model.loss, batch=DATA)
            return params + rate * updates, state, rate

        f = jax.jit(lambda rate, n: jax.lax.fori_loop(0, n, body, (params, opt.init(params), rate))[0])
        return lambda rate: f(rate, round(2 / rate))

    def gaps(optimizer, rates):
        one, two = end(optimizer(GAUSSIAN), GAUSSIAN, start), end(optimizer(other), other, other_start)
        return [float(np.linalg.norm(one(r) - to_z(two(r)))) for r in rates]

    rates = np.array([0.08, 0.04, 0.02])
    natural = gaps(lambda model: natural_gradient(model, 1.0, 0.0, solver=dense), rates)
    assert abs(np.polyfit(np.log(rates), np.log(natural), 1)[0] - 1) < 0.15
    for optimizer in (lambda _: newton(), lambda _: optax.with_extra_args_support(optax.sgd(1.0))):
        assert gaps(optimizer, rates[-1:])[0] > 5 * natural[-1]


# state, numbers, errors


def test_the_state_says_how_the_solve_ended():
    model, batch = Model(mlp, Categorical()), (X, TARGETS[Categorical()])
    _, short = step(natural_gradient(model, solver=partial(cg, max_iters=2)), PARAMS, model, batch)
    assert (short.solve.status, short.solve.iterations) == (Status.MAX_ITERS, 2)
    assert short.solve.residual > 1e-6
    _, full = step(natural_gradient(model), PARAMS, model, batch)
    assert full.solve.status == Status.CONVERGED
    assert full.solve.residual <= 1e-6


def test_defaults_are_a_whole_step_and_a_damping_of_a_thousandth():
    """F = mean x² = 1 here, and g = 3 - 2: the step is -1/(1 + 1e-3)."""
    model, batch = Model(lambda w, x: x * w, Normal()), (jnp.ones((4, 1)), 2 * jnp.ones((4, 1)))
    updates, _ = step(natural_gradient(model), jnp.asarray(3.0), model, batch)
    np.testing.assert_allclose(updates, -1 / 1.001, rtol=1e-12)


def test_a_line_search_shortens_a_step_that_is_too_long():
    model, batch = Model(mlp, Categorical()), (X, TARGETS[Categorical()])
    opt = natural_gradient(model, 50.0, line_search=optax.scale_by_backtracking_linesearch(30))
    updates, state = step(opt, PARAMS, model, batch)
    assert 0 < state.line_search.learning_rate < 1
    assert model.loss(optax.apply_updates(PARAMS, updates), batch) < model.loss(PARAMS, batch)


def test_a_sweep_is_a_vmap_and_numbers_may_be_schedules():
    model, batch = Model(mlp, Categorical()), (X, TARGETS[Categorical()])
    grads = gradient(model, PARAMS, batch)

    def one(rate, damping):
        opt = natural_gradient(model, rate, damping, solver=EXACT)
        return opt.update(grads, opt.init(PARAMS), PARAMS, batch=batch)[0]

    swept = jax.jit(jax.vmap(one))(jnp.asarray([0.1, 1.0]), jnp.asarray([0.01, 1.0]))
    scheduled = natural_gradient(model, lambda count: 0.1 + count, lambda count: 0.01 + count, solver=EXACT)
    for i in range(2):
        state = scheduled.init(PARAMS)._replace(count=jnp.asarray(i, jnp.int32))
        alone, _ = jax.jit(partial(scheduled.update, batch=batch))(grads, state, PARAMS)
        rate, damping = 0.1 + i, 0.01 + i
        if i == 0:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-9), swept, alone)
        f = matrices.fisher(model, PARAMS, batch) + damping * np.eye(flat(PARAMS).size)
        np.testing.assert_allclose(flat(alone), -rate * np.linalg.solve(f, flat(grads)), rtol=1e-9, atol=1e-12)


def test_bfloat16_parameters_in_a_scan():
    model, batch = Model(mlp, Normal()), (X.astype(np.float32), TARGETS[Normal(0.7)].astype(np.float32))
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), PARAMS)
    path, state = iterate(natural_gradient(model, 0.5, 0.1), params, model.loss, batch, 3)
    assert {a.dtype for a in jax.tree.leaves(path)} == {jnp.dtype(jnp.bfloat16)}
    assert state.count == 3
    assert model.loss(jax.tree.map(lambda a: a[-1], path), batch) < model.loss(params, batch)


def test_a_gradient_that_is_not_finite_is_skipped_and_zero_is_a_step():
    model, batch = Model(mlp, Normal()), (X, TARGETS[Normal(0.7)])
    for value, count, skipped in ((jnp.nan, 0, 1), (0.0, 1, 0)):
        grads = jax.tree.map(lambda a, value=value: jnp.full_like(a, value), PARAMS)
        updates, state = step(natural_gradient(model), PARAMS, model, batch, grads)
        assert (state.count, state.skipped) == (count, skipped)
        np.testing.assert_array_equal(flat(updates), 0)


def test_what_is_missing_is_named():
    model, grads = Model(mlp, Normal()), PARAMS
    opt = natural_gradient(model)
    with pytest.raises(ValueError, match="batch"):
        opt.update(grads, opt.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="parameters"):
        opt.update(grads, opt.init(PARAMS), batch=(X, None))
    searching = natural_gradient(model, line_search=optax.scale_by_backtracking_linesearch(5))
    with pytest.raises(ValueError, match="loss"):
        searching.update(grads, searching.init(PARAMS), PARAMS, batch=(X, None))
