"""What other people's torch code does with the same networks, where torch is installed (make test-peers sets it up).

Times are taken on the device that JAX uses, in torch's eager mode, as these packages are used.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.cases import Case
from benchmarks.timing import Program

AVAILABLE = all(
    importlib.util.find_spec(name) for name in ("torch", "pytorch_optimizer", "curvlinops", "nngeometry", "pyhessian")
)


class Twin:
    """The case's network in torch, with its batch, on JAX's kind of device."""

    def __init__(self, case: Case) -> None:
        import torch

        from benchmarks.torch_nets import inputs, tensor, twin

        # AdaHessian and PyHessian keep the gradient's graph, and the next zero_grad lets it go.
        warnings.filterwarnings("ignore", message="Using backward")
        _, params, (x, y) = case.make()
        self.cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.net = twin(case.module, params).to(self.device)
        self.x, self.y = inputs(x).to(self.device), tensor(y).to(self.device)
        self.loss_function = torch.nn.CrossEntropyLoss()
        self.weights = list(self.net.parameters())

    def loss(self) -> Any:
        return self.loss_function(self.net(self.x), self.y)

    def wait(self) -> None:
        import torch

        if self.cuda:
            torch.cuda.synchronize()

    def waited(self, work: Callable[[], Any]) -> Program:
        def program() -> None:
            work()
            self.wait()

        return program


def steps(case: Case) -> dict[str, Program]:
    """The steps of benchmarks.steps, each on a network of its own."""
    import torch

    sgd, adam = (lambda p: torch.optim.SGD(p, lr=0.01)), (lambda p: torch.optim.Adam(p, lr=1e-4))
    return {
        "SGD": plain(Twin(case), sgd),
        "Adam": plain(Twin(case), adam),
        "Hessian": adahessian(Twin(case), hessian=True),
        "no Hessian": adahessian(Twin(case), hessian=False),
        "SAM": sam(Twin(case)),
        "GSAM": gsam(Twin(case)),
    }


def plain(twin: Twin, make: Callable) -> Program:
    opt = make(twin.net.parameters())

    def step() -> None:
        opt.zero_grad()
        twin.loss().backward()
        opt.step()

    return twin.waited(step)


def adahessian(twin: Twin, hessian: bool) -> Program:
    """With a Hessian product every step, or none ever; without one nothing but the gradient's graph is needed."""
    import pytorch_optimizer

    opt = pytorch_optimizer.AdaHessian(twin.net.parameters(), lr=1e-4, eps=1e-4, update_period=1 if hessian else 2**40)
    opt.param_groups[0]["step"] = 0 if hessian else 1  # its first step always takes a product

    def step() -> None:
        opt.zero_grad()
        twin.loss().backward(create_graph=hessian)
        opt.step()

    return twin.waited(step)


def sam(twin: Twin) -> Program:
    import pytorch_optimizer
    import torch

    opt = pytorch_optimizer.SAM(twin.net.parameters(), torch.optim.SGD, rho=0.05, lr=0.01)

    def closure() -> Any:
        opt.zero_grad()
        loss = twin.loss()
        loss.backward()
        return loss

    def step() -> None:
        closure()
        opt.step(closure)

    return twin.waited(step)


def gsam(twin: Twin) -> Program:
    import pytorch_optimizer
    import torch

    base = torch.optim.SGD(twin.net.parameters(), lr=0.01)
    opt = pytorch_optimizer.GSAM(twin.net.parameters(), base, twin.net, ConstantRho())
    opt.set_closure(twin.loss_function, twin.x, twin.y)
    return twin.waited(opt.step)


class ConstantRho:
    def step(self) -> float:
        return 0.05


def products(case: Case) -> dict[str, Program]:
    """A gradient, and BackPACK's two products of it."""
    import torch
    from backpack.hessianfree.ggnvp import ggn_vector_product
    from backpack.hessianfree.hvp import hessian_vector_product

    twin = Twin(case)
    v = [torch.randn_like(p) for p in twin.weights]

    def ggn() -> None:
        z = twin.net(twin.x)
        ggn_vector_product(twin.loss_function(z, twin.y), z, twin.net, v)

    return {
        "gradient": twin.waited(lambda: torch.autograd.grad(twin.loss(), twin.weights)),
        "hvp": twin.waited(lambda: hessian_vector_product(twin.loss(), twin.weights, v)),
        "gauss_newton_vp": twin.waited(ggn),
    }


def fishers(case: Case) -> dict[str, Program]:
    """The exact Fisher, whole: F = G for a softmax, which is what curvlinops calls it."""
    import curvlinops
    import torch
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatDense

    twin = Twin(case)
    data = [(twin.x, twin.y)]
    eye = torch.eye(sum(p.numel() for p in twin.weights), device=twin.device)
    dataset = torch.utils.data.TensorDataset(twin.x, twin.y)
    loader = torch.utils.data.DataLoader(dataset, batch_size=len(twin.x))

    def by_curvlinops() -> None:
        operator = curvlinops.GGNLinearOperator(
            twin.net, twin.loss_function, twin.weights, data, check_deterministic=False
        )
        operator @ eye

    return {
        "curvlinops": twin.waited(by_curvlinops),
        "nngeometry": twin.waited(lambda: FIM(twin.net, loader, PMatDense, "classif_logits", twin.device).to_torch()),
    }


def lanczos(case: Case, order: int) -> Program:
    """PyHessian's density with one start. Its gradient's graph is built beforehand, as it does itself.

    It calls torch.eig, which is gone from torch; torch.linalg takes its place here, on an order × order matrix.
    """
    import pyhessian
    import torch

    twin = Twin(case)
    torch.eig = eig
    peer = pyhessian.hessian(twin.net, twin.loss_function, data=(twin.x, twin.y), cuda=twin.cuda)
    return twin.waited(lambda: peer.density(iter=order, n_v=1))


def eig(matrix: Any, eigenvectors: bool = True) -> Any:
    import torch

    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors
