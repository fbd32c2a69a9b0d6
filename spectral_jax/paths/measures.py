"""Measures of a path of meshes, so that ways of interpolating can be compared in numbers."""

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
SMALLEST_M, SMALLEST_M2 = 1e-9, 1e-12  # what collapsed edges and triangles count as, for their logarithms


@dataclass(frozen=True)
class PathMeasures:
    """How far, how evenly and how plausibly a path goes; a step is the mean over vertices of how far they move.

    The three measures of shape hold the edge lengths, triangle areas and volume of a mesh against the straight
    interpolation of the two ends', at the share of the path's length that lies behind it; a rigid motion has none of
    them. Means are over the meshes between the ends.
    """

    length_mm: float
    """Sum of the steps."""
    longest_step_mm: float
    """Largest step."""
    step_unevenness: float
    """Standard deviation of the steps over their mean: 0 is even."""
    edge_distortion: float
    """Mean over meshes and edges of |log(length / interpolated length)|: 0.01 is one per cent."""
    area_distortion: float
    """Mean over meshes and triangles of |log(area / interpolated area)|."""
    volume_change: float
    """Largest |enclosed volume / interpolated volume - 1| of a mesh; only of use where the surface is closed."""
    nearest_mm: float | None
    """Mean over meshes of the mean vertex distance to the nearest reference mesh; None without references."""


def measure(
    vertices: Float[Array | np.ndarray, "step vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    nearest_to: Float[Array | np.ndarray, "mesh _ 3"] | None = None,
) -> PathMeasures:
    """Measure a path of meshes in metres, against reference meshes where given (a test split).

    Raises ValueError for fewer than 2 meshes, faces out of range, or references that are none or of other vertices.
    """
    if len(vertices) < 2:
        raise ValueError(f"a path needs at least 2 meshes, not {len(vertices)}")
    if nearest_to is not None and not (len(nearest_to) and nearest_to.shape[1] == vertices.shape[1]):
        raise ValueError(
            f"references must be one or more meshes of {vertices.shape[1]} vertices, not {nearest_to.shape[:2]}"
        )
    figures = _figures(vertices, mesh.edges(faces, vertices.shape[1]), faces)
    nearest_mm = None if nearest_to is None else float(_nearest_mm(vertices, nearest_to))
    return PathMeasures(**{name: float(x) for name, x in figures.items()}, nearest_mm=nearest_mm)


def round_trip(
    encode: Callable, decode: Callable, latents: Float[Array | np.ndarray, "step latent"], spread: float
) -> float:
    """Mean over latents z of |encode(decode(z)) - z| / spread: 0 where the path keeps to what the encoder can tell.

    The spread is that of the train latents, sqrt(mean |z - mean|^2): the norm of the factor of their `Gaussian`.
    """
    return float(jnp.linalg.norm(encode(decode(jnp.asarray(latents))) - latents, axis=-1).mean() / spread)


def _between(path: Array) -> Array:
    """The meshes between the ends, or the ends where there are no others."""
    return path[1:-1] if len(path) > 2 else path


@jax.jit
def _figures(vertices: Array, edges: Array, faces: Array) -> dict[str, Array]:
    """The fields of PathMeasures, but for the last."""
    steps_mm = vertex_errors_mm(vertices[1:], vertices[:-1]).mean(axis=-1)
    length_mm = steps_mm.sum()
    share = jnp.concatenate([jnp.zeros(1), jnp.cumsum(steps_mm)]) / jnp.where(length_mm > 0, length_mm, 1)

    def distortion(figures, smallest):
        expected = straight(figures[0], figures[-1], share)
        ratio = jnp.maximum(figures, smallest) / jnp.maximum(expected, smallest)
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
        "edge_distortion": distortion(lengths, SMALLEST_M),
        "area_distortion": distortion(areas, SMALLEST_M2),
        "volume_change": jnp.abs((volumes - expected) / jnp.where(expected == 0, 1, expected)).max(),
    }


@jax.jit
def _nearest_mm(vertices: Array, references: Array) -> Array:
    """Mean over the meshes between the ends of the distance to the nearest reference."""

    def distances(batch):
        return vertex_errors_mm(*jnp.broadcast_arrays(batch[:, None], _between(vertices)[None])).mean(axis=-1)

    return map_batches(distances, BATCH, references).min(axis=0).mean()
