"""Paths of AdaHessian, SAM, GSAM, Adam and momentum beside pytorch_optimizer, torch_optimizer and torch, float64.

On a quadratic with a diagonal Hessian, where any probe is exact, and on an MLP with torch's random signs replaced by
ours. Peers agree to rounding (1e-9 of the largest step's entry, since a path doubles an error now and then), but for

- SAM and GSAM of pytorch_optimizer, which take the gradient's norm in float32 whatever the weights are: 1e-6.

Where conventions differ, a test has the difference and shows that it is the whole of it:

| what            | here (the papers)       | pytorch_optimizer 4.1    | torch_optimizer 0.3, as the authors' |
| --------------- | ----------------------- | ------------------------ | ------------------------------------ |
| AdaHessian's D  | z·Hz                    | z·Hz                     | |Hz|; D is squared, so only blocks   |
| blocks          | mean of z·Hz            | none                     | mean of |Hz| over a kernel's window  |
| eps             | outside the power, 1e-4 | outside the power, 1e-16 | outside the power, 1e-4              |
| k by default    | 1                       | 1                        | ½                                    |
| v̂ when delayed  | corrected by refreshes  | corrected by steps       | never delayed                        |
| decay           | times the learning rate | the same; `fixed_decay`  | times the learning rate              |
| SAM's norm      | exact, and 0 for zero   | + 1e-12, in float32      |                                      |
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import pytorch_optimizer
import torch
import torch_optimizer
from problem import classifier, convolutional, to_numpy

from course_lib.curvature.diagonals import rademacher
from course_lib.optimizers import adahessian, diagonal_fisher, gsam, sam
from course_lib.optimizers.adahessian import SIGNS, draw_key
from course_lib.optimizers.gsam import rho_like_learning_rate

STEPS = 12
CURVATURES = np.array([0.5, 2.0, 10.0])
START = np.array([1.0, -2.0, 0.5])
TARGET = np.array([0.3, 0.1, -0.2])


class Bowl(torch.nn.Module):
    """½ Σ c (w - t)²: its Hessian is diagonal, and the gradient is nowhere 0 on the way."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(START))

    def forward(self):
        return (torch.tensor(CURVATURES) * (self.w - torch.tensor(TARGET)) ** 2).sum() / 2


def bowl(w, batch=None):
    return jnp.sum(CURVATURES * (w - TARGET) ** 2) / 2


def our_path(opt, loss, params, batch=None, steps=STEPS, flat=lambda p: p):
    """The parameters after each step, as torch's vectors, and the states before each."""
    opt = optax.with_extra_args_support(opt)

    @jax.jit
    def step(params, state):
        updates, state = opt.update(jax.grad(loss)(params, batch), state, params, loss=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    path, states, state = [], [], opt.init(params)
    for _ in range(steps):
        states.append(state)
        params, state = step(params, state)
        path.append(to_numpy(flat(params)))
    return np.stack(path), states


def their_path(step, weights, steps=STEPS):
    path = []
    for _ in range(steps):
        step()
        path.append(np.concatenate([to_numpy(w).ravel() for w in weights]).copy())
    return np.stack(path)


def second_order_step(opt, loss):
    """One step of an optimizer that takes its own Hessian product."""

    def step():
        opt.zero_grad()
        loss().backward(create_graph=True)
        opt.step()

    return step


def closure_step(opt, loss):
    """One step of an optimizer that calls for the second gradient."""

    def closure():
        opt.zero_grad()
        value = loss()
        value.backward()
        return value

    def step():
        closure()
        opt.step(closure)

    return step


def near(theirs, ours, rel=1e-9):
    """Relative to how far the path goes, and it goes somewhere."""
    far = np.ptp(ours, axis=0).max()
    assert far > 1e-3
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=rel * far)


def quadratic_paths(ours, make_theirs, stepper, steps=STEPS):
    """(ours, theirs) on the bowl."""
    net = Bowl()
    path, _ = our_path(ours, bowl, jnp.asarray(START), steps=steps)
    return path, their_path(stepper(make_theirs(net.parameters()), net), list(net.parameters()), steps)


# --- AdaHessian ---

NUMBERS = dict(betas=(0.8, 0.99), eps=1e-2, hessian_power=0.7, weight_decay=0.3)
OURS = dict(b1=0.8, b2=0.99, eps=1e-2, hessian_power=0.7, weight_decay=0.3)


@pytest.mark.claim("AH-11")
@pytest.mark.parametrize("peer", [pytorch_optimizer.AdaHessian, torch_optimizer.Adahessian])
def test_adahessian_on_a_quadratic(peer):
    """eps outside the power and decay times the learning rate, in all three."""
    near(*quadratic_paths(adahessian(0.1, **OURS), lambda p: peer(p, lr=0.1, **NUMBERS), second_order_step))


