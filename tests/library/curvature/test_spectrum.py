"""Eigenvalues from matvecs beside numpy.linalg and matfree, and where it is hard: repeats, breakdown, signs, scales."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matfree import decomp

from course_lib.curvature import matrices
from course_lib.curvature.products import hvp
from course_lib.curvature.spectrum import lanczos, power_iteration, spectral_density, tridiagonal
from course_lib.likelihoods import Categorical
from course_lib.models import Model


def symmetric(eigenvalues, seed=0):
    """A dense symmetric matrix with these eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return jnp.asarray(q * np.asarray(eigenvalues, float) @ q.T)


# One compiled program for all matrices of a size.


@partial(jax.jit, static_argnames="max_iters")
def power(matrix, key, max_iters=100, tol=1e-4):
    return power_iteration(lambda v: matrix @ v, key, matrix[0], max_iters, tol)


@partial(jax.jit, static_argnames="order")
def krylov(matrix, key, order):
    return lanczos(lambda v: matrix @ v, key, matrix[0], order)


def ritz(alphas, betas):
    return np.linalg.eigvalsh(tridiagonal(alphas, betas))


# power iteration


@pytest.mark.claim("SAM-spec")
@pytest.mark.parametrize("eigenvalues", [(5, 3, 2, 1), (3, 1, 0, -7), (-4, -4, -1, 2), (2, 2, 2, 2)], ids=str)
def test_power_iteration_finds_the_largest_magnitude_with_its_sign(eigenvalues):
    """Negative and repeated ones too. The eigenvalue's error is the square of the vector's, of the order of tol²."""
    matrix = symmetric(eigenvalues)
    value, v, residual = power(matrix, jax.random.key(0), max_iters=200)
    np.testing.assert_allclose(value, max(eigenvalues, key=abs), rtol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-12)
    np.testing.assert_allclose(residual, np.linalg.norm(matrix @ v - value * v), rtol=1e-6, atol=1e-13)
    assert residual <= 1e-4 * abs(value)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_stops_at_the_tolerance_and_not_before(sign):
    """Each product shrinks the residual to about λ₂/λ₁ = .9 of itself, so it ends within that factor of the limit."""
    value, _, residual = power(sign * symmetric((10, 9, 1, 0)), jax.random.key(0), max_iters=1000, tol=1e-3)
    assert 0.75 * 1e-3 < residual / (sign * value) <= 1e-3


def test_iterates_are_powers_of_the_matrix():
    """max_iters counts products: v after k of them is A^(k-1) v₁, scaled; the identity gives v₁ back."""
    matrix = symmetric((3, 2.9, 1, -2))
    _, first, _ = power(jnp.eye(4), jax.random.key(0), max_iters=1, tol=0.0)
    value, third, residual = power(matrix, jax.random.key(0), max_iters=3, tol=0.0)
    expected = matrix @ matrix @ first
    np.testing.assert_allclose(third, expected / np.linalg.norm(expected), rtol=1e-12)
    np.testing.assert_allclose(value, third @ matrix @ third, rtol=1e-12)
    assert np.abs(np.array([3, 2.9, 1, -2]) - value).min() <= residual  # some eigenvalue is that near


def test_two_largest_of_opposite_sign_are_not_reported_as_found():
    value, _, residual = power(symmetric((2, -2, 1, 0)), jax.random.key(0))
    assert residual > 0.1 * abs(value)


@pytest.mark.parametrize("size", [1, 4])
def test_the_zero_matrix_has_the_eigenvalue_zero(size):
    value, v, residual = power(jnp.zeros((size, size)), jax.random.key(0))
    assert (value, residual) == (0, 0)
    np.testing.assert_allclose(np.linalg.norm(v), 1, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scales_whose_squares_float32_cannot_hold(scale):
    value, v, residual = power(symmetric((5, 3, 2, 1)).astype(jnp.float32) * jnp.float32(scale), jax.random.key(0))
    assert value.dtype == v.dtype == residual.dtype == jnp.float32
    np.testing.assert_allclose(value, 5 * scale, rtol=1e-5)
    assert 0 < residual <= 1e-4 * value


def test_an_eigenvector_is_a_tree_and_half_precision_is_widened():
    like = {"a": jnp.zeros((2, 1), jnp.bfloat16), "b": jnp.zeros(3, jnp.bfloat16)}
    value, v, _ = power_iteration(lambda t: {"a": -3 * t["a"], "b": t["b"]}, jax.random.key(0), like)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), v) == {"a": ((2, 1), jnp.float32), "b": ((3,), jnp.float32)}
    np.testing.assert_allclose([value, np.linalg.norm(v["a"])], [-3, 1], rtol=1e-5)
    assert power_iteration(lambda t: t, jax.random.key(0), {})[0] == 0


