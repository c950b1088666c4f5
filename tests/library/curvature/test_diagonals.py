"""Random diagonals: unbiased, as exact as theory says, with an honest standard error; the signs behind them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from matfree import stochtrace

from course_lib.curvature import matrices
from course_lib.curvature.diagonals import fisher_diagonal_mc, hutchinson_diagonal, mean_and_error, rademacher
from course_lib.curvature.products import hvp
from course_lib.likelihoods import Bernoulli, Categorical, Normal
from course_lib.models import Model

P = 6
DENSE = np.random.default_rng(0).normal(size=(P, P))
DENSE = jnp.asarray(DENSE + DENSE.T)
DIAGONAL = np.diag(DENSE)


def hutchinson_of(matrix, num_probes):
    """key -> (estimate, error) for a dense matrix, compiled."""
    return jax.jit(lambda key: hutchinson_diagonal(lambda v: matrix @ v, key, matrix[0], num_probes))


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def slope(x, y):
    return np.polyfit(np.log(x), np.log(y), 1)[0]


# signs

SIGNS = 1 << 18


@pytest.fixture(scope="module")
def signs():
    return np.asarray(rademacher(jax.random.key(0), jnp.zeros(SIGNS)))


def assert_mean_zero(products):
    """A mean of n fair signs has standard deviation 1/√n."""
    assert abs(np.mean(products)) < 5 / np.sqrt(products.size)


def test_signs_are_fair_at_every_bit(signs):
    assert set(np.unique(signs)) == {-1, 1}
    assert_mean_zero(signs)
    for bit in range(32):
        assert_mean_zero(signs[bit::32])


@pytest.mark.parametrize("lag", [1, 2, 31, 32, 33, 64, SIGNS // 32, SIGNS // 2])
def test_signs_are_independent_of_their_neighbours(signs, lag):
    assert_mean_zero(signs[lag:] * signs[:-lag])


def test_signs_are_independent_between_leaves_and_keys(signs):
    like = {"a": jnp.zeros((512, 256)), "b": jnp.zeros((256, 512)), "c": jnp.zeros(SIGNS // 2)}
    one, other = (jax.tree.leaves(rademacher(jax.random.key(seed), like)) for seed in (1, 2))
    for a, b in [(one[0], one[1]), (one[0], one[2]), (one[1], one[2]), (one[0], other[0])]:
        assert_mean_zero(a.reshape(-1) * b.reshape(-1))


def test_signs_have_the_shapes_and_dtypes_of_the_tree():
    like = {"bf16": jnp.zeros((3, 11), jnp.bfloat16), "f32": jnp.float32(0), "none": jnp.zeros((0, 2)), "number": 1.0}
    z = rademacher(jax.random.key(0), like)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), z) == jax.tree.map(
        lambda a: (jnp.shape(a), jnp.result_type(a)), like
    )
    assert all(bool(jnp.all(jnp.abs(a) == 1)) for a in jax.tree.leaves(z))
    assert rademacher(jax.random.key(0), {}) == {}


def test_many_probes_by_vmap_differ():
    z = jax.vmap(lambda key: rademacher(key, jnp.zeros(64)))(jax.random.split(jax.random.key(0), 16))
    assert len(np.unique(z, axis=0)) == 16


# Hutchinson


@pytest.mark.claim("AH-9")
def test_hutchinson_is_unbiased_on_a_dense_matrix():
    """Signs that are all alike (a public implementation drew them) would give the row sums: far out of the error."""
    estimate, error = hutchinson_of(DENSE, 4000)(jax.random.key(0))
    assert np.all(np.abs(estimate - DIAGONAL) < 5 * error)
    assert np.abs(DENSE.sum(axis=1) - DIAGONAL).max() > 20 * np.max(error)


@pytest.mark.claim("AH-9")
def test_its_variance_is_the_off_diagonal_squared():
    """Var[z_i (Hz)_i] = Σ_{j≠i} H_ij². 4000 draws give a variance to √(2/4000) = 2 % (kurtosis 3): 10 % is 5 s.e."""
    _, error = hutchinson_of(DENSE, 4000)(jax.random.key(1))
    expected = np.sum(np.asarray(DENSE) ** 2, axis=1) - DIAGONAL**2
    np.testing.assert_allclose(np.asarray(error) ** 2 * 4000, expected, rtol=0.1)


@pytest.mark.claim("AH-9")
def test_one_probe_is_exact_on_a_diagonal_matrix():
    estimate, error = hutchinson_of(jnp.diag(DENSE[0]), 1)(jax.random.key(0))
    np.testing.assert_array_equal(estimate, DENSE[0])
    assert np.all(np.isnan(error))
    _, error = hutchinson_of(jnp.diag(DENSE[0]), 3)(jax.random.key(0))
    np.testing.assert_array_equal(error, np.zeros(P))


@pytest.mark.claim("AH-9")
def test_the_error_falls_as_one_over_the_root_of_the_probes():
    """Root mean square over 400 keys and 6 entries: each to about 1/√(2·400·6) = 1.4 %, the slope to well under .02."""
    probes = np.array([4, 16, 64, 256])
    keys = [jax.random.split(jax.random.key(seed), 400) for seed in range(probes.size)]
    rms = [
        np.sqrt(np.mean((jax.vmap(hutchinson_of(DENSE, int(m)))(k)[0] - DIAGONAL) ** 2))
        for m, k in zip(probes, keys, strict=True)
    ]
    assert abs(slope(probes, rms) + 0.5) < 0.05


def test_the_standard_error_is_honest():
    """Within 2 standard errors in 95 % of 500 keys (6 entries, 64 probes); 1 % is the binomial error of one entry."""
    estimate, error = jax.vmap(hutchinson_of(DENSE, 64))(jax.random.split(jax.random.key(3), 500))
    assert 0.92 < np.mean(np.abs(estimate - DIAGONAL) < 2 * error) < 0.98


def test_hutchinson_beside_matfree():
    """The same mean, and the same standard error, from other signs."""
    sampler = stochtrace.sampler_signs(jnp.zeros(P), num=2000)
    peer = stochtrace.estimator_monte_carlo_mean_and_sem(stochtrace.monte_carlo_diagonal(), sampler)
    peer_estimate, peer_error = peer(lambda v: DENSE @ v, jax.random.key(4))
    estimate, error = hutchinson_of(DENSE, 2000)(jax.random.key(5))
    assert np.all(np.abs(estimate - peer_estimate) < 5 * np.hypot(error, peer_error))
    np.testing.assert_allclose(error, peer_error, rtol=0.15)


@settings(max_examples=5)  # each compiles
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=3), seed=st.integers(0, 2**31))
def test_a_tree_comes_back_as_a_tree(sizes, seed):
    """A matrix that is diagonal over the whole tree: exact for any structure, leaves of no entries too."""
    like = [np.random.default_rng(seed).normal(size=(2, n)) for n in sizes]
    estimate, _ = hutchinson_diagonal(lambda v: jax.tree.map(jnp.multiply, v, like), jax.random.key(seed), like)
    jax.tree.map(np.testing.assert_array_equal, estimate, like)


def test_the_diagonal_of_a_loss():
    """x² y + y² at (1, 2): H = [[2y, 2x], [2x, 2]]; each draw is off by ±2x."""
    product = partial(hvp, lambda p, _: p["x"] ** 2 * p["y"] + p["y"] ** 2, {"x": 1.0, "y": 2.0}, None)
    estimate, _ = hutchinson_diagonal(product, jax.random.key(0), {"x": 1.0, "y": 2.0})
    assert (abs(estimate["x"] - 4), abs(estimate["y"] - 2)) == (2, 2)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32, jnp.float64])
def test_estimates_are_in_at_least_float32(dtype):
    like = jnp.zeros(3, dtype)
    for tree in hutchinson_diagonal(lambda v: 1e5 * v, jax.random.key(0), like, 2):
        assert tree.dtype == jnp.promote_types(dtype, jnp.float32)
        assert np.all(np.isfinite(tree))


def test_memory_does_not_grow_with_the_probes():
    """1000 probes of 10,000 numbers are 80 MB."""
    like = jnp.zeros(10_000)
    f = jax.jit(lambda key: hutchinson_diagonal(lambda v: 2 * v, key, like, 1000))
    assert f.lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes < 20 * like.nbytes


@pytest.mark.parametrize("count", [0, -1])
def test_no_draw_is_no_estimate(count):
    with pytest.raises(ValueError, match="at least 1"):
        hutchinson_diagonal(lambda v: v, jax.random.key(0), jnp.zeros(2), count)


# the mean of draws


def test_a_small_spread_beside_a_large_mean_is_not_lost():
    """N(1e4, 1e-2²) in float32: E[x²] - E[x]² would lose every digit. A spread from 4000 draws is good to 1.1 %."""

    def draw(key):
        return 1e4 + 1e-2 * jax.random.normal(key, (5,), jnp.float32)

    mean, error = jax.jit(lambda key: mean_and_error(draw, key, 4000))(jax.random.key(0))
    np.testing.assert_allclose(mean, 1e4, rtol=1e-6)
    np.testing.assert_allclose(error * np.sqrt(4000), 1e-2, rtol=0.06)


def test_mean_and_error_of_two_draws():
    """Two draws a, b: mean (a+b)/2, error |a-b|/2. The draws' sum and product tell which they were."""
    values = []

    def draw(key):
        value = jax.random.normal(key)
        jax.debug.callback(lambda v: values.append(float(v)), value)
        return value

    mean, error = mean_and_error(draw, jax.random.key(0), 2)
    jax.effects_barrier()
    a, b = values
    np.testing.assert_allclose([mean, error], [(a + b) / 2, abs(a - b) / 2], rtol=1e-14)


