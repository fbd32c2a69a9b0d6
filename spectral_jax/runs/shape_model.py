"""Measures of a statistical shape model: compactness, generalisation and specificity (Styner et al. 2003).

A network and PCA are measured alike, on the modes of the network. Compactness is the share of the variance of the
train split that the model keeps, generalisation its error on meshes of identities it has not seen, and specificity the
distance of its random meshes to the nearest of the train split. Smaller is better for the last two; a model that
generates one train mesh only has a specificity of 0, so the three belong together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax.data import dataset
from spectral_jax.data.coefficients import LazySplit, truncate
from spectral_jax.data.dataset import Split
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.geometry.metrics import summarise, vertex_errors_mm
from spectral_jax.network import codec as codecs
from spectral_jax.network import density, principal
from spectral_jax.network.codec import Codec
from spectral_jax.network.principal import Principal, Rows
from spectral_jax.runs.evaluate import spatial_errors_mm
from spectral_jax.runs.opened import OpenedRun

SIZES = (1, 2, 4, 8, 16, 32, 64)  # numbers of components of the curves of PCA
NUM_SAMPLES = 1000
NUM_CANDIDATES = 16  # train meshes nearest in coefficients, whose mean vertex distances are compared
BLOCK = 1024  # train meshes compared at once
PAIRS = 256  # pairs of meshes whose vertices are compared at once
HELD_BYTES = 1 << 28  # of vertices of random meshes, at most, that are compared with the train meshes near to them


@dataclass(frozen=True)
class Measures:
    """Measures of one model: the share of variance it keeps, and mean vertex distances in mm."""

    compactness: float
    generalisation_mm: float
    specificity_mm: float
    """Of random meshes from one Gaussian of the latents."""
    mixture_specificity_mm: float
    """Of random meshes from a mixture of Gaussians."""


@dataclass(frozen=True)
class ShapeModels:
    """Measures of a network and of PCA of equal size, and two curves of PCA against its number of components."""

    network: Measures
    pca: Measures
    sizes: list[int]
    """Numbers of components of the curves."""
    pca_compactness: list[float]
    pca_generalisation_mm: list[float]
    latent_size: int
    """Of the network."""


def measure(
    codec: Codec,
    train: Split | LazySplit,
    test: Split,
    sizes: Sequence[int] = SIZES,
    count: int = NUM_SAMPLES,
    progress: Progress = SILENT,
) -> ShapeModels:
    """Measure a network, and PCA of the same train split; the random meshes are `count` of each density.

    The test meshes of identities of the train split are left out, and so are sizes that PCA cannot have. A lazy train
    split is read block by block, several times. Raises ValueError when no test mesh is left, when the test split has no
    vertices, and for under 2 train meshes.
    """
    basis, size = codec.require_basis(), codec.model.config.latent_size
    modes, coefficients = jnp.asarray(basis.modes), truncate(train.coefficients, basis.num_modes)
    unseen, vertices = _unseen(train, test)
    unseen, vertices = jnp.asarray(unseen[:, : basis.num_modes]), jnp.asarray(vertices)
    total = total_variance(coefficients)
    fitted = principal.fit(coefficients, max(*sizes, size))
    most = len(fitted.deviations)
    size, curve = min(size, most), [count for count in sorted({*sizes, size}) if count <= most]
    shares = pca_compactness(fitted, total)
    errors_mm = pca_generalisation_mm(modes, fitted, unseen, vertices, curve)

    def specificities(latents: np.ndarray, decode: Callable) -> Iterator[float]:
        for fit in (density.fit_gaussian, density.fit_mixture):
            drawn = density.sample(jax.random.key(0), fit(latents), count)
            yield specificity_mm(modes, decode(drawn), coefficients, progress=progress)

    latents = codec.encode(coefficients)
    network = Measures(
        compactness(coefficients, codec.stream(codecs.decode_batch, latents)),
        summarise(spatial_errors_mm(modes, codec.decode(codec.encode(unseen)), vertices)).mean_mm,
        *specificities(latents, codec.decode),
    )
    starts = range(0, len(coefficients), BLOCK)
    scores = [np.asarray(principal.project(fitted, coefficients[start : start + BLOCK])) for start in starts]
    pca = Measures(
        shares[size - 1],
        errors_mm[curve.index(size)],
        *specificities(np.concatenate(scores)[:, :size], functools.partial(principal.reconstruct, fitted)),
    )
    curves = [shares[count - 1] for count in curve], errors_mm
    return ShapeModels(network, pca, curve, *curves, codec.model.config.latent_size)


def measure_run(opened: OpenedRun, split: str = "test", progress: Progress = SILENT) -> ShapeModels:
    """Measure an opened run on a split. Raises ValueError as `measure` does, and when there is no such split."""
    opened.data.records(split)  # before the train split is read
    train = LazySplit(opened.data, "train", opened.num_modes, progress)
    test = dataset.read_split(opened.data, split, opened.num_modes, progress=progress)
    return measure(opened.codec, train, test, progress=progress)


def _unseen(train: Split | LazySplit, test: Split) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and vertices of the test meshes whose identities the train split does not have."""
    if test.vertices is None:
        raise ValueError("this split has no original vertices to compare with: measure on the test split")
    known = set(train.identities)
    rows = [row for row, identity in enumerate(test.identities) if identity not in known]
    if not rows:
        raise ValueError(
            f"generalisation needs meshes of identities that the train split does not have: all {len(test.identities)} "
            f"meshes of this split are of its {len(known)}"
        )
    if len(rows) == len(test.identities):
        return test.coefficients, test.vertices
    return test.coefficients[rows], test.vertices[rows]


