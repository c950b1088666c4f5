"""Newton beside numpy and hand-computed steps; its solvers; where it breaks, and what the state then says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from course_lib.curvature import matrices
from course_lib.curvature.products import gauss_newton_vp
from course_lib.likelihoods import Bernoulli, Categorical
from course_lib.models import Model
from course_lib.optimizers.newton import Status, cg, dense, newton

CG = partial(cg, max_iters=200, tol=1e-12)
SOLVERS = pytest.mark.parametrize("solver", [dense, CG], ids=["dense", "cg"])


def step(opt, params, loss, batch=None, grads=None, state=None):
    """One compiled update from a fresh (or given) state: (updates, state)."""

    @jax.jit
    def update(params, batch, grads, state):
        grads = jax.grad(loss)(params, batch) if grads is None else grads
        return opt.update(grads, state, params, loss=loss, batch=batch)

    return update(params, batch, grads, opt.init(params) if state is None else state)


def iterate(opt, params, loss, steps, batch=None):
    """(parameters after every step, the last state), by one scan."""

    def body(carry, _):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params, batch), state, params, loss=loss, batch=batch)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(lambda p, s: jax.lax.scan(body, (p, s), length=steps))(params, opt.init(params))
    return path, state


def positive(size, seed=0, smallest=1e-3):
    """A dense symmetric matrix with eigenvalues log-spaced from `smallest` to 1."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return jnp.asarray(q * np.geomspace(smallest, 1, size) @ q.T)


def quadratic(params, batch):
    """½ θᵀAθ - bᵀθ, with (A, b) the batch."""
    a, b = batch
    return 0.5 * params @ a @ params - b @ params


def rosenbrock(params, _):
    return (1 - params["x"]) ** 2 + 10 * (params["y"] - params["x"] ** 2) ** 2


START = {"x": jnp.asarray(-1.2), "y": jnp.asarray(1.0)}
SADDLE = jnp.diag(jnp.asarray([2.0, -1.0])), jnp.zeros(2)

# the step


@pytest.mark.claim("SL-newton1")
def test_one_dimension_is_the_root_finding_of_the_derivative():
    """f = x⁴/4 - x: f' = x³ - 1, f'' = 3x²; Newton on f' = 0 is x <- x - (x³ - 1)/3x², to the root 1."""
    path, _ = iterate(newton(), jnp.asarray(2.0), lambda x, _: x**4 / 4 - x, 6)
    expected = [2.0]
    for _ in range(6):
        expected.append(expected[-1] - (expected[-1] ** 3 - 1) / (3 * expected[-1] ** 2))
    np.testing.assert_allclose(path, expected[1:], rtol=1e-13)
    np.testing.assert_allclose(path[-1], 1, rtol=1e-12)


@pytest.mark.claim("SL-newtonn")
@SOLVERS
def test_n_dimensions_minimise_a_quadratic_in_one_step(solver):
    """Conditioned 1000: the solution's relative error is about 1000 times the solver's."""
    batch = positive(8), jnp.ones(8)
    updates, state = step(newton(solver=solver), jnp.arange(8.0), quadratic, batch)
    np.testing.assert_allclose(batch[0] @ (jnp.arange(8.0) + updates), 1, rtol=1e-9)
    assert (state.count, state.skipped, state.solve.status) == (1, 0, Status.CONVERGED)
    assert state.solve.residual < 1e-12


@pytest.mark.claim("M-quad")
@SOLVERS
def test_the_step_minimises_the_damped_local_model(solver):
    """M(d) = gᵀd + ½ dᵀ(H + λI)d at θ: equal to numpy's minimiser, and lower than at 100 points around it."""
    damping = 5.0
    updates, _ = step(newton(damping=damping, solver=solver), START, rosenbrock)
    d = ravel_pytree(updates)[0]
    g = np.array([-2 * 2.2 - 40 * -1.2 * (1 - 1.44), 20 * (1 - 1.44)])  # -2(1 - x) - 40x(y - x²), 20(y - x²)
    h = np.array([[2 + 120 * 1.44 - 40, 48], [48, 20]]) + damping * np.eye(2)  # 2 + 120 x² - 40 y, -40 x, 20
    np.testing.assert_allclose(d, -np.linalg.solve(h, g), rtol=1e-11)
    around = d + np.random.default_rng(0).normal(size=(100, 2))
    assert np.all(g @ d + 0.5 * d @ h @ d < around @ g + 0.5 * np.sum(around @ h * around, axis=1))


