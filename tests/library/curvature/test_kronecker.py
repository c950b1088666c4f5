"""K-FAC's factors beside brute force per example, and beside the exact Fisher where they are exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from course_lib.curvature.kronecker import (
    Factors,
    damped,
    from_matrices,
    inverse,
    kronecker_factors,
    kronecker_vp,
    layers,
    to_matrices,
)
from course_lib.curvature.matrices import empirical_fisher, fisher
from course_lib.likelihoods import Bernoulli, Categorical, Normal
from course_lib.models import Model
from course_lib.networks import MLP, Mixer, Network, ResNet, ViT, dense, patches

KEY = jax.random.key(11)


def normal(i, *shape):
    return jnp.asarray(np.random.default_rng(i).normal(size=shape))


def close(a, b, rtol=1e-10, atol=1e-12):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


PARAMS = {
    "in": {"bias": normal(0, 4), "kernel": normal(1, 3, 4)},
    "out": {"kernel": normal(2, 4, 3)},
}
X, Y = normal(3, 5, 3), jnp.asarray([0, 2, 1, 1, 0])


def mlp(params, x, tape=None):
    return dense(params["out"], jnp.tanh(dense(params["in"], x, tape)), tape)


MODEL = Model(mlp, Categorical())
factors_of = jax.jit(kronecker_factors, static_argnames=("model", "labels"))


def filled(net, x):
    """Random parameters in the shapes of net's, without compiling its initialisers."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(net.init, KEY, x))
    return jax.tree.unflatten(treedef, [0.5 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def block(matrix, params, layer):
    """The layer's diagonal block of a (P, P) matrix, in the order of vec [W; b]."""
    flat, unravel = ravel_pytree(params)
    index = np.asarray(to_matrices(unravel(jnp.arange(flat.size) * 1.0))[layer], int).ravel()
    return matrix[np.ix_(index, index)]


def kron(factors):
    return jnp.kron(factors.a, factors.g)


# --- trees and matrices ---


@pytest.mark.claim("SL-kfac")
@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 5))
def test_the_vec_trick(d, k, bias, seed):
    layer = {"bias": normal(seed, k)} if bias else {}
    v = {"w": layer | {"kernel": normal(seed + 1, d, k)}}
    # A V G is (A ⊗ Gᵀ) vec V. Factors are symmetric; these are not, so that a wrong side would be seen.
    f = Factors(normal(seed + 2, d + bias, d + bias), normal(seed + 3, k, k))
    expected = jnp.kron(f.a, f.g.T) @ np.concatenate([v["w"]["kernel"].ravel(), v["w"].get("bias", np.zeros(0))])
    got = kronecker_vp({"w": f}, v)["w"]
    close(np.concatenate([got["kernel"].ravel(), got.get("bias", np.zeros(0))]), expected)


def test_matrices_have_the_bias_last_and_kernels_in_rows():
    tree = {"conv": {"kernel": normal(0, 3, 2, 5, 4), "bias": normal(1, 4)}, "out": [{"kernel": normal(2, 4, 2)}]}
    matrices = to_matrices(tree)
    assert {name: m.shape for name, m in matrices.items()} == {"conv": (31, 4), "out/0": (4, 2)}
    close(matrices["conv"][-1], tree["conv"]["bias"])
    close(matrices["conv"][7], tree["conv"]["kernel"][0, 1, 2])
    back = from_matrices(matrices, tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    jax.tree.map(close, back, tree)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)}}, r"params\['norm'\]\['bias'\].*\['norm'\]\['scale'\]"),
        ({"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)}}, r"\['a'\]\['bias'\]"),
        ({"a": {"kernel": jnp.ones(3)}}, r"\['a'\]\['kernel'\]"),
        ({"a": {"kernel": jnp.ones((2, 3)), "weight": jnp.ones(3)}}, r"\['a'\]\['weight'\]"),
        ([jnp.ones((2, 3))], r"params\[0\]"),
    ],
)
def test_parameters_of_no_known_layer_are_named(params, named):
    with pytest.raises(ValueError, match=named):
        layers(params)


# --- the factors, by brute force ---