def total_variance(rows: Rows) -> float:
    """Sum of the variances of all numbers of rows (over n - 1). Raises ValueError for under 2 rows."""
    if len(rows) < 2:
        raise ValueError(f"a variance needs at least 2 meshes, not {len(rows)}")
    blocks = [slice(start, start + BLOCK) for start in range(0, len(rows), BLOCK)]
    total = np.zeros(rows.shape[1:])
    for block in blocks:
        total += rows[block].sum(axis=0, dtype=np.float64)
    mean = (total / len(rows)).astype(np.float32)
    squares = sum(float(np.square(rows[block] - mean[None]).sum(dtype=np.float64)) for block in blocks)
    return squares / (len(rows) - 1)


def pca_compactness(fitted: Principal, total: float) -> list[float]:
    """Share of the total variance that 1, 2, ... components explain; 1 when there is none to explain."""
    variances = np.square(fitted.deviations.astype(np.float64))
    return [1.0] * len(variances) if total == 0 else (variances.cumsum() / total).tolist()


def compactness(rows: Rows, reconstructed: Iterable[np.ndarray]) -> float:
    """Share of the variance of rows that is left in their reconstructions, which come in batches in their order.

    It is 1 minus the squared errors over the squared distances to the mean: negative when the mean is better. Raises
    ValueError for under 2 rows, and unless there are as many reconstructions.
    """
    total, squares, done = total_variance(rows) * (len(rows) - 1), 0.0, 0
    for batch in reconstructed:
        original = rows[done : done + len(batch)]
        done += len(batch)
        if len(original) == len(batch):
            squares += float(np.square(batch - original).sum(dtype=np.float64))
    if done != len(rows):
        raise ValueError(f"{done} reconstructions of {len(rows)} meshes")
    return 1.0 - squares / total if total else float(squares == 0)


def pca_generalisation_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    fitted: Principal,
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    vertices: Float[Array | np.ndarray, "mesh vertex 3"],
    sizes: Sequence[int],
) -> list[float]:
    """Mean vertex error, mm, of PCA with each of these numbers of components on meshes that it was not fitted to."""
    scores = principal.project(fitted, coefficients)
    found = (principal.reconstruct(fitted, scores[:, :size]) for size in sizes)
    return [summarise(spatial_errors_mm(modes, x, vertices)).mean_mm for x in found]