@settings(max_examples=4)  # each compiles
@given(size=st.integers(1, 6), seed=st.integers(0, 2**31), rate=st.floats(0.1, 2), damping=st.floats(1e-3, 10))
def test_any_rate_and_damping_on_any_quadratic(size, seed, rate, damping):
    a, b = positive(size, seed), jnp.asarray(np.random.default_rng(seed).normal(size=size))
    expected = rate * np.linalg.solve(a + damping * np.eye(size), b)
    for solver in (dense, CG):
        updates, _ = step(newton(rate, damping, solver), jnp.zeros(size), quadratic, (a, b))
        np.testing.assert_allclose(updates, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.claim("SL-newtonn")
def test_the_error_is_squared_at_every_step():
    """Logistic regression: log e_{k+1} / log e_k tends to 2 until rounding; three steps are enough to see it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    batch = x, (x @ [1.0, -1, 0.5] + rng.logistic(size=40) > 0).astype(int)[:, None]
    model = Model(lambda w, x: x @ w, Bernoulli())
    path, _ = iterate(newton(), jnp.zeros((3, 1)), model.loss, 9, batch)
    errors = np.linalg.norm((path - path[-1]).reshape(9, -1), axis=1)
    errors = errors[(errors > 1e-13) & (errors < 0.5)]
    assert len(errors) >= 3
    assert np.all(errors[1:] < 2 * errors[:-1] ** 2)


@pytest.mark.claim("M-damp")
def test_damping_is_a_trust_region():
    """d(λ) minimises the undamped model over the ball of radius ‖d(λ)‖, here for an indefinite H, λ past its -1."""
    h, g = jnp.diag(jnp.asarray([3.0, -1.0])), jnp.asarray([1.0, 0.7])
    lengths = []
    for damping in (1.5, 3.0, 10.0):
        d, _ = step(newton(damping=damping), jnp.zeros(2), quadratic, (h, -g))
        angles = np.linspace(0, 2 * np.pi, 2001)
        circle = np.linalg.norm(d) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        assert g @ d + 0.5 * d @ h @ d <= (circle @ g + 0.5 * np.sum(circle @ h * circle, axis=1)).min() + 1e-12
        lengths.append(np.linalg.norm(d))
    assert lengths[0] > lengths[1] > lengths[2]
    large, _ = step(newton(damping=1e8), jnp.zeros(2), quadratic, (h, -g))
    np.testing.assert_allclose(1e8 * large, -g, rtol=1e-7)  # and its limit is a short gradient step


@pytest.mark.claim("M-hf")
def test_hessian_free_on_the_damped_gauss_newton_matrix():
    """CG on G + λI of a network, beside the same system solved whole."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 5))), "out": jnp.asarray(rng.normal(size=(5, 3)))}
    batch = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
    model = Model(lambda p, x: jnp.tanh(x @ p["w"]) @ p["out"], Categorical())
    opt = newton(damping=0.1, solver=CG, matvec=partial(gauss_newton_vp, model))
    path, state = iterate(opt, params, model.loss, 10, batch)
    value, grads = jax.jit(jax.value_and_grad(model.loss))(params, batch)
    g, unravel = ravel_pytree(grads)
    matrix = matrices.gauss_newton(model, params, batch) + 0.1 * np.eye(g.size)
    expected = unravel(ravel_pytree(params)[0] - np.linalg.solve(matrix, g))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-9, atol=1e-12), path, expected)
    assert state.solve.status == Status.CONVERGED
    assert model.loss(jax.tree.map(lambda a: a[-1], path), batch) < 0.5 * value


# conjugate gradients


def test_cg_takes_as_many_products_as_there_are_eigenvalues():
    """Three different ones in eight dimensions: the third residual is zero but for rounding."""
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))
    a = jnp.asarray(q * [1, 1, 1, 2, 2, 5, 5, 5] @ q.T)
    x, solve = cg(lambda v: a @ v, jnp.ones(8), tol=1e-10)
    np.testing.assert_allclose(a @ x, 1, rtol=1e-10)
    assert (solve.status, solve.iterations) == (Status.CONVERGED, 3)


def test_cg_cut_short_says_so():
    """One product: the exact minimum along b, x = b (bᵀb)/(bᵀAb), and the true residual."""
    a, b = positive(5), 1e-3 * jnp.arange(1.0, 6)
    x, solve = cg(lambda v: a @ v, b, max_iters=1)
    np.testing.assert_allclose(x, b * (b @ b) / (b @ a @ b), rtol=1e-12)
    np.testing.assert_allclose(solve.residual, np.linalg.norm(b - a @ x) / np.linalg.norm(b), rtol=1e-12)
    assert (solve.status, solve.iterations) == (Status.MAX_ITERS, 1)


