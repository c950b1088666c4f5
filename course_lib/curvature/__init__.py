"""Curvature of a loss: whole matrices for small P, products, diagonals and spectra for any."""
