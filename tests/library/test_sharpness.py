"""Sharpness measures against brute force, dense matrices and formulas written by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from course_lib.likelihoods import Categorical
from course_lib.models import Model
from course_lib.sharpness import block_eigenvalues, m_sharpness, ntk_condition_number, pac_bayes_bound, surrogate_gap

RNG = np.random.default_rng(0)
A = jnp.diag(jnp.array([5.0, 2.0, -1.0]))  # a saddle: the largest eigenvalue is 5, at e_1
NET = {"w1": jnp.asarray(RNG.normal(size=(3, 4))), "b1": jnp.zeros(4), "w2": jnp.asarray(RNG.normal(size=(4, 3)))}
BATCH = (jnp.asarray(RNG.normal(size=(6, 3))), jnp.asarray(RNG.integers(0, 3, 6)))
MODEL = Model(lambda p, x: jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"], Categorical())


def bowl(w, matrix):
    return 0.5 * w @ matrix @ w


# --- the surrogate gap


@pytest.mark.claim("GSAM-l3")
def test_on_a_quadratic_the_gap_gives_the_largest_eigenvalue():
    top = jnp.array([1.0, 0.0, 0.0])
    for far in (0.0, 1e-3, 0.5):
        # At far·e_1 the gradient is 5·far·e_1, and h = ρ‖g‖ + ρ²σ/2: at the minimum σ = 2h/ρ² and nothing else.
        gap = jax.jit(lambda w: surrogate_gap(bowl, w, A, 0.3, start=top))(far * top)
        np.testing.assert_allclose(gap, 0.3 * 5 * far + 0.3**2 * 5 / 2, rtol=1e-12)


@pytest.mark.claim("GSAM-l3")
def test_near_a_minimum_one_step_misses_the_eigenvalue_and_several_find_it():
    w = 1e-3 * jnp.array([0.01, 1.0, 0.0])  # hardly along e_1
    one, many = (2 * surrogate_gap(bowl, w, A, 0.3, steps=steps) / 0.3**2 for steps in (1, 15))
    np.testing.assert_allclose(many, 5, rtol=1e-2)
    assert one < 2.1  # the gradient's own direction, e_2


@pytest.mark.claim("GSAM-4")
@pytest.mark.claim("GSAM-1")
def test_for_small_rho_the_gap_is_rho_times_the_slope_and_not_negative():
    key = jax.random.key(0)
    rho = jnp.array([4e-3, 2e-3, 1e-3])

    def gaps(key):
        theta, unravel = ravel_pytree(NET)
        w = unravel(jax.random.normal(key, theta.shape))
        slope = jnp.linalg.norm(ravel_pytree(jax.grad(MODEL.loss)(w, BATCH))[0])
        return jax.vmap(lambda r: surrogate_gap(MODEL.loss, w, BATCH, r))(rho), rho * slope

    gap, first_order = jax.jit(jax.vmap(gaps))(jax.random.split(key, 30))
    assert np.all(np.asarray(gap) >= 0)
    left = np.median(np.abs(gap - first_order), axis=0)
    np.testing.assert_allclose(np.log2(left[:-1] / left[1:]), 2, atol=0.1)  # eq. 2 leaves O(ρ²)


@pytest.mark.claim("GSAM-1")
def test_more_steps_climb_to_the_maximum_over_the_ball_and_never_over_it():
    def waves(w, batch=None):
        return jnp.sin(3 * w[0]) + jnp.cos(2 * w[1] + w[0]) + 0.3 * w[0] * w[1]

    w, rho = jnp.array([-0.3, -0.2]), 0.3
    radius, turn = np.meshgrid(np.linspace(0, rho, 200), np.linspace(0, 2 * np.pi, 2000))
    points = np.asarray(w)[:, None, None] + np.stack([radius * np.cos(turn), radius * np.sin(turn)])
    highest = np.max(waves(points)) - waves(w)
    gaps = np.array([surrogate_gap(waves, w, None, rho, steps=steps) for steps in (1, 2, 5, 20)])
    assert np.all(np.diff(gaps) >= 0)
    assert np.all(gaps <= highest + 1e-4)  # 1e-4: the grid's own spacing
    np.testing.assert_allclose(gaps[-1], highest, rtol=1e-3)
    assert gaps[0] < 0.96 * highest
    # From here the later steps go to and fro between two lower points.
    one, many = (surrogate_gap(waves, jnp.array([0.1, -0.1]), None, rho, steps=steps) for steps in (1, 4))
    assert many == one


@pytest.mark.parametrize(("p", "dual"), [(1, np.inf), (2, 2), (np.inf, 1)])
def test_the_gap_of_a_linear_loss_is_rho_times_the_dual_norm(p, dual):
    g = np.array([3.0, -1.0, 0.5])
    gap = surrogate_gap(lambda w, batch: w @ batch, jnp.ones(3), jnp.asarray(g), 0.2, p=p)
    np.testing.assert_allclose(gap, 0.2 * np.linalg.norm(g, dual), rtol=1e-12)


@pytest.mark.claim("SAM-m")
def test_m_sharpness_is_the_mean_of_the_groups_gaps_and_grows_as_m_falls():
    x, y = BATCH
    measure = jax.jit(surrogate_gap, static_argnums=0)
    alone = [measure(MODEL.loss, NET, (x[i : i + 2], y[i : i + 2]), 0.2) for i in (0, 2, 4)]
    grouped = jax.jit(m_sharpness, static_argnums=(0, 4))
    by_two = grouped(MODEL.loss, NET, BATCH, 0.2, 2)
    np.testing.assert_allclose(by_two, np.mean(alone), rtol=1e-12)
    whole = grouped(MODEL.loss, NET, BATCH, 0.2, 6)
    np.testing.assert_allclose(whole, measure(MODEL.loss, NET, BATCH, 0.2), rtol=1e-12)
    # Each group has its own worst point: a mean of maxima is not below the maximum of the mean, up to eq. 2's error.
    assert by_two > whole
    with pytest.raises(ValueError, match="n = 6, m = 4"):
        m_sharpness(MODEL.loss, NET, BATCH, 0.2, m=4)


# --- eigenvalues and the tangent kernel


@pytest.mark.claim("VIT-t3")
def test_block_eigenvalues_are_those_of_the_diagonal_blocks_of_the_dense_hessian():
    found = jax.jit(lambda key: block_eigenvalues(MODEL.loss, NET, BATCH, key, max_iters=2000, tol=1e-9))(
        jax.random.key(0)
    )
    assert set(found) == set(NET)
    for name, (eigenvalue, residual) in found.items():
        theta, unravel = ravel_pytree(NET[name])
        block = jax.jit(jax.hessian(lambda t: MODEL.loss({**NET, name: unravel(t)}, BATCH)))(theta)  # noqa: B023
        spectrum = np.linalg.eigvalsh(block)
        np.testing.assert_allclose(eigenvalue, spectrum[np.argmax(np.abs(spectrum))], rtol=1e-6)
        assert residual <= 1e-8 * abs(eigenvalue)


def test_a_block_eigenvalue_keeps_its_sign():
    def saddle(w, batch=None):
        return jnp.sum(w["up"] ** 2) - 3 * jnp.sum(w["down"]["x"] ** 2)

    params = {"up": jnp.ones(2), "down": {"x": jnp.ones(3)}}
    found = block_eigenvalues(saddle, params, None, jax.random.key(0))
    np.testing.assert_allclose([found["up"][0], found["down"][0]], [2, -6], rtol=1e-6)


def test_blocks_need_names(shapes_unchecked):
    with pytest.raises(TypeError, match="must be a mapping; got tuple"):
        block_eigenvalues(lambda w, b: w[0], (jnp.ones(2),), None, jax.random.key(0))


@pytest.mark.claim("VIT-1")
def test_the_kernels_condition_number_is_that_of_j_times_its_transpose():
    x = BATCH[0][:4]
    jacobian = jax.jit(jax.jacobian(lambda p: MODEL.apply(p, x).ravel()))(NET)
    flat = np.concatenate([np.asarray(j).reshape(12, -1) for j in jax.tree.leaves(jacobian)], axis=1)
    eigenvalues = np.linalg.eigvalsh(flat @ flat.T)
    kappa = jax.jit(lambda x: ntk_condition_number(MODEL, NET, x))(x)
    np.testing.assert_allclose(kappa, eigenvalues[-1] / eigenvalues[0], rtol=1e-6)


def test_with_more_outputs_than_parameters_the_kernel_is_singular():
    many = jnp.asarray(RNG.normal(size=(10, 3)))  # 30 rows, 28 parameters
    assert ntk_condition_number(MODEL, NET, many) == np.inf


# --- the bound of SAM Theorem 2


def by_hand(worst, squared_norm, k, n, rho, delta):
    """SAM eq. 4 with Õ(1) = 8 log(6n + 3k), the last line of the proof."""
    inside = k * math.log(1 + squared_norm / rho**2 * (1 + math.sqrt(math.log(n) / k)) ** 2)
    return worst + math.sqrt((inside + 4 * math.log(n / delta) + 8 * math.log(6 * n + 3 * k)) / (n - 1))


@pytest.mark.claim("SAM-t1")
def test_the_bound_is_equation_4():
    params = {"a": jnp.array([[3.0, 0.0]]), "b": jnp.array(4.0)}  # ‖w‖² = 25, k = 3
    np.testing.assert_allclose(
        pac_bayes_bound(0.1, params, 5000, 0.5), by_hand(0.1, 25, 3, 5000, 0.5, 0.05), rtol=1e-12
    )
    bound = pac_bayes_bound(0.2, params, 100, 2.0, delta=0.01)
    np.testing.assert_allclose(bound, by_hand(0.2, 25, 3, 100, 2.0, 0.01), rtol=1e-12)


@pytest.mark.claim("SAM-t1")
@given(st.integers(2, 10**6), st.integers(1, 10**6), st.floats(1e-3, 1e3), st.floats(1e-3, 1.0), st.floats(0.001, 0.5))
def test_the_last_line_of_the_proof_is_not_below_the_line_before_it(n, k, norm, rho, delta):
    """It drops 1/√n and the 1/4 of eq. 13 and takes the rest fourfold, which the proof does not show to be enough."""
    weight = jnp.full((), norm)
    params = {"w": weight, "rest": jnp.zeros(k - 1)}
    spread = norm**2 / rho**2 * (1 + math.sqrt(math.log(n) / k)) ** 2
    before = k * math.log1p(spread) / 4 + 1 / 4 + math.log(n / delta) + 2 * math.log(6 * n + 3 * k)
    for worst in (0.0, 1.0):
        earlier = (1 - 1 / math.sqrt(n)) * worst + 1 / math.sqrt(n) + math.sqrt(before / (n - 1))
        assert pac_bayes_bound(worst, params, n, rho, delta) >= earlier


@pytest.mark.claim("SAM-t1")
def test_the_bound_says_something_for_three_parameters_and_nothing_for_a_network():
    assert pac_bayes_bound(0.05, jnp.array([1.0, 1.0, 1.0]), 5000, 0.5) < 0.5
    assert pac_bayes_bound(0.0, jnp.full(10_000, 0.1), 5000, 0.5) > 1
