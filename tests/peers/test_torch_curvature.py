"""H, G, F and F̄, whole and as products, beside curvlinops, nngeometry and BackPACK. One network, one batch, float64.

All agree to rounding: atol is 1e-12 of the largest entry. Two conventions differ, and the tests carry the factor:

- torch's MSELoss is 2/k of our Normal's nll, k the outputs: it is the mean over the outputs too, and has no half.
  curvlinops' empirical Fisher of it is 4/k of ours.
- nngeometry's exact Fisher divides by a probability plus the eps of torch's default dtype: to rounding in float64 only.
"""

from functools import partial

import curvlinops
import jax
import numpy as np
import pytest
import torch
from backpack import backpack, extend
from backpack.extensions import BatchGrad, DiagGGNExact, DiagHessian
from backpack.hessianfree.ggnvp import ggn_vector_product
from backpack.hessianfree.hvp import hessian_vector_product
from jax.flatten_util import ravel_pytree
from nngeometry.metrics import FIM, FIM_MonteCarlo
from nngeometry.object import PMatDense, PMatImplicit, PVector
from problem import OUTPUTS, classifier, convolutional, regression, to_numpy
from torch.utils.data import DataLoader, TensorDataset

from course_lib.curvature import matrices, products

PROBLEMS = {"classifier": classifier(), "regression": regression()}
LOSS_SCALE = {"classifier": 1, "regression": 2 / OUTPUTS}
VARIANT = {"classifier": "classif_logits", "regression": "regression"}
CURVLINOPS = {
    "hessian": curvlinops.HessianLinearOperator,
    "gauss_newton": curvlinops.GGNLinearOperator,
    "fisher": curvlinops.GGNLinearOperator,  # there is no exact Fisher there: F = G for these two likelihoods
    "empirical_fisher": curvlinops.EFLinearOperator,
}
both = pytest.mark.parametrize("name", PROBLEMS)


def near(theirs, ours, rel=1e-12):
    theirs, ours = to_numpy(theirs), to_numpy(ours)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=rel * np.abs(ours).max())


def loader(problem):
    """In batches that do not divide the examples: a peer that averages over batches would show."""
    return DataLoader(TensorDataset(*problem.data[0]), batch_size=3)


def probe(problem, seed=0):
    """(tree, the same as torch's vector)."""
    theta, unravel = ravel_pytree(problem.params)
    v = unravel(jax.random.normal(jax.random.key(seed), theta.shape))
    return v, problem.flat(v)


def product(problem, kind, v):
    """Ours, as torch's vector."""
    if kind == "hessian":
        return problem.flat(products.hvp(problem.model.loss, problem.params, problem.batch, v))
    return problem.flat(getattr(products, f"{kind}_vp")(problem.model, problem.params, problem.batch, v))


def curvlinops_scale(name, kind):
    """Their empirical Fisher is of the gradients before the mean, which for MSELoss are 2 of ours: 4/k, not (2/k)²."""
    return 4 / OUTPUTS if (name, kind) == ("regression", "empirical_fisher") else LOSS_SCALE[name]


@both
@pytest.mark.parametrize("kind", CURVLINOPS)
def test_whole_matrices_beside_curvlinops(name, kind):
    problem = PROBLEMS[name]
    operator = CURVLINOPS[kind](problem.net, problem.loss, problem.weights, problem.data)
    theirs = problem.from_torch(operator @ torch.eye(len(problem.order)))
    near(theirs, curvlinops_scale(name, kind) * getattr(matrices, kind)(problem.model, problem.params, problem.batch))


@both
@pytest.mark.parametrize("kind", CURVLINOPS)
def test_products_beside_curvlinops(name, kind):
    problem = PROBLEMS[name]
    v, flat = probe(problem)
    operator = CURVLINOPS[kind](problem.net, problem.loss, problem.weights, problem.data)
    near(operator @ flat, curvlinops_scale(name, kind) * product(problem, kind, v))


