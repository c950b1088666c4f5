"""GSAM: Algorithm 1 written out, what the decomposition keeps and changes, the ρ schedule, and the toy of Fig. 3."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from course_lib.landscapes import RIDGE_START, two_pits_and_a_valley
from course_lib.optimizers.common import global_norm as norm
from course_lib.optimizers.gsam import decompose, gsam, min_f_h, min_fp_h, min_sum, rho_like_learning_rate
from course_lib.optimizers.sam import sam

RNG = np.random.default_rng(0)
A = np.array([[3.0, 0.5, 0.0], [0.5, 1.0, -0.2], [0.0, -0.2, 0.3]])
W0 = np.array([1.0, -2.0, 0.5])
X, Y = jnp.asarray(RNG.normal(size=(12, 3))), jnp.asarray(RNG.normal(size=(12, 2)))
NET = {"w1": jnp.asarray(RNG.normal(size=(3, 4))), "w2": jnp.asarray(RNG.normal(size=(4, 2)))}


def bowl(w, matrix):
    return 0.5 * w @ matrix @ w


def net_loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["w1"]) @ params["w2"] - y) ** 2)


def trace(opt, loss, params, batch=None, steps=50):
    """The parameters after each step."""

    def step(carry, _):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params, batch), state, params, loss=loss, batch=batch)
        params = optax.apply_updates(params, updates)
        return (params, state), ravel_pytree(params)[0]

    return jax.jit(lambda w: jax.lax.scan(step, (w, opt.init(w)), length=steps)[1])(params)


def by_hand(gradient, w, rho, alpha, lr, steps=50):
    """Algorithm 1 with plain gradient descent; rho, alpha and lr are functions of the step."""
    path = []
    for t in range(steps):
        g = gradient(w)
        g_p = gradient(w + rho(t) * g / np.linalg.norm(g))
        u = g_p / np.linalg.norm(g_p)
        w = w - lr(t) * (g_p - alpha(t) * (g - (g @ u) * u))
        path.append(w)
    return np.stack(path)


@pytest.mark.claim("GSAM-a1")
def test_the_trajectory_on_a_bowl_is_algorithm_1_with_its_rho_schedule():
    rates = np.concatenate([np.linspace(0, 0.3, 6), np.linspace(0.3, 0.02, 44)])  # optax's schedules are float32

    def warm(t):
        return jnp.asarray(rates)[t]

    rho = rho_like_learning_rate(warm, lr_max=0.3, rho_max=0.4, lr_min=0.03, rho_min=0.05)
    path = trace(gsam(optax.sgd(warm), rho=rho, alpha=lambda t: 0.7 / (1 + t)), bowl, jnp.asarray(W0), jnp.asarray(A))

    def rho_t(t):
        return min(max(0.05 + (0.4 - 0.05) * (rates[t] - 0.03) / (0.3 - 0.03), 0.05), 0.4)

    expected = by_hand(lambda w: A @ w, W0, rho_t, lambda t: 0.7 / (1 + t), lambda t: rates[t])
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.claim("GSAM-a1")
def test_the_trajectory_of_a_network_is_algorithm_1_and_alpha_0_is_sam():
    theta, unravel = ravel_pytree(NET)
    gradient = jax.jit(jax.grad(lambda w: net_loss(unravel(w), (X, Y))))
    path = trace(gsam(optax.sgd(0.1), rho=0.2, alpha=0.5), net_loss, NET, (X, Y))
    expected = by_hand(gradient, np.asarray(theta), lambda t: 0.2, lambda t: 0.5, lambda t: 0.1)
    np.testing.assert_allclose(path, expected, rtol=1e-8, atol=1e-10)

    plain = trace(gsam(optax.adam(0.1), rho=0.2, alpha=0.0), net_loss, NET, (X, Y), steps=10)
    expected = trace(sam(optax.adam(0.1), rho=0.2), net_loss, NET, (X, Y), steps=10)
    np.testing.assert_allclose(plain, expected, rtol=1e-10)


def test_the_parts_add_up_and_are_along_and_across_all_leaves_together():
    tree = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[3.0]])}
    onto = {"a": jnp.array([2.0, 0.0]), "b": jnp.array([[-1.0]])}
    parallel, across = decompose(tree, onto)
    flat, flat_onto, along, off = (ravel_pytree(t)[0] for t in (tree, onto, parallel, across))
    np.testing.assert_allclose(along + off, flat)
    np.testing.assert_allclose(along, (flat @ flat_onto) / 5 * flat_onto, atol=1e-15)  # -1/5 of onto
    np.testing.assert_allclose(off @ flat_onto, 0, atol=1e-14)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_the_parts_in_float32_are_right_where_squares_over_and_underflow(size):
    parallel, across = decompose(jnp.array([3.0, 4.0], jnp.float32), jnp.array([size, 0.0], jnp.float32))
    np.testing.assert_allclose((parallel, across), [[3, 0], [0, 4]], rtol=1e-6)


def test_nothing_is_along_a_zero_gradient():
    g = jnp.array([3.0, 4.0])
    np.testing.assert_array_equal(min_fp_h(g, jnp.zeros(2), 0.5), [-1.5, -2.0])
    np.testing.assert_array_equal(min_f_h(jnp.zeros(2), g, 0.5), [1.5, 2.0])


def ascent_in(t):
    """f and f_p = f(w + δ), δ fixed, after the ascent step t g⊥ that GSAM adds to SAM, less their values before it."""
    batch, rho = (X, Y), 0.3
    g = jax.grad(net_loss)(NET, batch)
    length = rho / norm(g)
    delta = jax.tree.map(lambda g: length * g, g)
    g_p = jax.grad(net_loss)(jax.tree.map(jnp.add, NET, delta), batch)
    _, across = decompose(g, onto=g_p)

    def f(scale, shift):
        return net_loss(jax.tree.map(lambda w, d, a: w + shift * d + scale * a, NET, delta, across), batch)

    return f(t, 0) - f(0, 0), f(t, 1) - f(0, 1), norm(across) ** 2


@pytest.mark.claim("GSAM-6")
def test_the_ascent_leaves_the_perturbed_loss_to_first_order_and_closes_the_gap():
    steps = 1e-3 * 0.5 ** np.arange(4)
    rise, rise_p, rate = jax.jit(jax.vmap(ascent_in))(jnp.asarray(steps))
    np.testing.assert_allclose(np.log2(np.abs(rise_p[:-1] / rise_p[1:])), 2, atol=0.02)  # f_p moves with the square
    np.testing.assert_allclose(np.log2(rise[:-1] / rise[1:]), 1, atol=0.02)
    np.testing.assert_allclose(rise / steps, rate, rtol=0.01)  # f rises at ‖g⊥‖²
    assert np.all(rise_p - rise < 0)  # so h = f_p - f falls


@pytest.mark.claim("GSAM-6")
@pytest.mark.parametrize("alpha", [0.0, 0.4, 3.0])
def test_which_loss_each_decomposition_leaves_to_its_own_gradient(alpha):
    g, g_p = jnp.asarray(RNG.normal(size=6)), jnp.asarray(RNG.normal(size=6))
    np.testing.assert_allclose(min_fp_h(g, g_p, alpha) @ g_p, g_p @ g_p, rtol=1e-12)  # f_p falls as in SAM
    np.testing.assert_allclose(min_f_h(g, g_p, alpha) @ g, g @ g, rtol=1e-12)  # f falls as in gradient descent
    # Both go down h = f_p - f, by α‖g⊥‖² and α‖g_p⊥‖² more than without the extra term.
    h = g_p - g
    off, off_p = decompose(g, onto=g_p)[1], decompose(g_p, onto=g)[1]
    np.testing.assert_allclose(min_fp_h(g, g_p, alpha) @ h, g_p @ h + alpha * off @ off, rtol=1e-12)
    np.testing.assert_allclose(min_f_h(g, g_p, alpha) @ h, g @ h + alpha * off_p @ off_p, rtol=1e-12)


@pytest.mark.claim("GSAM-t2")
def test_the_weighted_sum_is_the_gradient_of_f_p_plus_lambda_h_and_may_climb_f_p():
    g, g_p = jnp.array([2.0, 0.5]), jnp.array([1.0, 0.0])  # ∇h = g_p - g points against g_p, as in GSAM Fig. 2
    np.testing.assert_array_equal(min_sum(g, g_p, 2.0), [-1.0, -1.0])
    assert min_sum(g, g_p, 2.0) @ g_p < 0  # a step along -direction raises f_p
    assert min_fp_h(g, g_p, 2.0) @ g_p > 0


@pytest.mark.claim("GSAM-f6")
def test_the_ablations_and_asam_with_ascent_are_options():
    g = A @ W0

    def used(**options):
        opt, w = gsam(optax.sgd(1.0), rho=0.3, alpha=0.5, **options), jnp.asarray(W0)
        return -opt.update(jnp.asarray(g), opt.init(w), w, loss=bowl, batch=jnp.asarray(A))[0]

    g_p = A @ (W0 + 0.3 * g / np.linalg.norm(g))
    adaptive_p = A @ (W0 + 0.3 * W0**2 * g / np.linalg.norm(W0 * g))
    np.testing.assert_allclose(used(combine=min_sum), g_p + 0.5 * (g_p - g), rtol=1e-12)
    np.testing.assert_allclose(used(combine=min_f_h), min_f_h(jnp.asarray(g), jnp.asarray(g_p), 0.5), rtol=1e-12)
    expected = min_fp_h(jnp.asarray(g), jnp.asarray(adaptive_p), 0.5)
    np.testing.assert_allclose(used(adaptive=True), expected, rtol=1e-12)
    half = A @ (W0 + 0.15 * g / np.linalg.norm(g))
    two_p = A @ (W0 + 0.15 * g / np.linalg.norm(g) + 0.15 * half / np.linalg.norm(half))
    expected = min_fp_h(jnp.asarray(g), jnp.asarray(two_p), 0.5)
    np.testing.assert_allclose(used(ascent_steps=2), expected, rtol=1e-12)


def test_with_m_the_groups_mean_gradients_are_decomposed():
    gradient = jax.jit(jax.grad(net_loss))

    def pair(part):
        g = gradient(NET, part)
        length = 0.3 / norm(g)
        g_p = gradient({name: NET[name] + length * g[name] for name in NET}, part)
        return ravel_pytree(g)[0], ravel_pytree(g_p)[0]

    pairs = [pair((X[i : i + 4], Y[i : i + 4])) for i in (0, 4, 8)]
    g, g_p = np.mean(pairs, axis=0)
    opt = gsam(optax.sgd(1.0), rho=0.3, alpha=0.5, m=4)
    whole = gradient(NET, (X, Y))
    updates, _ = jax.jit(lambda g: opt.update(g, opt.init(NET), NET, loss=net_loss, batch=(X, Y)))(whole)
    expected = min_fp_h(jnp.asarray(g), jnp.asarray(g_p), 0.5)
    np.testing.assert_allclose(-ravel_pytree(updates)[0], expected, rtol=1e-9, atol=1e-12)


def test_a_sweep_over_rho_and_alpha_is_one_vmap():
    def last(rho, alpha):
        return trace(gsam(optax.sgd(0.1), rho=rho, alpha=alpha), bowl, jnp.asarray(W0), jnp.asarray(A), 5)

    swept = jax.vmap(last)(jnp.array([0.1, 0.4]), jnp.array([0.5, 1.0]))
    np.testing.assert_allclose(swept, [last(0.1, 0.5), last(0.4, 1.0)], rtol=1e-10)


@pytest.mark.claim("GSAM-c2")
def test_rho_follows_the_learning_rate_linearly_and_stays_between_its_ends():
    warm = optax.join_schedules([optax.linear_schedule(0.0, 1.0, 10), optax.linear_schedule(1.0, 0.2, 10)], [10])
    rho = rho_like_learning_rate(warm, lr_max=1.0, rho_max=0.6, lr_min=0.2, rho_min=0.1)
    np.testing.assert_allclose([rho(10), rho(20), rho(15)], [0.6, 0.1, 0.35], atol=1e-7)
    np.testing.assert_allclose([rho(0), rho(1)], 0.1, atol=1e-7)  # unclamped: -0.025, 0.0375
    above = rho_like_learning_rate(warm, lr_max=0.5, rho_max=0.6, lr_min=0.2, rho_min=0.1)
    np.testing.assert_allclose(above(10), 0.6, atol=1e-7)  # unclamped: 1.43


@pytest.mark.parametrize("lr_max", [0.1, 0.05])
def test_a_rate_that_does_not_move_has_no_rho_schedule(lr_max):
    with pytest.raises(ValueError, match=r"lr_min < lr_max; got 0\.1"):
        rho_like_learning_rate(optax.constant_schedule(0.1), lr_max=lr_max, rho_max=0.5, lr_min=0.1)


@pytest.mark.claim("GSAM-f3")
def test_from_the_ridge_gradient_descent_and_sam_reach_a_sharp_pit_and_gsam_the_flat_valley():
    starts = jnp.asarray(RIDGE_START) + 0.02 * jnp.asarray(RNG.normal(size=(40, 2)))
    base = optax.sgd(0.1)
    optimizers = (optax.with_extra_args_support(base), sam(base, rho=0.3), gsam(base, rho=0.3, alpha=1.0))
    ends = [
        np.asarray(jax.vmap(lambda w: trace(opt, two_pits_and_a_valley, w, steps=400)[-1])(starts))  # noqa: B023
        for opt in optimizers
    ]
    for end, minimum in zip(ends, [(1.0, 0.8), (1.0, 0.8), (3.3, 0.0)], strict=True):
        # SAM circles at a distance that grows with lr times the slope at ρ; the minima are 2 apart and more.
        assert np.all(np.linalg.norm(end - np.array(minimum), axis=1) < 0.3)


def test_the_error_without_a_loss_names_gsam():
    opt = gsam(optax.sgd(0.1))
    with pytest.raises(ValueError, match="gsam differentiates the loss"):
        opt.update(jnp.ones(2), opt.init(jnp.ones(2)), jnp.ones(2))


def test_every_base_of_the_paper_takes_it():
    for base in (optax.adamw(0.05), optax.adabelief(0.05)):
        path = trace(gsam(base, rho=0.05), bowl, jnp.asarray(W0), jnp.asarray(A), steps=300)
        assert bowl(path[-1], jnp.asarray(A)) < 0.01 * bowl(jnp.asarray(W0), jnp.asarray(A))
