"""kfac beside a naive numpy K-FAC, its invariance, and what a step is as a program."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from tree_checks import loop_with_checkpoint, same

from course_lib.curvature.kronecker import to_matrices
from course_lib.curvature.matrices import fisher
from course_lib.likelihoods import Categorical, Normal
from course_lib.models import Model
from course_lib.networks import MLP, Network, dense
from course_lib.optimizers.kfac import kfac


def normal(i, *shape):
    return jnp.asarray(np.random.default_rng(i).normal(size=shape))


def close(a, b, rtol=1e-9, atol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), a, b)


PARAMS = {"in": {"kernel": normal(1, 3, 4), "bias": normal(0, 4)}, "out": {"kernel": normal(2, 4, 3)}}
BATCH = (normal(3, 12, 3), jnp.arange(12) % 3)
STEPS = 20


def mlp(params, x, tape=None):
    return dense(params["out"], jnp.tanh(dense(params["in"], x, tape)), tape)


MODEL = Model(mlp, Categorical())


@partial(jax.jit, static_argnames=("opt", "model"))
def update_with(opt, params, state, batch=BATCH, model=MODEL):
    grads = jax.grad(model.loss)(params, batch)
    updates, state = opt.update(grads, state, params, loss=model.loss, batch=batch)
    return optax.apply_updates(params, updates), state


def run(opt, params=PARAMS, steps=STEPS, batch=BATCH, model=MODEL):
    """(θ at every step, the last state)."""

    def step(carry, _):
        params, state = update_with(opt, *carry, batch, model)
        return (params, state), params

    (_, state), path = jax.jit(lambda p, s: jax.lax.scan(step, (p, s), length=steps))(params, opt.init(params))
    return path, state


# --- the algorithm ---


def labels_of(kind, p, t, seed):
    """(y, weight) pairs, one-hot y (n, k): whose gradients G is made of."""
    if kind == "observed":
        return [(np.eye(3)[BATCH[1]], np.ones(12))]
    if kind == "exact":
        return [(np.tile(np.eye(3)[c], (12, 1)), p[:, c]) for c in range(3)]
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), t), 12)
    return [(np.eye(3)[jax.vmap(jax.random.categorical)(keys, jnp.log(p))], np.ones(12))]


def naive(lr, lam, decay=0.95, momentum=0.0, max_kl=np.inf, every=1, labels="sampled", seed=0):
    """K-FAC with loops in numpy; the averages are weighted sums of what was seen, the inverse is that of A ⊗ G."""
    w1, b1, w2 = (np.asarray(a) for a in (PARAMS["in"]["kernel"], PARAMS["in"]["bias"], PARAMS["out"]["kernel"]))
    theta, x, y = [np.vstack([w1, b1]), w2], np.hstack([BATCH[0], np.ones((12, 1))]), np.eye(3)[BATCH[1]]
    seen, weights, velocity, path = [], np.zeros(0), [np.zeros((4, 4)), np.zeros((4, 3))], []
    for t in range(STEPS):
        rate = lr(t) if callable(lr) else lr
        a = np.tanh(x @ theta[0])
        p = np.exp(a @ theta[1])
        p /= p.sum(1, keepdims=True)
        back = lambda g2, w2=theta[1], a=a: [(g2 @ w2.T) * (1 - a**2), g2]  # noqa: E731
        grads = [i.T @ g / 12 for i, g in zip((x, a), back(p - y), strict=True)]
        sums = [
            [sum((g * w[:, None]).T @ g for g, w in layer) / 12]
            for layer in zip(
                *[[(g, w) for g in back(p - labels)] for labels, w in labels_of(labels, p, t, seed)], strict=True
            )
        ]
        seen.append([i.T @ i / 12 for i in (x, a)] + [s[0] for s in sums])
        keep = min(1 - 1 / (t + 1), decay)
        weights = np.append(weights * keep, 1 - keep)
        if t % every == 0:
            mean = [sum(w * s[j] for w, s in zip(weights, seen, strict=True)) for j in range(4)]
            inverses = []
            for big, small in ((mean[0], mean[2]), (mean[1], mean[3])):
                pi = np.sqrt(np.trace(big) / len(big) / (np.trace(small) / len(small)))
                a_hat, g_hat = big + pi * lam**0.5 * np.eye(len(big)), small + lam**0.5 / pi * np.eye(len(small))
                inverses.append(np.linalg.inv(np.kron(a_hat, g_hat)))
        d = [(inv @ g.ravel()).reshape(g.shape) for inv, g in zip(inverses, grads, strict=True)]
        kl = 0.5 * rate**2 * sum(np.sum(u * g) for u, g in zip(d, grads, strict=True))
        velocity = [momentum * v + min(1, np.sqrt(max_kl / kl)) * u for v, u in zip(velocity, d, strict=True)]
        theta = [w - rate * v for w, v in zip(theta, velocity, strict=True)]
        path.append(np.concatenate([theta[0][3], theta[0][:3].ravel(), theta[1].ravel()]))
    return np.stack(path)


CASES = {
    "sampled": (dict(learning_rate=0.1, damping=0.05, seed=3), dict(lr=0.1, lam=0.05, seed=3)),
    "exact, old inverses, momentum": (
        dict(learning_rate=0.05, damping=0.1, labels="exact", update_every=3, momentum=0.8, decay=0.7),
        dict(lr=0.05, lam=0.1, labels="exact", every=3, momentum=0.8, decay=0.7),
    ),
    "observed, momentum within a KL, a schedule": (
        dict(
            learning_rate=lambda t: 1.0 / (t + 1), damping=0.02, labels="observed", max_kl=1e-3, decay=0.0, momentum=0.5
        ),
        dict(lr=lambda t: 1.0 / (t + 1), lam=0.02, labels="observed", max_kl=1e-3, decay=0.0, momentum=0.5),
    ),
}


@pytest.mark.claim("SL-kfac")
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_of_a_naive_kfac(name):
    ours, brute_force = CASES[name]
    path, state = run(kfac(MODEL, **ours))
    close(jax.vmap(lambda p: ravel_pytree(p)[0])(path), naive(**brute_force), rtol=1e-7, atol=1e-8)
    assert (state.count, state.skipped) == (STEPS, 0)


@pytest.mark.claim("SL-kfac")
def test_one_step_solves_linear_regression():
    """There the Fisher is one block and A ⊗ G is exact: the undamped step is Newton's."""
    net = Network(MLP((), 2))
    model, x, y = Model(net, Normal(0.7)), normal(5, 20, 4), normal(6, 20, 2)
    params = {"Dense_0": {"kernel": normal(7, 4, 2), "bias": normal(8, 2)}}
    opt = kfac(model, 1.0, 0.0, labels="exact")
    new, _ = update_with(opt, params, opt.init(params), (x, y), model)
    best = np.linalg.lstsq(np.hstack([x, np.ones((20, 1))]), y)[0]
    close(to_matrices(new)["Dense_0"], best)