def brute_force(labels, key):
    """A and G of both layers of `mlp`, by hand, example by example and label by label."""
    w1, b1, w2 = (np.asarray(a) for a in (PARAMS["in"]["kernel"], PARAMS["in"]["bias"], PARAMS["out"]["kernel"]))
    keys = jax.random.split(key, 5)
    sums = [np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((3, 3))]
    for i, x in enumerate(np.asarray(X)):
        a = np.tanh(x @ w1 + b1)
        z = a @ w2
        p = np.exp(z) / np.exp(z).sum()
        sampled = np.eye(3)[int(Categorical().sample(keys[i], jnp.asarray(z)))]
        weights = {"sampled": sampled, "exact": p, "observed": np.eye(3)[Y[i]]}[labels]
        x1 = np.append(x, 1)
        sums[0] += np.outer(x1, x1)
        sums[2] += np.outer(a, a)
        for y, weight in enumerate(weights):
            g2 = p - np.eye(3)[y]
            g1 = (w2 @ g2) * (1 - a**2)
            sums[1] += weight * np.outer(g1, g1)
            sums[3] += weight * np.outer(g2, g2)
    a1, g1, a2, g2 = (s / 5 for s in sums)
    return {"in": Factors(a1, g1), "out": Factors(a2, g2)}


@pytest.mark.claim("SL-kfac")
@pytest.mark.parametrize("labels", ["sampled", "exact", "observed"])
def test_factors_are_means_over_examples(labels):
    key = jax.random.key(4)
    got = factors_of(MODEL, PARAMS, (X, Y), jax.random.clone(key), labels)
    jax.tree.map(close, got, brute_force(labels, key))


def test_sampled_labels_average_to_the_exact_and_observed_ones_do_not():
    keys = jax.random.split(KEY, 3000)
    draws = jax.vmap(lambda k: factors_of(MODEL, PARAMS, (X, None), k)["in"].g)(keys)
    exact = factors_of(MODEL, PARAMS, (X, None), labels="exact")["in"].g
    error = draws.std(0, ddof=1) / np.sqrt(3000)
    assert (jnp.abs(draws.mean(0) - exact) < 5 * error).all()
    assert (error < 0.1 * jnp.abs(exact).max()).all()
    observed = factors_of(MODEL, PARAMS, (X, Y), labels="observed")["in"].g
    assert jnp.abs(observed - exact).max() > 20 * error.max()


def test_the_batch_s_labels_count_where_observed_only():
    others = (Y + 1) % 3
    for labels in ("exact", "sampled"):
        same = [factors_of(MODEL, PARAMS, (X, y), jax.random.key(0), labels) for y in (Y, others, None)]
        jax.tree.map(close, same[0], same[1])
        jax.tree.map(close, same[0], same[2])
    seen = [factors_of(MODEL, PARAMS, (X, y), labels="observed")["out"].g for y in (Y, others)]
    assert jnp.abs(seen[0] - seen[1]).max() > 1e-2


# --- where K-FAC is exact, and where not ---


def linear(params, x, tape=None):
    for name in sorted(params):
        x = dense(params[name], x, tape)
    return x


DEEP = {
    "1": {"kernel": normal(20, 3, 4), "bias": normal(21, 4)},
    "2": {"kernel": normal(22, 4, 2)},
    "3": {"kernel": normal(23, 2, 3), "bias": normal(24, 3)},
}


@pytest.mark.claim("SL-kfac")
@pytest.mark.parametrize("params", [{"1": DEEP["1"]}, {"2": DEEP["2"]}, DEEP])
def test_exact_for_linear_networks_with_gaussian_outputs(params):
    """g = W…W (z - y)/σ² does not depend on x there, so E[a aᵀ ⊗ g gᵀ] is the product of the expectations."""
    x = normal(25, 6, len(jax.tree.leaves(params)[-1] if "1" not in params else params["1"]["kernel"]))
    model = Model(linear, Normal(0.5))
    whole = fisher(model, params, (x, None))
    factors = factors_of(model, params, (x, None), labels="exact")
    assert sorted(factors) == sorted(params)
    for name, f in factors.items():
        close(kron(f), block(whole, params, name), rtol=1e-9, atol=1e-9)


@pytest.mark.claim("SL-kfac")
@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli(), Normal(2.0)])
def test_exact_for_one_example_but_not_for_more(likelihood):
    model = Model(mlp, likelihood)
    for n in (1, 5):
        factors = factors_of(model, PARAMS, (X[:n], None), labels="exact")
        whole = fisher(model, PARAMS, (X[:n], None))
        gap = max(jnp.abs(kron(f) - block(whole, PARAMS, name)).max() for name, f in factors.items())
        assert gap < 1e-12 if n == 1 else gap > 1e-3


