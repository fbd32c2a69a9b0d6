"""How good a basis is, and where it is not unique."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.basis.spectral import SpectralBasis, rayleigh
from spectral_jax.geometry import mesh

NEAR = 1e-6  # gap of two eigenvalues, over the larger, below which they are repeated as far as float32 modes tell


class Quality(NamedTuple):
    """The worst figures of a basis, and its modes that are not unique."""

    residual: float | None  # norm of L phi - lambda phi over the largest lambda; None where that takes the mesh
    orthonormality: float  # entry of the Gram matrix minus the identity
    smallest_gaps: list[tuple[int, float]]  # a mode, and its eigenvalue minus the one before, over it
    repeated: int  # modes with a near-equal eigenvalue beside theirs: a rotation of them is as good


def quality(basis: SpectralBasis, vertices: Float[np.ndarray, "vertex 3"] | None = None) -> Quality:
    """Residual, orthonormality and gaps of a basis; a cotangent one has a residual by the mesh it was computed from."""
    eigenvalues, modes = np.asarray(basis.eigenvalues, np.float64), np.asarray(basis.modes)
    if basis.mass is not None:
        modes = modes * np.sqrt(np.asarray(basis.mass))[:, None]
    scale, residual = max(float(eigenvalues[-1]), np.finfo(np.float64).tiny), None
    if basis.mass is None or vertices is not None:
        shape = None if basis.mass is None else vertices
        matrix, _ = mesh.laplacian(np.asarray(basis.faces), basis.num_vertices, shape)
        # rounding to float32 alone leaves up to 6e-8 of the norm of the matrix, however low the modes are
        scale = max(scale, 1e-3 * float(abs(matrix).sum(axis=1).max()))
        quotients, rest = rayleigh(modes, matrix)
        residual = float(np.hypot(rest, quotients - eigenvalues).max()) / scale
    gaps = np.diff(eigenvalues) / np.maximum(eigenvalues[1:], NEAR * scale)
    near, gram = gaps < NEAR, 0.0
    for start in range(0, basis.num_modes, 512):  # blocks, for float64 is only needed here
        block = modes[:, start : start + 512].T.astype(np.float64) @ modes[:, start:].astype(np.float64)
        gram = max(gram, float(np.abs(block - np.eye(*block.shape)).max()))
    return Quality(
        residual,
        gram,
        [(int(mode) + 1, float(gaps[mode])) for mode in np.argsort(gaps, kind="stable")[:5]],
        int((np.append(near, False) | np.append(False, near)).sum()),
    )
