"""One network and one batch, in JAX and in torch, and the map between the two orders of the parameters."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree

from benchmarks.torch_nets import inputs, tensor, twin
from course_lib.likelihoods import Categorical, Normal
from course_lib.models import Model
from course_lib.networks import MLP, Network, ResNet

N, OUTPUTS = 8, 3


@dataclass(frozen=True)
class Problem:
    """order: where each of torch's parameters stands in ravel_pytree's vector."""

    model: Model
    params: Any
    batch: tuple
    net: torch.nn.Module
    data: list[tuple[torch.Tensor, torch.Tensor]]
    loss: torch.nn.Module
    order: np.ndarray

    @property
    def weights(self):
        return list(self.net.parameters())

    def from_torch(self, matrix):
        """A (P, P), (P, k) or (P,) of torch's, in our order along every axis that has P entries."""
        back, matrix = np.argsort(self.order), to_numpy(matrix)
        return matrix[np.ix_(*(back if size == len(back) else range(size) for size in matrix.shape))]

    def flat(self, tree):
        """A tree like the parameters as a vector in torch's order."""
        return tensor(ravel_pytree(tree)[0])[torch.from_numpy(self.order)]

    def split(self, vector):
        """A vector in torch's order as a list like the parameters."""
        sizes = [p.numel() for p in self.weights]
        return [part.view_as(p) for part, p in zip(vector.split(sizes), self.weights, strict=True)]


def to_numpy(tensor_):
    return tensor_.detach().numpy() if isinstance(tensor_, torch.Tensor) else np.asarray(tensor_)


def make(module, shape, likelihood):
    """`module` at random parameters, biases too, and N random examples of `shape` with targets."""
    keys = jax.random.split(jax.random.key(7), 4)
    x = jax.random.normal(keys[0], (N, *shape))
    net = Network(module)
    theta, unravel = ravel_pytree(net.init(keys[1], x))
    params = unravel(theta + 0.1 * jax.random.normal(keys[2], theta.shape))
    classes = isinstance(likelihood, Categorical)
    y = jax.random.randint(keys[3], (N,), 0, OUTPUTS) if classes else jax.random.normal(keys[3], (N, OUTPUTS))
    order = torch.cat([p.flatten() for p in twin(module, unravel(jnp.arange(theta.size, dtype=float))).parameters()])
    return Problem(
        model=Model(net, likelihood),
        params=params,
        batch=(x, y),
        net=twin(module, params),
        data=[(inputs(x), tensor(y))],
        loss=torch.nn.CrossEntropyLoss() if classes else torch.nn.MSELoss(),
        order=to_numpy(order).astype(int),
    )


def classifier():
    return make(MLP((5, 4), OUTPUTS, jnp.tanh), (4,), Categorical())


def regression():
    """torch's MSELoss is the mean over the outputs too, and has no half: 2/k of Normal()'s nll, less its constant."""
    return make(MLP((5, 4), OUTPUTS, jnp.tanh), (4,), Normal())


def convolutional():
    return make(ResNet(8, OUTPUTS, width=3), (4, 4, 3), Categorical())  # norm leaves 2 channels no gradient