def test_cg_stops_at_the_tolerance_and_not_later():
    a, b = positive(40), jnp.ones(40)
    loose, tight = (cg(lambda v: a @ v, b, max_iters=200, tol=tol)[1] for tol in (1e-2, 1e-8))
    assert 1e-8 < loose.residual <= 1e-2
    assert tight.residual <= 1e-8
    assert loose.iterations < tight.iterations
    _, before = cg(lambda v: a @ v, b, max_iters=int(loose.iterations) - 1, tol=1e-2)
    assert before.residual > 1e-2


def test_cg_meets_negative_curvature_in_the_gradient():
    """Hessian-free's rule: the step is then the gradient itself."""
    x, solve = cg(lambda v: v * jnp.asarray([1.0, -2.0]), jnp.asarray([1.0, 3.0]))
    np.testing.assert_allclose(x, [1, 3], rtol=1e-15)
    assert (solve.status, solve.iterations) == (Status.NOT_POSITIVE, 1)
    np.testing.assert_allclose(solve.residual, np.sqrt((0**2 + 9**2) / 10), rtol=1e-14)  # ‖b - Bb‖/‖b‖


def test_cg_meets_negative_curvature_later():
    """Bᵀ = diag(2, -1), b = (3, 1): the first direction has 17 > 0, the second not. x is that of the first product."""
    a, b = SADDLE[0], jnp.asarray([3.0, 1.0])
    x, solve = cg(lambda v: a @ v, b)
    np.testing.assert_allclose(x, b * 10 / 17, rtol=1e-14)
    assert (solve.status, solve.iterations) == (Status.NOT_POSITIVE, 2)


@SOLVERS
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_gradients_whose_squares_float32_cannot_hold(solver, scale):
    b = jnp.asarray([1.0, 2.0], jnp.float32) * jnp.float32(scale)
    x, solve = solver(lambda v: 4 * v, b)
    np.testing.assert_allclose(x, b / 4, rtol=1e-6)
    assert x.dtype == solve.residual.dtype == jnp.float32


# where it breaks


@SOLVERS
def test_a_saddle_attracts_it_and_the_state_says_why(solver):
    """Dense Newton lands on the saddle at 0, uphill from (.1, 1). CG refuses the direction of negative curvature."""
    params = jnp.asarray([0.1, 1.0])
    updates, state = step(newton(solver=solver), params, quadratic, SADDLE)
    assert state.solve.status == Status.NOT_POSITIVE
    uphill = updates @ jax.grad(quadratic)(params, SADDLE) > 0
    assert uphill == (solver is dense)
    if solver is dense:
        np.testing.assert_allclose(params + updates, 0, atol=1e-15)


def test_the_line_search_rescues_a_step_that_is_too_long():
    """f = √(1 + x²): the full step is x <- -x³, which diverges from |x| > 1. The search restarts at the full step."""

    def f(x, _):
        return jnp.sqrt(1 + x**2)

    start = jnp.asarray(2.0)
    plain, _ = iterate(newton(), start, f, 3)
    np.testing.assert_allclose(plain, [-8, 8**3, -(8.0**9)], rtol=1e-6)
    search = optax.scale_by_backtracking_linesearch(30, atol=1e-15)
    for solver in (dense, CG):
        path, state = iterate(newton(solver=solver, line_search=search), start, f, 8)
        assert abs(path[-1]) < 1e-8
        assert state.line_search.learning_rate == 1
    updates, state = step(newton(line_search=search), start, f)
    rate = state.line_search.learning_rate
    np.testing.assert_allclose(updates, rate * (-8 - 2), rtol=1e-12)
    assert 0 < rate < 1
    assert f(start + updates, None) <= f(start, None) + 1e-4 * updates * 2 / np.sqrt(5)  # Armijo, f' = x/f


@SOLVERS
def test_a_step_that_is_not_finite_is_skipped(solver):
    """A gradient of nan, or a Hessian: nothing changes but the counter."""

    def loss(params, scale):
        return scale * jnp.sum(params**2)

    opt = newton(solver=solver, line_search=optax.scale_by_backtracking_linesearch(5))
    params = jnp.asarray([1.0, 2.0])
    _, state = step(opt, params, loss, 1.0)
    assert (state.count, state.skipped) == (1, 0)
    for batch, grads in [(1.0, jnp.asarray([1.0, jnp.nan])), (jnp.nan, params), (jnp.inf, params)]:
        updates, after = step(opt, params, loss, batch, grads, state)
        np.testing.assert_array_equal(updates, [0, 0])
        assert after.skipped == 1
        jax.tree.map(np.testing.assert_array_equal, after._replace(skipped=state.skipped), state)


