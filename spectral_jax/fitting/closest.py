"""The points of a triangle mesh that are closest to given points."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import KDTree

TINY = 1e-30  # square of an area below which a triangle is a line


class Closest(NamedTuple):
    """Points of a mesh: for each one the corners of its triangle, their weights, and how far it is from its query."""

    corners: Int[Array, "*batch point 3"]
    weights: Float[Array, "*batch point 3"]
    distances: Float[Array, "*batch point"]


def near_faces(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    points: Float[np.ndarray, "point 3"],
    count: int,
) -> Int[np.ndarray, "point near"]:
    """The `count` faces (or all) whose centres are nearest to each point."""
    tree = KDTree(vertices[faces].mean(axis=1))
    wanted: Any = np.arange(1, min(count, len(faces)) + 1)
    return np.asarray(tree.query(points, k=wanted)[1], np.int32)


def closest_points(
    vertices: Float[Array | np.ndarray, "vertex 3"],
    faces: Int[Array | np.ndarray, "face 3"],
    points: Float[Array | np.ndarray, "point 3"],
    near: Int[Array | np.ndarray, "point near"],
) -> Closest:
    """The point that is closest to each point, on some faces near it.

    Inside a triangle it is the foot of the perpendicular, else the closest point of the three edges. Traceable.
    """
    corners = jnp.asarray(faces)[near]
    a, b, c = (jnp.moveaxis(jnp.asarray(vertices)[corners[:, :, k]], 2, 0) for k in range(3))  # (3, point, near)
    at = jnp.asarray(points).T[:, :, None]
    ab, ac, bc, ap, bp = b - a, c - a, c - b, at - a, at - b
    u, v, w = _dot(ab, ab), _dot(ab, ac), _dot(ac, ac)
    s, t = _dot(ab, ap), _dot(ac, ap)
    area = jnp.maximum(u * w - v * v, TINY)
    second, third = (w * s - v * t) / area, (u * t - v * s) / area
    inside = (second >= 0) & (third >= 0) & (second + third <= 1) & (area > TINY)
    square, shares = jnp.full_like(u, jnp.inf), (1 - second - third, second, third)
    none = jnp.zeros_like(u)
    for edge, start, order in ((ab, ap, (0, 1, 2)), (ac, ap, (0, 2, 1)), (bc, bp, (2, 0, 1))):
        along = jnp.clip(_dot(edge, start) / jnp.maximum(_dot(edge, edge), TINY), 0, 1)
        rest = start - along[None] * edge
        found, ends = _dot(rest, rest), (1 - along, along, none)
        better = ~inside & (found < square)
        square = jnp.where(better, found, square)
        shares = tuple(jnp.where(better, ends[order[k]], share) for k, share in enumerate(shares))
    rest = ap - shares[1][None] * ab - shares[2][None] * ac
    square = _dot(rest, rest)
    row, best = jnp.arange(len(points)), jnp.argmin(square, axis=1)
    weights = jnp.stack([share[row, best] for share in shares], axis=1)
    return Closest(corners[row, best], weights, jnp.sqrt(square[row, best]))


def _dot(a: Array, b: Array) -> Array:
    """Products of vectors along the first axis."""
    return jnp.sum(a * b, axis=0)
