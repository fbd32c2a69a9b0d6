"""What a report shows of a run: errors by mesh, region and frequency band, latents, and a path between two meshes."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from spectral_jax.basis import spectral, spectrum
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data.dataset import Split
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network import principal
from spectral_jax.network.codec import Codec
from spectral_jax.paths import interpolate
from spectral_jax.runs import evaluate
from spectral_jax.runs.run import Run

PATH_POINTS = 25  # meshes of the path, ends included
NUM_LATENTS = 2000  # of a split that are plotted
NUM_CANDIDATES = 512  # meshes among which the two ends of the path are chosen


class MethodErrors(NamedTuple):
    """Errors of one method.

    Attributes:
      mesh_mm: mean vertex error of each mesh.
      region_mm: mean over the meshes of the error of each region; empty without regions.
    """

    mesh_mm: Float[np.ndarray, "mesh"]
    region_mm: Float[np.ndarray, "region"]


class Errors(NamedTuple):
    """Errors of the network and of the three methods that it is compared with."""

    network: MethodErrors
    pca: MethodErrors
    mean_shape: MethodErrors
    basis_alone: MethodErrors


class Bands(NamedTuple):
    """Rms amplitude by frequency band.

    Attributes:
      ends: where each band of modes ends: powers of two, up to all modes.
      meshes_mm: amplitude of the meshes.
      network_mm, pca_mm: amplitude of the error of the network and of PCA.
    """

    ends: tuple[int, ...]
    meshes_mm: Float[np.ndarray, "band"]
    network_mm: Float[np.ndarray, "band"]
    pca_mm: Float[np.ndarray, "band"]


class Latents(NamedTuple):
    """Latents of up to 2,000 meshes of each split; `rows` are the indices of those of the test split."""

    test: Float[np.ndarray, "test latent"]
    train: Float[np.ndarray, "train latent"]
    rows: Int[np.ndarray, "test"]


class ShownMeshes(NamedTuple):
    """The meshes with the smallest, the median and the largest error of the network, and what it makes of them."""

    rows: list[int]
    original: Float[np.ndarray, "3 vertex 3"]
    decoded: Float[np.ndarray, "3 vertex 3"]


class LatentPath(NamedTuple):
    """The straight path between the latents of two meshes.

    Attributes:
      rows: indices of the two meshes.
      ends: vertices of the two, as the network's modes reconstruct them, metres.
      vertices: decoded meshes of the path, ends included, metres.
    """

    rows: list[int]
    ends: Float[np.ndarray, "2 vertex 3"]
    vertices: Float[np.ndarray, "step vertex 3"]


class ReportData(NamedTuple):
    """All that a report shows of a run on a split of meshes."""

    errors: Errors
    bands: Bands
    latents: Latents
    shown: ShownMeshes
    path: LatentPath


def measure_run(
    run: Run,
    train: Split,
    test: Split,
    regions: Int[np.ndarray, "vertex"] | None = None,
    progress: Progress = SILENT,
) -> ReportData:
    """Measure a run on a split that has vertices; `regions` holds the region of each vertex, numbered from 0.

    Raises ValueError when the split has no vertices or an error is not finite.
    """
    if test.vertices is None:
        raise ValueError("this split has no original vertices to compare with: report on the test split")
    basis, codec = spectral.truncate(run.require_basis(), run.config.model.modes), Codec.of(run)
    coefficients = test.coefficients[:, : basis.num_modes]
    train_coefficients = train.coefficients[:, : basis.num_modes]
    latents = codec.encode(coefficients)
    decoded = codec.decode(latents)
    fitted = principal.fit(train_coefficients, run.config.model.latent_size)
    projected = np.asarray(principal.reconstruct(fitted, principal.project(fitted, coefficients)))
    by_method = {
        "network": decoded,
        "pca": projected,
        "mean_shape": np.broadcast_to(fitted.mean, coefficients.shape),
        "basis_alone": coefficients,
    }
    errors = _measure_errors(basis, by_method, test.vertices, regions, progress)
    _check_finite(run, errors)
    order = np.argsort(errors.network.mesh_mm, kind="stable")
    shown = order[[0, (len(order) - 1) // 2, -1]]
    rows, train_rows = (np.array(evenly_spaced(len(split.coefficients), NUM_LATENTS)) for split in (test, train))
    return ReportData(
        errors=errors,
        bands=_measure_bands(basis, coefficients, decoded, projected),
        latents=Latents(latents[rows], codec.encode(train_coefficients[train_rows]), rows),
        shown=ShownMeshes(shown.tolist(), test.vertices[shown], codec.decode_vertices(latents[shown])),
        path=_find_path(codec, basis, coefficients, latents, order),
    )


def _measure_errors(
    basis: SpectralBasis,
    by_method: dict[str, np.ndarray],
    vertices: np.ndarray,
    regions: np.ndarray | None,
    progress: Progress,
) -> Errors:
    """Errors of the coefficients of each method against original vertices."""
    parts = np.ones((basis.num_vertices, 1), np.float32)  # the whole mesh, then each region
    if regions is not None:
        parts = np.concatenate([parts, np.eye(regions.max() + 1, dtype=np.float32)[regions]], axis=1)
    parts /= parts.sum(axis=0)
    vertices_on_device, found = jnp.asarray(vertices), {}
    for done, (method, coefficients) in enumerate(by_method.items()):
        progress.update("measuring", done, len(by_method), method.replace("_", " "))
        part_mm = evaluate.part_errors_mm(basis.modes, coefficients, vertices_on_device, parts)
        part_mm = np.asarray(part_mm, np.float64)
        found[method] = MethodErrors(part_mm[:, 0], part_mm[:, 1:].mean(axis=0))
    progress.update("measuring", len(by_method), len(by_method))
    return Errors(**found)


def _check_finite(run: Run, errors: Errors) -> None:
    """Raise ValueError naming the method and the first mesh whose error is not finite."""
    for method, found in errors._asdict().items():
        wrong = np.flatnonzero(~np.isfinite(found.mesh_mm))
        if wrong.size:
            raise ValueError(f"{run.path}: the error of mesh {wrong[0]} ({method.replace('_', ' ')}) is not finite")


def _measure_bands(basis: SpectralBasis, coefficients: np.ndarray, decoded: np.ndarray, projected: np.ndarray) -> Bands:
    """Amplitudes of the meshes, and of what the network and PCA leave of them."""
    ends = spectrum.octave_counts(basis.num_modes)
    left = (coefficients, coefficients - decoded, coefficients - projected)
    return Bands(ends, *(spectrum.measure(basis, ends, x).amplitude_mm for x in left))


def _find_path(
    codec: Codec, basis: SpectralBasis, coefficients: np.ndarray, latents: np.ndarray, order: np.ndarray
) -> LatentPath:
    """The path between the two latents farthest apart, of the better half of the meshes (`order` is best first)."""
    candidates = order[: (len(order) + 1) // 2][:NUM_CANDIDATES]
    squares = np.square(latents[candidates]).sum(axis=1)
    apart = squares[:, None] + squares - 2 * latents[candidates] @ latents[candidates].T
    rows = candidates[list(np.unravel_index(np.argmax(apart), apart.shape))].tolist()
    points = interpolate.straight(*latents[rows], np.linspace(0, 1, PATH_POINTS, dtype=np.float32))
    ends = np.asarray(spectral.reconstruct(basis, coefficients[rows]))
    return LatentPath(rows, ends, codec.decode_vertices(np.asarray(points)))
