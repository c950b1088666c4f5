"""The networks of course_lib.networks in torch, layer for layer and with their names, for peers that only know torch.

`twin(module, params)` has the parameters of the Flax module: a kernel (d, k) is a weight (k, d), and one (3, 3, c, k)
is (k, c, 3, 3). Images are (n, c, h, w) here. tests/peers proves that the outputs are the same.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import networks
from course_lib.curvature.kronecker import layers

Shapes = Mapping[str, tuple[int, ...]]  # of the kernels, by the layer's name
ACTIVATIONS: dict[Any, type[nn.Module]] = {flax.linen.relu: nn.ReLU, jnp.tanh: nn.Tanh}


def twin(module: Any, params: Any) -> nn.Module:
    """The torch network that computes what the Flax `module` computes at `params`. KeyError for one without a twin."""
    leaves, named = jax.tree.leaves(params), layers(params)
    net = TWINS[type(module)](module, {name: leaves[parts["kernel"]].shape for name, parts in named.items()})
    for name, parts in named.items():
        layer = net.get_submodule(name.replace("/", "."))
        layer.weight = nn.Parameter(tensor(np.moveaxis(leaves[parts["kernel"]], (-1, -2), (0, 1))))
        if "bias" in parts:
            layer.bias = nn.Parameter(tensor(leaves[parts["bias"]]))
    return net


def tensor(a: Any) -> Tensor:
    """An array as a tensor of its own; integers as int64, which torch's losses want."""
    a = np.array(a, order="C")
    return torch.from_numpy(a.astype(np.int64) if np.issubdtype(a.dtype, np.integer) else a)


def inputs(x: Any) -> Tensor:
    """Images (n, h, w, c) as (n, c, h, w); vectors (n, d) as they are."""
    return tensor(np.moveaxis(x, -1, 1))


class MLP(nn.Sequential):
    """A Sequential, since BackPACK knows nothing else."""

    def __init__(self, module: networks.MLP, shapes: Shapes) -> None:
        parts = OrderedDict()
        for i in range(len(shapes)):
            parts[f"Dense_{i}"] = nn.Linear(*shapes[f"Dense_{i}"])
            parts[f"activation_{i}"] = ACTIVATIONS[module.activation]()
        parts.popitem()
        super().__init__(parts)


class ResNet(nn.Module):
    def __init__(self, module: networks.ResNet, shapes: Shapes) -> None:
        super().__init__()
        for i in range(module.depth - 1):
            c, k = shapes[f"Conv_{i}"][-2:]
            # Conv 1, 3, 5, ... is the first of a block; the blocks that widen, the first of all apart, halve the image.
            self.add_module(f"Conv_{i}", nn.Conv2d(c, k, 3, stride=2 if i > 0 and c < k else 1, padding=1))
        self.Dense_0 = nn.Linear(*shapes["Dense_0"])
        self.convs = [m for m in self.children() if isinstance(m, nn.Conv2d)]

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(channel_norm(self.convs[0](x)))
        for first, second in zip(self.convs[1::2], self.convs[2::2], strict=True):
            branch = channel_norm(second(F.relu(channel_norm(first(x)))))
            stride = first.stride[0]
            short = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, branch.shape[1] - x.shape[1]))
            x = F.relu(short + branch)
        return self.Dense_0(x.mean((2, 3)))


def channel_norm(x: Tensor) -> Tensor:
    """networks.norm: each example and place by itself, over the channels."""
    centred = x - x.mean(1, keepdim=True)
    return centred * torch.rsqrt((centred**2).mean(1, keepdim=True) + 1e-5)


class ViT(nn.Module):
    def __init__(self, module: networks.ViT, shapes: Shapes) -> None:
        super().__init__()
        self.patch, self.heads, self.depth = module.patch, module.heads, module.depth
        for name, shape in shapes.items():
            *block, layer = name.split("/")
            if block and not hasattr(self, block[0]):
                self.add_module(block[0], nn.Module())
            where = self.get_submodule(".".join(block))
            where.add_module(layer, nn.Linear(*shape, bias=layer != "place"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(patches(x, self.patch)) + self.place.weight.T
        for i in range(self.depth):
            x = x + self.attention(self.get_submodule(f"Attention_{i}"), layer_norm(x))
            mlp = self.get_submodule(f"Perceptron_{i}")
            x = x + mlp.Dense_1(F.gelu(mlp.Dense_0(layer_norm(x)), approximate="tanh"))
        return self.head(layer_norm(x).mean(1))

    def attention(self, block: Any, x: Tensor) -> Tensor:
        """By hand: torch's fused attention has no second derivative on every device."""
        n, t, w = x.shape
        q, k, v = (f(x).view(n, t, self.heads, -1).transpose(1, 2) for f in (block.query, block.key, block.value))
        shares = torch.softmax(q @ k.transpose(2, 3) / (w // self.heads) ** 0.5, dim=-1)
        return block.out((shares @ v).transpose(1, 2).reshape(n, t, w))


def patches(x: Tensor, size: int) -> Tensor:
    """(n, c, h, w) to (n, t, size·size·c), a patch's entries in the order of networks.tokens."""
    n, c, h, w = x.shape
    return x.view(n, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1).reshape(n, -1, size * size * c)


def layer_norm(x: Tensor) -> Tensor:
    """networks.norm over the last axis."""
    return F.layer_norm(x, x.shape[-1:])


TWINS = {networks.MLP: MLP, networks.ResNet: ResNet, networks.ViT: ViT}
