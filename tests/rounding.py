"""Tolerances of float32 results, from the arithmetic: another processor, library or order of summation rounds anew.

A sum of n terms that is rounded n times differs from the true one by at most n units of rounding times the sum of the
terms' magnitudes; as rounding errors have either sign, by hardly more than 8 sqrt(n) of them (Higham and Mary, A new
approach to probabilistic rounding error analysis, 2019).
"""

import numpy as np

EPSILON = float(np.finfo(np.float32).eps)  # two units of rounding: both results that are compared are rounded


def rounding(magnitude, terms):
    """Tolerance of a sum of so many terms whose magnitudes add up to `magnitude` (an array: to its largest)."""
    return EPSILON * min(terms, 8 * np.sqrt(terms)) * float(np.max(np.abs(magnitude)))


def product_rounding(a, b):
    """Tolerance of the matrix product a @ b."""
    return rounding(np.abs(np.asarray(a, np.float64)) @ np.abs(np.asarray(b, np.float64)), np.shape(a)[-1])


def network_rounding(values):
    """Tolerance of latents or coefficients of a small network: its longest sums have 2,048 terms."""
    return rounding(values, 2048)
