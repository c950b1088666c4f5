"""Model: the loss and the scores beside scikit-learn, finite differences and enumeration over y."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from jax.flatten_util import ravel_pytree

from course_lib.likelihoods import Bernoulli, Categorical, Normal
from course_lib.models import Model, checked

N, D, K = 6, 3, 2
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape))


X = normal(N, D)
TARGETS = {
    Normal(0.7): normal(N, K),
    Categorical(): jnp.asarray(np.arange(N) % K),
    Bernoulli(): jnp.asarray(RNG.integers(0, 2, (N, K))),
}
PARAMS = {
    "hidden": (normal(D, 4), normal(4)),
    "out": {"w": normal(4, K)},
    "gain": jnp.asarray(1.3),
    "empty": jnp.zeros((0, 2)),
}
SIZE = D * 4 + 4 + 4 * K + 1


@jax.jit
def mlp(params, x):
    """Two layers; a nested tree with a dict, a tuple, a scalar and a leaf of no entries."""
    (w, b), out = params["hidden"], params["out"]
    return params["gain"] * jnp.tanh(x @ w + b) @ out["w"] + params["empty"].sum()


EACH = pytest.mark.parametrize("likelihood", TARGETS, ids=repr)
loss = jax.jit(Model.loss, static_argnums=0)
score = jax.jit(Model.score, static_argnums=0)


def batch_of(likelihood):
    return X, TARGETS[likelihood]


# loss


def test_normal_loss_is_scipys_mean():
    expected = -scipy.stats.norm.logpdf(TARGETS[Normal(0.7)], mlp(PARAMS, X), 0.7).sum(axis=1).mean()
    np.testing.assert_allclose(loss(Model(mlp, Normal(0.7)), PARAMS, batch_of(Normal(0.7))), expected, rtol=1e-13)


def test_categorical_loss_is_scikit_learns():
    p = scipy.special.softmax(mlp(PARAMS, X), axis=1)
    expected = sklearn.metrics.log_loss(TARGETS[Categorical()], p)
    np.testing.assert_allclose(loss(Model(mlp, Categorical()), PARAMS, batch_of(Categorical())), expected, rtol=1e-13)


def test_bernoulli_loss_is_the_sum_over_outputs_of_scikit_learns():
    p = scipy.special.expit(mlp(PARAMS, X))
    expected = sum(sklearn.metrics.log_loss(TARGETS[Bernoulli()][:, j], p[:, j]) for j in range(K))
    np.testing.assert_allclose(loss(Model(mlp, Bernoulli()), PARAMS, batch_of(Bernoulli())), expected, rtol=1e-13)


def test_numpy_arrays_and_lists_make_a_batch():
    model, (x, y) = Model(mlp, Categorical()), batch_of(Categorical())
    assert model.loss(PARAMS, (np.asarray(x), y.tolist())) == model.loss(PARAMS, (x, y))


# score


@EACH
def test_score_rows_are_finite_differences_of_the_log_likelihood(likelihood):
    model, (x, y) = Model(mlp, likelihood), batch_of(likelihood)
    theta, unravel = ravel_pytree(PARAMS)
    log_p = jax.jit(jax.vmap(lambda t, x, y: -model.loss(unravel(t), (x[None], y[None])), (None, 0, 0)))
    step = 1e-5  # near the cube root of eps, where central differences are best: about 1e-10
    columns = [(log_p(theta + step * e, x, y) - log_p(theta - step * e, x, y)) / (2 * step) for e in np.eye(SIZE)]
    np.testing.assert_allclose(score(model, PARAMS, (x, y)), np.stack(columns, axis=1), atol=1e-8)


@EACH
def test_mean_score_is_minus_the_gradient(likelihood):
    model, batch = Model(mlp, likelihood), batch_of(likelihood)
    gradient = jax.jit(lambda p: ravel_pytree(jax.grad(model.loss)(p, batch))[0])(PARAMS)
    np.testing.assert_allclose(score(model, PARAMS, batch).mean(0), -gradient, atol=1e-14)


@pytest.mark.claim("SL-score0")
@EACH
def test_expected_score_under_the_model_is_zero(likelihood, outcomes):
    """For every x on its own, not only in the mean."""
    model = Model(mlp, likelihood)
    for x, z in zip(X, mlp(PARAMS, X), strict=True):
        y, p = outcomes(likelihood, z)
        scores = score(model, PARAMS, (jnp.tile(x, (len(y), 1)), y))
        assert np.abs(scores).max() > 0.1  # no zero by being zero throughout
        np.testing.assert_allclose(p @ np.asarray(scores), 0, atol=1e-13)


@pytest.mark.parametrize(
    ("params", "pick"),
    [
        pytest.param({"b": jnp.ones(2), "a": jnp.ones(1)}, lambda p: (p["a"], p["b"]), id="dict, by name"),
        pytest.param((jnp.ones(1), jnp.ones((2, 2))), lambda p: (p[0], p[1].ravel()), id="tuple, rows first"),
        pytest.param([{"w": jnp.ones(2)}, (jnp.ones(()),)], lambda p: (p[0]["w"], p[1][0][None]), id="nested, scalar"),
        pytest.param({"a": jnp.ones((0, 3)), "b": jnp.ones(2)}, lambda p: (p["b"],), id="a leaf of no entries"),
        pytest.param(jnp.asarray(1.0), lambda p: (p[None],), id="one number"),
    ],
)
def test_columns_are_in_ravel_pytree_order(params, pick):
    """z is the weighted sum 1·θ_0 + 2·θ_1 + …, θ in the order that is claimed, so the score is (y-z)·(1, 2, …)."""

    def apply(params, x):
        theta = jnp.concatenate(pick(params))
        return x * (theta @ jnp.arange(1.0, theta.size + 1))

    x, y = jnp.ones((4, 1)), jnp.arange(4.0)[:, None]
    size = ravel_pytree(params)[0].size
    residual = y - apply(params, x)
    np.testing.assert_allclose(score(Model(apply, Normal()), params, (x, y)), residual * np.arange(1.0, size + 1))


@EACH
def test_score_of_one_example_is_its_row(likelihood):
    model, (x, y) = Model(mlp, likelihood), batch_of(likelihood)
    alone = score(model, PARAMS, (x[2:3], y[2:3]))
    assert alone.shape == (1, SIZE)
    np.testing.assert_allclose(alone[0], score(model, PARAMS, (x, y))[2], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("f", [Model.loss, Model.score], ids=["loss", "score"])
def test_vmap_over_parameters(f):
    compiled, model, batch = jax.jit(f, static_argnums=0), Model(mlp, Categorical()), batch_of(Categorical())
    pair = [PARAMS, jax.tree.map(lambda a: 2 * a, PARAMS)]
    both = jax.vmap(compiled, (None, 0, None))(model, jax.tree.map(lambda *a: jnp.stack(a), *pair), batch)
    np.testing.assert_allclose(both, jnp.stack([compiled(model, p, batch) for p in pair]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("x64", [True, False])
def test_float32_stays_float32(x64):
    with jax.enable_x64(x64):
        params, (x, y) = jax.tree.map(lambda a: a.astype("float32"), (PARAMS, batch_of(Normal(0.7))))
        for f in (Model(mlp, Normal(0.7)).loss, Model(mlp, Normal(0.7)).score):
            assert jax.eval_shape(f, params, (x, y)).dtype == "float32"


def test_inputs_of_any_shape_reach_apply():
    model = Model(lambda w, x: x.reshape(len(x), -1) @ w, Categorical())
    images, labels = normal(5, 2, 2, 1), np.arange(5) % 3
    flat = score(model, jnp.ones((4, 3)), (images.reshape(5, 4), labels))
    np.testing.assert_array_equal(score(model, jnp.ones((4, 3)), (images, labels)), flat)


class Exponential:
    """R(y|z) with rate exp z, a plain class: a likelihood needs three methods and nothing from us."""

    def nll(self, z, y):
        return jnp.sum(jnp.exp(z) * y - z)

    def sample(self, key, z):
        return jax.random.exponential(key, z.shape, z.dtype) / jnp.exp(z)

    def fisher(self, z):
        return jnp.eye(z.size)


def test_any_object_with_the_three_methods_is_a_likelihood():
    x, y = jnp.ones((4, 1)), jnp.asarray([[0.2], [1.0], [2.0], [0.5]])
    model = Model(lambda w, x: x * w, Exponential())
    expected = -scipy.stats.expon.logpdf(y, scale=np.exp(-0.3)).mean()
    np.testing.assert_allclose(loss(model, jnp.asarray(0.3), (x, y)), expected, rtol=1e-13)
    np.testing.assert_allclose(score(model, jnp.asarray(0.3), (x, y)), 1 - np.exp(0.3) * y, rtol=1e-13)


# errors


@pytest.mark.parametrize(
    ("x", "y"),
    [
        pytest.param(np.ones((3, 2)), np.ones((2, 2)), id="lengths"),
        pytest.param(np.ones((0, 2)), np.ones((0, 2)), id="empty"),
        pytest.param(np.ones(()), np.ones(()), id="scalars"),
        pytest.param(np.ones((3, 2)), np.ones(()), id="one y for all"),
    ],
)
def test_x_and_y_must_pair_up(x, y):
    with pytest.raises(ValueError, match="same number n > 0 of examples; got shapes"):
        Model(mlp, Normal()).loss(PARAMS, (x, y))
    with pytest.raises(ValueError, match="same number n > 0 of examples; got shapes"):
        Model(mlp, Normal()).score(PARAMS, (x, y))


@pytest.mark.parametrize("batch", [(X,), (X, X, X)], ids=len)
def test_a_batch_is_a_pair(batch, shapes_unchecked):
    with pytest.raises(ValueError, match=rf"a pair \(x, y\); got {len(batch)} parts"):
        checked(batch)


@pytest.mark.parametrize(
    "apply",
    [lambda p, x: x[:, 0], lambda p, x: x[:, :, None], lambda p, x: x[:2], lambda p, x: x.sum()],
    ids=["(n,)", "(n, k, 1)", "(2, k)", "()"],
)
def test_apply_must_give_one_row_an_example(apply):
    with pytest.raises(ValueError, match=r"x \(n, ...\) to z \(n, k\); here n = 6 and z has shape .*z\[:, None\]"):
        Model(apply, Normal()).loss({}, (X, X))


@pytest.mark.parametrize("y", [jnp.ones(N), jnp.ones((N, 2))], ids=["(n,)", "(n, 2)"])
@pytest.mark.parametrize("likelihood", [Normal(), Bernoulli()], ids=repr)
def test_targets_that_would_broadcast_against_the_outputs_are_refused(likelihood, y, shapes_unchecked):
    """(n,) against (n, 1) is the silent mistake: by broadcasting it compares every output with every target."""
    model = Model(lambda w, x: x @ w, likelihood)
    with pytest.raises(ValueError, match="give y one entry an output"):
        model.loss(jnp.ones((D, 1)), (X, y))
    with pytest.raises(ValueError, match="give y one entry an output"):
        model.score(jnp.ones((D, 1)), (X, y))


class Unhashable(Exponential):
    __hash__ = None  # as a dataclass without frozen=True


def test_an_unhashable_likelihood_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match=r"hashable apply and likelihood .*'Unhashable'.*frozen=True"):
        Model(mlp, Unhashable())