@pytest.mark.claim("SL-kfac")
def test_a_step_without_damping_does_not_see_affine_coordinates_of_the_inputs():
    """Martens & Grosse §10, theorem 1: x' = xC + c, and the first layer so that the function is the same."""
    c, shift = normal(9, 3, 3) + 2 * jnp.eye(3), normal(10, 3)
    kernel = jnp.linalg.solve(c, PARAMS["in"]["kernel"])
    moved = PARAMS | {"in": {"kernel": kernel, "bias": PARAMS["in"]["bias"] - shift @ kernel}}
    batch = (BATCH[0] @ c + shift, BATCH[1])
    # One logit held at 0 by a Normal output would do too: with softmax G is singular, so the outputs are Gaussian.
    model = Model(mlp, Normal())
    targets = normal(11, 12, 3)
    opt = kfac(model, 0.2, 0.0, labels="exact", momentum=0.5)
    path, state = run(opt, PARAMS, 5, (BATCH[0], targets), model)
    other, _ = run(opt, moved, 5, (batch[0], targets), model)
    f = jax.vmap(mlp, (0, None))
    close(f(path, BATCH[0]), f(other, batch[0]), rtol=1e-6, atol=1e-6)
    assert jnp.abs(f(path, BATCH[0])[0] - mlp(PARAMS, BATCH[0])).max() > 1e-2
    assert state.skipped == 0


