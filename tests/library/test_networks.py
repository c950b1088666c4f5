"""The networks beside lax.conv, Flax's own layers and numpy; and that Model takes any pure apply."""

import itertools
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from course_lib.curvature.matrices import fisher
from course_lib.likelihoods import Categorical
from course_lib.models import Model
from course_lib.networks import (
    MLP,
    Attention,
    Conv,
    Mixer,
    Network,
    ResNet,
    StatefulNetwork,
    ViT,
    dense,
    norm,
    patches,
    tokens,
)
from course_lib.optimizers.sam import sam

KEY = jax.random.key(3)


def normal(i, *shape):
    return jnp.asarray(np.random.default_rng(i).normal(size=shape))


def close(a, b, rtol=1e-10, atol=1e-10):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def size(tree):
    return sum(a.size for a in jax.tree.leaves(tree))


def random_params(net, x):
    """Every parameter random, biases and places too, without compiling the initialisers."""
    leaves, treedef = jax.tree.flatten(jax.eval_shape(net.init, KEY, x))
    return jax.tree.unflatten(treedef, [0.3 * normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


# --- dense and patches ---


def conv(x, kernel, stride):
    """lax.conv, channels last, (w-1)//2 zeros around."""
    dims = "xyz"[: x.ndim - 2]
    form = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, (f"N{dims}C", f"{dims}IO", f"N{dims}C"))
    around = [((w - 1) // 2,) * 2 for w in kernel.shape[:-2]]
    return jax.lax.conv_general_dilated(x, kernel, (stride,) * len(dims), around, dimension_numbers=form)


CONVOLUTIONS = [((7,), (3,), 1), ((8,), (5,), 2), ((6, 5), (3, 3), 2), ((4, 7), (1, 5), 3), ((3, 4, 2), (3, 1, 3), 1)]


@pytest.mark.parametrize(("space", "window", "stride"), CONVOLUTIONS)
def test_dense_on_patches_is_lax_conv_and_so_are_its_gradients(space, window, stride):
    x, kernel, bias = normal(0, 2, *space, 3), normal(1, *window, 3, 4), normal(2, 4)

    def ours(x, kernel):
        return dense({"kernel": kernel, "bias": bias}, patches(x, window, stride))

    def theirs(x, kernel):
        return conv(x, kernel, stride) + bias

    def value_and_slopes(f):
        return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1)))(x, kernel)

    jax.tree.map(close, value_and_slopes(ours), value_and_slopes(theirs))
    assert ours(x, kernel).shape == theirs(x, kernel).shape


def test_without_padding_the_window_stays_inside():
    x = normal(0, 2, 5, 6, 3)
    got = patches(x, (2, 3), 1, padding=False)
    assert got.shape == (2, 4, 4, 18)
    for i, j in itertools.product(range(4), range(4)):
        close(got[:, i, j], x[:, i : i + 2, j : j + 3].reshape(2, -1))


def test_tokens_are_the_patches_in_order():
    x = normal(0, 2, 4, 6, 3)
    got = tokens(x, 2)
    assert got.shape == (2, 6, 12)
    close(got[:, 4], x[:, 2:4, 2:4].reshape(2, -1))
    close(tokens(x[:, 0], 3)[:, 1], x[:, 0, 3:].reshape(2, -1))


def test_windows_and_patches_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="one size for each space axis"):
        patches(jnp.ones((2, 4, 4, 1)), (3,))
    with pytest.raises(ValueError, match="do not fill"):
        tokens(jnp.ones((2, 4, 5, 1)), 2)


def test_the_tape_sees_the_layer_its_input_and_output_and_may_shift_it():
    layer, x = {"kernel": normal(0, 3, 3, 2, 4), "bias": normal(1, 4)}, normal(2, 5, 18)
    seen = []

    def tape(*what):
        seen.extend(what)
        return what[-1] + 1

    shifted = dense(layer, x, tape)
    assert seen[0] is layer
    assert seen[1] is x
    close(seen[2], x @ layer["kernel"].reshape(18, 4) + layer["bias"])
    close(shifted, seen[2] + 1)
    close(dense({"kernel": layer["kernel"]}, x), seen[2] - layer["bias"])


