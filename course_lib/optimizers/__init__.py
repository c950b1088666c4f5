"""Optimizers: each an optax.GradientTransformationExtraArgs: update(grads, state, params, loss=, batch=)."""

from course_lib.optimizers.adahessian import adahessian
from course_lib.optimizers.diagonal_fisher import diagonal_fisher
from course_lib.optimizers.entropy_sgd import entropy_sgd
from course_lib.optimizers.gsam import gsam
from course_lib.optimizers.kfac import kfac
from course_lib.optimizers.natural_gradient import natural_gradient
from course_lib.optimizers.newton import newton
from course_lib.optimizers.sam import random_sam, sam

__all__ = [
    "adahessian",
    "diagonal_fisher",
    "entropy_sgd",
    "gsam",
    "kfac",
    "natural_gradient",
    "newton",
    "random_sam",
    "sam",
]
