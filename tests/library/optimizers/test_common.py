"""The shared pieces: schedules, wide arithmetic, the test for a finite step, moments and their bias correction."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.optimizers import common


def test_a_schedule_is_called_with_the_count_and_a_number_is_itself():
    assert common.at(lambda count: 10 * count, jnp.asarray(3)) == 30
    assert common.at(0.5, jnp.asarray(3)) == 0.5


def test_missing_words_are_named():
    with pytest.raises(ValueError, match=r"someone.*loss=loss, batch=batch"):
        common.require_loss(None, "someone")
    with pytest.raises(ValueError, match=r"someone needs the parameters"):
        common.require_params(None, "someone")
    assert common.require_loss(max, "someone") is max
    assert common.require_params({}, "someone") == {}  # an empty tree is a tree


def test_wide_is_at_least_float32_and_cast_like_undoes_it():
    dtypes = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]
    tree = [jnp.ones(2, d) for d in dtypes]
    wide = common.wide(tree)
    assert [a.dtype for a in wide] == [jnp.float32] * 3 + [jnp.float64]
    assert [a.dtype for a in common.cast_like(wide, tree)] == dtypes


def test_global_norm_is_that_of_the_whole_tree():
    tree = {"a": jnp.asarray([3.0]), "b": jnp.asarray([[0.0, 4.0], [12.0, 0.0]])}
    assert common.global_norm(tree) == 13
    assert common.global_norm({}) == 0
    assert common.global_norm([jnp.full(4, 300.0, jnp.float16)]) == 600  # 300² is inf in float16


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_one_bad_entry_anywhere_is_not_finite(bad, place):
    trees = [{"a": jnp.ones(3)}, (jnp.ones(()), jnp.full((2, 2), -7.0))]
    assert common.all_finite(*trees)
    trees[place] = jax.tree.map(lambda a: a.at[(0,) * a.ndim].set(bad), trees[place])
    assert not common.all_finite(*trees)
    assert not jax.jit(common.all_finite)(*trees)  # the compiler may not take x·0 for 0


def test_the_largest_numbers_are_finite():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64):
        assert common.all_finite(jnp.full(1000, jnp.finfo(dtype).max, dtype))
    assert common.all_finite({})


@pytest.mark.parametrize("keep", [True, False])
def test_where_takes_one_tree_or_the_other_with_typed_keys(keep):
    new = {"key": jax.random.key(1), "a": jnp.ones(2)}
    old = {"key": jax.random.key(0), "a": jnp.zeros(2)}
    got = common.where(jnp.asarray(keep), new, old)
    assert (jax.random.key_data(got["key"]) == jax.random.key_data(jax.random.key(int(keep)))).all()
    assert (got["a"] == keep).all()


numbers = st.lists(st.floats(-10, 10), min_size=1, max_size=6)
decays = st.floats(0, 0.99)


@given(numbers, decays)
def test_a_debiased_mean_is_the_weighted_mean(values, decay):
    """Σ b^{t-i} x_i / Σ b^{t-i}: eq. 5 and 12 of AdaHessian, in its own weights."""
    mean = jnp.zeros(())
    for x in values:
        mean = common.decayed(mean, jnp.asarray(x), decay)
    weights = decay ** np.arange(len(values))[::-1]
    expected = np.sum(weights * values) / np.sum(weights)
    np.testing.assert_allclose(common.debiased(mean, decay, jnp.asarray(len(values))), expected, rtol=1e-9, atol=1e-12)


@given(numbers)
def test_decay_one_is_the_plain_sum(values):
    for decay in (1, 1.0, jnp.asarray(1.0)):
        total = jnp.zeros(())
        for x in values:
            total = common.decayed(total, jnp.asarray(x), decay)
        np.testing.assert_allclose(total, sum(values), rtol=1e-12, atol=1e-12)
        assert common.debiased(total, decay, jnp.asarray(len(values))) == total


def test_moments_keep_their_dtype_beside_wide_numbers():
    mean = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros(2)}
    decay = jnp.asarray(0.5, jnp.float64)  # with a dtype of its own, as a traced one may have
    new = common.decayed(mean, {"a": jnp.ones(2), "b": jnp.ones(2)}, decay)
    assert [a.dtype for a in jax.tree.leaves(new)] == [jnp.float32, jnp.float64]
    assert [a.dtype for a in jax.tree.leaves(common.debiased(new, decay, jnp.asarray(1)))] == [jnp.float32, jnp.float64]


def test_quotient_is_zero_where_the_numerator_is():
    a, b = jnp.asarray([0.0, 0.0, 3.0]), jnp.asarray([0.0, 2.0, 2.0])
    assert (common.quotient(a, b) == jnp.asarray([0.0, 0.0, 1.5])).all()
    assert common.quotient(jnp.asarray(1.0), jnp.asarray(0.0)) == jnp.inf


def test_zeros_are_buffers_of_their_own():
    """Or a state that holds two could not be donated."""
    params = {"w": jnp.ones(2, jnp.float16)}
    a, b = common.zero_moment(params), common.zero_moment(params)
    assert a["w"].dtype == jnp.float32
    assert (a["w"] == 0).all()
    assert a["w"].unsafe_buffer_pointer() != b["w"].unsafe_buffer_pointer()
    c, d = common.zero_count(), common.zero_count()
    assert (c.dtype, c) == (jnp.int32, 0)
    assert c.unsafe_buffer_pointer() != d.unsafe_buffer_pointer()


def test_debiased_follows_optax_on_a_count():
    tree, count = {"a": jnp.linspace(-1, 1, 5)}, jnp.asarray(7)
    expected = optax.tree.bias_correction(tree, 0.9, count)
    np.testing.assert_allclose(common.debiased(tree, 0.9, count)["a"], expected["a"], rtol=1e-14)