def test_observed_labels_make_the_empirical_fisher_s_block_of_one_example():
    factors = factors_of(MODEL, PARAMS, (X[:1], Y[:1]), labels="observed")
    whole = empirical_fisher(MODEL, PARAMS, (X[:1], Y[:1]))
    for name, f in factors.items():
        close(kron(f), block(whole, PARAMS, name))


# --- convolutions and tokens ---


def convnet(params, x, tape=None):
    hidden = jnp.tanh(dense(params["conv"], patches(x, (3, 3), 2), tape))
    return dense(params["out"], hidden.reshape(len(x), -1), tape)


def conv_params(space):
    places = np.prod([-(-s // 2) for s in space])
    conv = {"kernel": normal(30, 3, 3, 2, 3), "bias": normal(31, 3)}
    return {"conv": conv, "out": {"kernel": normal(32, places * 3, 2)}}


@pytest.mark.claim("SL-kfac")
def test_convolutions_by_brute_force_with_patches():
    """KFC: A = mean over examples of Σ_t a_t a_tᵀ, G of the mean over t of g_t g_tᵀ."""
    model, params, x, y = Model(convnet, Categorical()), conv_params((4, 5)), normal(33, 3, 4, 5, 2), jnp.arange(3) % 2
    a_sum, g_sum = np.zeros((19, 19)), np.zeros((3, 3))
    slopes = jax.jit(jax.grad(lambda s, y: Categorical().nll(jnp.tanh(s).reshape(-1) @ params["out"]["kernel"], y)))
    for i in range(3):
        padded = np.pad(x[i], ((1, 1), (1, 1), (0, 0)))

        a = [np.append(padded[r : r + 3, c : c + 3].ravel(), 1) for r in (0, 2) for c in (0, 2, 4)]
        s = jnp.stack(a) @ to_matrices(params)["conv"]
        a_sum += sum(np.outer(v, v) for v in a)
        g_sum += sum(np.outer(v, v) for v in np.asarray(slopes(s, y[i]))) / 6
    got = factors_of(model, params, (x, y), labels="observed")["conv"]
    close(got.a, a_sum / 3)
    close(got.g, g_sum / 3)


def test_a_convolution_with_one_place_is_a_dense_layer():
    model, params, x = Model(convnet, Categorical()), conv_params((2, 2)), normal(34, 1, 2, 2, 2)
    factors = factors_of(model, params, (x, None), labels="exact")
    close(kron(factors["conv"]), block(fisher(model, params, (x, None)), params, "conv"), atol=1e-11)


NETS = {
    "mlp": (MLP((4,), 3), 2),
    "resnet": (ResNet(8, 3, width=2), 8),
    "vit": (ViT(2, 3, width=4, depth=1, heads=2), 9),
    "mixer": (Mixer(2, 3, width=4, depth=1, token_hidden=3), 6),
}


@pytest.mark.parametrize("name", NETS)
def test_every_layer_of_every_network_is_known(name):
    module, count = NETS[name]
    net, x = Network(module), normal(40, 2, 6, 1)
    params = filled(net, x)
    factors = jax.jit(lambda p, k: factors_of(Model(net, Categorical()), p, (x, None), k))(params, jax.random.key(0))
    shapes = {name: (f.a.shape[0], f.g.shape[0]) for name, f in factors.items()}
    assert shapes == {name: m.shape for name, m in to_matrices(params).items()}
    assert len(shapes) == count
    assert all(jnp.isfinite(f.g).all() and jnp.trace(f.g) > 0 for f in factors.values())
    if name == "vit":
        close(factors["place"].a, np.eye(3))  # Σ_t over one-hot places
        close(factors["embed"].a[-1, -1], 3)


# --- damping and inverse ---


def spd(i, n):
    return normal(i, n, n) @ normal(i, n, n).T


@pytest.mark.claim("SL-kfac")
def test_factored_damping():
    """Martens & Grosse §6.3: π² = (tr A/d)/(tr G/k); the two terms that are too much are equally large."""
    f, lam = Factors(3 * spd(50, 4), 0.2 * spd(51, 3)), 0.07
    pi = np.sqrt((np.trace(f.a) / 4) / (np.trace(f.g) / 3))
    got = damped(f, lam)
    close(got.a, f.a + pi * np.sqrt(lam) * np.eye(4))
    close(got.g, f.g + np.sqrt(lam) / pi * np.eye(3))
    rest = kron(got) - kron(f) - lam * np.eye(12)
    first = np.kron(pi * np.sqrt(lam) * np.eye(4), f.g)
    close(rest, first + np.kron(f.a, np.sqrt(lam) / pi * np.eye(3)), atol=1e-9)
    close(np.trace(first), np.trace(rest) / 2)


@pytest.mark.parametrize("zero", ["a", "g", "both"])
def test_a_zero_factor_is_damped_by_root_lambda(zero):
    f = Factors(spd(50, 4) * (zero == "g"), spd(51, 3) * (zero == "a"))
    got = damped(f, 0.04)
    close(got.a, f.a + 0.2 * np.eye(4))
    close(got.g, f.g + 0.2 * np.eye(3))


@pytest.mark.claim("SL-kfac")
def test_product_with_the_inverses_is_the_dense_solve():
    f, lam = {name: Factors(spd(60, m.shape[0]), spd(61, m.shape[1])) for name, m in to_matrices(PARAMS).items()}, 0.1
    v = jax.tree.map(jnp.cos, PARAMS)
    got = to_matrices(kronecker_vp({name: inverse(damped(g, lam)) for name, g in f.items()}, v))
    for name, m in to_matrices(v).items():
        pi = np.sqrt((np.trace(f[name].a) / len(f[name].a)) / (np.trace(f[name].g) / len(f[name].g)))
        a = f[name].a + pi * np.sqrt(lam) * np.eye(len(f[name].a))
        g = f[name].g + np.sqrt(lam) / pi * np.eye(len(f[name].g))
        close(got[name].ravel(), np.linalg.solve(np.kron(a, g), m.ravel()), rtol=1e-8)


def test_an_indefinite_factor_has_no_inverse():
    assert jnp.isnan(inverse(Factors(-jnp.eye(2), jnp.eye(1))).a).any()


# --- what flows, and what does not ---


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_at_least_float32(dtype):
    params = jax.tree.map(lambda a: a.astype(dtype), PARAMS)
    wide = jnp.promote_types(dtype, jnp.float32)
    factors = factors_of(MODEL, params, (X.astype(dtype), None), labels="exact")
    inverses = {name: inverse(damped(f, 0.1)) for name, f in factors.items()}
    assert {a.dtype for a in jax.tree.leaves((factors, inverses))} == {wide}
    exact = factors_of(MODEL, PARAMS, (X, None), labels="exact")
    jax.tree.map(partial(close, rtol=0.05, atol=0.05), factors, exact)


def test_one_array_in_two_places_is_two_layers():
    same = {"kernel": normal(70, 3, 3)}
    params = {"1": same, "2": same}
    factors = kronecker_factors(Model(linear, Normal()), params, (X, None), labels="exact")  # a jit would part them
    close(factors["1"].a, X.T @ X / 5)
    close(factors["2"].a, same["kernel"].T @ X.T @ X @ same["kernel"] / 5)


def forgets(params, x, tape=None):
    return dense(params["out"], jnp.tanh(dense(params["in"], x)), tape)


def twice(params, x, tape=None):
    return mlp(params, x, tape) + dense(params["in"], x, tape)[:, :3]


def transposed(params, x, tape=None):
    turned = {"kernel": params["out"]["kernel"].T}
    return dense(turned, dense(params["in"], x, tape)[:, :3], tape)


def biasless(params, x, tape=None):
    hidden = dense({"kernel": params["in"]["kernel"]}, x, tape) + 2 * params["in"]["bias"]
    return dense(params["out"], hidden, tape)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (forgets, r"never saw the layers \['in'\]"),
        (twice, "'in' is used twice"),
        (transposed, r"\{'kernel': \(3, 4\)\} that is not in the parameters"),
        (biasless, r"\{'kernel': \(3, 4\)\} that is not in the parameters.*without its bias"),
    ],
)
def test_layers_that_cannot_be_known_are_named(apply, message):
    with pytest.raises(ValueError, match=message):
        kronecker_factors(Model(apply, Categorical()), PARAMS, (X, None), labels="exact")


def test_words_that_are_missing_or_mean_nothing(shapes_unchecked):
    with pytest.raises(TypeError, match="tape=None"):
        kronecker_factors(Model(lambda p, x: mlp(p, x), Categorical()), PARAMS, (X, None), KEY)
    with pytest.raises(ValueError, match="needs a key"):
        kronecker_factors(MODEL, PARAMS, (X, None))
    with pytest.raises(ValueError, match="'empirical'"):
        kronecker_factors(MODEL, PARAMS, (X, Y), KEY, "empirical")