@pytest.mark.parametrize("peer", [pytorch_optimizer.AdaHessian, torch_optimizer.Adahessian])
def test_where_eps_stands(peer):
    """The first step by hand: m̂ is g and √v̂ is c. Inside the power eps would make another step."""
    ours, theirs = quadratic_paths(adahessian(0.1, **OURS), lambda p: peer(p, lr=0.1, **NUMBERS), second_order_step, 1)
    g = CURVATURES * (START - TARGET)
    outside, inside = (
        START - 0.1 * (g / d + 0.3 * START) for d in (CURVATURES**0.7 + 1e-2, (CURVATURES + 1e-2) ** 0.7)
    )
    np.testing.assert_allclose([ours[0], theirs[0]], [outside, outside], rtol=1e-12)
    assert np.abs(outside - inside).max() > 1e-4


def test_fixed_decay_is_not_times_the_learning_rate():
    """pytorch_optimizer's option: the decay of ours has to be divided by the rate to be the same."""

    def theirs(p):
        return pytorch_optimizer.AdaHessian(p, lr=0.1, **NUMBERS | dict(weight_decay=0.03), fixed_decay=True)

    near(*quadratic_paths(adahessian(0.1, **OURS | dict(weight_decay=0.03 / 0.1)), theirs, second_order_step))


def test_the_delayed_hessian_is_corrected_by_steps_there_and_by_refreshes_here():
    """On the bowl D is always c. So v̂ = c² here at each step, and (1 - b2^refreshes)/(1 - b2^steps) c² there.

    The papers say nothing. A mean of c² has to be c², which decides for the refreshes: theirs is too small by up to n.
    """
    b2, every, rate = 0.9, 3, 0.05
    words = dict(betas=(0.0, b2), eps=0.0)
    ours, theirs = quadratic_paths(
        adahessian(rate, b1=0.0, b2=b2, eps=0.0, update_every=every),
        lambda p: pytorch_optimizer.AdaHessian(p, lr=rate, update_period=every, **words),
        second_order_step,
    )
    w_ours = w_theirs = START
    for t in range(1, STEPS + 1):
        refreshes = -(-t // every)
        w_ours = w_ours - rate * (w_ours - TARGET)
        w_theirs = w_theirs - rate * (w_theirs - TARGET) * np.sqrt((1 - b2**t) / (1 - b2**refreshes))
        np.testing.assert_allclose(ours[t - 1], w_ours, rtol=1e-12)
        np.testing.assert_allclose(theirs[t - 1], w_theirs, rtol=1e-12)
    assert np.abs(ours - theirs).max() > 0.01


def their_signs(monkeypatch, problem, states):
    """torch.randint_like gives 0 and 1 of the signs that ours draws: one tensor a parameter, then the next step's."""
    signs = [problem.split(problem.flat(rademacher(draw_key(s, SIGNS), problem.params))) for s in states]
    queue = iter([(z + 1) / 2 for step in signs for z in step])
    monkeypatch.setattr(torch, "randint_like", lambda p, *args, **words: next(queue).view_as(p).clone())
    return queue


def loss_of(problem):
    return lambda: problem.loss(problem.net(problem.data[0][0]), problem.data[0][1])


@pytest.mark.claim("AH-9")
@pytest.mark.parametrize("peer", [pytorch_optimizer.AdaHessian, torch_optimizer.Adahessian])
def test_adahessian_on_an_mlp_with_the_same_probes(peer, monkeypatch):
    problem = classifier()
    ours, states = our_path(
        adahessian(0.05, **OURS), problem.model.loss, problem.params, problem.batch, flat=problem.flat
    )
    rest = their_signs(monkeypatch, problem, states)
    opt = peer(problem.net.parameters(), lr=0.05, **NUMBERS)
    near(their_path(second_order_step(opt, loss_of(problem)), problem.weights), ours)
    assert next(rest, None) is None  # every sign was used: the probes are indeed the same


def kernels_only(path, leaf):
    """The vision code's blocks in Flax's layout: a conv kernel over its window, no average elsewhere."""
    return (0, 1) if leaf.ndim == 4 else None


@pytest.mark.claim("AH-10")
def test_blocks_of_the_authors_code_are_means_of_magnitudes(monkeypatch):
    """On a convolutional network: `magnitude=True` is their path, and the paper's mean of z·Hz is another one."""
    problem, steps = convolutional(), 3
    paths = {}
    for magnitude in (True, False):
        opt = adahessian(0.05, **OURS, block_size=kernels_only, magnitude=magnitude)
        paths[magnitude], states = our_path(opt, problem.model.loss, problem.params, problem.batch, steps, problem.flat)
    their_signs(monkeypatch, problem, states)
    opt = torch_optimizer.Adahessian(problem.net.parameters(), lr=0.05, **NUMBERS)
    theirs = their_path(second_order_step(opt, loss_of(problem)), problem.weights, steps)
    near(theirs, paths[True])
    assert np.abs(theirs - paths[False]).max() > 0.01 * np.ptp(theirs, axis=0).max()


# --- SAM and GSAM ---

BASES = {
    "sgd": (optax.sgd(0.1), dict(base_optimizer=torch.optim.SGD, lr=0.1)),
    "momentum": (optax.sgd(0.1, momentum=0.9), dict(base_optimizer=torch.optim.SGD, lr=0.1, momentum=0.9)),
    "decay in the base": (
        optax.chain(optax.add_decayed_weights(0.2), optax.sgd(0.1)),
        dict(base_optimizer=torch.optim.SGD, lr=0.1, weight_decay=0.2),
    ),
    "Adam": (optax.adam(0.05), dict(base_optimizer=torch.optim.Adam, lr=0.05)),
}
FLOAT32_NORM = 1e-6  # 2⁻²⁴ = 6e-8 in the length of ε̂, a step; ours has it in float64


@pytest.mark.claim("SAM-2")
@pytest.mark.parametrize("adaptive", [False, True], ids=["SAM", "ASAM"])
@pytest.mark.parametrize("base", BASES)
def test_sam_on_a_quadratic(base, adaptive):
    ours, words = BASES[base]
    near(
        *quadratic_paths(
            sam(ours, rho=0.3, adaptive=adaptive),
            lambda p: pytorch_optimizer.SAM(p, rho=0.3, adaptive=adaptive, **words),
            closure_step,
        ),
        rel=FLOAT32_NORM,
    )


@pytest.mark.claim("SAM-2")
@pytest.mark.parametrize("adaptive", [False, True], ids=["SAM", "ASAM"])
def test_sam_on_an_mlp(adaptive):
    problem = classifier()
    ours, words = BASES["momentum"]
    path, _ = our_path(
        sam(ours, rho=0.3, adaptive=adaptive), problem.model.loss, problem.params, problem.batch, flat=problem.flat
    )
    opt = pytorch_optimizer.SAM(problem.net.parameters(), rho=0.3, adaptive=adaptive, **words)
    near(their_path(closure_step(opt, loss_of(problem)), problem.weights), path, rel=FLOAT32_NORM)


class ConstantRho:
    """What pytorch_optimizer's GSAM asks its radius of."""

    def step(self):
        return 0.3


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.9])
def test_gsam_on_an_mlp(alpha):
    """Their ρ_t follows the learning rate without a clamp; a constant one is compared. Their alpha is below 1."""
    problem = classifier()
    ours, words = BASES["momentum"]
    path, _ = our_path(
        gsam(ours, rho=0.3, alpha=alpha), problem.model.loss, problem.params, problem.batch, flat=problem.flat
    )
    base = torch.optim.SGD(problem.net.parameters(), lr=words["lr"], momentum=words["momentum"])
    opt = pytorch_optimizer.GSAM(problem.net.parameters(), base, problem.net, ConstantRho(), alpha=alpha)
    opt.set_closure(problem.loss, *problem.data[0])
    near(their_path(opt.step, problem.weights), path, rel=FLOAT32_NORM)


