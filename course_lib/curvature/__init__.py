"""Curvature of a model's loss: whole matrices for small P (unit 01)."""
