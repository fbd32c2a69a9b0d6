"""Errors of reconstructed meshes in millimetres, per mesh, and their summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class ErrorSummary(NamedTuple):
    """Statistics over the meshes of a split in millimetres. The standard deviation is that of the population."""

    mean_mm: float
    median_mm: float
    std_mm: float
    min_mm: float
    max_mm: float


def vertex_errors_mm(
    vertices: Float[Array | np.ndarray, "*batch vertex 3"], other: Float[Array | np.ndarray, "*batch vertex 3"]
) -> Float[Array, "*batch vertex"]:
    """Euclidean distances in millimetres between corresponding vertices in metres."""
    return 1000 * jnp.linalg.norm(vertices - other, axis=-1)


def rigidly_aligned(
    vertices: Float[Array | np.ndarray, "batch vertex 3"], target: Float[Array | np.ndarray, "batch vertex 3"]
) -> Float[Array, "batch vertex 3"]:
    """Meshes moved and turned, not mirrored, onto others with the least squared distances (Kabsch 1976).

    `alignment.align` computes the same for one mesh on the host in float64, as datasets need it, and refuses degenerate
    ones. This is for batches of errors on the device in float32; sharing the three lines would tie them to one library.
    """
    aim = target.mean(axis=1, keepdims=True)
    centred = vertices - vertices.mean(axis=1, keepdims=True)
    left, _, right = jnp.linalg.svd(jnp.einsum("bvi,bvj->bij", target - aim, centred, precision="highest"))
    left = left.at[:, :, 2].multiply(jnp.sign(jnp.linalg.det(left @ right))[:, None])
    return jnp.einsum("bij,bvj->bvi", left @ right, centred, precision="highest") + aim


def summarise(errors_mm: Float[Array | np.ndarray, "mesh"]) -> ErrorSummary:
    """Summarise per-mesh errors in float64, by the statistics of the published evaluation."""
    errors = np.asarray(errors_mm, np.float64)
    return ErrorSummary(*(float(f(errors)) for f in (np.mean, np.median, np.std, np.min, np.max)))


def map_batches(function: Callable, batch_size: int, *arrays: Array | np.ndarray):
    """Map `function` over consecutive batches of the arrays' leading axis, including a smaller last batch.

    Traceable: one loop over the full batches and one call for the rest, so each row is computed exactly once.
    """
    count = len(arrays[0])
    full = count - count % batch_size
    parts = []
    if full:
        stacked = [a[:full].reshape(-1, batch_size, *a.shape[1:]) for a in arrays]
        out = jax.lax.map(lambda batch: function(*batch), stacked)
        parts.append(jax.tree.map(lambda x: x.reshape(full, *x.shape[2:]), out))
    if full < count:
        parts.append(function(*(a[full:] for a in arrays)))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)