@pytest.mark.parametrize("kind", CURVLINOPS)
def test_products_on_a_convolutional_network_beside_curvlinops(kind):
    problem = convolutional()
    v, flat = probe(problem)
    operator = CURVLINOPS[kind](problem.net, problem.loss, problem.weights, problem.data)
    near(operator @ flat, product(problem, kind, v), rel=1e-11)  # the sums over places round too


@both
def test_exact_fisher_beside_nngeometry(name):
    problem = PROBLEMS[name]
    theirs = FIM(problem.net, loader(problem), PMatDense, VARIANT[name]).to_torch()
    near(problem.from_torch(theirs), matrices.fisher(problem.model, problem.params, problem.batch))
    v, flat = probe(problem)
    implicit = FIM(problem.net, loader(problem), PMatImplicit, VARIANT[name])
    vector = PVector(implicit.generator.layer_collection, vector_repr=flat)
    near(implicit.mv(vector).to_torch(), product(problem, "fisher", v))


def test_sampled_fisher_beside_nngeometry():
    """Their draws are not ours, so each is held to the exact F: within 3 times the error to expect of its draws.

    E‖F̂ - F‖² of m draws an example is at most Σ_i E‖s sᵀ‖²/(n² m), in Frobenius norms, and ‖s sᵀ‖ is sᵀs.
    """
    problem, draws = PROBLEMS["classifier"], 300
    x, _ = problem.batch
    exact = matrices.fisher(problem.model, problem.params, problem.batch)
    torch.manual_seed(0)
    theirs = FIM_MonteCarlo(problem.net, loader(problem), PMatDense, "classif_logits", trials=draws).to_torch()
    ours = matrices.fisher_mc(problem.model, problem.params, (x, None), jax.random.key(0), draws)

    p = jax.nn.softmax(problem.model.outputs(problem.params, x))
    scores = [problem.model.score(problem.params, (x, np.full(len(x), y))) for y in range(OUTPUTS)]
    lengths = np.sum(np.square(scores), axis=2).T
    expected = np.sqrt(np.sum(p * lengths**2) / draws) / len(x)
    assert 3 * expected < 0.3 * np.linalg.norm(exact)  # or it would prove nothing
    for estimate in (problem.from_torch(theirs), ours):
        assert np.linalg.norm(estimate - exact) < 3 * expected


@both
def test_products_beside_backpack(name):
    problem = PROBLEMS[name]
    v, flat = probe(problem)
    x, y = problem.data[0]
    z = problem.net(x)
    loss = problem.loss(z, y)
    theirs = {
        "hessian": hessian_vector_product(loss, problem.weights, problem.split(flat)),
        "gauss_newton": ggn_vector_product(loss, z, problem.net, problem.split(flat)),
    }
    for kind, parts in theirs.items():
        near(torch.cat([p.flatten() for p in parts]), LOSS_SCALE[name] * product(problem, kind, v))


@both
def test_scores_and_diagonals_beside_backpack(name):
    """BatchGrad's rows are gradients of the mean loss: -s/n, times the loss's factor."""
    problem = PROBLEMS[name]
    net, loss = extend(classifier().net if name == "classifier" else regression().net), extend(problem.loss)
    x, y = problem.data[0]
    with backpack(BatchGrad(), DiagGGNExact(), DiagHessian()):
        loss(net(x.clone().requires_grad_()), y).backward()
    scale, n = LOSS_SCALE[name], len(x)
    gather = partial(torch.cat, dim=-1)
    rows = gather([p.grad_batch.reshape(n, -1) for p in net.parameters()])
    near(problem.from_torch(rows), -scale * problem.model.score(problem.params, problem.batch) / n)
    for kind, attribute in (("gauss_newton", "diag_ggn_exact"), ("hessian", "diag_h")):
        theirs = problem.from_torch(gather([getattr(p, attribute).flatten() for p in net.parameters()]))
        near(theirs, scale * np.diag(getattr(matrices, kind)(problem.model, problem.params, problem.batch)))
