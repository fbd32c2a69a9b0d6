"""Principal component analysis of meshes or latents."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BLOCK = 1024  # rows read at once, so that memory does not grow with their number
OVERSAMPLING = 16  # directions iterated beyond twice those wanted: more of them converge in fewer passes
MAX_PASSES = 40
TOLERANCE = 1e-7  # relative growth of the captured variance below which the iteration ends


class Principal(NamedTuple):
    """Principal components of rows of any shape.

    Attributes:
      mean: of the rows.
      components: orthonormal, the one with the largest variance first, each one's largest entry positive.
      deviations: standard deviation of the rows along each component (with n - 1 in the denominator).
    """

    mean: Float[np.ndarray, "*shape"]
    components: Float[np.ndarray, "component *shape"]
    deviations: Float[np.ndarray, "component"]


def fit(rows: Float[np.ndarray, "row *shape"], count: int) -> Principal:
    """The `count` leading principal components of rows, or all there are: at most one fewer than rows.

    Randomized subspace iteration (Halko, Martinsson and Tropp 2011) in passes over blocks of rows: memory is that of
    about twice `count` rows, whatever their number. The start is fixed, so equal rows give equal components. Raises
    ValueError without rows.
    """
    if not len(rows):
        raise ValueError("principal components need at least 1 row, not 0")
    shape, num_values = rows.shape[1:], int(np.prod(rows.shape[1:]))
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    count = min(count, len(rows) - 1, num_values)
    if count < 1:
        return Principal(mean, np.zeros((0, *shape), np.float32), np.zeros(0, np.float32))
    width = min(2 * count + OVERSAMPLING, num_values)
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((num_values, width)))[0]
    image, variances, turn = _rotate(rows, mean, directions)
    for _ in range(MAX_PASSES):
        before = variances[:count].sum()
        # Turned before they are orthonormalised, columns are graded by variance, and small ones keep their digits.
        directions = np.linalg.qr(image @ turn)[0]
        image, variances, turn = _rotate(rows, mean, directions)
        if variances[:count].sum() - before <= TOLERANCE * before:
            break
    components = (directions @ turn[:, :count]).T
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1, keepdims=True), axis=1)
    components = np.where(largest < 0, -components, components).astype(np.float32)
    deviations = np.sqrt(np.maximum(variances[:count], 0) / (len(rows) - 1)).astype(np.float32)
    return Principal(mean, components.reshape(count, *shape), deviations)


def _rotate(rows: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One pass over rows: the scatter matrix S times orthonormal directions D, and the eigenpairs of D^T S D.

    Eigenvalues descend. D times the eigenvectors are the best principal components within the span of D
    (Rayleigh-Ritz).
    """
    image, narrow = np.zeros(directions.shape), directions.astype(np.float32)
    for start in range(0, len(rows), BLOCK):
        block = (rows[start : start + BLOCK] - mean[None]).reshape(-1, len(directions))
        image += block.T @ (block @ narrow)
    variances, turn = np.linalg.eigh(directions.T @ image)
    return image, variances[::-1], turn[:, ::-1]


@jax.jit
def project(principal: Principal, rows: Float[Array | np.ndarray, "row *shape"]) -> Float[Array, "row component"]:
    """Scores of rows: their coordinates along the components."""
    components = principal.components.reshape(len(principal.components), principal.mean.size)
    centred = (rows - principal.mean[None]).reshape(len(rows), principal.mean.size)
    return jnp.einsum("rv,cv->rc", centred, components, precision="highest")


@jax.jit
def reconstruct(principal: Principal, scores: Float[Array | np.ndarray, "row component"]) -> Float[Array, "row *shape"]:
    """Rows from their scores along as many of the leading components; the mean from none.

    Raises ValueError for more scores than components.
    """
    count = scores.shape[1]
    if count > len(principal.components):
        raise ValueError(f"{count} scores for a row, but only {len(principal.components)} components")
    components = principal.components[:count].reshape(count, principal.mean.size)
    flat = jnp.einsum("rc,cv->rv", scores, components, precision="highest")
    return jnp.reshape(flat, (len(scores), *principal.mean.shape)) + principal.mean[None]