# the Fisher's diagonal

N, D, K = 5, 3, 2
X = np.random.default_rng(1).normal(size=(N, D))
PARAMS = {"w": jnp.asarray(np.random.default_rng(2).normal(size=(D, K))), "b": jnp.asarray([0.3, -0.2])}


def linear(params, x):
    return x @ params["w"] + params["b"]


@pytest.mark.claim("M-ce11")
@pytest.mark.parametrize("likelihood", [Normal(0.7), Categorical(), Bernoulli()], ids=repr)
def test_fisher_diagonal_is_unbiased(likelihood):
    model = Model(linear, likelihood)
    estimate, error = jax.jit(lambda key: fisher_diagonal_mc(model, PARAMS, (X, None), key, 2000))(jax.random.key(0))
    exact = np.diag(matrices.fisher(model, PARAMS, (X, None)))
    assert np.all(np.abs(flat(estimate) - exact) < 5 * flat(error))
    assert np.all(flat(error) < 0.1 * exact)


def test_its_standard_error_is_honest():
    model = Model(linear, Categorical())
    f = jax.jit(jax.vmap(lambda key: fisher_diagonal_mc(model, PARAMS, (X, None), key, 64)))
    estimate, error = f(jax.random.split(jax.random.key(1), 300))
    exact = ravel_pytree(PARAMS)[1](jnp.diag(matrices.fisher(model, PARAMS, (X, None))))
    covered = jax.tree.map(lambda a, e, s: jnp.abs(a - e) < 2 * s, estimate, exact, error)
    assert 0.92 < np.mean(flat(covered)) < 0.98


