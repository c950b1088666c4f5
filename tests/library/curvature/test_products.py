"""Products beside the whole matrices, finite differences and other orders of differentiation; their cost and memory."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from course_lib.curvature import matrices
from course_lib.curvature.products import (
    empirical_fisher_vp,
    fisher_vp,
    flat_matvec,
    gauss_newton_vp,
    hvp,
    norm,
    unit,
    value_grad_hvp,
    wide,
)
from course_lib.likelihoods import Bernoulli, Categorical, Normal
from course_lib.models import Model

N, D, K = 6, 3, 2
X = jax.random.normal(jax.random.key(0), (N, D))
TARGETS = {
    Normal(0.7): jax.random.normal(jax.random.key(1), (N, K)),
    Categorical(): jnp.arange(N) % K,
    Bernoulli(): (jnp.arange(N * K) % 3 == 0).astype(int).reshape(N, K),
}
EACH = pytest.mark.parametrize("likelihood", TARGETS, ids=repr)


def mlp(params, x):
    """Two layers; a nested tree with a dict, a tuple, a scalar and a leaf of no entries."""
    (w, b), out = params["hidden"], params["out"]
    return params["gain"] * jnp.tanh(x @ w + b) @ out["w"] + params["empty"].sum()


PARAMS = {
    "hidden": (jax.random.normal(jax.random.key(2), (D, 4)), jnp.full(4, 0.1)),
    "out": {"w": jax.random.normal(jax.random.key(3), (4, K))},
    "gain": jnp.asarray(1.3),
    "empty": jnp.zeros((0, 2)),
}
THETA, UNRAVEL = ravel_pytree(PARAMS)
V = UNRAVEL(jnp.cos(jnp.arange(THETA.size, dtype=float)))


def normal_loss(params, batch):
    return Model(mlp, Normal(0.7)).loss(params, batch)


BATCH = X, TARGETS[Normal(0.7)]
GRADIENT = jax.jit(jax.grad(normal_loss))
HV = jax.jit(partial(hvp, normal_loss))(PARAMS, BATCH, V)
FISHERS = fisher_vp, gauss_newton_vp, empirical_fisher_vp


def matrix_of(product, params=PARAMS):
    """The matrix that a product multiplies by: its columns are the images of the unit vectors."""
    theta, unravel = ravel_pytree(params)
    return jax.jit(jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0]))(jnp.eye(theta.size)).T


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def dot(a, b):
    return sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def assert_trees_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), a, b)


# against the matrices


@pytest.mark.claim("M-3")
@EACH
@pytest.mark.parametrize(
    ("product", "matrix"),
    [
        (lambda model, *args: hvp(model.loss, *args), matrices.hessian),
        (fisher_vp, matrices.fisher),
        (gauss_newton_vp, matrices.gauss_newton),
        (empirical_fisher_vp, matrices.empirical_fisher),
    ],
    ids=["hvp", "fisher", "gauss_newton", "empirical_fisher"],
)
def test_a_product_multiplies_by_its_matrix(likelihood, product, matrix):
    model, batch = Model(mlp, likelihood), (X, TARGETS[likelihood])
    columns = matrix_of(lambda v: product(model, PARAMS, batch, v))
    np.testing.assert_allclose(columns, matrix(model, PARAMS, batch), rtol=1e-11, atol=1e-13)


def test_hvp_multiplies_by_jax_hessian():
    whole = jax.jit(jax.hessian(lambda t: normal_loss(UNRAVEL(t), BATCH)))(THETA)
    np.testing.assert_allclose(flat(HV), whole @ flat(V), rtol=1e-11, atol=1e-13)


@pytest.mark.claim("AH-8")
def test_hv_is_the_gradient_of_g_dot_v():
    """AdaHessian eq. 8, reverse over reverse."""

    def gv(params):
        return ravel_pytree(jax.grad(normal_loss)(params, BATCH))[0] @ ravel_pytree(V)[0]

    assert_trees_close(HV, jax.jit(jax.grad(gv))(PARAMS), rtol=1e-11, atol=1e-13)


@pytest.mark.claim("AH-8")
def test_hv_is_the_central_difference_of_gradients():
    """Truncation ε²/6·|∇⁴h v³| and rounding 1e-16/ε meet near ε = 1e-5: about 1e-10 of the largest entry."""
    eps = 1e-5
    ahead, behind = (flat(GRADIENT(UNRAVEL(THETA + s * eps * flat(V)), BATCH)) for s in (1, -1))
    exact = flat(HV)
    np.testing.assert_allclose((ahead - behind) / (2 * eps), exact, atol=1e-8 * np.abs(exact).max())


def test_one_linearisation_gives_value_gradient_and_product():
    value, grad, product = jax.jit(partial(value_grad_hvp, normal_loss))(PARAMS, BATCH, V)
    np.testing.assert_allclose(value, normal_loss(PARAMS, BATCH), rtol=1e-14)
    assert_trees_close(grad, GRADIENT(PARAMS, BATCH), rtol=1e-12, atol=1e-15)
    assert_trees_close(product, HV, rtol=1e-12, atol=1e-15)


def test_a_single_number_is_a_tree_too():
    value, grad, product = value_grad_hvp(lambda p, _: p**3, 2.0, None, 1)
    assert (value, grad, product) == (8, 12, 12)  # f = x³: f' = 3x², f'' = 6x, at 2


@settings(max_examples=5)  # each compiles
@given(hidden=st.integers(1, 5), k=st.integers(1, 4), n=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_products_are_symmetric_and_the_fishers_positive(hidden, k, n, seed):
    draw = np.random.default_rng(seed).normal
    params, u, v = ((draw(size=(D, hidden)), draw(size=(hidden, k))) for _ in range(3))
    batch = draw(size=(n, D)), draw(size=(n, k))
    model = Model(lambda p, x: jnp.tanh(x @ p[0]) @ p[1], Normal())

    @jax.jit
    def images(v):
        return [p(params, batch, v) for p in (partial(hvp, model.loss), *(partial(p, model) for p in FISHERS))]

    uv, vu = ([dot(a, image) for image in images(b)] for a, b in ((u, v), (v, u)))
    np.testing.assert_allclose(uv, vu, rtol=1e-9, atol=1e-9)
    assert all(dot(v, image) >= 0 for image in images(v)[1:])


# Fisher, Gauss-Newton, empirical Fisher: when equal, when not


class CubeMean:
    """N(z³, 1) for each output: z is not the natural parameter."""

    def nll(self, z, y):
        return 0.5 * jnp.sum((y - z**3) ** 2)

    def sample(self, key, z):
        return z**3 + jax.random.normal(key, z.shape, z.dtype)

    def fisher(self, z):
        return jnp.diag((3 * z**2) ** 2)


@pytest.mark.claim("M-ggn")
@EACH
def test_fisher_is_gauss_newton_for_natural_parameters(likelihood):
    model, batch = Model(mlp, likelihood), (X, TARGETS[likelihood])
    f, g = (jax.jit(partial(p, model))(PARAMS, batch, V) for p in (fisher_vp, gauss_newton_vp))
    assert_trees_close(f, g, rtol=1e-11, atol=1e-14)


@pytest.mark.claim("M-ggn")
def test_fisher_is_not_gauss_newton_for_other_parameters():
    """H_L = F_R - (y - z³)·6z: equal for targets at the mean only."""
    model = Model(mlp, CubeMean())
    f, g = (jax.jit(partial(p, model))(PARAMS, BATCH, V) for p in (fisher_vp, gauss_newton_vp))
    assert np.linalg.norm(flat(f) - flat(g)) > 0.01 * np.linalg.norm(flat(f))
    at_the_mean = X, mlp(PARAMS, X) ** 3
    assert_trees_close(f, gauss_newton_vp(model, PARAMS, at_the_mean, V), rtol=1e-11, atol=1e-14)


@pytest.mark.claim("M-cond")
def test_fisher_reads_x_alone():
    product = jax.jit(partial(fisher_vp, Model(mlp, Categorical())))
    expected = product(PARAMS, (X, TARGETS[Categorical()]), V)
    for nobody_reads in (None, jnp.full(N, jnp.nan)):
        assert_trees_close(product(PARAMS, (X, nobody_reads), V), expected, rtol=0)


@pytest.mark.claim("M-ef")
def test_empirical_fisher_is_the_mean_of_score_score_v():
    model, batch = Model(mlp, Categorical()), (X, TARGETS[Categorical()])
    scores = np.asarray(jax.jit(model.score)(PARAMS, batch))
    image = jax.jit(partial(empirical_fisher_vp, model))(PARAMS, batch, V)
    np.testing.assert_allclose(flat(image), scores.T @ (scores @ flat(V)) / N, rtol=1e-11, atol=1e-14)


# cost


def deep(params, x):
    for w, b in params[:-1]:
        x = jnp.tanh(x @ w + b)
    return x @ params[-1][0] + params[-1][1]


def deep_params(sizes, dtype):
    return [(jnp.ones(shape, dtype), jnp.ones(shape[1], dtype)) for shape in itertools.pairwise(sizes)]


def compiled(f, *args):
    return jax.jit(f).lower(*args).compile()


def test_flops_beside_a_gradient():
    """Counted in matmuls: a gradient has 3 a layer and 2 in the first, whose input needs none; gradient and Hv 9 and 4.

    Fv is a forward pass (1 a layer), its tangent (2 and 1) and the transpose (2 and 1): 5 and 3. With the weights
    of this net that is 2.93 and 1.65 gradients; elementwise operations come on top.
    """
    params = deep_params([64, 512, 512, 10], jnp.float32)
    batch = jnp.ones((256, 64), jnp.float32), jnp.zeros(256, int)
    model = Model(deep, Categorical())

    def flops(f, *args):
        return compiled(f, *args).cost_analysis()["flops"]

    gradient = flops(jax.grad(model.loss), params, batch)
    assert flops(partial(value_grad_hvp, model.loss), params, batch, params) <= 3.05 * gradient
    for product in FISHERS:
        assert flops(partial(product, model), params, batch, params) <= 1.75 * gradient


@pytest.mark.parametrize(
    "product",
    [lambda model: partial(hvp, model.loss)] + [lambda model, p=p: partial(p, model) for p in FISHERS],
    ids=["hvp", "fisher", "gauss_newton", "empirical_fisher"],
)
def test_memory_is_a_few_vectors(product):
    """P = 10,402 and n = 64: one (P, P) is 866 MB, one (n, P) 5.3 MB; 20 vectors are 1.7 MB."""
    params = deep_params([50, 100, 50, 4], float)
    size = flat(params).size
    batch = jnp.ones((64, 50)), jnp.zeros(64, int)
    analysis = compiled(product(Model(deep, Categorical())), params, batch, params).memory_analysis()
    assert analysis.temp_size_in_bytes < 20 * size * 8


# dtypes, transformations, errors


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_half_precision_is_computed_in_float32(dtype):
    """At the same (rounded) parameters, the result is that of wide parameters, to the last bit."""
    model, x = Model(mlp, Normal(0.7)), X.astype(jnp.float32)
    batch = x, TARGETS[Normal(0.7)].astype(jnp.float32)
    params = jax.tree.map(lambda a: a.astype(dtype), PARAMS)

    @jax.jit
    def images(params):
        return [p(params, batch, V) for p in (partial(hvp, model.loss), *(partial(p, model) for p in FISHERS))]

    assert {a.dtype for a in jax.tree.leaves(images(params))} == {jnp.dtype(jnp.float32)}
    assert_trees_close(images(params), images(wide(params)), rtol=0)


def test_a_curvature_beyond_float16_is_finite():
    assert hvp(lambda p, _: 1e5 * p**2, jnp.float16(1), None, jnp.float16(1)) == 2e5


def test_products_of_many_vectors_by_vmap_under_jit():
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), V)
    images = jax.jit(jax.vmap(lambda v: hvp(normal_loss, PARAMS, BATCH, v)))(many)
    np.testing.assert_allclose(flat(jax.tree.map(lambda a: a[1], images)), 2 * flat(HV), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("wrong", [{"gain": 1.0}, {**PARAMS, "gain": jnp.ones(3)}], ids=["structure", "shape"])
def test_a_vector_unlike_the_parameters_is_refused(wrong):
    for product in (partial(hvp, normal_loss), partial(fisher_vp, Model(mlp, Normal()))):
        with pytest.raises((ValueError, TypeError)):
            product(PARAMS, BATCH, wrong)


def test_a_batch_without_examples_is_refused():
    with pytest.raises(ValueError, match="examples"):
        fisher_vp(Model(mlp, Normal()), PARAMS, (jnp.zeros((0, D)), None), V)


# vectors


def test_flat_matvec_is_the_matvec_on_vectors():
    product, theta, unravel = flat_matvec(lambda tree: jax.tree.map(lambda a: 3 * a, tree), PARAMS)
    np.testing.assert_array_equal(product(theta), 3 * THETA)
    assert_trees_close(unravel(theta), PARAMS, rtol=0)


def test_a_matvec_of_another_dtype_does_not_change_the_vector_s():
    product, theta, _ = flat_matvec(lambda v: v.astype(jnp.float64), jnp.ones(3, jnp.bfloat16))
    assert product(theta).dtype == theta.dtype == jnp.float32


@pytest.mark.parametrize("scale", [1e-35, 1e-25, 1.0, 1e25, 1e38])
def test_norm_neither_vanishes_nor_overflows(scale):
    v = jnp.asarray([3.0, -4.0], jnp.float32) * 0.1 * jnp.float32(scale)
    np.testing.assert_allclose(norm(v), 0.5 * scale, rtol=1e-5)
    np.testing.assert_allclose(unit(v), [0.6, -0.8], rtol=1e-5)


def test_norm_of_nothing_and_of_zero():
    assert norm(jnp.zeros(0)) == norm(jnp.zeros(2)) == 0
    np.testing.assert_array_equal(unit(jnp.zeros(2)), [0, 0])