def test_a_step_within_a_kl():
    """½ lr² dᵀ(F + λI)d is max_kl to the dot with K-FAC's F, and the direction that of the free step."""

    @jax.jit
    def step(lr, kl):
        opt = kfac(MODEL, lr, 0.1, labels="exact", max_kl=kl)
        return ravel_pytree(update_with(opt, PARAMS, opt.init(PARAMS))[0])[0] - THETA

    free, short, long = step(1.0, np.inf), step(1.0, 1e-4), step(9.0, 1e-4)
    grad = ravel_pytree(jax.grad(MODEL.loss)(PARAMS, BATCH))[0]
    close(-0.5 * (short / free)[0] ** 2 * free @ grad, 1e-4)
    close(short / free, jnp.full_like(free, (short / free)[0]))
    close(short, long)
    whole = fisher(MODEL, PARAMS, BATCH)
    assert 0.5 * short @ whole @ short < 2e-4  # the blocks' KL is near the model's, and damping makes it smaller


THETA = ravel_pytree(PARAMS)[0]


def test_sampled_and_observed_labels_are_two_methods():
    """And a seed is a draw; the exact expectation has none."""

    def ends(labels):
        return jax.vmap(lambda seed: run(kfac(MODEL, 0.1, 0.1, labels=labels, seed=seed), steps=2)[0])(jnp.arange(2))

    kernels = {labels: ends(labels)["out"]["kernel"] for labels in ("sampled", "observed", "exact")}
    (sampled, other), (observed, _), (exact, again) = kernels.values()
    pairs = ((sampled, observed), (sampled, exact), (exact, observed), (sampled, other))
    assert min(jnp.abs(a - b).max() for a, b in pairs) > 1e-4
    close(exact, again, atol=1e-14)


def test_labels_are_new_at_each_call_and_after_a_skipped_step_too():
    opt = kfac(MODEL, 0.0, 0.1, decay=0.0)
    state = opt.init(PARAMS)
    later = [state, state._replace(count=state.count + 1), state._replace(skipped=state.skipped + 2)]
    gs = [update_with(opt, PARAMS, s)[1].factors["out"].g.tolist() for s in later]
    assert gs[0] != gs[1] != gs[2] != gs[0]


def test_inverses_between_updates_are_old_and_factors_new():
    opt = kfac(MODEL, 0.05, 0.1, update_every=3)
    params, state = PARAMS, opt.init(PARAMS)
    for t in range(5):
        before = state
        params, state = update_with(opt, params, state)
        assert jnp.array_equal(before.inverses["in"].a, state.inverses["in"].a) == (t % 3 != 0)
        assert not jnp.array_equal(before.factors["out"].a, state.factors["out"].a)


def test_decay_one_is_the_mean_of_all_batches():
    opt = kfac(MODEL, 0.0, 0.1, decay=1.0)
    state, inputs = opt.init(PARAMS), []
    for t in range(3):
        inputs.append(normal(100 + t, 12, 3))
        _, state = update_with(opt, PARAMS, state, (inputs[-1], BATCH[1]))
    x = np.hstack([np.vstack(inputs), np.ones((36, 1))])
    close(state.factors["in"].a, x.T @ x / 36)


