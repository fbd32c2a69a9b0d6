"""What a report shows of a trained network: errors by mesh, region and band, latents, a way between two meshes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax.basis import spectral, spectrum
from spectral_jax.data.dataset import Split
from spectral_jax.geometry.metrics import map_batches, vertex_errors_mm
from spectral_jax.network.codec import Codec
from spectral_jax.paths import interpolate
from spectral_jax.runs import evaluate
from spectral_jax.runs.run import Run
from spectral_jax.training.step import VALIDATION_BATCH

METHODS = ("network", "PCA", "mean shape", "basis alone")
STEPS = 25  # meshes on the way from one to another
POINTS = 2000  # latents shown of a split
CANDIDATES = 512  # meshes among which the ends of the way are looked for


class ReportData(NamedTuple):
    """What a run does on a split of meshes that it was not trained on.

    Attributes:
      mesh_mm: mean vertex error of each of METHODS on each mesh.
      region_mm: its mean over meshes in each region, where there are any.
      counts: powers of two up to all modes: where each band of modes ends.
      band_mm: rms amplitude of each band: of the meshes, of what the network and what PCA leave.
      latents, train_latents: of up to POINTS meshes each.
      latent_rows: the meshes of the former.
      shown_rows: the meshes with the least, the median and the largest error of the network.
      shown: those meshes, metres.
      shown_decoded: their reconstructions by the network.
      path_rows: the two meshes that the way is from and to.
      path_ends: those meshes, as the network's modes hold them, metres.
      path: the way between their latents, ends included, metres.
    """

    mesh_mm: Float[np.ndarray, "method mesh"]
    region_mm: Float[np.ndarray, "method region"]
    counts: tuple[int, ...]
    band_mm: Float[np.ndarray, "3 band"]
    latents: Float[np.ndarray, "point latent"]
    train_latents: Float[np.ndarray, "other latent"]
    latent_rows: Int[np.ndarray, "point"]
    shown_rows: list[int]
    shown: Float[np.ndarray, "3 vertex 3"]
    shown_decoded: Float[np.ndarray, "3 vertex 3"]
    path_rows: list[int]
    path_ends: Float[np.ndarray, "2 vertex 3"]
    path: Float[np.ndarray, "step vertex 3"]


def measure(
    run: Run,
    train: Split,
    test: Split,
    regions: Int[np.ndarray, "vertex"] | None = None,
    track: Callable[[Iterable, str], Iterable] = lambda items, task: items,
) -> ReportData:
    """Measure a run on a split that has vertices; `regions` are numbered from 0, `track` wraps the slow loop.

    Raises ValueError when the split has no vertices or an error is not finite.
    """
    if test.vertices is None:
        raise ValueError("this split has no original vertices to compare with; report on the test split")
    basis, codec = spectral.truncate(run.basis, run.config.model.modes), Codec.of(run)
    coefficients, vertices = test.coefficients[:, : basis.num_modes], jnp.asarray(test.vertices)
    train_coefficients = train.coefficients[:, : basis.num_modes]
    latents = codec.encode(coefficients)
    decoded = codec.decode(latents)
    mean, principal = _pca(train_coefficients, coefficients, run.config.model.latent_size)
    parts = np.ones((basis.num_vertices, 1), np.float32)
    if regions is not None:
        parts = np.concatenate([parts, np.eye(regions.max() + 1, dtype=np.float32)[regions]], axis=1)
    parts /= parts.sum(axis=0)
    methods = zip(METHODS, (decoded, principal, mean, coefficients), strict=True)
    errors_mm = np.stack(
        [part_errors_mm(basis.modes, found, vertices, parts) for _, found in track([*methods], "measuring")]
    ).astype(np.float64)
    mesh_mm, region_mm = errors_mm[..., 0], errors_mm[..., 1:].mean(axis=1)
    if not np.isfinite(mesh_mm).all():
        method, row = np.argwhere(~np.isfinite(mesh_mm))[0]
        raise ValueError(f"{run.path}: the error of mesh {row} ({METHODS[method]}) is not finite")

    counts = spectrum.octave_counts(basis.num_modes)
    left = (coefficients, coefficients - decoded, coefficients - principal)
    band_mm = np.stack([spectrum.measure(basis, counts, x).amplitude_mm for x in left])

    order = np.argsort(mesh_mm[0], kind="stable")
    shown_rows = order[[0, (len(order) - 1) // 2, -1]]
    path_rows = _farthest(latents, order[: (len(order) + 1) // 2][:CANDIDATES])
    amounts = np.linspace(0, 1, STEPS, dtype=np.float32)
    way = np.asarray(interpolate.straight(*latents[path_rows], amounts))
    meshes = codec.decode_vertices(np.concatenate([latents[shown_rows], way]))
    rows, train_rows = (_spread(len(split.coefficients)) for split in (test, train))
    return ReportData(
        mesh_mm,
        region_mm,
        counts,
        band_mm,
        latents[rows],
        codec.encode(train_coefficients[train_rows]),
        rows,
        shown_rows.tolist(),
        test.vertices[shown_rows],
        meshes[:3],
        path_rows,
        np.asarray(spectral.reconstruct(basis, coefficients[path_rows])),
        meshes[3:],
    )


@jax.jit
def part_errors_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    vertices: Float[Array | np.ndarray, "mesh vertex 3"],
    parts: Float[Array | np.ndarray, "vertex part"],
) -> Float[Array, "mesh part"]:
    """Mean vertex error of each part per mesh, mm, of coefficients against original vertices; parts are weights."""

    def errors(coefficients, vertices):
        reconstructed = jnp.einsum("vf,bfc->bvc", modes, coefficients, precision="highest")
        return jnp.einsum("bv,vp->bp", vertex_errors_mm(reconstructed, vertices), parts, precision="highest")

    return map_batches(errors, VALIDATION_BATCH, coefficients, vertices)


def _pca(train: np.ndarray, coefficients: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of `train` and what that many of its principal components make of coefficients, all (mesh, freq, 3)."""
    mean, components = evaluate.principal_components(train, size)
    scores = np.einsum("mfc,fcl->ml", coefficients - mean, components, optimize=True)
    principal = np.einsum("ml,fcl->mfc", scores, components, optimize=True) + mean
    return np.broadcast_to(mean, coefficients.shape), principal


def _spread(count: int) -> np.ndarray:
    """Up to POINTS rows spread evenly over so many."""
    return np.unique(np.linspace(0, count - 1, POINTS).astype(int))


def _farthest(latents: np.ndarray, rows: np.ndarray) -> list[int]:
    """The two of the rows whose latents are farthest apart."""
    squares = np.square(latents[rows]).sum(axis=1)
    apart = squares[:, None] + squares - 2 * latents[rows] @ latents[rows].T
    return rows[list(np.unravel_index(np.argmax(apart), apart.shape))].tolist()