def test_logistic_regression_at_zero_is_exact_in_one_draw():
    """s² = (y - ½)² x² = x²/4 for both labels. 300 examples: several chunks and a rest."""
    x = np.random.default_rng(3).normal(size=(300, D))
    model = Model(lambda w, x: x @ w, Bernoulli())
    estimate, error = fisher_diagonal_mc(model, jnp.zeros((D, 1)), (x, None), jax.random.key(0))
    np.testing.assert_allclose(estimate[:, 0], np.mean(x**2, axis=0) / 4, rtol=1e-12)
    assert np.all(np.isnan(error))


def test_every_example_and_draw_has_its_own_key():
    """z = w, s = ε ~ N(0, 1): the mean of s² over n examples has variance 2/n, over m draws 2/(nm).

    With one key for all examples it would be 2/m. The estimate of a variance from m = 2000 draws is good to 4 %.
    """
    n, m = 50, 2000
    model = Model(lambda w, x: x * w, Normal())
    estimate, error = jax.jit(lambda key: fisher_diagonal_mc(model, jnp.zeros(1), (jnp.ones((n, 1)), None), key, m))(
        jax.random.key(0)
    )
    np.testing.assert_allclose(error, np.sqrt(2 / (n * m)), rtol=0.15)
    assert abs(estimate[0] - 1) < 5 * np.sqrt(2 / (n * m))


def test_the_labels_of_the_batch_are_not_read():
    model = Model(linear, Categorical())
    expected = fisher_diagonal_mc(model, PARAMS, (X, None), jax.random.key(0), 2)
    labelled = fisher_diagonal_mc(model, PARAMS, (X, np.arange(N)), jax.random.key(0), 2)
    jax.tree.map(np.testing.assert_array_equal, labelled, expected)


def test_half_precision_parameters_are_widened():
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), PARAMS)
    batch = X.astype(np.float32), None
    estimate, _ = fisher_diagonal_mc(Model(linear, Normal()), params, batch, jax.random.key(0))
    assert {a.dtype for a in jax.tree.leaves(estimate)} == {jnp.dtype(jnp.float32)}


def test_no_sample_is_no_estimate():
    with pytest.raises(ValueError, match="at least 1"):
        fisher_diagonal_mc(Model(linear, Normal()), PARAMS, (X, None), jax.random.key(0), 0)