def test_gsam_is_not_sam():
    """Or the test above would show nothing about alpha."""
    problem = classifier()
    words = (problem.model.loss, problem.params, problem.batch, STEPS, problem.flat)
    paths = [our_path(gsam(optax.sgd(0.1), rho=0.3, alpha=alpha), *words)[0] for alpha in (0.0, 0.4)]
    assert np.abs(paths[0] - paths[1]).max() > 1e-3 * np.ptp(paths[0], axis=0).max()


def test_rho_follows_the_learning_rate_in_both_where_it_stays_within_its_bounds():
    """Linear in the rate; outside [lr_min, lr_max] ours is clamped and theirs goes on."""
    rates = [0.1, 0.06, 0.02, 0.3]
    weight = torch.nn.Parameter(torch.ones(1))
    base = torch.optim.SGD([weight], lr=rates[0])
    schedule = torch.optim.lr_scheduler.LambdaLR(base, lambda t: rates[t] / rates[0] if t < len(rates) else 1.0)
    words = dict(max_lr=0.1, min_lr=0.0, max_value=0.5, min_value=0.1)
    theirs = [pytorch_optimizer.lr_scheduler.ProportionScheduler(schedule, **words).get_lr()]
    for _ in rates[1:]:
        base.step()
        schedule.step()
        theirs.append(pytorch_optimizer.lr_scheduler.ProportionScheduler(schedule, **words).get_lr())
    ours = [float(rho_like_learning_rate(lambda t: rates[t], 0.1, 0.5, 0.0, 0.1)(t)) for t in range(len(rates))]
    np.testing.assert_allclose(theirs[:3], ours[:3], rtol=1e-12)
    assert (ours[3], theirs[3]) == (pytest.approx(0.5), pytest.approx(1.3))


# --- the diagonal Fisher's family ---


@pytest.mark.parametrize("words", [{}, dict(b1=0.5, b2=0.9, eps=1e-3)])
def test_diagonal_fisher_is_torchs_adam(words):
    problem = classifier()
    words = dict(b1=0.9, b2=0.999, eps=1e-8) | words
    path, _ = our_path(
        diagonal_fisher(0.02, **words), problem.model.loss, problem.params, problem.batch, flat=problem.flat
    )
    opt = torch.optim.Adam(problem.net.parameters(), lr=0.02, betas=(words["b1"], words["b2"]), eps=words["eps"])
    near(their_path(closure_step(opt, loss_of(problem)), problem.weights), path)
