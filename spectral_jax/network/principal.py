"""Principal component analysis of meshes or latents."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.geometry.sampling import evenly_spaced

BLOCK = 1024  # rows read at once, so that memory does not grow with their number
SAMPLE_BYTES = 1 << 28  # rows that are held at once
SAMPLE_PASSES = 4  # over the rows that the iteration starts from
OVERSAMPLING = 16  # directions iterated beyond those wanted, or twice those: more of them converge in fewer passes
MAX_PASSES = 40
TOLERANCE = 1e-7  # relative growth of the captured variance, found or still possible, below which the iteration ends


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


@runtime_checkable
class Rows(Protocol):
    """Rows of any shape, read when indexed: an array, a memory map, or a split of a dataset that stays on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> np.ndarray: ...


def fit(rows: Rows, count: int, max_passes: int = MAX_PASSES, tolerance: float = TOLERANCE) -> Principal:
    """The `count` leading principal components of rows, or all there are: at most one fewer than rows.

    Randomized subspace iteration (Halko, Martinsson and Tropp 2011) in passes over blocks of rows, whose products the
    device computes: memory is that of 256 MB of rows, or of about four times `count`, whatever their number. More rows
    than that are not held. The iteration then starts from the components of some of them, spread evenly, and ends after
    `max_passes` over all, or when the captured variance can grow by no more than the tolerance, relatively. Equal rows
    give equal components. Raises ValueError without rows.
    """
    if not len(rows):
        raise ValueError("principal components need at least 1 row, not 0")
    shape, num_values = rows.shape[1:], math.prod(rows.shape[1:])
    count = min(count, len(rows) - 1, num_values)
    sample = max(SAMPLE_BYTES // (4 * num_values), 4 * count)
    start = _start(num_values, 2 * count + OVERSAMPLING)
    if sample < len(rows):
        spread = rows[np.array(evenly_spaced(len(rows), sample))]
        mean, start, _ = _iterate(spread, start, count, SAMPLE_PASSES, TOLERANCE)
        start = start[:, : count + OVERSAMPLING]
        mean, directions, variances = _iterate(rows, start, count, max_passes, tolerance, mean)
    else:
        mean, directions, variances = _iterate(rows[:], start, count, MAX_PASSES, TOLERANCE)
    components = directions[:, :count].T
    if count:
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1, keepdims=True), axis=1)
        components = np.where(largest < 0, -components, components)
    deviations = np.sqrt(np.maximum(variances[:count], 0) / max(len(rows) - 1, 1)).astype(np.float32)
    components = components.astype(np.float32).reshape(len(components), *shape)
    return Principal(mean.astype(np.float32).reshape(shape), components, deviations)


def _start(num_values: int, width: int) -> np.ndarray:
    """Random orthonormal directions (value, direction), always the same."""
    return np.linalg.qr(np.random.default_rng(0).standard_normal((num_values, min(width, num_values))))[0]


def _iterate(
    rows: Rows,
    directions: np.ndarray,
    count: int,
    max_passes: int,
    tolerance: float,
    about: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subspace iteration from orthonormal directions: mean, directions by descending variance, and their scatter.

    `about` is a guess of the mean.
    """
    mean = rows[:BLOCK].mean(axis=0, dtype=np.float64).ravel() if about is None else about
    passes, before = 0, -np.inf
    while True:
        mean, image = _scatter(rows, mean, directions)
        variances, turn = np.linalg.eigh(directions.T @ image)
        variances, turn = variances[::-1], turn[:, ::-1]
        directions, image = directions @ turn, image @ turn
        passes, captured = passes + 1, variances[:count].sum()
        # What another pass can add: each direction's residual squared, over its distance from what is not captured.
        left = np.square(image[:, :count] - directions[:, :count] * variances[:count]).sum(axis=0)
        distance = np.maximum(variances[:count] - variances[-1], 0)
        gain = np.divide(left, distance, out=np.where(left > 0, np.inf, 0), where=distance > 0).sum()
        if passes == max_passes or min(captured - before, gain) <= tolerance * captured:
            return mean, directions, variances
        before = captured
        # Turned before they are orthonormalised, columns are graded by variance, and small ones keep their digits.
        directions = np.linalg.qr(image)[0]


def _scatter(rows: Rows, about: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One pass over rows: their mean, and their scatter matrix times directions, in float64 from blocks in float32.

    Rows are centred about a guess of the mean, so that nothing large cancels, and the guess is corrected exactly. One
    block is computed while the next is read.
    """
    num_values, width = directions.shape
    sums = np.zeros((width + 1, num_values))
    centre, narrow = jax.device_put((about.astype(np.float32), directions.astype(np.float32)))
    guess = np.asarray(centre, np.float64)
    size, under_way = min(BLOCK, len(rows)), np.zeros((), np.float32)
    for start in range(0, len(rows), size):
        block = np.asarray(rows[start : start + size], np.float32).reshape(-1, num_values)
        missing = size - len(block)
        if missing:  # rows at the centre add nothing, and keep the shape that is compiled for
            block = np.concatenate([block, np.broadcast_to(np.asarray(centre), (missing, num_values))])
        sums += np.asarray(under_way)
        under_way = _block_scatter(block, centre, narrow)
    sums += np.asarray(under_way)
    image, off = sums[:-1].T, sums[-1] / len(rows)
    return guess + off, image - len(rows) * np.outer(off, off @ np.asarray(narrow, np.float64))


@jax.jit
@jax.default_matmul_precision("highest")
def _block_scatter(
    block: Float[Array | np.ndarray, "row value"],
    centre: Float[Array, "value"],
    directions: Float[Array, "value direction"],
) -> Float[Array, "direction+1 value"]:
    """Directions times the scatter matrix of centred rows, and behind them the sum of these rows.

    The sum is one more row of the product, and nothing large is transposed: twice as fast on a CPU.
    """
    centred = jnp.asarray(block) - centre[None]
    scores = jnp.pad(centred @ directions, ((0, 0), (0, 1)), constant_values=1)
    return jnp.einsum("rd,rv->dv", scores, centred)


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


def in_vertices(principal: Principal, basis: SpectralBasis) -> Principal:
    """Mean and components of coefficients (freq, 3) as vertices, metres, on the device."""
    mean, components = (np.asarray(spectral.reconstruct(basis, part)) for part in principal[:2])
    return jax.device_put(Principal(mean, components, principal.deviations))
