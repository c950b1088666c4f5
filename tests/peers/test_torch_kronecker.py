"""Kronecker factors beside curvlinops, nngeometry and BackPACK, float64, to rounding: 1e-11 of the largest entry.

A ⊗ G is the same everywhere; how a number is shared between the two sides is not. With T places and k outputs,

| peer       | A                                | G                                                      |
| ---------- | -------------------------------- | ------------------------------------------------------ |
| here, KFC  | E Σ_t a aᵀ                       | E (1/T) Σ_t g gᵀ                                       |
| curvlinops | E (1/T) Σ_t a aᵀ                 | E Σ_t g gᵀ, with separate_weight_and_bias=False        |
| nngeometry | √m of ours                       | 1/√m of ours; m = k - 1 square roots of softmax's F_R  |
| BackPACK   | of the weights alone, no bias    | as here (KFLR); the bias has G alone                   |

The shares are without effect on a damped inverse, since π in it divides them out. Patches are (c, h, w) in torch and
(h, w, c) here. Peers that sample labels have their own draws: the exact and the empirical factors are compared.
"""

import curvlinops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from backpack import backpack, extend
from backpack.extensions import KFLR
from jax.flatten_util import ravel_pytree
from nngeometry.metrics import FIM
from nngeometry.object import PMatKFAC, PVector
from problem import classifier, convolutional, to_numpy
from torch.utils.data import DataLoader, TensorDataset

from course_lib.curvature.kronecker import kronecker_factors, kronecker_vp
from course_lib.optimizers.kfac import damped_inverses, kfac

PROBLEMS = {"MLP": classifier(), "ResNet": convolutional()}
PLACES = {f"Conv_{i}": t for i, t in enumerate([16, 16, 16, 4, 4, 1, 1])}  # of a (4, 4) image; dense layers have 1
SHARE = np.sqrt(2)  # nngeometry's, of 3 classes
everywhere = pytest.mark.parametrize("name", PROBLEMS)


def near(theirs, ours):
    ours = to_numpy(ours)
    np.testing.assert_allclose(to_numpy(theirs), ours, rtol=0, atol=1e-11 * np.abs(ours).max())


def factors(problem, labels="exact"):
    return jax.jit(kronecker_factors, static_argnames=("model", "labels"))(
        problem.model, problem.params, problem.batch, labels=labels
    )


def patch_order(problem, layer, size):
    """Where the entries of torch's a (c, h, w, and the bias's 1) stand in ours (h, w, c, 1)."""
    weight = problem.net.get_submodule(layer).weight
    if weight.ndim == 2:
        return np.arange(size)
    ours = np.arange(weight[0].numel()).reshape(*weight.shape[2:], weight.shape[1])
    return np.append(np.moveaxis(ours, -1, 0).ravel(), size - 1)


def assert_factors(problem, theirs, ours, share_a, share_g):
    """theirs: {layer: (A, G)}; the shares are functions of the layer."""
    assert theirs.keys() == ours.keys()
    for layer, (a, g) in theirs.items():
        order = patch_order(problem, layer, len(a))
        near(a, share_a(layer) * ours[layer].a[np.ix_(order, order)])
        near(g, share_g(layer) * ours[layer].g)


def curvlinops_kfac(problem, labels):
    return curvlinops.KFACLinearOperator(
        problem.net, problem.loss, problem.weights, problem.data, fisher_type=labels, separate_weight_and_bias=False
    )


@everywhere
@pytest.mark.parametrize(("labels", "ours"), [("type-2", "exact"), ("empirical", "observed")])
def test_factors_and_products_beside_curvlinops(name, labels, ours):
    problem = PROBLEMS[name]
    peer, mine = curvlinops_kfac(problem, labels), factors(problem, ours)
    theta, unravel = ravel_pytree(problem.params)
    v = unravel(jax.random.normal(jax.random.key(0), theta.shape))
    near(peer @ problem.flat(v), problem.flat(kronecker_vp(mine, v)))  # the factors are computed at the first product
    theirs = {layer: (peer._input_covariances[layer], peer._gradient_covariances[layer]) for layer in mine}
    assert_factors(problem, theirs, mine, lambda n: 1 / PLACES.get(n, 1), lambda n: PLACES.get(n, 1))


def nngeometry_kfac(problem):
    loader = DataLoader(TensorDataset(*problem.data[0]), batch_size=3)
    return FIM(problem.net, loader, PMatKFAC, "classif_logits")


@everywhere
def test_factors_beside_nngeometry(name):
    problem = PROBLEMS[name]
    theirs = {str(layer).split(".")[0]: pair for layer, pair in nngeometry_kfac(problem).data.items()}
    assert_factors(problem, theirs, factors(problem), lambda n: SHARE, lambda n: 1 / SHARE)


@everywhere
def test_the_damped_inverse_and_the_step_of_kfac_beside_nngeometry(name):
    """(A + π√λ I)⁻¹ V (G + √λ/π I)⁻¹ with Martens & Grosse's π, which nngeometry has too; and kfac's step is this."""
    problem, damping = PROBLEMS[name], 0.1
    grads = jax.jit(jax.grad(problem.model.loss))(problem.params, problem.batch)
    ours = kronecker_vp(damped_inverses(factors(problem), damping), grads)
    fisher = nngeometry_kfac(problem)
    vector = PVector(fisher.generator.layer_collection, vector_repr=problem.flat(grads))
    near(fisher.solvePVec(vector, regul=damping).to_torch(), problem.flat(ours))

    opt = kfac(problem.model, 0.5, damping, labels="exact")
    updates, _ = jax.jit(opt.update)(grads, opt.init(problem.params), problem.params, batch=problem.batch)
    near(-0.5 * fisher.solvePVec(vector, regul=damping).to_torch(), problem.flat(updates))


def test_factors_beside_backpack():
    """Its A leaves the bias out, which has the block G for itself: so A ⊗ G is another approximation than ours."""
    problem = PROBLEMS["MLP"]
    net, loss = extend(classifier().net), extend(torch.nn.CrossEntropyLoss())
    x, y = problem.data[0]
    with backpack(KFLR()):
        loss(net(x.clone().requires_grad_()), y).backward()
    for layer, ours in factors(problem).items():
        g, a = net.get_submodule(layer).weight.kflr
        (g_bias,) = net.get_submodule(layer).bias.kflr
        near(a, ours.a[:-1, :-1])
        near(g, ours.g)
        near(g_bias, ours.g)
        assert jnp.abs(ours.a[-1, :-1]).max() > 0.1  # what BackPACK takes for 0


def test_curvlinops_with_the_bias_apart_is_backpacks_approximation():
    """Its default, too: the weight block is ours without the last row and column of A, and the bias block is G."""
    problem = PROBLEMS["MLP"]
    peer = curvlinops.KFACLinearOperator(problem.net, problem.loss, problem.weights, problem.data, fisher_type="type-2")
    theirs = to_numpy(peer @ torch.eye(len(problem.order)))
    ours, start = factors(problem), 0
    for layer in ours:
        a, g = ours[layer].a[:-1, :-1], ours[layer].g
        size, width = len(a) * len(g), len(g)
        near(theirs[start : start + size, start : start + size], jnp.kron(g, a))  # torch ravels (k, d)
        start += size
        near(theirs[start : start + width, start : start + width], g)
        assert not theirs[start : start + width, start - size : start].any()
        start += width
