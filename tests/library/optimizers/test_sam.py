"""SAM against eq. 1-3 by brute force, by hand, and beside optax; and what every optimizer around a base promises."""

import functools
import itertools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from course_lib.curvature.products import hvp
from course_lib.optimizers.entropy_sgd import entropy_sgd
from course_lib.optimizers.gsam import gsam
from course_lib.optimizers.sam import ascend, dual_norm_perturbation, groups, random_sam, sam, unit

RNG = np.random.default_rng(0)
A = np.array([[3.0, 0.5, 0.0], [0.5, 1.0, -0.2], [0.0, -0.2, 0.3]])  # positive definite
W0 = np.array([1.0, -2.0, 0.5])
BATCH = (jnp.asarray(RNG.normal(size=(12, 4))), jnp.asarray(RNG.integers(0, 3, 12)))
NET = {
    "w1": jnp.asarray(RNG.normal(size=(4, 5)) / 2),
    "b1": jnp.asarray(RNG.normal(size=5) / 2),
    "w2": jnp.asarray(RNG.normal(size=(5, 3)) / 2),
}
OPTIMIZERS = {
    "sam": sam,
    "exact, p=3, two steps, m": lambda base: sam(base, p=3, ascent_steps=2, second_order=True, m=2),
    "exact asam": lambda base: sam(base, adaptive=True, second_order=True),
    "random": random_sam,
    "gsam, adaptive, m": lambda base: gsam(base, adaptive=True, m=3),
    "entropy-sgd": lambda base: entropy_sgd(base, num_steps=3),
}


@functools.cache
def on_the_net(make):
    """The optimizer around Adam, and its compiled update on NET and BATCH."""
    opt = optax.chain(optax.clip_by_global_norm(0.5), make(optax.adam(0.1)))
    return opt, jax.jit(lambda g, state, params: opt.update(g, state, params, loss=net_loss, batch=BATCH))


every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def bowl(w, matrix):
    """½ wᵀAw."""
    return 0.5 * w @ matrix @ w


def net_loss(params, batch, activation=jnp.tanh):
    x, y = batch
    z = activation(x @ params["w1"] + params["b1"]) @ params["w2"]
    return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()


NET_GRADIENT = jax.jit(lambda params: jax.grad(net_loss)(params, BATCH))


def trace(opt, loss, params, batch=None, steps=50, state=None):
    """The parameters after each step, and the last parameters and state."""
    opt = optax.with_extra_args_support(opt)

    def step(carry, _):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params, batch), state, params, loss=loss, batch=batch)
        params = optax.apply_updates(params, updates)
        return (params, state), ravel_pytree(params)[0]

    start = (params, opt.init(params) if state is None else state)
    (params, state), path = jax.jit(lambda start: jax.lax.scan(step, start, length=steps))(start)
    return path, params, state


def direction(make, loss, params, batch=None, grads=None, **options):
    """What the base gets."""
    opt = make(optax.sgd(1.0), **options)

    @jax.jit
    def updates(params, batch, grads):
        grads = jax.grad(loss)(params, batch) if grads is None else grads
        return opt.update(grads, opt.init(params), params, loss=loss, batch=batch)[0]

    return jax.tree.map(np.negative, updates(params, batch, grads))


def epsilon_of(make, w=W0, matrix=A, **options):
    """The ε̂ that an optimizer used on a bowl ½ wᵀAw, where the gradient there is A (w + ε̂)."""
    return np.linalg.solve(matrix, direction(make, bowl, jnp.asarray(w), jnp.asarray(matrix), **options)) - w


# --- eq. 1 and 2: the perturbation


def p_norm(v, p):
    return np.linalg.norm(v, p)


@pytest.mark.claim("SAM-2")
@pytest.mark.parametrize("p", [1, 1.5, 2, 3, np.inf])
def test_no_point_of_the_ball_climbs_a_linear_model_higher(p):
    rho, g = 0.7, np.array([1.5, -0.3, 0.0, 2.0, -1.1])
    tree = dual_norm_perturbation({"a": jnp.asarray(g[:2]), "b": jnp.asarray(g[2:]).reshape(3, 1)}, rho, p)
    epsilon = np.concatenate([tree["a"], tree["b"][:, 0]])
    q = 1.0 if p == np.inf else np.inf if p == 1 else p / (p - 1)
    np.testing.assert_allclose(p_norm(epsilon, p), rho, rtol=1e-12)
    np.testing.assert_allclose(epsilon @ g, rho * p_norm(g, q), rtol=1e-12)  # Hölder's bound, which nothing exceeds
    assert epsilon @ g >= best_climb(g, rho, p) - 1e-7


