"""The toy functions have the minima they are there for; slices are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from course_lib.landscapes import (
    THREE_MINIMA,
    THREE_MINIMA_RHO,
    filter_normalized,
    loss_slice,
    random_direction,
    rippled_bowl,
    stretched_bowl,
    three_minima,
    two_pits_and_a_valley,
)

RNG = np.random.default_rng(0)
NET = {"w1": jnp.asarray(RNG.normal(size=(3, 4))), "b1": jnp.zeros(4), "w2": jnp.asarray(RNG.normal(size=(4, 2)))}
X = jnp.asarray(RNG.normal(size=(8, 3)))


def relu_loss(params, x):
    return jnp.mean((jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] - 1) ** 2)


def test_the_functions_of_the_adahessian_figures():
    assert stretched_bowl(jnp.array([2.0, 3.0])) == 49
    np.testing.assert_array_equal(jax.hessian(stretched_bowl)(jnp.ones(2)), [[20, 0], [0, 2]])
    np.testing.assert_allclose(rippled_bowl(jnp.array(0.025)), 0.025**2 + 0.0025, rtol=1e-12)  # sin(π/2)
    grid = np.linspace(-1.5, 1.5, 30001)
    lowest = np.abs(grid[np.argsort(jax.vmap(rippled_bowl)(jnp.asarray(grid)))[:2]])
    np.testing.assert_allclose(lowest, 0.0734, atol=1e-4)


def test_the_ridge_has_two_sharp_minima_and_a_flat_one():
    ends, sharpness = [], []
    for start in [(1.0, 0.8), (1.0, -0.8), (3.3, 0.0)]:
        found = scipy.optimize.minimize(
            jax.jit(two_pits_and_a_valley), start, jac=jax.jit(jax.grad(two_pits_and_a_valley))
        )
        ends.append(found.x)
        sharpness.append(np.linalg.eigvalsh(jax.hessian(two_pits_and_a_valley)(jnp.asarray(found.x)))[-1])
    np.testing.assert_allclose(ends, [(1.0, 0.8), (1.0, -0.8), (3.3, 0.0)], atol=0.05)
    assert min(sharpness[:2]) > 15 * sharpness[2]


@pytest.mark.claim("GSAM-l1")
def test_of_the_three_minima_the_perturbed_loss_ranks_the_sharpest_beside_the_flattest_and_the_gap_does_not():
    f, perturbed, sharpness = [], [], []
    for w in THREE_MINIMA:
        ball = jnp.linspace(w - THREE_MINIMA_RHO, w + THREE_MINIMA_RHO, 2001)
        f.append(three_minima(jnp.array(w)))
        perturbed.append(jnp.max(jax.vmap(three_minima)(ball)))
        sharpness.append(jax.grad(jax.grad(three_minima))(w))
        assert abs(jax.grad(three_minima)(w)) < 1e-3
    np.testing.assert_allclose(f[1], f[2], atol=1e-4)
    np.testing.assert_allclose(perturbed[0], perturbed[2], atol=1e-4)
    assert perturbed[1] > perturbed[2] + 0.1
    gap = np.subtract(perturbed, f)
    assert gap[0] > gap[1] > gap[2]
    assert sharpness[0] > 2 * sharpness[1] > 4 * sharpness[2]


@pytest.mark.claim("SAM-land")
def test_each_filter_of_a_direction_has_the_norm_of_the_filter_of_the_weights():
    params = {"kernel": jnp.asarray(RNG.normal(size=(3, 3, 2, 5))), "bias": jnp.ones(5), "scale": jnp.array(2.0)}
    raw = jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape)), params)
    d = filter_normalized(raw, params)
    norms, wanted = (np.linalg.norm(np.asarray(a).reshape(-1, 5), axis=0) for a in (d["kernel"], params["kernel"]))
    np.testing.assert_allclose(norms, wanted, rtol=1e-12)
    cosine = (
        np.sum(d["kernel"] * raw["kernel"], axis=(0, 1, 2))
        / norms
        / np.linalg.norm(raw["kernel"].reshape(-1, 5), axis=0)
    )
    np.testing.assert_allclose(cosine, 1, rtol=1e-12)  # rescaled, not turned
    np.testing.assert_array_equal(d["bias"], 0)
    assert d["scale"] == 0
    dead = {"kernel": raw["kernel"].at[..., 1].set(0)}
    assert np.all(filter_normalized(dead, {"kernel": params["kernel"]})["kernel"][..., 1] == 0)


def test_a_random_direction_is_gaussian_normalised_and_in_the_dtypes_of_the_parameters():
    params = {"w": jnp.ones((2000, 2), jnp.float16), "b": jnp.ones(2)}
    d = random_direction(jax.random.key(0), params)
    assert {k: a.dtype for k, a in d.items()} == {k: a.dtype for k, a in params.items()}
    w = np.asarray(d["w"], np.float64)
    np.testing.assert_allclose(np.linalg.norm(w, axis=0), 2000**0.5, rtol=1e-3)
    np.testing.assert_allclose(np.mean(w**4), 3, rtol=0.15)  # kurtosis; sd √(96/4000)
    assert np.any(random_direction(jax.random.key(1), params)["w"] != d["w"])


@pytest.mark.claim("SAM-land")
def test_a_slice_is_the_loss_along_the_directions_and_sees_no_rescaling_of_layers():
    a, b = jnp.linspace(-1, 1, 5), jnp.linspace(-0.5, 0.5, 3)
    raw = [jax.tree.map(lambda w: jnp.asarray(RNG.normal(size=w.shape)), NET) for _ in range(2)]

    def sliced(net):
        directions = [filter_normalized(d, net) for d in raw]
        return directions, loss_slice(relu_loss, net, X, directions, a, b)

    (d, e), values = sliced(NET)
    assert values.shape == (5, 3)
    np.testing.assert_allclose(values[2, 1], relu_loss(NET, X), rtol=1e-12)
    corner = jax.tree.map(lambda w, d, e: w - d + 0.5 * e, NET, d, e)
    np.testing.assert_allclose(values[0, 2], relu_loss(corner, X), rtol=1e-12)
    line = loss_slice(relu_loss, NET, X, [d], a)
    np.testing.assert_allclose(line, values[:, 1], rtol=1e-12)

    same = {"w1": NET["w1"] * 10, "b1": NET["b1"] * 10, "w2": NET["w2"] / 10}
    np.testing.assert_allclose(sliced(same)[1], values, rtol=1e-10)


def test_a_slice_stays_in_the_dtype_of_the_parameters_and_needs_an_axis_a_direction():
    net = jax.tree.map(lambda w: w.astype(jnp.float32), NET)
    line = loss_slice(relu_loss, net, X.astype(jnp.float32), [net], jnp.linspace(0, 1, 3))  # a float64 axis
    assert line.dtype == jnp.float32
    with pytest.raises(ValueError, match="1 directions and 2 axes"):
        loss_slice(relu_loss, NET, X, [NET], jnp.ones(2), jnp.ones(2))