def test_a_network_learns_in_float32():
    net = Network(MLP((6,), 3))
    x = normal(50, 30, 6, 1).astype(jnp.float32)
    y = jnp.argmax(x[:, :3, 0], 1)
    params = jax.jit(net.init)(jax.random.key(0), x)
    model = Model(net, Categorical())
    path, state = run(kfac(model, 0.3, 1e-2, max_kl=1e-2, update_every=2), params, 40, (x, y), model)
    end = jax.tree.map(lambda a: a[-1], path)
    assert model.loss(end, (x, y)) < 0.5 * model.loss(params, (x, y))
    assert {a.dtype for a in jax.tree.leaves((end, state.factors, state.inverses, state.velocity))} == {
        jnp.float32.dtype
    }
    assert (state.count, state.skipped) == (40, 0)


# --- one step as a program ---


def test_missing_words_are_named():
    opt = kfac(MODEL, 0.1)
    with pytest.raises(ValueError, match="kfac needs the parameters"):
        opt.update(PARAMS, opt.init(PARAMS), loss=MODEL.loss, batch=BATCH)
    with pytest.raises(ValueError, match=r"kfac takes its factors.*batch=\(x, y\)"):
        opt.update(PARAMS, opt.init(PARAMS), PARAMS, loss=MODEL.loss)
    with pytest.raises(ValueError, match=r"knows layers.*params\['w'\]"):
        opt.init({"w": jnp.ones((2, 2))})


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_update_every_that_means_nothing_is_an_error(every, shapes_unchecked):
    with pytest.raises(ValueError, match="update_every"):
        kfac(MODEL, 0.1, update_every=every)


FAILING = kfac(MODEL, 0.1, lambda count: jnp.where(count < 2, 0.1, -1.0), momentum=0.5)  # damped by -1 from count 2
failing_update = jax.jit(lambda g, s, p, batch: FAILING.update(g, s, p, loss=MODEL.loss, batch=batch))


def after_steps(n):
    """(params, state, gradient) after n good steps of FAILING."""
    params, state = PARAMS, FAILING.init(PARAMS)
    for _ in range(n):
        updates, state = failing_update(jax.grad(MODEL.loss)(params, BATCH), state, params, BATCH)
        params = optax.apply_updates(params, updates)
    return params, state, jax.grad(MODEL.loss)(params, BATCH)


@pytest.mark.parametrize(("what", "steps"), [("gradient", 1), ("factor", 1), ("inverse", 2)])
def test_a_step_that_is_not_finite_is_skipped(what, steps):
    (params, before, grads), batch = after_steps(steps), BATCH
    if what == "gradient":
        grads["out"]["kernel"] = grads["out"]["kernel"].at[0, 0].set(jnp.nan)
    if what == "factor":
        batch = (BATCH[0].at[0, 0].set(jnp.inf), BATCH[1])
    updates, after = failing_update(grads, before, params, batch)
    same(updates, jax.tree.map(jnp.zeros_like, params))
    same(after._replace(skipped=before.skipped), before)
    assert (before.count, after.skipped) == (steps, 1)


def test_a_zero_gradient_is_a_step_and_momentum_goes_on():
    params, before, grads = after_steps(1)
    updates, after = failing_update(jax.tree.map(jnp.zeros_like, grads), before, params, BATCH)
    close(updates, jax.tree.map(lambda u: -0.05 * u, before.velocity))
    assert (after.count, after.skipped) == (2, 0)


def test_a_model_that_is_certain_has_no_g_and_still_steps():
    """softmax in float64 is exactly one-hot there: G = 0, and so is the gradient."""
    params = {"Dense_0": {"kernel": jnp.eye(3) * 1e4, "bias": jnp.zeros(3)}}
    model, batch = Model(Network(MLP((), 3)), Categorical()), (jnp.eye(3), jnp.arange(3))
    opt = kfac(model, 0.1)
    new, state = update_with(opt, params, opt.init(params), batch, model)
    same(new, params)
    assert not state.factors["Dense_0"].g.any()
    assert (state.count, state.skipped) == (1, 0)