def best_climb(g, rho, p):
    """max of εᵀg over ‖ε‖_p ≤ ρ, found without eq. 2: at a corner of the ball, or by SLSQP."""
    if p == 1:
        return max(rho * s * g_i for g_i in g for s in (1, -1))
    if p == np.inf:
        return max(rho * np.dot(signs, g) for signs in itertools.product((1, -1), repeat=len(g)))
    ball = {"type": "ineq", "fun": lambda e: rho**p - np.sum(np.abs(e) ** p)}
    found = scipy.optimize.minimize(lambda e: -e @ g, 0.1 * np.sign(g), constraints=ball, method="SLSQP", tol=1e-12)
    assert found.success
    assert -found.fun > 0.99 * rho * p_norm(g, p / (p - 1))  # the search works: it comes close by itself
    return -found.fun


@pytest.mark.claim("SAM-2")
@given(
    st.lists(st.floats(-10, 10).filter(lambda v: abs(v) > 1e-3 or v == 0), min_size=1, max_size=6).filter(any),
    st.floats(1, 50),
)
def test_it_reaches_the_dual_norm_for_any_p(g, p):
    g, q = np.array(g), np.inf if p == 1 else p / (p - 1)
    epsilon = np.asarray(dual_norm_perturbation(jnp.asarray(g), 2.0, p))
    np.testing.assert_allclose(p_norm(epsilon, p), 2.0, rtol=1e-9)
    np.testing.assert_allclose(epsilon @ g, 2.0 * p_norm(g, q), rtol=1e-9)


def test_equal_largest_coordinates_share_rho_as_in_the_limit():
    g = jnp.array([3.0, -3.0, 2.9])
    np.testing.assert_array_equal(dual_norm_perturbation(g, 0.1, 1), [0.05, -0.05, 0.0])
    np.testing.assert_allclose(dual_norm_perturbation(g, 0.1, 1.001), [0.05, -0.05, 0.0], atol=1e-4)


@pytest.mark.parametrize("size", [2e-38, 1e-20, 1e20, 3e38])
@pytest.mark.parametrize("p", [1, 1.2, 2, 3, np.inf])
def test_only_the_direction_counts_not_the_size(p, size):
    g = np.array([1.0, -0.75, 0.0], np.float32)
    epsilon = dual_norm_perturbation(jnp.asarray(g * np.float32(size)), 0.1, p)
    assert epsilon.dtype == jnp.float32
    np.testing.assert_allclose(epsilon, dual_norm_perturbation(jnp.asarray(g), 0.1, p), rtol=1e-5)


def test_p_1_moves_one_coordinate_however_the_largest_one_rounds():
    # In XLA a/max(a) is often 1 - 6e-8 at the largest a, and (1 - 6e-8)^∞ is 0.
    perturbation = jax.jit(lambda g: dual_norm_perturbation(g, 0.1, 1))
    for g in np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32):
        assert np.count_nonzero(perturbation(g)) == 1


