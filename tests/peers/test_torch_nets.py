"""The torch twins are the Flax networks: otherwise no comparison of the two means anything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from problem import Problem, classifier, convolutional, make

from benchmarks.torch_nets import twin
from course_lib.likelihoods import Categorical
from course_lib.networks import MLP, Mixer, ResNet, ViT


def assert_same_outputs_and_gradients(problem: Problem):
    """To rounding, relative to the largest entry: 1e-12 is some thousand roundings of float64."""
    z = jax.jit(problem.model.outputs)(problem.params, problem.batch[0])
    np.testing.assert_allclose(problem.net(problem.data[0][0]).detach(), z, rtol=0, atol=1e-12 * abs(z).max())
    problem.loss(problem.net(problem.data[0][0]), problem.data[0][1]).backward()
    ours = problem.flat(jax.jit(jax.grad(problem.model.loss))(problem.params, problem.batch))
    theirs = torch.cat([p.grad.flatten() for p in problem.weights])
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-12 * abs(ours).max())


@pytest.mark.parametrize(
    "module",
    [
        (MLP((7, 5), 3), (4,)),
        (MLP((6,), 3, jnp.tanh), (4,)),
        (ResNet(8, 3, width=2), (8, 8, 3)),
        (ResNet(14, 3, width=2), (4, 6, 1)),  # two blocks a stage, and an image that is no square
        (ViT(4, 3, width=8, heads=2), (8, 4, 3)),
    ],
    ids=lambda module: type(module[0]).__name__,
)
def test_outputs_and_gradients(module):
    assert_same_outputs_and_gradients(make(*module, Categorical()))


def test_the_order_of_the_parameters_is_a_permutation_and_not_the_identity():
    for problem in (classifier(), convolutional()):
        assert sorted(problem.order) == list(range(len(problem.order)))
        assert any(problem.order != np.arange(len(problem.order)))


def test_a_network_without_a_twin_is_an_error():
    with pytest.raises(KeyError, match="Mixer"):
        twin(Mixer(2, 3), {"embed": {"kernel": jnp.ones((2, 2))}})
