"""The left-right symmetry of a mesh in its spectral basis: coefficients of mirrored meshes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.geometry.symmetry import mirror_permutation

LOST = 1e-3  # part of a mode's norm that its mirror image may lose
MOST_LOST = 0.05  # part of the modes that may lose more, beside those with the last eigenvalue


class Mirror(NamedTuple):
    """A reflection of meshes, as it acts on their coefficients.

    Attributes:
      matrix: R = Phi^T P Phi (Phi^T M P Phi with a mass M), float32, where P moves each vertex to its partner.
      axis: the coordinate that is mirrored, 0, 1 or 2.
      shift: coefficients of the constant 2 x0, where the plane of the reflection is at x0 in metres, float32.
    """

    matrix: Float[Array | np.ndarray, "freq freq"]
    axis: int
    shift: Float[Array | np.ndarray, "freq"]


def find_mirror(basis: SpectralBasis, vertices: Float[np.ndarray, "vertex 3"]) -> Mirror:
    """The reflection of the meshes of a basis, from the symmetry of its faces.

    The vertices, in metres, are of a roughly symmetric shape, such as the mean of a dataset: they choose the axis, and
    the plane goes through their centroid. Raises ValueError as `mirror_permutation` does, and when more than a few
    modes have mirror images that are not combinations of the modes. The last ones do not count: if their eigenvalue is
    repeated beyond the last mode, they are not all there.
    """
    if vertices.shape[0] != basis.num_vertices:
        raise ValueError(f"the shape has {vertices.shape[0]} vertices, the basis has {basis.num_vertices}")
    faces = np.asarray(basis.faces)
    partner, axis = mirror_permutation(faces, vertices)
    modes = np.asarray(basis.modes, np.float32)
    weighted = modes if basis.mass is None else modes * np.asarray(basis.mass)[:, None]
    matrix = weighted.T @ modes[partner]
    last = np.asarray(basis.eigenvalues) >= (1 - LOST) * basis.eigenvalues[-1]  # a group that truncation may cut
    lost = np.flatnonzero((np.linalg.norm(matrix, axis=0) < 1 - LOST) & ~last)
    if len(lost) > MOST_LOST * basis.num_modes:
        raise ValueError(
            f"the mirror images of {len(lost)} of {basis.num_modes} modes are not combinations of the modes, the first "
            f"is mode {lost[0]}; {MOST_LOST:.0%} may be: the shape that the modes were computed of is not symmetric"
        )
    plane = vertices[np.unique(faces), axis].mean(dtype=np.float64)
    return Mirror(matrix, axis, weighted.T @ np.full(basis.num_vertices, 2 * plane, np.float32))


@jax.jit
def reflect(mirror: Mirror, coefficients: Float[Array | np.ndarray, "mesh freq 3"]) -> Float[Array, "mesh freq 3"]:
    """Coefficients of the mirror images of meshes, at full float32 precision. The order of vertices is kept."""
    mirrored = jnp.einsum("fg,mgc->mfc", mirror.matrix, coefficients, precision="highest")
    across = jnp.arange(3) == mirror.axis
    return jnp.where(across, mirror.shift[None, :, None] - mirrored, mirrored)