def test_unit_has_one_norm_over_all_leaves_and_keeps_zero():
    tree = unit({"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)})
    np.testing.assert_allclose(ravel_pytree(tree)[0], [0.6, 0.0, 0.8])
    np.testing.assert_array_equal(unit(jnp.zeros(3)), np.zeros(3))


@pytest.mark.claim("SAM-1")
def test_the_loss_at_w_plus_epsilon_is_the_maximum_over_the_ball_up_to_rho_cubed():
    matrix, w = A[:2, :2], np.array([1.0, -2.0])
    turn = np.linspace(0, 2 * np.pi, 100001)

    def missed(rho):
        circle = w[:, None] + rho * np.stack([np.cos(turn), np.sin(turn)])  # a convex loss is largest on the boundary
        at = w + epsilon_of(sam, w, matrix, rho=rho)
        return np.max(0.5 * np.sum(circle * (matrix @ circle), axis=0)) - 0.5 * at @ matrix @ at

    gaps = np.array([missed(0.4), missed(0.2), missed(0.1)])
    assert np.all(gaps > 0)
    # ε̂ is O(ρ) off in angle, and the loss is stationary in the angle at its maximum: ρ · angle².
    np.testing.assert_allclose(np.log2(gaps[:-1] / gaps[1:]), 3, atol=0.3)


# --- eq. 3 and Algorithm 1: the gradient and the trajectory


@pytest.mark.claim("SAM-3")
def test_the_trajectory_is_algorithm_1_written_out():
    path, _, _ = trace(sam(optax.sgd(0.1, momentum=0.5), rho=0.3), bowl, jnp.asarray(W0), jnp.asarray(A))
    w, velocity = W0.copy(), np.zeros(3)
    for row in np.asarray(path):
        g = A @ w
        velocity = A @ (w + 0.3 * g / np.linalg.norm(g)) + 0.5 * velocity
        w = w - 0.1 * velocity
        np.testing.assert_allclose(row, w, rtol=1e-10, atol=1e-12)


@pytest.mark.claim("SAM-3")
@pytest.mark.parametrize("base", [optax.sgd(0.3), optax.adam(0.02)], ids=["sgd", "adam"])
def test_the_trajectory_of_a_network_is_that_of_optax_where_optax_is_right(base):
    ours, _, _ = trace(sam(base, rho=0.2), net_loss, NET, BATCH)
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.2))
    peer = optax.contrib.sam(base, ascent, sync_period=2, opaque_mode=True)
    params, state, path = NET, peer.init(NET), []
    gradient = jax.jit(jax.grad(net_loss))

    @jax.jit
    def step(params, state):
        updates, state = peer.update(
            jax.grad(net_loss)(params, BATCH), state, params, grad_fn=lambda w, _: gradient(w, BATCH)
        )
        return optax.apply_updates(params, updates), state

    for _ in range(50):
        params, state = step(params, state)
        path.append(ravel_pytree(params)[0])
    np.testing.assert_allclose(ours, np.stack(path), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("p", [2, np.inf])
def test_several_ascent_steps_are_short_ones_that_follow_the_path(p):
    rho, epsilon = 1.0, np.zeros(3)
    for _ in range(4):
        g = A @ (W0 + epsilon)
        epsilon = epsilon + rho / 4 * (np.sign(g) if p == np.inf else g / np.linalg.norm(g))
    used = epsilon_of(sam, rho=rho, p=p, ascent_steps=4)
    np.testing.assert_allclose(used, epsilon, rtol=1e-10)
    assert p_norm(used, p) <= rho + 1e-12


@pytest.mark.claim("SAM-so")
@pytest.mark.parametrize(
    "options", [{}, {"p": 1.5}, {"p": 4}, {"adaptive": True}, {"ascent_steps": 2}], ids=lambda o: str(o) or "p=2"
)
def test_second_order_is_the_derivative_of_the_loss_at_w_plus_epsilon_of_w(options):
    theta, unravel = ravel_pytree(NET)

    @jax.jit
    def perturbed_loss(theta):
        w = unravel(theta)
        return net_loss(ascend(net_loss, w, BATCH, jax.grad(net_loss)(w, BATCH), 0.4, **options), BATCH)

    exact = ravel_pytree(direction(sam, net_loss, NET, BATCH, rho=0.4, second_order=True, **options))[0]
    plain = ravel_pytree(direction(sam, net_loss, NET, BATCH, rho=0.4, **options))[0]
    differences = [(perturbed_loss(theta + d) - perturbed_loss(theta - d)) / 2e-5 for d in 1e-5 * np.eye(theta.size)]
    np.testing.assert_allclose(exact, differences, rtol=1e-6, atol=1e-8)
    assert np.linalg.norm(exact - plain) > 0.02 * np.linalg.norm(plain)  # what eq. 3 drops is not nothing


@pytest.mark.claim("SAM-so")
def test_the_dropped_term_is_one_hessian_vector_product():
    g = NET_GRADIENT(NET)
    g_p = direction(sam, net_loss, NET, BATCH, rho=0.4)
    exact = direction(sam, net_loss, NET, BATCH, rho=0.4, second_order=True)
    (flat_g, _), (flat_p, unravel) = ravel_pytree(g), ravel_pytree(g_p)
    u = flat_g / jnp.linalg.norm(flat_g)
    # dε̂/dw = ρ/‖g‖ (I - uuᵀ) H, so its transpose times g_p is H times the part of g_p across g.
    across = 0.4 / jnp.linalg.norm(flat_g) * (flat_p - (flat_p @ u) * u)
    dropped = jax.jit(lambda v: hvp(net_loss, NET, BATCH, v))(unravel(across))
    np.testing.assert_allclose(ravel_pytree(exact)[0] - flat_p, ravel_pytree(dropped)[0], rtol=1e-8, atol=1e-12)


@pytest.mark.claim("SAM-so")
@pytest.mark.parametrize("p", [1, np.inf])
def test_where_epsilon_is_piecewise_constant_there_is_no_second_order_term(p):
    exact = direction(sam, net_loss, NET, BATCH, p=p, second_order=True)
    jax.tree.map(np.testing.assert_array_equal, exact, direction(sam, net_loss, NET, BATCH, p=p))


def test_second_order_survives_a_weight_that_the_loss_does_not_see():
    d = direction(sam, net_loss, {**NET, "unused": jnp.ones(2)}, BATCH, p=4, second_order=True)
    assert np.all(np.isfinite(ravel_pytree(d)[0]))
    np.testing.assert_array_equal(d["unused"], 0)


# --- ASAM, m-sharpness, random perturbations


def test_adaptive_is_rho_w_squared_g_over_the_norm_of_w_g():
    g = A @ W0
    expected = 0.3 * W0**2 * g / np.linalg.norm(W0 * g)
    np.testing.assert_allclose(epsilon_of(sam, rho=0.3, adaptive=True), expected, rtol=1e-10)
    # Several steps stay in the ball of the weights where they began.
    used = epsilon_of(sam, rho=0.3, adaptive=True, ascent_steps=3)
    assert np.linalg.norm(used / W0) <= 0.3 + 1e-12


@pytest.mark.claim("GSAM-f5")
def test_asam_sees_the_same_network_behind_rescaled_layers_and_sam_does_not():
    """Two layers of a ReLU net scaled by c and 1/c are the same function; its perturbed loss should be the same too."""

    def relu_loss(params, batch):
        return net_loss(params, batch, jax.nn.relu)

    @functools.partial(jax.jit, static_argnames="adaptive")
    def perturbed_loss(net, adaptive):
        w = ascend(relu_loss, net, BATCH, jax.grad(relu_loss)(net, BATCH), 0.3, adaptive=adaptive)
        return relu_loss(w, BATCH)

    c = 5.0
    same = {"w1": NET["w1"] * c, "b1": NET["b1"] * c, "w2": NET["w2"] / c}
    np.testing.assert_allclose(perturbed_loss(same, adaptive=True), perturbed_loss(NET, adaptive=True), rtol=1e-10)
    assert abs(perturbed_loss(same, adaptive=False) - perturbed_loss(NET, adaptive=False)) > 0.01


@pytest.mark.claim("SAM-m")
@pytest.mark.parametrize("m", [3, 12])
def test_m_sharpness_is_the_mean_of_the_groups_on_their_own(m):
    gradient = jax.jit(jax.grad(net_loss))
    x, y = BATCH
    alone = []
    for i in range(0, 12, m):  # consecutive
        part = (x[i : i + m], y[i : i + m])
        g = gradient(NET, part)
        length = 0.5 / np.linalg.norm(ravel_pytree(g)[0])
        worst = {name: NET[name] + length * g[name] for name in NET}
        alone.append(ravel_pytree(gradient(worst, part))[0])
    together = ravel_pytree(direction(sam, net_loss, NET, BATCH, rho=0.5, m=m))[0]
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-10, atol=1e-13)


def test_m_sharpness_takes_its_gradients_from_the_groups_not_from_outside():
    wrong = jax.tree.map(lambda g: g + 1, NET)
    given = direction(sam, net_loss, NET, BATCH, grads=wrong, m=3)
    jax.tree.map(np.testing.assert_array_equal, given, direction(sam, net_loss, NET, BATCH, m=3))


@pytest.mark.parametrize(
    ("batch", "m", "message"),
    [
        (BATCH, 5, "n = 12, m = 5"),
        (None, 3, "got shapes \\[\\]"),
        ((BATCH[0], BATCH[1][:6]), 3, "same n"),
        ((BATCH[0], 1.0), 3, "same n"),
        ((BATCH[0][:0],), 3, "n > 0"),
    ],
    ids=["not a divisor", "no batch", "ragged", "a scalar", "empty"],
)
def test_a_batch_that_m_cannot_group_is_an_error(batch, m, message):
    with pytest.raises(ValueError, match=message):
        groups(batch, m)
    with pytest.raises(ValueError, match=message):
        direction(sam, net_loss, NET, batch, grads=NET, m=m)


@pytest.mark.claim("SAM-c5")
def test_a_random_perturbation_has_length_rho_a_new_direction_each_step_and_depends_on_state_and_seed_alone():
    opt = random_sam(optax.sgd(1.0), rho=0.3)
    w, matrix = jnp.zeros(400), jnp.eye(400)
    update = jax.jit(lambda state: opt.update(w, state, w, loss=bowl, batch=matrix))  # on the unit bowl at 0: -ε
    first, state = update(opt.init(w))
    again, _ = update(opt.init(w))
    second, _ = update(state)
    other = random_sam(optax.sgd(1.0), rho=0.3, seed=1)
    third, _ = other.update(w, other.init(w), w, loss=bowl, batch=matrix)
    for epsilon in (first, second, third):
        np.testing.assert_allclose(jnp.linalg.norm(epsilon), 0.3, rtol=1e-12)
        assert abs(epsilon.mean()) < 4 * 0.3 / 400  # sd of the mean of 400 entries of size ρ/20, times 4
    np.testing.assert_array_equal(first, again)
    # Two random directions in 400 dimensions: the cosine's sd is 1/20.
    assert all(abs(a @ b) / 0.09 < 0.25 for a, b in itertools.combinations((first, second, third), 2))