def specificity_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    samples: Float[Array | np.ndarray, "sample freq 3"],
    train: Rows,
    candidates: int = NUM_CANDIDATES,
    progress: Progress = SILENT,
) -> float:
    """Mean over random meshes of the mean vertex distance, mm, to the nearest train mesh, as the modes give it.

    Among all train meshes the `candidates` nearest in coefficients are found: their distances are those of vertices in
    the root mean square, if the basis is orthonormal. Of these the smallest mean distance counts. It is exact for as
    many candidates as train meshes, and otherwise at least the exact value: a mesh that is near in the mean and not
    among the nearest in the root mean square is missed. Memory does not grow with the train split, which is read
    once in blocks. Raises ValueError without samples, train meshes or candidates.
    """
    if not (len(samples) and len(train) and candidates > 0):
        raise ValueError(
            "specificity needs random meshes, train meshes and candidates, not "
            f"{len(samples)}, {len(train)} and {candidates}"
        )
    modes, samples = jnp.asarray(modes), jnp.asarray(samples)
    rows = _nearest(samples, train, min(candidates, len(train)), progress)
    apart_mm, held = np.empty(rows.shape, np.float32), max(1, HELD_BYTES // (12 * len(modes)))
    for start in range(0, len(rows), held):
        part = slice(start, start + held)
        apart_mm[part] = _distances_mm(modes, samples[part], train, rows[part], progress)
    return float(apart_mm.min(axis=1).mean(dtype=np.float64))


def _nearest(samples: Array, train: Rows, count: int, progress: Progress) -> Int[np.ndarray, "sample candidate"]:
    """Indices of the `count` train meshes nearest to each sample in coefficients."""
    centre = samples.mean(axis=0)  # squares of distances to it cancel fewer digits than those to the origin
    nearest, rows = np.full((len(samples), 0), np.inf, np.float32), np.zeros((len(samples), 0), np.int64)
    for start in track(range(0, len(train), BLOCK), progress, "comparing meshes"):
        block = train[start : start + BLOCK]
        squares = np.asarray(_squared_distances(samples, jnp.asarray(block), centre))
        squares = np.concatenate([nearest, squares], axis=1)
        found = np.broadcast_to(np.arange(start, start + len(block)), (len(samples), len(block)))
        found = np.concatenate([rows, found], axis=1)
        best = np.argsort(squares, axis=1, kind="stable")[:, :count]
        nearest, rows = np.take_along_axis(squares, best, axis=1), np.take_along_axis(found, best, axis=1)
    return rows


@jax.jit
def _squared_distances(samples: Array, block: Array, centre: Array) -> Array:
    """Squared distances (sample, row) of coefficients."""
    a, b = ((x - centre[None]).reshape(len(x), -1) for x in (samples, block))
    product = jnp.einsum("sv,rv->sr", a, b, precision="highest")
    return jnp.square(a).sum(axis=1)[:, None] + jnp.square(b).sum(axis=1)[None] - 2 * product


def _distances_mm(
    modes: Array, samples: Array, train: Rows, rows: Int[np.ndarray, "sample candidate"], progress: Progress
) -> Float[np.ndarray, "sample candidate"]:
    """Mean vertex distance of each sample to its candidates. Pairs come sorted by train mesh."""
    vertices, apart = _vertices(modes, samples), np.empty(rows.size, np.float32)
    order = np.argsort(rows, axis=None, kind="stable")
    for start in track(range(0, rows.size, PAIRS), progress, "comparing vertices"):
        pairs = np.resize(order[start : start + PAIRS], PAIRS)  # the last block repeats some: one compilation
        meshes, places = np.unique(rows.flat[pairs], return_inverse=True)
        more = (1 << (len(meshes) - 1).bit_length()) - len(meshes)  # to a power of two, for few compilations
        near = _vertices(modes, jnp.asarray(train[np.pad(meshes, (0, more), mode="edge")]))
        apart[pairs] = _pair_distances_mm(vertices, near, pairs // rows.shape[1], places)
    return apart.reshape(rows.shape)


@jax.jit
def _vertices(modes: Array, coefficients: Array) -> Array:
    """Vertices (mesh, vertex, 3)."""
    return jnp.einsum("vf,mfc->mvc", modes, coefficients, precision="highest")


@jax.jit
def _pair_distances_mm(first: Array, second: Array, owners: Array, others: Array) -> Array:
    """Mean vertex distance (pair) of rows of two arrays of vertices."""
    return vertex_errors_mm(first[owners], second[others]).mean(axis=1)
