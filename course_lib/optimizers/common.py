"""What every optimizer here shares: schedules, wide arithmetic, and the step that is skipped when not finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from course_lib.curvature.products import cast_like, wide

Number = Any  # a Python number, a traced scalar, or a schedule: count (from 0) -> scalar


def at(number: Number, count: Int[Array, ""]) -> Any:
    """The number at this count: a schedule is called, anything else is itself."""
    return number(count) if callable(number) else number


def require_loss(loss: Callable | None, optimizer: str) -> Callable:
    """The loss, or a ValueError that names the word that update() was not given."""
    if loss is None:
        raise ValueError(
            f"{optimizer} differentiates the loss itself: call update(grads, state, params, loss=loss, batch=batch), "
            "with loss(params, batch) -> ()"
        )
    return loss


def require_params(params: Any, optimizer: str) -> Any:
    """The parameters, or a ValueError that says update() needs them."""
    if params is None:
        raise ValueError(f"{optimizer} needs the parameters: call update(grads, state, params, ...)")
    return params


def global_norm(tree: Any) -> Float[Array, ""]:
    """‖tree‖₂ over all leaves together, in at least float32; 0 for an empty tree."""
    return jnp.sqrt(sum((jnp.sum(a**2) for a in jax.tree.leaves(wide(tree))), start=jnp.zeros(())))


def all_finite(*trees: Any) -> Bool[Array, ""]:
    """Whether no entry of any leaf is inf or nan. x·0 summed is 0 only then, and costs far less than isfinite."""
    return sum((jnp.sum(a * 0) for a in jax.tree.leaves(wide(trees))), start=jnp.zeros(())) == 0


def where(keep: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The tree `new` where keep, else `old`; typed random keys in a state work too."""

    def pick(a: Any, b: Any) -> Any:
        if not (isinstance(b, jax.Array) and jnp.issubdtype(b.dtype, jax.dtypes.prng_key)):
            return jnp.where(keep, a, b)
        # Chosen as data: JAX's key-reuse check takes a choice between a key and its successor for a second use.
        data = jnp.where(keep, jax.random.key_data(a), jax.random.key_data(b))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(b))

    return jax.tree.map(pick, new, old)


def decayed(mean: Any, new: Any, decay: Any) -> Any:
    """b·mean + (1-b)·new, leaf by leaf, in the dtype of mean. b = 1 is the plain sum, mean + new (AdaGrad)."""
    gain = jnp.where(decay == 1, 1, 1 - decay)
    return cast_like(jax.tree.map(lambda a, x: decay * a + gain * x, mean, new), mean)


def debiased(mean: Any, decay: Any, times: Int[Array, ""]) -> Any:
    """mean / (1 - bᵗ) after t updates from zero: the weights then sum to 1 (Adam). A plain sum, b = 1, stays.

    Where b follows a schedule, this step's b stands for all of them, as in optax.
    """
    weight = 1 - decay**times
    safe = jnp.where(weight == 0, 1, weight)
    return jax.tree.map(lambda a: a / safe.astype(a.dtype), mean)


def quotient(a: Array, b: Array) -> Array:
    """a / b, and 0 where a is 0: a coordinate without gradient and without curvature stays, whatever the damping."""
    return jnp.where(a == 0, 0, a / b)


def zero_count() -> Int[Array, ""]:
    """A new counter. Each is a buffer of its own: one that stands twice in a state cannot be donated."""
    return jnp.zeros((), jnp.int32)


def zero_moment(params: Any) -> Any:
    """Zeros like the parameters, in at least float32, in buffers of their own."""
    return jax.tree.map(jnp.zeros_like, wide(params))


def is_due(count: Int[Array, ""], every: int) -> Any:
    """Whether this count refreshes: True itself where each does, so that no branch is compiled."""
    return True if every == 1 else count % every == 0


def choose(due: Any, compute: Callable[[], Any], otherwise: Any) -> Any:
    """compute() where due, else the tree as it is: by Python for a bool, by lax.cond for a traced one."""
    if isinstance(due, bool):
        return compute() if due else otherwise
    return jax.lax.cond(due, compute, lambda: otherwise)