def test_after_a_skipped_step_the_random_perturbation_is_another_one():
    opt = random_sam(optax.sgd(1.0), rho=0.3)
    w, matrix = jnp.zeros(400), jnp.eye(400)
    state = opt.init(w)
    first, _ = opt.update(w, state, w, loss=bowl, batch=matrix)
    _, state = opt.update(w * jnp.nan, state, w, loss=bowl, batch=matrix)
    second, _ = opt.update(w, state, w, loss=bowl, batch=matrix)
    assert abs(first @ second) / 0.09 < 0.25


# --- what every optimizer here promises


def test_numbers_may_be_schedules_from_count_0_or_traced():
    schedule = optax.piecewise_constant_schedule(0.5, {1: 0.1})
    path, _, state = trace(sam(optax.sgd(0.1), rho=schedule), bowl, jnp.asarray(W0), jnp.asarray(A), steps=3)
    first, _, _ = trace(sam(optax.sgd(0.1), rho=0.5), bowl, jnp.asarray(W0), jnp.asarray(A), steps=1)
    rest, _, _ = trace(sam(optax.sgd(0.1), rho=0.05), bowl, first[0], jnp.asarray(A), steps=2)
    np.testing.assert_allclose(path, np.concatenate([first, rest]), rtol=1e-12)
    assert state.count == 3

    def last(rho, lr):
        return trace(sam(optax.sgd(lr), rho=rho), bowl, jnp.asarray(W0), jnp.asarray(A), steps=5)[0][-1]

    swept = jax.vmap(last)(jnp.array([0.0, 0.2]), jnp.array([0.1, 0.05]))
    np.testing.assert_allclose(swept, [last(0.0, 0.1), last(0.2, 0.05)], rtol=1e-10)


@every_optimizer
def test_a_gradient_that_is_not_finite_skips_the_step_and_the_next_one_goes_on(make):
    opt, update = on_the_net(make)
    grads = NET_GRADIENT(NET)
    _, (_, before) = update(grads, opt.init(NET), NET)
    for bad in (jnp.inf, jnp.nan):
        broken = {**grads, "b1": grads["b1"].at[2].set(bad)}
        updates, (_, state) = update(broken, ((), before), NET)
        jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), updates)
        jax.tree.map(np.testing.assert_array_equal, state.base, before.base)
        assert (state.count, state.skipped) == (1, 1)
    updates, (_, after) = update(grads, ((), state), NET)
    assert (after.count, after.skipped) == (2, 1)
    assert all(np.any(u != 0) for u in jax.tree.leaves(updates))


