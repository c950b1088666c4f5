"""Runs that stop and go on, checkpoints that are wrong, divergence, and sweeps against single runs."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib import optimizers as ours
from course_lib import training
from course_lib.likelihoods import Categorical
from course_lib.models import Model
from course_lib.networks import dense
from course_lib.training import CheckpointError, DivergedError, Minibatches, fit, sweep


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


DATA = (normal(3, 14, 3), jnp.arange(14) % 3)
BATCHES = Minibatches(DATA, 4, seed=1)  # three batches an epoch, two rows left over
PARAMS = {"in": {"kernel": normal(1, 3, 4), "bias": normal(0, 4)}, "out": {"kernel": normal(2, 4, 3)}}


def mlp(params, x, tape=None):
    return dense(params["out"], jnp.tanh(dense(params["in"], x, tape)), tape)


MODEL = Model(mlp, Categorical())
LOSS = MODEL.loss
SGD = optax.sgd(0.1)

RESUMED = {
    "sgd with momentum": optax.sgd(0.1, momentum=0.9),
    "adam": optax.adam(0.01),
    "adahessian": ours.adahessian(0.1, update_every=2, seed=3),
    "sam": ours.sam(optax.adam(0.01)),
    "kfac": ours.kfac(MODEL, 0.1, damping=0.05, update_every=3, seed=2),
    "random_sam, clipped, scheduled": optax.chain(
        optax.clip_by_global_norm(1.0), ours.random_sam(optax.sgd(optax.cosine_decay_schedule(0.1, 9)))
    ),
    "noise, injected": optax.chain(optax.add_noise(0.1, 0.5, 5), optax.inject_hyperparams(optax.adamw)(0.01)),
}
OTHERS = {
    "diagonal_fisher": ours.diagonal_fisher(0.01, model=MODEL, damping=1e-3),
    "entropy_sgd": ours.entropy_sgd(optax.sgd(0.1), num_steps=3),
    "gsam": ours.gsam(optax.sgd(0.1)),
    "natural_gradient": ours.natural_gradient(MODEL, 0.1),
    "newton": ours.newton(0.1, damping=1.0),
    "lbfgs": optax.lbfgs(),  # asks for value, grad and value_fn
    "polyak": optax.polyak_sgd(),
}


def same(a, b):
    """Bit for bit and in dtype; typed keys too."""

    def bits(x):
        x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return x.dtype, x.shape, np.asarray(x).tobytes()

    assert jax.tree.map(bits, a) == jax.tree.map(bits, b)


def same_run(a, b):
    same(a.state, b.state)
    np.testing.assert_array_equal(a.history, b.history)


# ---- one run ----


def test_a_run_is_the_plain_loop():
    params, losses = PARAMS, []
    for t in range(7):
        value, grads = jax.value_and_grad(LOSS)(params, BATCHES(t))
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, grads)
        losses.append(value)
    run = fit(LOSS, SGD, PARAMS, BATCHES, 7, every=3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), run.params, params)
    np.testing.assert_allclose(run.history, losses, rtol=1e-12)
    assert run.state.step == 7


@pytest.mark.parametrize("name", OTHERS)
def test_every_optimizer_takes_steps(name):
    run = fit(LOSS, OTHERS[name], PARAMS, lambda t: DATA, 4)
    assert run.history[-1] < run.history[0]


def test_the_callers_parameters_survive_and_dtypes_stay():
    params = jax.tree.map(lambda a: a.astype(jnp.float32), PARAMS)
    run = fit(LOSS, optax.adam(0.1), params, lambda t: (DATA[0].astype(jnp.float32), DATA[1]), 2)
    assert {a.dtype for a in jax.tree.leaves((params, run.params))} == {jnp.dtype("float32")}
    assert run.history.dtype == np.float64


def test_two_runs_with_one_loss_and_optimizer_compile_once():
    misses = training.compiled_advance._cache_size()
    rule = optax.sgd(0.01)
    for seed in range(3):
        fit(LOSS, rule, PARAMS, Minibatches(DATA, 4, seed), 2)
    assert training.compiled_advance._cache_size() == misses + 1


# ---- the order of the data ----


@given(st.integers(1, 20), st.integers(0, 1000), st.integers(0, 5), st.data())
def test_an_epoch_sees_no_row_twice_and_as_many_as_it_can(n, seed, epoch, draw):
    size = draw.draw(st.integers(1, n))
    batches = Minibatches(jnp.arange(n), size, seed)
    rows = np.concatenate([batches(epoch * (n // size) + i) for i in range(n // size)])
    assert len(set(rows.tolist())) == len(rows) == n // size * size


def test_the_order_is_of_seed_and_epoch_alone():
    first = [np.asarray(Minibatches(DATA, 4, 1)(t)[0]) for t in range(6)]
    training.epoch_order.cache_clear()
    again = [np.asarray(Minibatches(DATA, 4, 1)(t)[0]) for t in reversed(range(6))]
    np.testing.assert_array_equal(first, again[::-1])
    other = [np.asarray(Minibatches(DATA, 4, 2)(t)[0]) for t in range(6)]
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[:3], first[3:])


@pytest.mark.parametrize(
    ("data", "size"), [(DATA, 0), (DATA, 15), ((DATA[0], DATA[1][:5]), 2), ((), 1), (jnp.ones(()), 1)]
)
def test_data_that_has_no_such_batches_is_refused(data, size):
    with pytest.raises(ValueError, match=r"leaves \(n, ...\) of one n"):
        Minibatches(data, size)(0)


# ---- stopping and going on ----


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_that_was_killed_goes_on_bit_for_bit(name, tmp_path, monkeypatch):
    file, optimizer, steps = tmp_path / "run.npz", RESUMED[name], []
    whole = fit(LOSS, optimizer, PARAMS, BATCHES, 9, every=3)

    def killed_at_the_eighth(*arguments):
        steps.append(arguments)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return advance(*arguments)

    advance = training.compiled_advance
    monkeypatch.setattr(training, "compiled_advance", killed_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        fit(LOSS, optimizer, PARAMS, BATCHES, 9, every=3, checkpoint=file)
    steps.clear()
    resumed = fit(LOSS, optimizer, PARAMS, BATCHES, 9, every=3, checkpoint=file)
    assert len(steps) == 3  # two blocks of three steps were kept
    same_run(resumed, whole)


def test_a_finished_run_is_read_and_a_longer_one_goes_on(tmp_path):
    file = tmp_path / "folder" / "run.npz"
    short = fit(LOSS, SGD, PARAMS, BATCHES, 4, checkpoint=file)
    same_run(fit(LOSS, SGD, PARAMS, BATCHES, 4, checkpoint=file), short)
    same_run(fit(LOSS, SGD, PARAMS, BATCHES, 7, checkpoint=file), fit(LOSS, SGD, PARAMS, BATCHES, 7))
    with pytest.raises(CheckpointError, match="has 7 steps, more than 4"):
        fit(LOSS, SGD, PARAMS, BATCHES, 4, checkpoint=file)


def test_every_dtype_is_kept(tmp_path):
    params = {str(d): jnp.ones(3, d) for d in (jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16)}
    state = training.start(optax.adam(0.1), params | {"empty": jnp.ones((0, 2)), "number": 1.0})
    training.save(tmp_path / "s", state, np.ones(2), BATCHES)
    found, history = training.load(tmp_path / "s", state, BATCHES)
    same(found, state)
    np.testing.assert_array_equal(history, np.ones(2))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a zip" * 50])
def test_a_damaged_checkpoint_is_named_and_left_alone(damage, tmp_path):
    file = tmp_path / "run.npz"
    fit(LOSS, SGD, PARAMS, BATCHES, 2, checkpoint=file)
    file.write_bytes(damage(file.read_bytes()))
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"run\.npz cannot be read .*: delete it"):
        fit(LOSS, SGD, PARAMS, BATCHES, 4, checkpoint=file)
    assert file.read_bytes() == before


def test_a_flipped_bit_anywhere_is_seen_or_changes_nothing(tmp_path):
    file = tmp_path / "run.npz"
    run = fit(LOSS, SGD, PARAMS, BATCHES, 2, checkpoint=file)
    good, told = file.read_bytes(), 0
    for place in range(0, len(good), 7):
        file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            state, _ = training.load(file, run.state, BATCHES)
        except CheckpointError:
            told += 1
        else:
            same(state, run.state)  # in a zip's unused fields
    assert told > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(optimizer=optax.adam(0.1)), "opt_state.* is missing there and"),
        (dict(params={**PARAMS, "more": jnp.ones(2)}), r"params\['more'\] is missing there and float64 \(2,\) here"),
        (dict(params=jax.tree.map(jnp.transpose, PARAMS)), r"\(3, 4\) there and float64 \(4, 3\) here"),
        (dict(params=jax.tree.map(jnp.float32, PARAMS)), r"is float64 \(4,\) there and float32 \(4,\) here"),
        (dict(batches=Minibatches(DATA, 4, 2)), "rows, seed 1 there and 4 of 14 rows, seed 2 here"),
        (dict(batches=lambda t: DATA), "seed 1 there and of a function here"),
    ],
)
def test_a_checkpoint_of_another_run_says_what_differs(change, message, tmp_path):
    run = dict(loss=LOSS, optimizer=SGD, params=PARAMS, batches=BATCHES, num_steps=2, checkpoint=tmp_path / "run.npz")
    fit(**run)
    with pytest.raises(CheckpointError, match=message):
        fit(**run | change)


def test_a_write_that_fails_leaves_the_old_file_whole_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "run.npz"
    fit(LOSS, SGD, PARAMS, BATCHES, 2, checkpoint=file)
    before = file.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        fit(LOSS, SGD, PARAMS, BATCHES, 4, checkpoint=file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


# ---- divergence ----


def exploding(w, batch):
    return jnp.sum(w**2) ** 2


def test_divergence_names_the_step_the_last_loss_and_what_to_do(tmp_path):
    file = tmp_path / "run.npz"
    with pytest.raises(
        DivergedError, match=r"step 5: the loss is inf; the last finite loss was .* Lower the learning rate"
    ) as e:
        fit(exploding, optax.sgd(1.0), jnp.ones(2), lambda t: None, 20, every=5, checkpoint=file)
    history = e.value.history
    assert np.isfinite(history[:-1]).all()
    assert len(history) == 6
    resumed, kept = training.load(file, training.start(optax.sgd(1.0), jnp.ones(2)), None)
    assert resumed.step == len(kept) == 5


def test_a_bound_counts_as_divergence():
    with pytest.raises(DivergedError, match=r"step 1: the loss is .*above the bound 100; .*loss was 4\."):
        fit(exploding, optax.sgd(1.0), jnp.ones(2), lambda t: None, 20, bound=100.0)


def test_parameters_that_are_not_finite_are_neither_returned_nor_kept(tmp_path):
    with pytest.raises(DivergedError, match=r"step 1: the loss is nan; the last finite loss was 2"):
        fit(
            lambda w, batch: jnp.sum(w**2),
            optax.sgd(1.6e308),
            jnp.ones(2),
            lambda t: None,
            1,
            checkpoint=tmp_path / "c",
        )
    assert not list(tmp_path.iterdir())


def test_every_is_a_number_of_steps():
    with pytest.raises(ValueError, match="1 or more; got 0"):
        fit(LOSS, SGD, PARAMS, BATCHES, 2, every=0)


def test_a_first_loss_of_nan_points_to_the_data():
    with pytest.raises(DivergedError, match=r"step 0: the loss is nan; .*see the data"):
        fit(exploding, SGD, jnp.full(2, jnp.nan), lambda t: None, 3)


# ---- the progress line ----


def test_nothing_is_printed_where_nobody_watches(capsys):
    fit(LOSS, SGD, PARAMS, BATCHES, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("ci", "shown"), [("", True), ("true", False)])
def test_a_terminal_gets_a_line_unless_in_ci(ci, shown, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("CI", ci)
    fit(LOSS, SGD, PARAMS, BATCHES, 4, every=2)
    lines = capsys.readouterr().out.split("\r")[1:]
    assert [line[33:43] for line in lines] == (["step 2/4, ", "step 4/4, "] if shown else [])


def test_a_notebook_gets_a_line_too(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    assert not training.interactive()
    monkeypatch.setattr(training, "get_ipython", lambda: type("Shell", (), {"kernel": 1}))
    assert training.interactive()


# ---- sweeps ----

RATES, SEEDS = [0.05, 0.2, 0.5], [4, 7]


def start(key):
    return jax.tree.map(lambda w: w + 0.1 * jax.random.normal(key, w.shape), {"out": PARAMS["out"]})


def linear(params, batch):
    return Model(lambda p, x: x @ p["out"]["kernel"][:3], Categorical()).loss(params, batch)


@pytest.mark.parametrize("vmap", [None, True, False])
@pytest.mark.parametrize("size", [None, 4])
def test_a_sweep_gives_what_single_runs_give(vmap, size):
    result = sweep(
        linear, lambda rate, seed: optax.adam(rate), start, DATA, RATES, SEEDS, 8, batch_size=size, vmap=vmap
    )
    assert result.losses.shape == (3, 2, 8)
    for i, rate in enumerate(RATES):
        for j, seed in enumerate(SEEDS):
            batches = (lambda t: DATA) if size is None else Minibatches(DATA, size, seed)
            run = fit(linear, optax.adam(rate), start(jax.random.key(seed)), batches, 8)
            np.testing.assert_allclose(result.losses[i, j], run.history, rtol=1e-12)
            jax.tree.map(
                lambda a, b, i=i, j=j: np.testing.assert_allclose(a[i, j], b, rtol=1e-11), result.params, run.params
            )


def test_optimizers_that_draw_take_the_seed_and_settings_may_be_a_tree():
    def make(hyper, seed):
        return ours.adahessian(hyper["rate"], b1=hyper["b1"], seed=seed)

    settings = {"rate": jnp.array([0.1, 0.2]), "b1": jnp.array([0.9, 0.5])}
    result = sweep(linear, make, lambda key: {"out": PARAMS["out"]}, DATA, settings, jnp.array(SEEDS), 5)
    for i in range(2):
        for j, seed in enumerate(SEEDS):
            rule = make({name: float(a[i]) for name, a in settings.items()}, seed)
            run = fit(linear, rule, {"out": PARAMS["out"]}, lambda t: DATA, 5)
            np.testing.assert_allclose(result.losses[i, j], run.history, rtol=1e-10)
    assert (result.losses[:, 0, 2:] != result.losses[:, 1, 2:]).all()  # other probes


def test_mean_and_deviation_are_over_the_seeds():
    losses = normal(0, 2, 3, 4)
    result = training.Sweep(losses, None)
    np.testing.assert_allclose(result.mean(), np.mean(losses, axis=1))
    np.testing.assert_allclose(result.sd(), np.std(losses, axis=1, ddof=1))


def test_a_setting_that_diverges_spoils_no_other():
    result = sweep(exploding, lambda r, s: optax.sgd(r), lambda key: jnp.ones(2), DATA, [1.0, 0.01], [0, 1], 12)
    assert not np.isfinite(result.losses[0, :, -1]).any()
    assert np.isfinite(result.losses[1]).all()
