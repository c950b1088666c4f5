"""Entropy-SGD against its own Algorithm 1, the closed form on a bowl, and the integral that defines local entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from course_lib.optimizers.entropy_sgd import entropy_sgd

A = np.array([[3.0, 0.5, 0.0], [0.5, 1.0, -0.2], [0.0, -0.2, 0.3]])
W0 = np.array([1.0, -2.0, 0.5])


def bowl(w, matrix):
    return 0.5 * w @ matrix @ w


def direction(loss, w, batch=None, state_of=lambda s: s, **options):
    """What the base gets at w."""
    opt = entropy_sgd(optax.sgd(1.0), **options)
    return -opt.update(jax.grad(loss)(w, batch), state_of(opt.init(w)), w, loss=loss, batch=batch)[0]


@pytest.mark.claim("GSAM-f5")
def test_the_trajectory_without_noise_is_algorithm_1_written_out():
    opt = entropy_sgd(optax.sgd(0.5), gamma=lambda t: 0.4 * 1.1**t, num_steps=4, inner_rate=0.2, noise=0.0, average=0.6)
    w, state, matrix = jnp.asarray(W0), opt.init(jnp.asarray(W0)), jnp.asarray(A)
    update = jax.jit(lambda w, s: opt.update(jax.grad(bowl)(w, matrix), s, w, loss=bowl, batch=matrix))
    x = W0.copy()
    for t in range(10):
        updates, state = update(w, state)
        w = w + updates
        gamma, y, mu = 0.4 * 1.1**t, x.copy(), x.copy()
        for _ in range(4):
            y = y - 0.2 * (A @ y - gamma * (x - y))
            mu = 0.4 * mu + 0.6 * y
        x = x - 0.5 * gamma * (x - mu)
        np.testing.assert_allclose(w, x, rtol=1e-10)


def test_on_a_bowl_many_inner_steps_give_the_gradient_of_its_local_entropy():
    # exp(-½yᵀAy - γ/2‖x-y‖²) is Gaussian with mean γ(A+γI)⁻¹x, so γ(x - mean) = γA(A+γI)⁻¹x.
    gamma = 0.7
    d = direction(bowl, jnp.asarray(W0), jnp.asarray(A), gamma=gamma, num_steps=300, noise=0.0)
    np.testing.assert_allclose(d, gamma * A @ np.linalg.solve(A + gamma * np.eye(3), W0), rtol=1e-8)


def test_with_noise_of_temperature_one_the_mean_over_seeds_is_the_slope_of_the_log_integral():
    def waves(w, batch=None):
        return jnp.sum(jnp.cos(3 * w) + w**4 / 8)

    x, gamma = 1.5, 2.0
    y = np.linspace(-6, 6, 20001)
    weight = np.exp(-np.cos(3 * y) - y**4 / 8 - gamma / 2 * (x - y) ** 2)
    slope = gamma * (x - np.sum(y * weight) / np.sum(weight))  # -dF/dx, by quadrature

    def draw(seed):
        # √2 in √η' ε N is the Langevin noise whose density is exp(-f), at temperature 1.
        return direction(
            waves, jnp.array(x), gamma=gamma, num_steps=400, inner_rate=0.02, noise=2**0.5, average=0.02, seed=seed
        )

    drawn = np.asarray(jax.jit(jax.vmap(draw))(jnp.arange(4000)))
    error = drawn.std() / np.sqrt(len(drawn))
    # Four standard errors, and the bias of a step of 0.02, which is O(η').
    assert abs(drawn.mean() - slope) < 4 * error + 0.02 * abs(slope)
    assert error < 0.1 * abs(slope)


def test_one_inner_step_is_a_scaled_gradient_step_and_its_noise_has_the_right_size():
    def linear(w, batch=None):
        return jnp.sum(w)

    options = {"gamma": 0.5, "num_steps": 1, "inner_rate": 0.09, "average": 0.8}
    np.testing.assert_allclose(direction(linear, jnp.ones(3), noise=0.0, **options), 0.5 * 0.8 * 0.09, rtol=1e-12)
    noise = direction(linear, jnp.ones(4000), noise=2.0, **options) - 0.5 * 0.8 * 0.09
    # γ a √η' ε N: an sd of .5·.8·.3·2, known to 1/√8000 of itself.
    np.testing.assert_allclose(np.std(noise), 0.24, rtol=4 / np.sqrt(8000))


def test_the_noise_is_new_each_inner_step_and_each_step_and_follows_from_state_and_seed():
    def flat(w, batch=None):
        return 0.0 * jnp.sum(w)

    def noise(count=0, seed=0, num_steps=1):
        options = {"gamma": 1e-9, "num_steps": num_steps, "inner_rate": 1.0, "noise": 1.0, "average": 1.0}
        return (
            np.asarray(
                direction(flat, jnp.zeros(400), None, lambda s: s._replace(count=s.count + count), seed=seed, **options)
            )
            * -1e9
        )

    first = noise()
    np.testing.assert_array_equal(first, noise())
    # The cosine of two independent draws of 400 has sd 1/20.
    for other in (noise(count=1), noise(seed=1)):
        assert abs(first @ other) / 400 < 0.25
    # Two inner steps add two independent draws: the variance doubles, and would be fourfold with one draw used twice.
    np.testing.assert_allclose(np.var(noise(num_steps=2)), 2.0, rtol=0.4)


@pytest.mark.parametrize("traced", [False, True])
def test_float32_parameters_stay_float32_whatever_the_numbers_are(traced):
    w, matrix = jnp.asarray(W0, jnp.float32), jnp.asarray(A, jnp.float32)

    def used(rate):
        return direction(bowl, w, matrix, num_steps=3, inner_rate=rate)

    d = jax.jit(used)(jnp.array(0.1)) if traced else used(0.1)  # a traced number is float64 here
    assert d.dtype == jnp.float32


def test_no_inner_steps_is_an_error():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        entropy_sgd(optax.sgd(0.1), num_steps=0)