def test_dtypes_stay():
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), PARAMS["in"]), PARAMS["out"]
    params = {"in": params[0], "out": jax.tree.map(lambda a: a.astype(jnp.float64), params[1])}
    batch = (BATCH[0].astype(jnp.float16), BATCH[1])
    opt = kfac(MODEL, 0.125, 0.1, update_every=2, momentum=0.5, labels="exact")
    state = opt.init(params)
    updates, new = jax.jit(lambda p, s: opt.update(jax.grad(MODEL.loss)(p, batch), s, p, loss=MODEL.loss, batch=batch))(
        params, state
    )
    assert jax.tree.map(lambda a: a.dtype, new) == jax.tree.map(lambda a: a.dtype, state)
    assert jax.tree.map(lambda a: a.dtype, updates) == jax.tree.map(lambda a: a.dtype, params)
    assert {a.dtype.name for a in jax.tree.leaves(state.factors["in"])} == {"float32"}
    assert {a.dtype.name for a in jax.tree.leaves(state.factors["out"])} == {"float64"}
    exact = kfac(MODEL, 0.125, 0.1, labels="exact")
    expected = jax.tree.map(jnp.subtract, update_with(exact, PARAMS, exact.init(PARAMS))[0], PARAMS)
    close(jax.tree.map(lambda a: a.astype(float), updates), expected, rtol=0.05, atol=0.02)
    assert (new.count, new.skipped) == (1, 0)


NUMBERS = dict(learning_rate=0.1, damping=0.05, decay=0.8, momentum=0.5, max_kl=1e-3)


def test_every_number_may_be_traced_and_the_seed():
    """One vmap over all of them at once has the run with Python numbers in it."""
    sweep = {name: jnp.asarray([value * 0.5, value]) for name, value in NUMBERS.items()} | {"seed": jnp.arange(2)}
    together = jax.vmap(lambda n: run(kfac(MODEL, **n, update_every=2), steps=6)[0])(sweep)
    alone, _ = run(kfac(MODEL, **NUMBERS, seed=1, update_every=2), steps=6)
    close(jax.tree.map(lambda a: a[1], together), alone)
    assert not np.allclose(together["out"]["kernel"][0], alone["out"]["kernel"])


def test_every_number_may_be_a_schedule_from_zero():
    """Each in turn has a second value from count 2 on: two steps are with the first, the third with the second.

    The third, since decay acts no sooner: after two steps the average is still the plain mean.
    """
    first = NUMBERS | {"decay": 0.6}

    @jax.jit
    def scheduled(before, after, params, state):
        opt = kfac(MODEL, **{n: lambda count, n=n: jnp.where(count < 2, before[n], after[n]) for n in before})
        return update_with(opt, params, state)

    @jax.jit
    def plain(numbers, params, state):
        return update_with(kfac(MODEL, **numbers), params, state)

    start = PARAMS, kfac(MODEL, 0.1).init(PARAMS)
    second = plain(first, *plain(first, *start))
    without = plain(first, *second)
    for name in NUMBERS:
        after = first | {name: first[name] / 2}
        got = scheduled(first, after, *scheduled(first, after, *start))
        close(got[0], second[0])
        third = scheduled(first, after, *got)
        close(third[0], plain(after, *second)[0])
        assert jnp.abs(ravel_pytree(third[0])[0] - ravel_pytree(without[0])[0]).max() > 1e-7


@pytest.mark.parametrize("words", [{}, dict(update_every=2, momentum=0.9, max_kl=1e-2)])
def test_a_scan_is_the_loop_and_a_checkpoint_resumes_in_a_chain(words):
    opt = optax.chain(optax.clip(0.5), kfac(MODEL, 0.05, 0.1, **words))
    scanned, last = run(opt, steps=6)
    params, state = loop_with_checkpoint(lambda p, s: update_with(opt, p, s), PARAMS, opt.init(PARAMS), steps=6)
    same(state, last)
    same(params, jax.tree.map(lambda a: a[-1], scanned))