def test_a_singular_hessian_is_skipped_and_a_zero_gradient_is_a_step():
    def flat_in_y(params, _):
        return params[0] ** 2 + params[1]

    updates, state = step(newton(), jnp.asarray([1.0, 1.0]), flat_in_y)
    np.testing.assert_array_equal(updates, [0, 0])
    assert (state.count, state.skipped) == (0, 1)
    for solver in (dense, cg):
        updates, state = step(newton(solver=solver), jnp.zeros(2), lambda p, _: p[0] ** 4 + p[1] ** 2)
        np.testing.assert_array_equal(updates, [0, 0])
        assert (state.count, state.skipped, state.solve.residual) == (1, 0, 0)


@pytest.mark.parametrize("missing", ["loss", "parameters"])
def test_what_is_missing_is_named(missing):
    opt, params = newton(), jnp.ones(2)
    arguments = {"loss": (params, {}), "parameters": (None, {"loss": quadratic})}
    given_params, extra = arguments[missing]
    with pytest.raises(ValueError, match=missing):
        opt.update(params, opt.init(params), given_params, **extra)


# numbers, dtypes, transformations


def test_numbers_may_be_schedules_of_the_count():
    def rate(count):
        return 1.0 / (count + 1)

    def damping(count):
        return 0.5 * count

    path, state = iterate(newton(rate, damping), jnp.asarray([1.0, -2.0]), lambda p, _: jnp.sum(p**2), 3)
    expected, p = [], np.array([1.0, -2.0])
    for count in range(3):
        p = p - rate(count) * 2 * p / (2 + damping(count))
        expected.append(p)
    np.testing.assert_allclose(path, expected, atol=1e-15)
    assert state.count == 3


@SOLVERS
def test_a_sweep_is_a_vmap(solver):
    rates, dampings = jnp.asarray([0.5, 1.0, 1.0]), jnp.asarray([0.0, 0.1, 10.0])

    def one(rate, damping):
        opt = newton(rate, damping, solver)
        return opt.update(jax.grad(rosenbrock)(START, None), opt.init(START), START, loss=rosenbrock)[0]

    swept = jax.jit(jax.vmap(one))(rates, dampings)
    for i in range(3):
        alone, _ = step(newton(float(rates[i]), float(dampings[i]), solver), START, rosenbrock)
        np.testing.assert_allclose([swept["x"][i], swept["y"][i]], [alone["x"], alone["y"]], rtol=1e-9)


@SOLVERS
def test_dtypes_do_not_drift(solver):
    """The scan itself fails where the state's or the parameters' dtype changes; the numbers are float64 scalars."""

    def loss(params, _):
        return jnp.sum((params["a"] - 3) ** 2) + params["b"] ** 2

    params = {"a": jnp.zeros((2, 2), jnp.bfloat16), "b": jnp.ones((), jnp.float16)}
    search = optax.scale_by_backtracking_linesearch(5)
    opt = newton(jnp.ones(()), jnp.zeros(()), solver, line_search=search)
    path, state = iterate(opt, params, loss, 2)
    np.testing.assert_allclose(path["a"][-1].astype(float), 3, rtol=1e-2)
    assert state.solve.residual.dtype == jnp.float32
    updates, _ = jax.eval_shape(partial(opt.update, loss=loss), params, state, params)
    assert jax.tree.map(lambda a: a.dtype, updates) == jax.tree.map(lambda a: a.dtype, params)


def test_it_chains():
    """The step of (1, 2) on Σθ² is (-1, -2): clipped to length 1 after, or the gradient clipped before."""
    params = jnp.asarray([1.0, 2.0])
    after = optax.chain(newton(), optax.clip_by_global_norm(1.0))
    updates, _ = step(after, params, lambda p, _: jnp.sum(p**2))
    np.testing.assert_allclose(updates, -params / np.sqrt(5), rtol=1e-12)
    before = optax.chain(optax.clip_by_global_norm(1.0), newton())
    updates, _ = step(before, params, lambda p, _: jnp.sum(p**2))
    np.testing.assert_allclose(updates, -params / np.sqrt(5) / 2, rtol=1e-12)


@SOLVERS
def test_a_tree_of_no_leaves_is_a_tree(solver):
    updates, state = step(newton(solver=solver), {}, lambda p, _: jnp.zeros(()))
    assert (updates, state.count, state.skipped) == ({}, 1, 0)


def test_hessian_free_forms_no_matrix():
    """P = 5,000: the Hessian is 200 MB, 40 vectors 1.6 MB."""
    params = jnp.ones(5000)
    opt = newton(solver=cg)

    def update(params, state):
        return opt.update(params, state, params, loss=lambda p, _: jnp.sum(jnp.cosh(p)) + jnp.sum(p) ** 2)

    analysis = jax.jit(update).lower(params, opt.init(params)).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 40 * params.nbytes