def test_norm_has_mean_0_and_variance_1_and_forgets_scale_and_shift():
    x = 3 * normal(0, 2, 5, 64) + 1
    close(norm(x).mean(-1), 0)
    close(norm(x).var(-1), 1, rtol=1e-5)  # 1e-5 beside a variance of 9
    close(norm(100 * x + 7), norm(x), atol=1e-5)
    close(norm(jnp.ones((2, 3))), 0)
    close(norm(x), nn.LayerNorm(epsilon=1e-5, use_scale=False, use_bias=False).apply({}, x), rtol=1e-9)


# --- the networks ---

SIGNAL, IMAGE = normal(10, 3, 12, 1), normal(11, 3, 8, 8, 2)

NETWORKS = {
    "mlp": (MLP((5, 4), 3), IMAGE, 129 * 5 + 6 * 4 + 5 * 3),
    "softmax regression": (MLP((), 3), SIGNAL, 13 * 3),
    "ResNet-8": (ResNet(8, 3, width=2), SIGNAL, 3 * (2 + 4 + 4 + 8 + 16 + 32 + 64) + 30 + 9 * 3),
    "ViT": (ViT(4, 3, width=6, heads=2), IMAGE, 33 * 6 + 4 * 6 + 2 * (8 * 36 + 7 * 6) + 7 * 3),
    "ViT on signals": (ViT(3, 3, width=4, depth=1, heads=4), SIGNAL, 4 * 4 + 4 * 4 + 8 * 16 + 7 * 4 + 5 * 3),
    "Mixer": (
        Mixer(4, 3, width=6, token_hidden=5),
        IMAGE,
        33 * 6 + 2 * (2 * 4 * 5 + 5 + 4 + 4 * 36 + 3 * 6) + 7 * 3,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_counts_and_rows_that_do_not_see_each_other(name):
    module, x, count = NETWORKS[name]
    net = Network(module)
    params = random_params(net, x)
    z_and_slopes = jax.jit(lambda x: (net(params, x), jax.grad(lambda p: jnp.sum(net(p, x) ** 3))(params)))
    z, slopes = z_and_slopes(x)
    assert z.shape == (3, 3)
    assert size(params) == count
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(slopes))  # nothing stands idle
    changed, _ = z_and_slopes(x.at[1].set(7.0))
    close(changed[::2], z[::2])
    assert jnp.abs(changed[1] - z[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("depth", "batch_norm", "count"), [(8, False, 75_050), (20, False, 269_034), (8, True, 75_290), (20, True, 269_722)]
)
def test_resnet_sizes_of_the_docstring(depth, batch_norm, count):
    """269,722 is the 0.27 M of He et al., table 6; the depth counts the layers with weights."""
    module = ResNet(depth, 10, batch_norm=batch_norm)
    params = jax.eval_shape(module.init, KEY, jnp.zeros((1, 32, 32, 3)))["params"]
    assert size(params) == count
    assert sum(a.ndim > 1 for a in jax.tree.leaves(params)) == depth


@pytest.mark.parametrize("depth", [2, 9])
def test_no_resnet_has_that_depth(depth):
    with pytest.raises(ValueError, match="6n \\+ 2"):
        jax.eval_shape(Network(ResNet(depth, 3)).init, KEY, IMAGE)


def test_the_start_has_the_dtype_of_x_lecun_variance_and_zero_biases():
    net = Network(MLP((400,), 3))
    for x in (SIGNAL, SIGNAL.astype(jnp.float32)):
        params = net.init(KEY, x)
        assert {a.dtype for a in jax.tree.leaves(params)} == {x.dtype}
        assert net(params, x).dtype == x.dtype
    assert abs(params["Dense_0"]["kernel"].var() * 12 - 1) < 0.1  # of 4800 entries: five standard errors
    assert not params["Dense_1"]["bias"].any()


def test_mlp_by_hand():
    net = Network(MLP((5,), 3, activation=jnp.tanh))
    p = random_params(net, IMAGE)
    hidden = np.tanh(IMAGE.reshape(3, -1) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
    close(net(p, IMAGE), hidden @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"])


def test_resnet_by_hand_with_lax_conv():
    net = Network(ResNet(8, 3, width=2))
    p = random_params(net, IMAGE)
    convs = iter([p[f"Conv_{i}"] for i in range(7)])

    def step(x, stride=1):
        layer = next(convs)
        x = conv(x, layer["kernel"], stride) + layer["bias"]
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    x = nn.relu(step(IMAGE))
    for stride in (1, 2, 2):
        branch = step(nn.relu(step(x, stride)))
        x = x[:, ::stride, ::stride]
        x = nn.relu(np.concatenate([x, np.zeros((*x.shape[:3], branch.shape[3] - x.shape[3]))], 3) + branch)
    assert x.shape == (3, 2, 2, 8)
    close(net(p, IMAGE), x.mean((1, 2)) @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])


def test_attention_is_flax_s():
    x = normal(0, 2, 5, 8)
    ours, theirs = Attention(heads=2), nn.MultiHeadDotProductAttention(2)
    p = random_params(Network(ours), x)
    split = {
        name: jax.tree.map(lambda a: a.reshape(*a.shape[:-1], 2, 4), p[name]) for name in ("query", "key", "value")
    }
    out = {"kernel": p["out"]["kernel"].reshape(2, 4, 8), "bias": p["out"]["bias"]}
    close(ours.apply({"params": p}, x), theirs.apply({"params": split | {"out": out}}, x))
    with pytest.raises(ValueError, match="heads must divide"):
        Attention(heads=3).init(KEY, x)


def perceptron(p, x):
    hidden = nn.gelu(dense(p["Dense_0"], x))
    return dense(p["Dense_1"], hidden)


def test_vit_block_by_hand_and_place():
    net = Network(ViT(4, 3, width=6, depth=1, heads=2))
    p = random_params(net, IMAGE)
    x = dense(p["embed"], tokens(IMAGE, 4)) + p["place"]["kernel"]
    x = x + Attention(2).apply({"params": p["Attention_0"]}, norm(x))
    x = x + perceptron(p["Perceptron_0"], norm(x))
    close(net(p, IMAGE), dense(p["head"], norm(x).mean(1)))
    turned = IMAGE[:, [*range(4, 8), *range(4)]]  # the two rows of patches change places
    assert jnp.abs(net(p, turned) - net(p, IMAGE)).max() > 1e-3
    nowhere = p | {"place": {"kernel": jnp.zeros((4, 6))}}
    close(net(nowhere, turned), net(nowhere, IMAGE))


def test_mixer_block_by_hand():
    net = Network(Mixer(4, 3, width=6, depth=1, token_hidden=5))
    p = random_params(net, IMAGE)
    x = dense(p["embed"], tokens(IMAGE, 4))
    across = [perceptron(p["Perceptron_0"], norm(x)[:, :, c]) for c in range(6)]
    x = x + np.stack(across, 2)
    x = x + perceptron(p["Perceptron_1"], norm(x))
    close(net(p, IMAGE), dense(p["head"], norm(x).mean(1)))


def test_equal_modules_are_one_network_and_a_state_is_refused():
    assert Network(MLP((5,), 3)) == Network(MLP((5,), 3))
    assert hash(Network(MLP((5,), 3))) == hash(Network(MLP((5,), 3)))
    assert Network(MLP((5,), 3)) != Network(MLP((6,), 3))
    with pytest.raises(ValueError, match=r"ResNet has a state, \{'batch_stats'\}: StatefulNetwork"):
        jax.eval_shape(Network(ResNet(8, 3, width=2, batch_norm=True)).init, KEY, IMAGE)


# --- batch norm ---

STATEFUL = StatefulNetwork(ResNet(8, 3, width=2, batch_norm=True))
train, evaluate = jax.jit(STATEFUL.train), jax.jit(STATEFUL.evaluate)


@pytest.fixture(scope="module", name="start")
def fixture_start():
    return jax.jit(STATEFUL.init)(KEY, SIGNAL)


def first(state):
    return state["BatchNorm_0"]


def test_batch_norm_s_state_by_hand(start):
    params, state = start
    z, new = train(params, state, SIGNAL)
    before = conv(SIGNAL, params["Conv_0"]["kernel"], 1)
    close(first(state)["mean"], np.zeros(2))
    close(first(new)["mean"], 0.1 * before.mean((0, 1)), atol=1e-7)  # Flax starts a state in float32
    close(first(new)["var"], 0.9 + 0.1 * before.var((0, 1)), rtol=1e-6)
    close(z, train(params, new, SIGNAL)[0])  # by the batch's own statistics, not by the state


def test_evaluation_reads_the_state_and_sees_each_row_alone(start):
    params, state = start
    z, _ = train(params, state, SIGNAL)
    for _ in range(200):  # 0.9^200 < 1e-9
        _, state = train(params, state, SIGNAL)
    close(evaluate(params, state, SIGNAL), z, rtol=1e-4, atol=1e-4)  # a float32 state
    changed = SIGNAL.at[0].set(0.0)
    close(evaluate(params, state, changed)[1:], evaluate(params, state, SIGNAL)[1:])
    assert jnp.abs(train(params, state, changed)[0][1:] - z[1:]).max() > 1e-3
    model = Model(lambda p, x: evaluate(p, state, x), Categorical())
    assert model.loss(params, (SIGNAL, jnp.arange(3))).shape == ()


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, tape=None, train=False):
        return nn.Dense(3)(nn.relu(nn.BatchNorm(not train)(nn.Dense(4)(x[..., 0]))))


def test_sam_s_state_is_that_of_the_clean_pass():
    """Of w, not of w + ε̂: the docstring's three lines."""
    net = StatefulNetwork(Small())
    params, state = net.init(KEY, SIGNAL)
    batch = (SIGNAL, jnp.arange(3))
    opt = sam(optax.sgd(0.1), rho=0.5)

    def loss_and_state(params, batch):
        z, new = net.train(params, state, batch[0])
        return jnp.mean(jax.vmap(Categorical().nll)(z, batch[1])), new

    @jax.jit
    def step(params):
        grads, new = jax.grad(loss_and_state, has_aux=True)(params, batch)
        updates, _ = opt.update(grads, opt.init(params), params, loss=lambda *a: loss_and_state(*a)[0], batch=batch)
        return grads, updates, new

    grads, updates, new = step(params)
    jax.tree.map(close, new, net.train(params, state, SIGNAL)[1])
    shift = jax.tree.map(lambda g: 0.5 * g / optax.tree_utils.tree_norm(grads), grads)
    perturbed = jax.tree.map(jnp.add, params, shift)
    assert jnp.abs(first(net.train(perturbed, state, SIGNAL)[1])["var"] - first(new)["var"]).max() > 1e-4
    expected = jax.tree.map(lambda g: -0.1 * g, step(perturbed)[0])
    jax.tree.map(partial(close, rtol=1e-5, atol=1e-7), updates, expected)


# --- any pure apply ---


def plain(params, x):
    (w1, b1), (w2, b2) = params
    return jnp.tanh(x @ w1 + b1) @ w2 + b2


def test_flax_equinox_and_a_plain_function_are_one_model():
    """The same network: loss, gradients' inner products and the Fisher's spectrum, whatever the order of parameters."""
    x, y = normal(0, 6, 4), jnp.arange(6) % 3
    net = Network(MLP((5,), 3, activation=jnp.tanh))
    flax_params = random_params(net, x)
    layers = [flax_params["Dense_0"], flax_params["Dense_1"]]
    plain_params = [(p["kernel"], p["bias"]) for p in layers]
    template = eqx.nn.MLP(4, 3, 5, 1, activation=jnp.tanh, key=KEY)
    where = lambda m: [a for layer in m.layers for a in (layer.weight, layer.bias)]  # noqa: E731
    filled = eqx.tree_at(where, template, [a for p in layers for a in (p["kernel"].T, p["bias"])])
    arrays, static = eqx.partition(filled, eqx.is_array)

    def equinox(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    def facts(apply, params):
        model = Model(apply, Categorical())
        scores = model.score(params, (x, y))
        eigenvalues = jnp.linalg.eigvalsh(fisher(model, params, (x, None)))
        return model.loss(params, (x, y)), scores @ scores.T, eigenvalues

    expected = facts(net, flax_params)
    for apply, params in ((plain, plain_params), (equinox, arrays)):
        jax.tree.map(close, facts(apply, params), expected)


def test_a_convolution_is_three_wide_on_every_axis():
    for x in (SIGNAL, IMAGE):
        layer = random_params(Network(Conv(4, stride=2)), x)
        assert layer["kernel"].shape == (*(3,) * (x.ndim - 2), x.shape[-1], 4)
        close(Conv(4, stride=2).apply({"params": layer}, x), conv(x, layer["kernel"], 2) + layer["bias"])
