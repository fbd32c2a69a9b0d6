"""What a report shows of a run: errors by mesh, region and frequency band, latents, and a path between two meshes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax.basis import spectral, spectrum
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data import coefficients
from spectral_jax.data.coefficients import LazyCoefficients, LazySplit
from spectral_jax.data.dataset import Split
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network import principal
from spectral_jax.network.codec import Codec, decode_batch, encode_batch
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
    latents: Float[np.ndarray, "3 latent"]


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
    train: Split | LazySplit,
    test: Split | LazySplit,
    regions: Int[np.ndarray, "vertex"] | None = None,
    progress: Progress = SILENT,
) -> ReportData:
    """Measure a run on a split that has vertices; `regions` holds the region of each vertex, numbered from 0.

    Lazy splits are read batch by batch. Raises ValueError when the test split has no vertices or an error is not
    finite.
    """
    if test.vertices is None:
        raise ValueError("this split has no original vertices to compare with: report on the test split")
    codec = Codec.of(run)
    basis = codec.require_basis()
    train_coefficients = coefficients.truncate(train.coefficients, basis.num_modes)
    size, tolerance = run.config.model.latent_size, evaluate.BASELINE_TOLERANCE
    fitted = principal.fit(train_coefficients, size, tolerance=tolerance)
    measure = functools.partial(_measure_batch, codec, evaluate.Baselines.of(fitted, basis), _parts(basis, regions))
    batches = evaluate.read_batches(test, basis.num_modes, progress)
    part_mm, latents, energies = [], [], np.zeros((3, basis.num_modes))
    for batch in evaluate.map_padded(measure, batches):
        part_mm.append(batch.part_mm)
        latents.append(batch.latents)
        energies += batch.energies.sum(axis=0, dtype=np.float64)
    errors, latents = _gather(part_mm), np.concatenate(latents)
    _check_finite(run, errors)
    order = np.argsort(errors.network.mesh_mm, kind="stable")
    shown = order[[0, (len(order) - 1) // 2, -1]]
    rows, train_rows = (np.array(evenly_spaced(len(split.coefficients), NUM_LATENTS)) for split in (test, train))
    return ReportData(
        errors=errors,
        bands=_measure_bands(basis, energies / len(order)),
        latents=Latents(latents[rows], codec.encode(train_coefficients[train_rows]), rows),
        shown=ShownMeshes(shown.tolist(), test.vertices[shown], codec.decode_vertices(latents[shown]), latents[shown]),
        path=_find_path(codec, coefficients.truncate(test.coefficients, basis.num_modes), latents, order),
    )


def _parts(basis: SpectralBasis, regions: np.ndarray | None) -> Float[np.ndarray, "vertex part"]:
    """Weights of the vertices in the means of the whole mesh and of each region."""
    parts = np.ones((basis.num_vertices, 1), np.float32)
    if regions is not None:
        parts = np.concatenate([parts, np.eye(regions.max() + 1, dtype=np.float32)[regions]], axis=1)
    return parts / parts.sum(axis=0)


class _Batch(NamedTuple):
    """Measurements of a batch of meshes.

    Attributes:
      part_mm: mean error of each part by each method.
      latents: of the network.
      energies: squares of the coefficients of each mode, and of what the network and PCA leave of them.
    """

    part_mm: Any
    latents: Any
    energies: Any


@jax.jit
@jax.default_matmul_precision("highest")
def _measure_batch(
    codec: Codec,
    baselines: evaluate.Baselines,
    parts: Float[Array | np.ndarray, "vertex part"],
    meshes: Float[Array | np.ndarray, "batch freq 3"],
    vertices: Float[Array | np.ndarray, "batch vertex 3"],
) -> _Batch:
    latents = encode_batch(codec, meshes)
    decoded = decode_batch(codec, latents)
    errors = evaluate.method_errors_mm(codec, baselines, meshes, latents, vertices)
    part_mm = jnp.stack([errors_mm @ parts for errors_mm in errors], axis=1)
    projected = principal.reconstruct(baselines.fitted, principal.project(baselines.fitted, meshes))
    left = (meshes, meshes - decoded, meshes - projected)
    return _Batch(part_mm, latents, jnp.stack([jnp.square(x).sum(axis=-1) for x in left], axis=1))


def _gather(part_mm: list[np.ndarray]) -> Errors:
    """The errors of all batches, each (mesh, method, part)."""
    network, basis_alone, mean_shape, pca = (
        MethodErrors(errors_mm[:, 0], errors_mm[:, 1:].mean(axis=0))
        for errors_mm in np.concatenate(part_mm, dtype=np.float64).swapaxes(0, 1)
    )
    return Errors(network, pca, mean_shape, basis_alone)


def _check_finite(run: Run, errors: Errors) -> None:
    """Raise ValueError naming the method and the first mesh whose error is not finite."""
    for method, found in errors._asdict().items():
        wrong = np.flatnonzero(~np.isfinite(found.mesh_mm))
        if wrong.size:
            raise ValueError(f"{run.path}: the error of mesh {wrong[0]} ({method.replace('_', ' ')}) is not finite")


def _measure_bands(basis: SpectralBasis, energies: Float[np.ndarray, "kind freq"]) -> Bands:
    """Amplitudes by band, from mean energies by mode: of the meshes, and of what the network and PCA leave of them."""
    ends = spectrum.octave_counts(basis.num_modes)
    bands = (spectrum.band_energies(basis, ends, energy) for energy in energies)
    return Bands(ends, *(spectrum.amplitudes_mm(basis, band) for band in bands))


def _find_path(codec: Codec, test: np.ndarray | LazyCoefficients, latents: np.ndarray, order: np.ndarray) -> LatentPath:
    """The path between the two latents farthest apart, of the better half of the meshes (`order` is best first)."""
    candidates = order[: (len(order) + 1) // 2][:NUM_CANDIDATES]
    squares = np.square(latents[candidates]).sum(axis=1)
    apart = squares[:, None] + squares - 2 * latents[candidates] @ latents[candidates].T
    rows = candidates[list(np.unravel_index(np.argmax(apart), apart.shape))]
    points = interpolate.straight(*latents[rows], np.linspace(0, 1, PATH_POINTS, dtype=np.float32))
    ends = np.asarray(spectral.reconstruct(codec.require_basis(), test[rows]))
    return LatentPath(rows.tolist(), ends, codec.decode_vertices(np.asarray(points)))
