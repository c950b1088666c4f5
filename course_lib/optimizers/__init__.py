"""Optimizers: each an optax.GradientTransformationExtraArgs: update(grads, state, params, loss=, batch=)."""
