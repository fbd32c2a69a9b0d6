"""Measures of a path of meshes, by which methods of interpolation are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax.geometry import mesh
from spectral_jax.geometry.metrics import map_batches, vertex_errors_mm
from spectral_jax.paths.interpolate import straight

BATCH = 8  # reference meshes compared with a whole path at once
MIN_LENGTH_M = 1e-9  # of an edge: the logarithm of a collapsed one stays finite
MIN_AREA_M2 = 1e-12  # of a triangle, likewise


@dataclass(frozen=True)
class PathMeasures:
    """Length, evenness and plausibility of a path. The length of a step is the mean distance that vertices move.

    Three measures of shape compare edge lengths, triangle areas and volume of each mesh with values interpolated
    linearly between the two ends, at the mesh's share of the path's length. They are 0 for a rigid motion. Means are
    over the meshes between the ends.
    """

    length_mm: float
    """Sum of the lengths of the steps."""
    longest_step_mm: float
    """Length of the longest step."""
    step_unevenness: float
    """Standard deviation of the lengths of steps over their mean: 0 for even steps."""
    edge_distortion: float
    """Mean over meshes and edges of |log(length / interpolated length)|; 0.01 is about one per cent."""
    area_distortion: float
    """Mean over meshes and triangles of |log(area / interpolated area)|."""
    volume_change: float
    """Maximum over meshes of |enclosed volume / interpolated volume - 1|; meaningful for closed surfaces only."""
    nearest_mm: float | None
    """Mean over meshes of the mean vertex distance to the nearest reference mesh; None without references."""


def measure(
    vertices: Float[Array | np.ndarray, "step vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    nearest_to: Float[Array | np.ndarray, "mesh _ 3"] | None = None,
) -> PathMeasures:
    """Measure a path of meshes, metres; `nearest_to` are reference meshes, such as a test split.

    Raises ValueError for fewer than 2 meshes, faces out of range, or references that are empty or have another number
    of vertices.
    """
    if len(vertices) < 2:
        raise ValueError(f"a path needs at least 2 meshes, not {len(vertices)}")
    if nearest_to is not None and not (len(nearest_to) and nearest_to.shape[1] == vertices.shape[1]):
        raise ValueError(
            f"references must be one or more meshes of {vertices.shape[1]} vertices, not {nearest_to.shape[:2]}"
        )
    found = _measures(vertices, mesh.edges(faces, vertices.shape[1]), faces)
    nearest_mm = None if nearest_to is None else float(_nearest_mm(vertices, nearest_to))
    return PathMeasures(**{name: float(x) for name, x in found.items()}, nearest_mm=nearest_mm)


def round_trip(
    encode: Callable, decode: Callable, latents: Float[Array | np.ndarray, "step latent"], spread: float
) -> float:
    """Mean over latents z of |encode(decode(z)) - z| / spread; 0 where the encoder inverts the decoder.

    `spread` is that of known latents, sqrt(mean |z - mean|^2): about the norm of the factor of their `Gaussian`.
    """
    return float(jnp.linalg.norm(encode(decode(jnp.asarray(latents))) - latents, axis=-1).mean() / spread)


def _between(path: Array) -> Array:
    """The meshes between the ends, or the ends of a path of two meshes."""
    return path[1:-1] if len(path) > 2 else path


@jax.jit
def _measures(vertices: Array, edges: Array, faces: Array) -> dict[str, Array]:
    """The fields of PathMeasures except `nearest_mm`."""
    steps_mm = vertex_errors_mm(vertices[1:], vertices[:-1]).mean(axis=-1)
    length_mm = steps_mm.sum()
    share = jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps_mm)]) / jnp.where(length_mm > 0, length_mm, 1)

    def distortion(values, smallest):
        expected = straight(values[0], values[-1], share)
        ratio = jnp.maximum(values, smallest) / jnp.maximum(expected, smallest)
        return _between(jnp.abs(jnp.log(ratio))).mean()

    centred = vertices - vertices.mean(axis=1, keepdims=True)
    a, b, c = jnp.moveaxis(centred[:, faces], 2, 0)
    lengths = jnp.linalg.norm(centred[:, edges[:, 0]] - centred[:, edges[:, 1]], axis=-1)
    areas = jnp.linalg.norm(jnp.cross(b - a, c - a), axis=-1) / 2
    volumes = (a * jnp.cross(b, c)).sum(axis=(1, 2)) / 6
    expected = straight(volumes[0], volumes[-1], share)
    return {
        "length_mm": length_mm,
        "longest_step_mm": steps_mm.max(),
        "step_unevenness": steps_mm.std() / jnp.where(length_mm > 0, steps_mm.mean(), 1),
        "edge_distortion": distortion(lengths, MIN_LENGTH_M),
        "area_distortion": distortion(areas, MIN_AREA_M2),
        "volume_change": jnp.abs((volumes - expected) / jnp.where(expected == 0, 1, expected)).max(),
    }


@jax.jit
def _nearest_mm(vertices: Array, references: Array) -> Array:
    """Mean over the meshes between the ends of the distance to the nearest reference, mm."""

    def distances(batch):
        return vertex_errors_mm(*jnp.broadcast_arrays(batch[:, None], _between(vertices)[None])).mean(axis=-1)

    return map_batches(distances, BATCH, references).min(axis=0).mean()
