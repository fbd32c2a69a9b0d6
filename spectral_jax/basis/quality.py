"""Measure the quality of a basis, and which of its modes are not unique."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.basis.spectral import SpectralBasis, rayleigh
from spectral_jax.geometry import mesh

NEAR = 1e-6  # relative gap below which float32 modes cannot tell two eigenvalues apart


class Quality(NamedTuple):
    """The quality of a basis.

    Attributes:
      residual: largest norm of L phi - lambda phi over the largest lambda; None if the mesh is needed but not given.
      orthonormality: largest entry of the Gram matrix minus the identity.
      smallest_gaps: the five smallest relative gaps of eigenvalues, each with the mode above the gap.
      repeated: number of modes with nearly repeated eigenvalues, which are unique only up to rotations.
    """

    residual: float | None
    orthonormality: float
    smallest_gaps: list[tuple[int, float]]
    repeated: int


def quality(basis: SpectralBasis, vertices: Float[np.ndarray, "vertex 3"] | None = None) -> Quality:
    """Measure a basis. The residual of a cotangent basis needs the vertices of the mesh that it was computed from."""
    eigenvalues, modes = np.asarray(basis.eigenvalues, np.float64), np.asarray(basis.modes)
    if basis.mass is not None:
        modes = modes * np.sqrt(np.asarray(basis.mass))[:, None]
    scale, residual = max(float(eigenvalues[-1]), np.finfo(np.float64).tiny), None
    if basis.mass is None or vertices is not None:
        shape = None if basis.mass is None else vertices
        matrix, _ = mesh.laplacian(np.asarray(basis.faces), basis.num_vertices, shape)
        # Rounding to float32 alone leaves a residual up to 6e-8 of the norm of the matrix, even for the lowest modes.
        scale = max(scale, 1e-3 * float(abs(matrix).sum(axis=1).max()))
        quotients, rest = rayleigh(modes, matrix)
        residual = float(np.hypot(rest, quotients - eigenvalues).max()) / scale
    gaps = np.diff(eigenvalues) / np.maximum(eigenvalues[1:], NEAR * scale)
    near, gram = gaps < NEAR, 0.0
    for start in range(0, basis.num_modes, 512):  # in blocks, to hold few modes in float64
        block = modes[:, start : start + 512].T.astype(np.float64) @ modes[:, start:].astype(np.float64)
        gram = max(gram, float(np.abs(block - np.eye(*block.shape)).max()))
    return Quality(
        residual,
        gram,
        [(int(mode) + 1, float(gaps[mode])) for mode in np.argsort(gaps, kind="stable")[:5]],
        int((np.append(near, False) | np.append(False, near)).sum()),
    )
