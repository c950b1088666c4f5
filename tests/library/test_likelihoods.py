"""Likelihoods beside scipy.stats and scikit-learn, and the identities that hold for every one of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from course_lib.likelihoods import Bernoulli, Categorical, Likelihood, Normal

ALL = [Normal(), Normal(0.3), Categorical(), Bernoulli()]
DTYPES = ["float64", "float32", "float16", "bfloat16"]
DRAWS = 20_000
# Five standard errors: by chance once in two million comparisons; the seeds are fixed, so a test that passes stays so.
FIVE = 5.0


def floats(size, bound=20.0):
    return arrays(float, size, elements=st.floats(-bound, bound, width=32))


@functools.cache
def nll(likelihood):
    """Compiled once for every shape: hypothesis asks often."""
    return jax.jit(likelihood.nll)


@functools.cache
def nll_and_slope(likelihood):
    return jax.jit(jax.value_and_grad(likelihood.nll))


@functools.cache
def at_every_target(derivative, likelihood):
    """The derivative of nll in z, at one z and many y."""
    return jax.jit(jax.vmap(derivative(likelihood.nll), (None, 0)))


def draws(likelihood, z, n=DRAWS, seed=0):
    keys = jax.random.split(jax.random.key(seed), n)
    return np.asarray(jax.vmap(likelihood.sample, (0, None))(keys, z), float)


# nll: values


@pytest.mark.claim("SL-nll")
@given(st.data(), st.integers(1, 5), st.floats(0.05, 20.0))
def test_normal_nll_is_scipys(data, k, scale):
    z, y = data.draw(floats(k)), data.draw(floats(k))
    expected = -scipy.stats.norm.logpdf(y, z, scale).sum()
    np.testing.assert_allclose(Normal(scale).nll(jnp.asarray(z), jnp.asarray(y)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.claim("SL-nll")
@given(st.data(), st.integers(1, 5))
def test_normal_nll_is_half_the_squared_error_and_a_constant(data, k):
    z, y = data.draw(floats(k)), data.draw(floats(k))
    constant = nll(Normal())(np.zeros(k), np.zeros(k))
    np.testing.assert_allclose(nll(Normal())(z, y), 0.5 * np.sum((y - z) ** 2) + constant, rtol=1e-12)


@pytest.mark.claim("SL-nll")
@given(st.data(), st.integers(2, 6))
def test_categorical_nll_is_scikit_learns_cross_entropy(data, k):
    z, y = data.draw(floats(k, 10.0)), data.draw(st.integers(0, k - 1))
    expected = sklearn.metrics.log_loss([y], [scipy.special.softmax(z)], labels=range(k))
    # log_loss takes probabilities: near p = 1 it knows -log p to eps only
    np.testing.assert_allclose(nll(Categorical())(z, y), expected, rtol=1e-10, atol=1e-14)


@given(st.data(), st.integers(1, 5))
def test_bernoulli_nll_is_scipys(data, k):
    z, y = data.draw(floats(k, 10.0)), data.draw(arrays(int, k, elements=st.integers(0, 1)))
    expected = -scipy.stats.bernoulli.logpmf(y, scipy.special.expit(z)).sum()
    # scipy takes p: where 1 - p is e^-10 it has lost 5 of 16 digits; the absolute error is eps * e^10
    np.testing.assert_allclose(nll(Bernoulli())(z, y), expected, atol=1e-11)


@given(st.integers(1, 4), st.integers(0, 99))
def test_bernoulli_takes_soft_targets_as_a_mixture_of_hard_ones(k, seed):
    rng = np.random.default_rng(seed)
    z, share = rng.normal(size=k), rng.uniform(size=k)
    hard = [[nll(Bernoulli())(z[i : i + 1], np.array([y])) for y in (0, 1)] for i in range(k)]
    mixture = sum((1 - s) * zero + s * one for s, (zero, one) in zip(share, hard, strict=True))
    np.testing.assert_allclose(nll(Bernoulli())(z, share), mixture, rtol=1e-12)


@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli()], ids=repr)
def test_probabilities_sum_to_one(likelihood, outcomes):
    z = jnp.asarray([1.3, -0.4, 2.0])
    y, _ = outcomes(likelihood, z)
    np.testing.assert_allclose(jnp.exp(-jax.vmap(likelihood.nll, (None, 0))(z, jnp.asarray(y))).sum(), 1, rtol=1e-14)


@pytest.mark.parametrize("scale", [0.01, 1.0, 7.0])
def test_normal_density_integrates_to_one(scale):
    z = jnp.asarray([1.3])
    density = jax.jit(lambda y: jnp.exp(-Normal(scale).nll(z, y[None])))
    # eight standard deviations either side leave out 1e-15
    total, _ = scipy.integrate.quad(density, 1.3 - 8 * scale, 1.3 + 8 * scale)
    np.testing.assert_allclose(total, 1, rtol=1e-12)


# nll: extremes


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_logits_give_exact_finite_values(dtype):
    big = jnp.asarray(1e4, dtype)
    z = jnp.stack([big, -big])
    cases = [
        (Categorical(), jnp.asarray(0), 0.0),
        (Categorical(), jnp.asarray(1), 2 * big),
        (Bernoulli(), jnp.asarray([1, 0]), 0.0),
        (Bernoulli(), jnp.asarray([0, 1]), 2 * big),
    ]
    for likelihood, y, expected in cases:
        value, slope = nll_and_slope(likelihood)(z, y)
        assert value == expected
        assert value.dtype == slope.dtype == dtype
        assert jnp.all(jnp.isin(slope, jnp.asarray([-1, 0, 1], dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("likelihood", ALL, ids=repr)
def test_dtype_stays(likelihood, dtype, outcomes):
    z = jnp.asarray([1.5, -0.5], dtype)
    y = jnp.asarray(outcomes(likelihood, z)[0][0])
    y = y.astype(dtype) if isinstance(likelihood, Normal) else y
    value, slope = jax.eval_shape(jax.value_and_grad(likelihood.nll), z, y)
    assert value.dtype == slope.dtype == jax.eval_shape(likelihood.fisher, z).dtype == dtype
    drawn = jax.eval_shape(likelihood.sample, jax.random.key(0), z).dtype
    assert drawn == dtype if isinstance(likelihood, Normal) else jnp.issubdtype(drawn, jnp.integer)


@pytest.mark.parametrize("scale", [np.float64(0.5), np.float32(0.5), np.int64(2), 2])
def test_normal_scale_of_any_number_type_leaves_float32_alone(scale, shapes_unchecked):
    z = jnp.ones(2, "float32")
    assert Normal(scale).nll(z, z).dtype == "float32"
    assert hash(Normal(scale)) == hash(Normal(float(scale)))


def test_normal_takes_integer_targets():
    z = jnp.asarray([0.5, 2.0])
    assert Normal().nll(z, jnp.asarray([1, 2])) == Normal().nll(z, jnp.asarray([1.0, 2.0]))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
@pytest.mark.parametrize("y", [-1, -128, 3, 127])
def test_a_class_that_does_not_exist_gives_nan_in_value_and_slope(y, dtype):
    """Indexing would clip it or count from the end; a slope alone that stays finite would train on."""
    value, slope = nll_and_slope(Categorical())(jnp.zeros(3), jnp.asarray(y, dtype))
    assert jnp.isnan(value)
    assert jnp.all(jnp.isnan(slope))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32"])
def test_small_integer_types_index_many_classes(dtype):
    """200 does not fit in int8: comparing y with k in that type would wrap around."""
    z = jnp.linspace(-1, 1, 200)
    np.testing.assert_allclose(Categorical().nll(z, jnp.asarray(120, dtype)), jax.nn.logsumexp(z) - z[120], rtol=1e-14)


# fisher


@pytest.mark.parametrize("likelihood", ALL, ids=repr)
@given(data=st.data())
def test_fisher_is_the_expected_outer_product_of_scores(likelihood, outcomes, data):
    z = data.draw(floats(3, 5.0))
    y, p = outcomes(likelihood, z)
    s = -np.asarray(at_every_target(jax.grad, likelihood)(z, y))
    np.testing.assert_allclose(
        likelihood.fisher(jnp.asarray(z)), np.einsum("y,yi,yj->ij", p, s, s), rtol=1e-10, atol=1e-14
    )
    np.testing.assert_allclose(p @ s, 0, atol=1e-13)


@pytest.mark.parametrize("likelihood", ALL, ids=repr)
@given(data=st.data())
def test_fisher_is_the_hessian_at_every_target(likelihood, outcomes, data):
    """All three are exponential families with natural parameter z (Normal: z/scale²): the Hessian does not see y."""
    z = data.draw(floats(3, 5.0))
    y, _ = outcomes(likelihood, z)
    hessians = at_every_target(jax.hessian, likelihood)(z, y)
    expected = np.broadcast_to(likelihood.fisher(jnp.asarray(z)), hessians.shape)
    # autodiff's p - p² cancels: absolute eps, not relative
    np.testing.assert_allclose(hessians, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_categorical_fisher_has_rank_k_less_one_and_the_constants_in_its_null_space(k):
    f = Categorical().fisher(jax.random.normal(jax.random.key(k), (k,)))
    assert np.linalg.matrix_rank(f) == k - 1
    np.testing.assert_allclose(f @ np.ones(k), 0, atol=1e-16)


@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli()], ids=repr)
def test_fisher_keeps_its_digits_where_one_outcome_is_all_but_sure(likelihood):
    """At a gap of 20 the entries are 2e-9: 1 - p in float32 would be 0, and the matrix indefinite."""
    z = np.array([20.0, 0.0, -3.0])
    single, double = likelihood.fisher(jnp.asarray(z, "float32")), likelihood.fisher(jnp.asarray(z))
    np.testing.assert_allclose(single, double, rtol=1e-5)  # float32's eps is 1.2e-7, exp(20) amplifies it by 20
    eigenvalues = np.linalg.eigvalsh(np.asarray(single, float))
    assert eigenvalues[0] >= -1e-7 * eigenvalues[-1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("likelihood", ALL, ids=repr)
def test_fisher_is_finite_at_huge_outputs(likelihood, dtype):
    assert jnp.all(jnp.isfinite(likelihood.fisher(jnp.asarray([1e4, -1e4, 0.0], dtype))))


# sample


@pytest.mark.parametrize("dtype", DTYPES)
def test_categorical_frequencies(dtype):
    z = jnp.asarray([0.0, -1.0, -6.0, 1.0], dtype)
    p = scipy.special.softmax(np.asarray(z, float))
    frequencies = np.bincount(draws(Categorical(), z).astype(int), minlength=4) / DRAWS
    assert np.all(np.abs(frequencies - p) < FIVE * np.sqrt(p * (1 - p) / DRAWS))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bernoulli_frequencies_and_independence(dtype, outcomes):
    """The rare one, sigmoid(-6) = .0025, is where uniform numbers of few bits would show."""
    z = jnp.asarray([0.3, -1.0, -6.0], dtype)
    y, p = outcomes(Bernoulli(), z)
    drawn = draws(Bernoulli(), z)
    assert set(np.unique(drawn)) == {0, 1}
    frequencies = np.array([np.mean(np.all(drawn == target, axis=1)) for target in y])
    # a share of n draws moves in steps of 1/n, which is more than five standard errors where p n is far below one
    assert np.all(np.abs(frequencies - p) < FIVE * np.sqrt(p * (1 - p) / DRAWS) + 1 / DRAWS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_moments_tails_and_independence(dtype):
    z, scale = jnp.asarray([0.0, 0.0], dtype), 0.5
    noise = draws(Normal(scale), z) / scale
    assert np.all(np.abs(noise.mean(0)) < FIVE / np.sqrt(DRAWS))
    assert np.all(np.abs(noise.var(0) - 1) < FIVE * np.sqrt(2 / DRAWS))
    assert np.abs(np.mean(noise[:, 0] * noise[:, 1])) < FIVE / np.sqrt(DRAWS)
    tail = 2 * scipy.stats.norm.sf(3)  # .0027: noise of 7 bits never gets there
    assert np.all(np.abs(np.mean(np.abs(noise) > 3, axis=0) - tail) < FIVE * np.sqrt(tail / DRAWS))


def test_normal_sample_is_centred_on_z():
    z = jnp.asarray([3.0, -70.0])
    assert np.all(np.abs(draws(Normal(0.1), z).mean(0) - z) < FIVE * 0.1 / np.sqrt(DRAWS))


@pytest.mark.parametrize("likelihood", ALL, ids=repr)
def test_one_key_one_draw(likelihood):
    z = jnp.asarray([0.1, 0.2])
    a, b, c = (likelihood.sample(jax.random.key(seed), jnp.tile(z, 20)) for seed in (0, 0, 1))
    assert jnp.all(a == b)
    assert jnp.any(a != c)


# errors and the protocol


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_normal_refuses_a_scale_that_is_no_standard_deviation(scale):
    with pytest.raises(ValueError, match=r"finite scale > 0 .*got"):
        Normal(scale)


@pytest.mark.parametrize("likelihood", [Normal(), Bernoulli()], ids=repr)
@pytest.mark.parametrize(("z", "y"), [((2,), (3,)), ((2,), ()), ((2,), (2, 1)), ((4, 1), (4, 1)), ((), ())], ids=str)
def test_shapes_that_would_broadcast_are_refused(likelihood, z, y, shapes_unchecked):
    with pytest.raises(ValueError, match=r"both of shape \(k,\); got z .* and y .*jax.vmap"):
        likelihood.nll(jnp.zeros(z), jnp.zeros(y))


@pytest.mark.parametrize("y", [jnp.asarray(1.0), jnp.asarray([0.0, 1.0]), jnp.asarray(True)], ids=str)
def test_categorical_refuses_targets_that_are_no_integers(y, shapes_unchecked):
    with pytest.raises(TypeError, match=r"integer class y, got .*argmax undoes a one-hot"):
        Categorical().nll(jnp.zeros(2), y)


@pytest.mark.parametrize(("z", "y"), [((2,), (2,)), ((3, 2), (3,)), ((), ()), ((2,), (1,))], ids=str)
def test_categorical_refuses_a_batch_and_an_integer_one_hot(z, y, shapes_unchecked):
    with pytest.raises(ValueError, match=r"z \(k,\) and y \(\); got"):
        Categorical().nll(jnp.zeros(z), jnp.zeros(y, int))


@pytest.mark.parametrize("likelihood", ALL, ids=repr)
def test_likelihoods_are_values(likelihood):
    """Equal and hashable: a model that holds one is compiled once, not once an instance."""
    assert isinstance(likelihood, Likelihood)
    again = type(likelihood)(**vars(likelihood))
    assert again == likelihood
    assert hash(again) == hash(likelihood)
    assert Normal(1.0) != Normal(2.0)
