"""The networks, with random data of their shape: a step's cost does not depend on what the numbers are."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from course_lib.likelihoods import Categorical
from course_lib.models import Model
from course_lib.networks import MLP, Network, ResNet, ViT


class Case(NamedTuple):
    """A Flax module with 10 classes, the shape of one input, and the examples in a batch."""

    module: Any
    shape: tuple[int, ...]
    batch: int

    def make(self) -> tuple[Model, Any, tuple]:
        """(model, params, (x, y)), float32 whatever the default is."""
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (self.batch, *self.shape), jnp.float32)
        y = jax.random.randint(keys[1], (self.batch,), 0, self.module.outputs)
        net = Network(self.module)
        return Model(net, Categorical()), net.init(keys[2], x), (x, y)


MLP_256 = Case(MLP((256, 256), 10), (64,), 256)
MLP_512 = Case(MLP((512, 512), 10), (64,), 256)
RESNET_8 = Case(ResNet(8, 10), (32, 32, 3), 32)

CASES = {
    "MLP 64-256-256-10": MLP_256,
    "MLP 64-512-512-10": MLP_512,
    "ResNet-8": RESNET_8,
    "ResNet-20": Case(ResNet(20, 10), (32, 32, 3), 32),
    "tiny ViT": Case(ViT(4, 10), (32, 32, 3), 64),
}
QUICK = {
    "MLP 64-32-10": Case(MLP((32,), 10), (64,), 32),
    "ResNet-8, small": Case(ResNet(8, 10, width=4), (8, 8, 3), 8),
    "ViT, small": Case(ViT(4, 10, width=8, depth=1, heads=2), (8, 8, 3), 8),
}


def is_convolutional(case: Case) -> bool:
    return isinstance(case.module, ResNet)
