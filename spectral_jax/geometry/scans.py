"""Scans: points on a surface, from a point cloud or a mesh of any connectivity, and landmarks on them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spectral_jax.files import safe_files
from spectral_jax.geometry import mesh

Unit = Literal["m", "cm", "mm"]
METRES: dict[Unit, float] = {"m": 1.0, "cm": 0.01, "mm": 0.001}
SAMPLES = 20_000  # points drawn on the surface of a mesh
LANDMARK_BYTES = 1 << 20  # limit


class Scan(NamedTuple):
    """A scan in metres: points on its surface, and the faces between its vertices (none of a point cloud)."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]


def read_scan(path: str | Path, unit: Unit = "m", max_bytes: int = mesh.MOST_BYTES) -> Scan:
    """Read a mesh or point cloud (.ply .obj .stl .off .glb .gltf, also with .gz), or points (point, 3) as .npy.

    Float64, in metres. Raises ValueError naming the file when it is unreadable, empty or not finite.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        vertices, faces = safe_files.open_npy(path), np.zeros((0, 3), np.int32)
        if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {vertices.dtype} {vertices.shape}, expected points (point, 3)")
    else:
        vertices, faces = mesh.read_raw(path, max_bytes, need_faces=False)
    if not len(vertices):
        raise ValueError(f"{path}: no points")
    vertices = np.asarray(vertices, np.float64) * METRES[unit]
    if wrong := int((~np.isfinite(vertices).all(axis=1)).sum()):
        raise ValueError(f"{path}: {wrong} of {len(vertices)} points are not finite")
    return Scan(vertices, faces)


def sample(scan: Scan, count: int = SAMPLES) -> Float[np.ndarray, "point 3"]:
    """Points spread over the surface of a scan by area, always the same; of a point cloud all its points."""
    a, b, c = scan.vertices[scan.faces.T]
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    if not areas.sum() > 0:
        return scan.vertices
    random = np.random.default_rng(0)
    face = random.choice(len(areas), count, p=areas / areas.sum())
    along = random.random((count, 2))
    along = np.where(along.sum(axis=1, keepdims=True) > 1, 1 - along, along)  # a parallelogram, folded to its triangle
    return a[face] + along[:, :1] * (b - a)[face] + along[:, 1:] * (c - a)[face]


def read_landmarks(
    path: str | Path, unit: Unit = "m"
) -> tuple[Int[np.ndarray, "landmark"], Float[np.ndarray, "landmark 3"]]:
    """Vertices and their places in metres: a line of text for each, `vertex x y z`, with spaces or commas between.

    Lines that begin with # are left out. Raises ValueError naming the file and the line for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of landmarks")
    safe_files.check_size(path, LANDMARK_BYTES)
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = line.replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            vertex, x, y, z = int(words[0]), *map(float, words[1:])
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is {line[:80]!r}, expected: vertex x y z") from error
        rows.append((vertex, x, y, z))
    if not rows:
        raise ValueError(f"{path}: no landmarks")
    vertices, *places = zip(*rows, strict=True)
    return np.array(vertices), np.stack(places, axis=1) * METRES[unit]