@every_optimizer
def test_a_gradient_that_breaks_only_away_from_w_skips_the_step(make):
    def cliff(w, batch):
        """Finite where w is 2 alone; a tree of one number, and 12 examples for m."""
        return jnp.mean(batch) * jnp.where(w == 2, w**2, jnp.nan * w)

    opt, w = make(optax.adam(0.1)), jnp.array(2.0)
    updates, state = jax.jit(lambda w: opt.update(w, opt.init(w), w, loss=cliff, batch=jnp.ones(12)))(w)
    assert updates == 0
    assert (state.count, state.skipped, state.base[0].count) == (0, 1, 0)


@every_optimizer
def test_a_zero_gradient_is_a_step_that_lets_the_base_decay_the_weights(make):
    def flat(w, batch):
        return 0.0 * w * jnp.sum(batch)

    opt = make(optax.chain(optax.add_decayed_weights(0.5), optax.sgd(1.0)))
    w, zero = jnp.array(2.0), jnp.array(0.0)
    updates, state = jax.jit(lambda w: opt.update(zero, opt.init(w), w, loss=flat, batch=jnp.ones(12)))(w)
    assert (state.count, state.skipped) == (1, 0)
    np.testing.assert_allclose(updates, -1.0, atol=1e-3)  # entropy-sgd still adds its noise of 1e-4


@every_optimizer
def test_no_dtype_drifts_in_a_tree_of_several(make):
    dtypes = {"w1": jnp.float16, "b1": jnp.bfloat16, "w2": jnp.float32}
    net = {name: NET[name].astype(dtype) for name, dtype in dtypes.items()}
    batch = BATCH[0].astype(jnp.float32)

    def half_loss(net, x):
        return jnp.mean(jnp.tanh(x @ net["w1"] + net["b1"]) @ net["w2"] ** 2)

    base = optax.adam(0.01, eps=1e-3)  # Adam's own 1e-8 is 0 in float16
    _, params, state = trace(make(base), half_loss, net, batch, steps=3)  # a drift is a TypeError of scan
    assert {name: a.dtype for name, a in params.items()} == dtypes
    assert {name: a.dtype for name, a in state.base[0].mu.items()} == dtypes
    assert (state.count, state.skipped) == (3, 0)
    assert all(np.any(params[name] != net[name]) for name in net)


def test_the_norm_of_half_precision_gradients_does_not_overflow():
    slope = jnp.full(400, 3e4, jnp.float16)  # the sum of squares is 3.6e11; float16 ends at 65504

    def steep(w, batch):
        return jnp.sum(slope * w) / 400 + jnp.sum(w**2)

    d = direction(sam, steep, jnp.zeros(400, jnp.float16), grads=slope, rho=10.0)
    np.testing.assert_allclose(d, 75 + 2 * 0.5, rtol=1e-3)  # ε = 10/√400


@every_optimizer
def test_a_model_without_parameters_works(make):
    def no_loss(params, batch):
        return jnp.mean(batch)

    opt = make(optax.adam(0.1))
    updates, state = jax.jit(lambda p: opt.update(p, opt.init(p), p, loss=no_loss, batch=jnp.ones(12)))({})
    assert updates == {}
    assert (state.count, state.skipped) == (1, 0)


@every_optimizer
def test_a_missing_loss_is_an_error_that_names_it_and_missing_params_too(make):
    opt = make(optax.sgd(0.1))
    with pytest.raises(ValueError, match="loss=loss, batch=batch"):
        opt.update(NET, opt.init(NET), NET)
    with pytest.raises(ValueError, match="needs the parameters"):
        opt.update(NET, opt.init(NET), loss=net_loss, batch=BATCH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 0.5}, "p = 0.5"),
        ({"p": float("nan")}, "p = nan"),
        ({"adaptive": True, "p": np.inf}, "p = 2 only"),
        ({"ascent_steps": 0}, "ascent_steps = 0"),
        ({"m": 0}, "m = 0"),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        sam(optax.sgd(0.1), **options)


@every_optimizer
def test_a_run_resumes_from_its_saved_leaves_bit_for_bit(make):
    opt, update = on_the_net(make)

    def run(params, state, steps):
        for _ in range(steps):
            updates, state = update(NET_GRADIENT(params), state, params)
            params = jax.tree.map(np.add, params, updates)
        return params, state

    whole = run(NET, opt.init(NET), 5)
    leaves, tree = jax.tree.flatten(run(NET, opt.init(NET), 3))
    saved = [np.asarray(a).tobytes() for a in leaves]
    loaded = [jnp.asarray(np.frombuffer(b, a.dtype).reshape(a.shape)) for a, b in zip(leaves, saved, strict=True)]
    jax.tree.map(np.testing.assert_array_equal, run(*jax.tree.unflatten(tree, loaded), 2), whole)