def test_starts_differ_by_key_and_vmap_works():
    matrix = symmetric((5, 3, 2, 1))
    values, vectors, _ = jax.vmap(lambda key: power(matrix, key))(jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(values, 5, rtol=1e-7)
    assert len(np.unique(vectors[:, 0])) == 3


def test_a_matvec_that_is_not_finite_ends_at_once_and_says_so():
    value, _, residual = power(jnp.full((4, 4), jnp.nan), jax.random.key(0))
    assert np.isnan(value)
    assert np.isnan(residual)


# Lanczos


def assert_lanczos_identities(matrix, alphas, betas, basis, tol=1e-12):
    """Orthonormal rows, T = Q A Qᵀ, and A Qᵀ - Qᵀ T empty but for its last column, which is orthogonal to the rows."""
    scale = np.abs(np.linalg.eigvalsh(matrix)).max() or 1
    t, q = np.asarray(tridiagonal(alphas, betas)), np.asarray(basis)
    np.testing.assert_allclose(q @ q.T, np.eye(len(q)), atol=tol)
    np.testing.assert_allclose(q @ matrix @ q.T, t, atol=tol * scale)
    rest = matrix @ q.T - q.T @ t
    np.testing.assert_allclose(rest[:, :-1], 0, atol=tol * scale)
    np.testing.assert_allclose(q @ rest[:, -1], 0, atol=tol * scale)
    assert np.all(np.asarray(betas) >= 0)


@pytest.mark.claim("SAM-spec")
@settings(max_examples=12)  # each size compiles
@given(eigenvalues=st.lists(st.integers(-3, 3), min_size=4, max_size=6), seed=st.integers(0, 99))
def test_lanczos_of_full_order_finds_every_eigenvalue_with_repeats(eigenvalues, seed):
    """Small integers repeat: the Krylov space of one vector is then too small, and Lanczos breaks down and restarts."""
    matrix = symmetric(eigenvalues, seed)
    alphas, betas, basis = krylov(matrix, jax.random.key(seed), len(eigenvalues))
    assert_lanczos_identities(matrix, alphas, betas, basis)
    np.testing.assert_allclose(ritz(alphas, betas), np.sort(eigenvalues), atol=1e-12)


def test_lanczos_of_low_order():
    matrix = symmetric(np.linspace(-1, 2, 30) ** 3)
    assert_lanczos_identities(matrix, *krylov(matrix, jax.random.key(0), 12))


def test_lanczos_beside_matfree():
    matrix = symmetric(np.linspace(-1, 2, 30) ** 3)
    alphas, betas, basis = krylov(matrix, jax.random.key(0), 10)
    peer = decomp.tridiag_sym(10, materialize=False)(lambda v: matrix @ v, basis[0])
    np.testing.assert_allclose(alphas, peer.J_small[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(betas, peer.J_small[1], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(basis, peer.Q_tall, atol=1e-10)


@pytest.mark.parametrize(
    ("eigenvalues", "spaces"), [((2, 2, 2, 2), 4), ((0, 0, 0, 0), 4), ((5, 0, 0, 0), 3)], ids=["2I", "0", "rank one"]
)
def test_after_breakdown_rows_are_fresh_directions(eigenvalues, spaces):
    """Each breakdown is a beta of 0: the number of Krylov spaces is one more."""
    matrix = symmetric(eigenvalues)
    alphas, betas, basis = krylov(matrix, jax.random.key(1), 4)
    assert_lanczos_identities(matrix, alphas, betas, basis)
    assert np.sum(np.asarray(betas) == 0) == spaces - 1


def test_past_the_size_of_the_matrix_all_is_zero():
    for matrix in (symmetric((3, -1)), jnp.asarray([[2.0]])):
        size = len(matrix)
        alphas, betas, basis = krylov(matrix, jax.random.key(0), 5)
        assert (alphas.shape, betas.shape, basis.shape) == ((5,), (4,), (5, size))
        assert_lanczos_identities(matrix, alphas[:size], betas[: size - 1], basis[:size])
        assert not np.any(alphas[size:])
        assert not np.any(betas[size - 1 :])
        assert not np.any(basis[size:])


def test_rows_stay_orthonormal_in_float32():
    """Once a Ritz value has converged (here after a few steps), a basis without reorthogonalisation loses it."""
    eigenvalues = np.concatenate([[1000, 100], np.linspace(0, 1, 60)])
    matrix = symmetric(eigenvalues).astype(jnp.float32)
    alphas, betas, basis = krylov(matrix, jax.random.key(0), 50)
    assert alphas.dtype == betas.dtype == basis.dtype == jnp.float32
    np.testing.assert_allclose(basis @ basis.T, np.eye(50), atol=2e-6)
    np.testing.assert_allclose(basis @ matrix @ basis.T, tridiagonal(alphas, betas), atol=1e-3)  # 1e-6 of 1000
    np.testing.assert_allclose(ritz(alphas, betas)[-2:], [100, 1000], rtol=1e-5)
    assert ritz(alphas, betas)[-3] < 1.001  # no ghost copies


def test_a_low_rank_matrix_in_float32():
    """Its image is rounding after the first rows; what is left of it must not spoil the basis."""
    matrix = symmetric(np.concatenate([[7, 5, -3], np.zeros(37)])).astype(jnp.float32)
    alphas, betas, basis = krylov(matrix, jax.random.key(0), 40)
    np.testing.assert_allclose(basis @ basis.T, np.eye(40), atol=1e-5)
    np.testing.assert_allclose(ritz(alphas, betas)[[0, -2, -1]], [-3, 5, 7], rtol=1e-5)


@pytest.mark.claim("SAM-spec")
def test_lanczos_on_the_hessian_of_a_network():
    """λ₁ and λ₁/λ₅ of SAM's Fig. 3 from 20 and 60 products, beside the whole spectrum."""
    rng = np.random.default_rng(0)
    params = [jnp.asarray(rng.normal(size=shape)) for shape in ((10, 16), (16, 4))]
    batch = rng.normal(size=(60, 10)), rng.integers(0, 4, 60)
    model = Model(lambda p, x: jnp.tanh(x @ p[0]) @ p[1], Categorical())
    exact = np.linalg.eigvalsh(matrices.hessian(model, params, batch))
    f = jax.jit(
        lambda key, order: lanczos(partial(hvp, model.loss, params, batch), key, params, order), static_argnums=1
    )
    alphas, betas, _ = f(jax.random.key(0), 60)
    np.testing.assert_allclose(ritz(alphas[:20], betas[:19])[-1], exact[-1], rtol=1e-4)
    np.testing.assert_allclose(ritz(alphas, betas)[[-1, -5]], exact[[-1, -5]], rtol=1e-6)


def test_lanczos_by_vmap():
    matrix = symmetric((3, 1, 1, -2))
    alphas, betas, basis = jax.vmap(lambda key: krylov(matrix, key, 4))(jax.random.split(jax.random.key(0), 2))
    for a, b, q in zip(alphas, betas, basis, strict=True):
        assert_lanczos_identities(matrix, a, b, q)


# spectral density


@partial(jax.jit, static_argnames=("order", "num_probes"))
def density(matrix, key, grid, width, order, num_probes):
    return spectral_density(lambda v: matrix @ v, key, matrix[0], grid, width, order, num_probes)


def smoothed(eigenvalues, grid, width):
    bumps = np.exp(-(((grid[:, None] - eigenvalues) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    return bumps.mean(axis=1)


EIGENVALUES = np.concatenate([np.zeros(12), np.linspace(-1, 1, 6), [4.0, 6.0]])
GRID = jnp.linspace(-3, 8, 400)


def test_the_density_is_the_smoothed_spectrum():
    """Unbiased at full order, where the quadrature of each probe is exact: within 5 standard errors at every point."""
    value, error = density(symmetric(EIGENVALUES), jax.random.key(0), GRID, 0.2, 20, 400)
    exact = smoothed(EIGENVALUES, GRID, 0.2)
    assert np.all(np.abs(value - exact) <= 5 * error + 1e-12)
    assert error.max() < 0.1 * exact.max()


@pytest.mark.parametrize("order", [5, 30])
def test_its_integral_is_one_for_any_order(order):
    """The weights of a probe sum to 1, past the size of the matrix too; the trapezoid is off by far less than 1e-6."""
    value, error = density(symmetric(EIGENVALUES), jax.random.key(0), GRID, 0.2, order, 1)
    np.testing.assert_allclose(np.trapezoid(value, GRID), 1, rtol=1e-6)
    assert np.all(np.isnan(error))


def test_few_products_match_moments_of_the_spectrum():
    """Gauss quadrature: order 3 integrates tᵏ exactly, k < 6, for a probe; the mean over probes tends to tr(Aᵏ)/P."""
    value, _ = density(symmetric(EIGENVALUES), jax.random.key(1), GRID, 0.2, 3, 2000)
    mean = np.trapezoid(value * GRID, GRID)
    second = np.trapezoid(value * GRID**2, GRID) - 0.2**2  # the smoothing adds its variance
    np.testing.assert_allclose([mean, second], [EIGENVALUES.mean(), (EIGENVALUES**2).mean()], rtol=0.1)


def test_one_repeated_eigenvalue_is_one_bump_without_error():
    """Order past the size: the zeros there have no weight, so there is nothing at 0."""
    value, error = density(3 * jnp.eye(2), jax.random.key(0), GRID, 0.2, 4, 3)
    np.testing.assert_allclose(value, smoothed(np.array([3.0]), GRID, 0.2), atol=1e-12)
    np.testing.assert_allclose(error, 0, atol=1e-12)


# errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda key: power_iteration(lambda v: v, key, jnp.ones(2), max_iters=0), "max_iters"),
        (lambda key: lanczos(lambda v: v, key, jnp.ones(2), 0), "order"),
        (lambda key: spectral_density(lambda v: v, key, jnp.ones(2), GRID, 0.1, num_probes=0), "at least 1"),
    ],
    ids=["power_iteration", "lanczos", "spectral_density"],
)
def test_nothing_asked_for_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call(jax.random.key(0))
