"""diagonal_fisher beside optax, Martens' counterexample, and the exact diagonal of the Fisher."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree
from tree_checks import same

from course_lib.curvature.matrices import fisher
from course_lib.likelihoods import Categorical, Normal
from course_lib.models import Model
from course_lib.optimizers.diagonal_fisher import diagonal_fisher

PARAMS = {"a": jnp.asarray([-1.2, 1.0]), "b": jnp.asarray([[0.5, -2.0, 3.0]])}


def noisy_rosenbrock(params, noise):
    x, y = params["a"]
    return (1 - x) ** 2 + 10 * (y - x**2) ** 2 + jnp.sum(jnp.cos(params["b"]) * (1 + noise))


def run(opt, params, steps=200, loss=noisy_rosenbrock):
    """(θ at every step, the last state). The noise of step t is the same for every optimizer."""
    opt = optax.with_extra_args_support(opt)

    def step(carry, t):
        params, state = carry
        noise = jnp.sin(3.0 * t)
        updates, state = opt.update(jax.grad(loss)(params, noise), state, params, loss=loss, batch=noise)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(lambda p, s: jax.lax.scan(step, (p, s), jnp.arange(steps)))(params, opt.init(params))
    return path, state


def close(a, b, rtol=1e-12, atol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), a, b)


RATE = 2e-3  # below what makes any of them oscillate, which would amplify rounding
PEERS = {
    "Adam": (dict(b1=0.9), optax.adam(RATE)),
    "Adam, eps_root": (dict(b1=0.8, b2=0.99, damping=1e-3, eps=1e-4), optax.adam(RATE, 0.8, 0.99, 1e-4, 1e-3)),
    "RMSProp": (dict(b2=0.9, bias_correction=False), optax.rmsprop(RATE, 0.9, 1e-8, eps_in_sqrt=False)),
    "RMSProp, eps inside": (dict(b2=0.9, damping=1e-2, eps=0, bias_correction=False), optax.rmsprop(RATE, 0.9, 1e-2)),
    "AdaGrad": (dict(b2=1.0, damping=1e-7, eps=0.0), optax.adagrad(RATE, 0.0, 1e-7)),
    # optax counts from 0.1 where Duchi et al. and we count from 0: the constant is a damping
    "AdaGrad, as optax has it": (dict(b2=1, damping=0.1 + 1e-7, eps=0.0), optax.adagrad(RATE)),
    "SGD": (dict(power=0.0, eps=0.0), optax.sgd(RATE)),
    # eq. 3: m is a mean, optax's trace is a sum
    "momentum": (dict(b1=0.9, power=0, eps=0.0, bias_correction=False), optax.sgd(RATE * (1 - 0.9), 0.9)),
}  # fmt: skip


@pytest.mark.claim("AH-2")
@pytest.mark.claim("SL-adam")
@pytest.mark.claim("M-10")
@pytest.mark.parametrize("name", PEERS)
def test_members_of_the_family_are_optaxs(name):
    arguments, peer = PEERS[name]
    close(run(diagonal_fisher(RATE, **arguments), PARAMS)[0], run(peer, PARAMS)[0])


@pytest.mark.claim("SL-adam")
def test_adam_in_float32_is_optaxs_to_1e_6():
    params = jax.tree.map(lambda a: a.astype(jnp.float32), PARAMS)
    close(run(diagonal_fisher(1e-2, b1=0.9), params)[0], run(optax.adam(1e-2), params)[0], 0, 1e-6)


decays = st.floats(0, 0.999)
scalars = st.floats(0.01, 100)


@given(decays, decays, scalars, st.integers(1, 5))
def test_bias_correction_in_closed_form(b1, b2, g, steps):
    """On a constant gradient the corrected moments are g and g² at once; the others lack 1 - bᵗ."""
    for corrected in (True, False):
        opt = diagonal_fisher(0.1, b1, b2, eps=0.0, bias_correction=corrected)
        state = opt.init(jnp.zeros(()))
        for _ in range(steps):
            update, state = opt.update(jnp.asarray(-g), state)
        m, b = (1, 1) if corrected else (1 - b1**steps, 1 - b2**steps)
        np.testing.assert_allclose(update, 0.1 * m / np.sqrt(b), rtol=1e-9)
        np.testing.assert_allclose(state.b, (1 - b2**steps) * g**2, rtol=1e-9)


@given(st.floats(0, 1), scalars, st.floats(0, 10), st.floats(0, 10))
def test_one_step_is_equation_10(power, g, damping, eps):
    opt = diagonal_fisher(0.3, b2=0.9, power=power, damping=damping, eps=eps)
    update, _ = opt.update(jnp.asarray(g), opt.init(jnp.zeros(())))
    np.testing.assert_allclose(update, -0.3 * g / ((g**2 + damping) ** power + eps), rtol=1e-9)


# --- Martens §11.1: h(θ) = ½ θ², F = 1, and the squared gradient is θ² ---


def descend(opt, start, steps=1000):
    def step(carry, _):
        theta, state = carry
        update, state = opt.update(theta, state)  # ∇h = θ
        return (theta + update, state), theta + update

    return jax.jit(lambda t: jax.lax.scan(step, (t, opt.init(t)), length=steps)[1])(start)


STARTS = jnp.linspace(0.55, 1.45, 41)
STEP_SIZES = {"constant": lambda k: 0.1, "1/k": lambda k: 1 / (k + 1.0), "1/sqrt k": lambda k: (k + 1.0) ** -0.5}


@pytest.mark.claim("M-ce")
@pytest.mark.parametrize("sizes", STEP_SIZES)
@pytest.mark.parametrize("xi", [0.5, 0.75, 1.0])
def test_the_counterexamples_recursion(xi, sizes):
    """θ ← (1 - α_k |θ|^{-2ξ}) θ. Step by step along the path, since two starts that are close part."""
    path = descend(diagonal_fisher(STEP_SIZES[sizes], b2=0.0, power=xi, eps=0.0), STARTS, 200)
    before, alpha = path[:-1], jnp.asarray([STEP_SIZES[sizes](k) for k in range(1, 200)])[:, None]
    expected = (1 - alpha * jnp.abs(before) ** (-2 * xi)) * before
    close(path[1:], jnp.where(before == 0, 0, expected), 1e-9, 1e-12)  # some land on the minimum, where F̄ is 0 too


@pytest.mark.claim("M-ce")
def test_squared_gradients_converge_only_as_fast_as_the_step_size():
    """|θ| follows α_k at ξ = ½ and stays away from 0 at ξ = 1, where a step is α/θ."""

    def sizes(alpha, xi):
        """Median |θ_k| over the starts."""
        path = descend(diagonal_fisher(alpha, b2=0.0, power=xi, eps=0.0), STARTS)
        return jnp.median(jnp.abs(path), axis=1)

    slow = sizes(STEP_SIZES["1/k"], 0.5)
    slower = sizes(STEP_SIZES["1/sqrt k"], 0.5)
    assert -1.1 < jnp.log10(slow[999] / slow[99]) < -0.9
    assert -0.6 < jnp.log10(slower[999] / slower[99]) < -0.4
    assert sizes(STEP_SIZES["constant"], 0.5)[-1] > 1e-3
    for alpha in STEP_SIZES.values():
        assert sizes(alpha, 1.0)[-1] > 0.1


SCALAR = Model(lambda theta, x: jnp.broadcast_to(theta, (len(x), 1)), Normal())


@pytest.mark.claim("M-ce")
@pytest.mark.claim("M-ce11")
def test_with_the_fishers_diagonal_the_counterexample_converges_linearly():
    """F = 1 whatever θ is, ± .07 from 400 labels, so that a step of ½ halves θ, and 50 leave about 2^-50."""
    opt = diagonal_fisher(0.5, b2=0.0, power=1.0, eps=0.0, model=SCALAR)
    batch = (jnp.zeros(400), jnp.zeros((400, 1)))

    def step(carry, _):
        theta, state = carry
        update, state = opt.update(theta, state, theta, batch=batch)
        return (theta + update, state), None

    start = jnp.ones(1)
    (theta, _), _ = jax.jit(lambda t: jax.lax.scan(step, (t, opt.init(t)), length=50))(start)
    assert 2.0**-58 < jnp.abs(theta[0]) < 2.0**-42  # 50 factors of ½ ± .04: a spread of 2^±.6


# --- sampled labels ---


def net(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


KEYS = jax.random.split(jax.random.key(3), 3)
NET = {"w": jax.random.normal(KEYS[0], (2, 3)), "v": jax.random.normal(KEYS[1], (3, 2))}
X = jax.random.normal(KEYS[2], (5, 2))
LABELS = {"Normal": (Normal(0.5), jnp.ones((5, 2))), "Categorical": (Categorical(), jnp.zeros(5, int))}


@pytest.mark.claim("SL-diag")
@pytest.mark.claim("M-ce11")
@pytest.mark.parametrize("name", LABELS)
def test_sampled_squares_average_to_the_fishers_diagonal(name):
    likelihood, y = LABELS[name]
    model = Model(net, likelihood)

    def draw(seed):
        opt = diagonal_fisher(0.1, b2=0.0, model=model, seed=seed)
        zero = jax.tree.map(jnp.zeros_like, NET)
        return ravel_pytree(opt.update(zero, opt.init(NET), NET, batch=(X, y))[1].b)[0]

    # lax.map, since JAX takes a vmapped scan over keys for a key used twice
    draws = jax.jit(lambda seeds: jax.lax.map(draw, seeds))(jnp.arange(2000))
    error = draws.std(0, ddof=1) / np.sqrt(len(draws))
    exact = jnp.diag(fisher(model, NET, (X, y)))
    assert (jnp.abs(draws.mean(0) - exact) < 5 * error).all()
    assert (error < 0.1 * exact).all()  # or five of them would prove nothing


MODEL = Model(net, Categorical())
SAMPLED = diagonal_fisher(0.1, b2=0.0, power=1.0, damping=1e-3, model=MODEL)
Y = jnp.zeros(5, int)


@jax.jit
def sampled_step(state, g=0.0, y=Y):
    """The state after a step with every entry of the gradient g; the parameters stay."""
    return SAMPLED.update(jax.tree.map(lambda a: jnp.full_like(a, g), NET), state, NET, batch=(X, y))[1]


def test_the_batchs_labels_are_not_read():
    start = SAMPLED.init(NET)
    same(sampled_step(start, y=Y), sampled_step(start, y=Y + 1))


def test_labels_are_new_at_each_step_and_for_each_seed():
    first = sampled_step(SAMPLED.init(NET))
    other = sampled_step(diagonal_fisher(0.1, model=MODEL, seed=1).init(NET))
    for state in (sampled_step(first), other):
        assert not np.allclose(first.b["w"], state.b["w"])


def test_labels_are_new_after_a_skipped_step():
    start = SAMPLED.init(NET)
    skipped = sampled_step(start, jnp.nan)
    same(skipped._replace(skipped=start.skipped), start)
    assert not np.allclose(sampled_step(start).b["w"], sampled_step(skipped).b["w"])


def test_a_model_needs_params_and_batch():
    opt = diagonal_fisher(0.1, model=MODEL)
    with pytest.raises(ValueError, match=r"batch=\(x, y\)"):
        opt.update(NET, opt.init(NET), NET)
    with pytest.raises(ValueError, match="needs the parameters"):
        opt.update(NET, opt.init(NET), batch=(X, None))


# --- one step as a program ---


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e200])  # (1e200)² is no float64
def test_a_step_that_is_not_finite_is_skipped(bad):
    opt = diagonal_fisher(0.1, b1=0.9)
    _, before = run(opt, PARAMS, 3)
    grads = {"a": jnp.asarray([1.0, bad]), "b": jnp.ones((1, 3))}
    updates, after = opt.update(grads, before)
    same(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    same(after._replace(skipped=before.skipped), before)
    assert after.skipped == before.skipped + 1


def test_a_zero_gradient_is_a_step():
    opt = diagonal_fisher(0.1, b1=0.9, eps=0.0)
    updates, state = opt.update(jnp.zeros(2), opt.init(jnp.ones(2)))
    assert (updates == 0).all()
    assert (state.count, state.skipped) == (1, 0)


def test_dtypes_stay_and_squares_are_wide():
    params = {"half": jnp.ones(2, jnp.float16), "brain": jnp.ones(3, jnp.bfloat16), "full": jnp.ones((), jnp.float64)}
    opt = diagonal_fisher(0.125, b1=0.5)
    state = opt.init(params)
    grads = jax.tree.map(lambda p: jnp.full_like(p, 300), params)  # 300² is inf in float16
    for _ in range(2):
        updates, new = jax.jit(opt.update)(grads, state, params)
        assert jax.tree.map(lambda a: a.dtype, new) == jax.tree.map(lambda a: a.dtype, state)
        state = new
    assert jax.tree.map(lambda a: a.dtype, updates) == jax.tree.map(lambda a: a.dtype, params)
    assert jax.tree.map(lambda a: a.dtype.name, state.m) == {"half": "float32", "brain": "float32", "full": "float64"}
    close(
        jax.tree.map(lambda u: u.astype(float), updates),
        jax.tree.map(lambda p: jnp.full(p.shape, -0.125), params),
        1e-6,
    )
    assert (state.count, state.skipped) == (2, 0)


@pytest.mark.parametrize("params", [{}, jnp.ones(()), [jnp.ones((1, 1)), None]])
def test_small_trees(params):
    opt = diagonal_fisher(0.5)
    updates, state = opt.update(params, opt.init(params), params)
    close(updates, jax.tree.map(lambda p: -0.5 * p, params), 1e-7)
    assert state.count == 1


NUMBERS = dict(learning_rate=0.05, b1=0.9, b2=0.99, power=0.5, damping=1e-3, eps=1e-4)


def test_every_number_may_be_traced():
    """One vmap over all six at once has the run with Python numbers in it."""
    sweep = {name: jnp.asarray([value * 0.5, value]) for name, value in NUMBERS.items()}
    together = jax.vmap(lambda numbers: run(diagonal_fisher(**numbers), PARAMS, 20)[0])(sweep)
    alone, _ = run(diagonal_fisher(**NUMBERS), PARAMS, 20)
    close(jax.tree.map(lambda a: a[1], together), alone)
    assert not np.allclose(together["a"][0], alone["a"])


@pytest.mark.parametrize("name", ["learning_rate", "power", "damping", "eps", "b1", "b2"])
def test_every_number_may_be_a_schedule_from_zero(name):
    """Two values, the second from count 1 on: the first step has the first, the second step the second."""
    values = NUMBERS[name], NUMBERS[name] / 2
    first, second = (diagonal_fisher(**NUMBERS | {name: v}) for v in values)
    both = diagonal_fisher(**NUMBERS | {name: lambda count: jnp.where(count == 0, *values)})
    g = jnp.asarray([0.3, -2.0])
    state = both.init(g)
    update, state = both.update(g, state)
    expected, expected_state = first.update(g, first.init(g))
    close((update, state), (expected, expected_state))
    close(both.update(2 * g, state), second.update(2 * g, expected_state))


@pytest.mark.parametrize("opt", [diagonal_fisher(0.05, b1=0.9), optax.chain(optax.clip(0.5), diagonal_fisher(0.05))])
def test_a_scan_is_the_loop_and_a_checkpoint_resumes(opt):
    scanned, last = run(opt, PARAMS, 6)

    @jax.jit
    def step(params, state, t):
        grads = jax.grad(noisy_rosenbrock)(params, jnp.sin(3.0 * t))
        updates, state = opt.update(grads, state, params, loss=noisy_rosenbrock, batch=None)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, opt.init(PARAMS)
    for t in range(6):
        params, state = step(params, state, jnp.asarray(t))
        if t == 2:  # through numpy and back
            params, state = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), (params, state))
    same(state, last)
    same(params, jax.tree.map(lambda a: a[-1], scanned))


def test_a_state_may_be_donated():
    opt = diagonal_fisher(0.1)
    step = jax.jit(lambda s: opt.update(PARAMS, s)[1], donate_argnums=0)
    assert step(opt.init(PARAMS)).count == 1