def test_a_typed_key_in_the_state_of_the_base_works_and_stays_where_a_step_is_skipped():
    def init(params):
        return jax.random.key(5)

    def update(updates, key, params=None):
        key, draw = jax.random.split(key)
        return jax.tree.map(lambda u: -u * jax.random.uniform(draw, u.shape), updates), key

    opt = sam(optax.GradientTransformation(init, update))
    _, w, state = trace(opt, bowl, jnp.asarray(W0), jnp.asarray(A), steps=2)
    assert jnp.issubdtype(state.base.dtype, jax.dtypes.prng_key)
    _, skipped = opt.update(w * jnp.nan, state, w, loss=bowl, batch=jnp.asarray(A))
    np.testing.assert_array_equal(jax.random.key_data(skipped.base), jax.random.key_data(state.base))


def test_the_base_gets_the_words_that_it_asks_for():
    opt = sam(optax.polyak_sgd(f_min=0.0), rho=0.0)
    w, matrix = jnp.asarray(W0), jnp.asarray(A)
    g = jax.grad(bowl)(w, matrix)
    updates, _ = opt.update(g, opt.init(w), w, loss=bowl, batch=matrix, value=bowl(w, matrix))
    np.testing.assert_allclose(updates, -g * bowl(w, matrix) / (g @ g), rtol=1e-7)

    nested = sam(random_sam(optax.sgd(1.0), rho=0.0), rho=0.3)  # a base that needs loss and batch itself
    updates, _ = nested.update(g, nested.init(w), w, loss=bowl, batch=matrix)
    np.testing.assert_allclose(updates, -g, rtol=1e-12)


# --- cost and devices


def flops(f, *args):
    return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]


def test_a_step_takes_two_gradients_and_gsam_no_third():
    rng = np.random.default_rng(0)
    sizes = [64, 128, 128, 10]
    layers = [jnp.asarray(rng.normal(size=s) / 8, jnp.float32) for s in itertools.pairwise(sizes)]
    batch = (jnp.asarray(rng.normal(size=(256, 64)), jnp.float32), jnp.asarray(rng.integers(0, 10, 256)))

    def loss(layers, batch):
        x, y = batch
        for w in layers[:-1]:
            x = jnp.tanh(x @ w)
        return optax.softmax_cross_entropy_with_integer_labels(x @ layers[-1], y).mean()

    def step_cost(opt):
        def step(params, state):
            updates, state = opt.update(jax.grad(loss)(params, batch), state, params, loss=loss, batch=batch)
            return optax.apply_updates(params, updates), state

        return flops(step, layers, opt.init(layers)) / flops(jax.grad(loss), layers, batch)

    cost = {make: step_cost(make(optax.sgd(0.1))) for make in (sam, gsam)}
    assert 1.9 < cost[sam] <= 2.05
    assert cost[gsam] <= cost[sam] + 0.05
    assert step_cost(sam(optax.sgd(0.1), ascent_steps=3)) == pytest.approx(4, abs=0.15)


def test_the_numbers_are_the_same_on_eight_devices():
    code = """
        import jax, jax.numpy as jnp, numpy as np, optax
        from jax.sharding import NamedSharding, PartitionSpec as P
        from course_lib.optimizers.gsam import gsam
        from course_lib.optimizers.sam import sam
        assert jax.device_count() == 8
        mesh = jax.make_mesh((8,), ("examples",), axis_types=(jax.sharding.AxisType.Auto,))
        rng = np.random.default_rng(0)
        w, x, y = (jnp.asarray(rng.normal(size=s)) for s in [(4, 3), (16, 4), (16, 3)])
        split = jax.device_put((x, y), NamedSharding(mesh, P("examples")))

        def loss(w, batch):
            return jnp.mean((jnp.tanh(batch[0] @ w) - batch[1]) ** 2)

        for opt in (sam(optax.adam(0.1)), sam(optax.adam(0.1), m=2), gsam(optax.adam(0.1), alpha=0.7)):
            @jax.jit
            def step(batch):
                return opt.update(jax.grad(loss)(w, batch), opt.init(w), w, loss=loss, batch=batch)[0]
            np.testing.assert_allclose(step(split), step((x, y)), rtol=1e-12)
    """
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
