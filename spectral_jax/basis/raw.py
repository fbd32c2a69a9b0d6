"""Modes and faces as bare numbers (.bin, without a header): number type and order are found from the values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

FACES_BYTES = 32 << 20  # limit of a file of faces
COMPARED = 64  # number of modes, evenly spaced, whose orthonormality is tested
DEVIATION = 1e-3  # allowed deviation from orthonormality: float32 modes have about 1e-6, wrong readings about 1
ORDERS = {"C": "row by row", "F": "column by column"}


def read_modes(path: Path, num_vertices: int) -> Float[np.ndarray, "vertex freq"]:
    """Read float32 or float64 modes of a mesh, stored by rows or by columns: the reading that is orthonormal.

    If several are (all modes of a mesh, transposed), the one whose first mode is the most constant.
    Raises ValueError naming the file, its size and the readings tried.
    """
    size, tried, fitting = path.stat().st_size, [], []
    for kind in ("<f4", "<f8"):
        count, rest = divmod(size, num_vertices * np.dtype(kind).itemsize)
        if rest or not 1 <= count <= num_vertices:
            continue
        values = np.memmap(path, kind, "r")
        for order in ("C", "F"):
            tried.append(f"{np.dtype(kind).name} {ORDERS[order]}, {count} modes")
            modes = values.reshape((num_vertices, count), order=order)  # type: ignore[call-overload]
            if _orthonormal(modes):
                fitting.append(modes)
    if not fitting:
        reason = f"not orthonormal as {'; '.join(tried)}" if tried else "no whole number of float32 or float64 modes"
        raise ValueError(f"{path}: {size:,} bytes are not modes of {num_vertices} vertices: {reason}")
    return np.array(min(fitting, key=lambda modes: float(np.ptp(modes[:, 0]))), np.float32, order="C")


def _orthonormal(modes: np.ndarray) -> bool:
    """Whether some columns are finite, of length 1 and perpendicular to each other."""
    count = modes.shape[1]
    chosen = np.unique(np.linspace(0, count - 1, min(count, COMPARED)).astype(int))
    some = modes[:, chosen]
    if not (np.abs(some) <= 1 + DEVIATION).all():  # false for NaN too
        return False
    some = some.astype(np.float64)
    return bool(np.abs(some.T @ some - np.eye(len(chosen))).max() <= DEVIATION)


def read_faces(path: Path) -> Int[np.ndarray, "face 3"]:
    """Read int32 or int64 faces, counted from 0, stored by rows or by columns: the reading that is a surface.

    A surface uses every vertex, no vertex twice in a face, and no edge in more than two faces.
    Raises ValueError naming the file, its size and the readings tried.
    """
    size = path.stat().st_size
    if size > FACES_BYTES:
        raise ValueError(f"{path}: {size:,} bytes of faces, the limit is {FACES_BYTES:,}")
    content, tried, fitting = path.read_bytes(), [], []
    for kind in ("<i4", "<i8"):
        if not size or size % (3 * np.dtype(kind).itemsize):
            continue
        for order in ("C", "F"):
            tried.append(f"{np.dtype(kind).name} {ORDERS[order]}")
            faces = np.frombuffer(content, kind).reshape((-1, 3), order=order)  # type: ignore[call-overload]
            if _surface(faces):
                fitting.append(faces)
    if len(fitting) != 1:
        reason = "no whole number of int32 or int64 triangles" if not tried else f"no surface as {', '.join(tried)}"
        reason = f"{len(fitting)} readings fit ({', '.join(tried)} tried)" if fitting else reason
        raise ValueError(f"{path}: {size:,} bytes are not readable as faces: {reason}")
    return np.array(fitting[0], np.int32, order="C")


def _surface(faces: np.ndarray) -> bool:
    """Whether these are triangles of a surface (see `read_faces`)."""
    if faces.min() != 0 or faces.max() >= faces.size or len(np.unique(faces)) != faces.max() + 1:
        return False
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return bool((edges[:, 0] != edges[:, 1]).all() and np.unique(edges, axis=0, return_counts=True)[1].max() <= 2)
