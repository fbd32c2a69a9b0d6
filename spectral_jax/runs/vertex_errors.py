"""Errors over all vertices of a split, as works on CoMA report them, after alignment, and of joints."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.data.coefficients import LazySplit
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.metrics import rigidly_aligned, vertex_errors_mm
from spectral_jax.network.codec import Codec, reconstruct_batch
from spectral_jax.runs.evaluate import NO_VERTICES, map_padded, read_batches
from spectral_jax.runs.opened import OpenedRun

BIN_MM = 0.01  # width of the bins that the median is read from
LAST_MM = 2000.0  # errors beyond count as this


class VertexErrors(NamedTuple):
    """Errors of a network, mm."""

    mean_mm: float
    """Mean over all vertices of all meshes."""
    std_mm: float
    """Standard deviation over them; that of a `Summary` is one over meshes."""
    median_mm: float
    """Median over them, to 0.01 mm."""
    aligned_mm: float
    """Mean after each mesh was moved and turned onto the original (Procrustes)."""
    joints_mm: float | None = None
    """Mean distance of joints from those of the original (MPJPE); None without a regressor."""


def measure(
    opened: OpenedRun,
    split: str = "test",
    regressor: Float[np.ndarray, "joint vertex"] | None = None,
    progress: Progress = SILENT,
) -> VertexErrors:
    """Measure a network on the meshes of a split, batch by batch; `regressor` times vertices are joints.

    Raises ValueError for a split without vertices, and for a regressor of another number of vertices.
    """
    meshes = LazySplit(opened.data, split, opened.num_modes)
    if meshes.vertices is None:
        raise ValueError(NO_VERTICES)
    if regressor is not None and regressor.shape[1] != opened.basis.num_vertices:
        raise ValueError(
            f"the joints are of {regressor.shape[1]} vertices, the meshes have {opened.basis.num_vertices}"
        )
    bins, moments = np.zeros(round(LAST_MM / BIN_MM) + 1, np.int64), []
    function = functools.partial(_batch_errors_mm, opened.codec, regressor)
    for errors_mm, *others in map_padded(function, read_batches(meshes, opened.num_modes, progress)):
        bins += np.bincount(np.minimum(errors_mm / BIN_MM, len(bins) - 1).astype(int).ravel(), minlength=len(bins))
        exact = errors_mm.astype(np.float64)
        moments += zip(exact.mean(axis=1), np.square(exact).mean(axis=1), *others, strict=True)
    mean, square, aligned, joints = np.mean(moments, axis=0)
    median = (np.searchsorted(np.cumsum(bins), bins.sum() / 2) + 0.5) * BIN_MM
    found = VertexErrors(float(mean), float(np.sqrt(max(0, square - mean**2))), float(median), float(aligned))
    return found if regressor is None else found._replace(joints_mm=float(joints))


@jax.jit
@jax.default_matmul_precision("highest")
def _batch_errors_mm(
    codec: Codec,
    regressor: Float[Array | np.ndarray, "joint vertex"] | None,
    coefficients: Float[Array | np.ndarray, "batch freq 3"],
    vertices: Float[Array | np.ndarray, "batch vertex 3"],
) -> tuple[Float[Array, "batch vertex"], Float[Array, "batch"], Float[Array, "batch"]]:
    """Errors of the vertices, and of each mesh the means after alignment and of joints (0 without a regressor)."""
    found = reconstruct_batch(codec, coefficients)
    aligned = vertex_errors_mm(rigidly_aligned(found, vertices), vertices).mean(axis=1)
    joints = jnp.zeros(len(found))
    if regressor is not None:
        of_found, of_vertices = (jnp.einsum("jv,bvc->bjc", regressor, x) for x in (found, vertices))
        joints = vertex_errors_mm(of_found, of_vertices).mean(axis=1)
    return vertex_errors_mm(found, vertices), aligned, joints
