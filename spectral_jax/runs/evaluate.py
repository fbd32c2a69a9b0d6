"""Evaluation of a run over a split, beside what the basis, the mean shape and PCA do on the same meshes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data.dataset import Split
from spectral_jax.geometry.metrics import map_batches, summarise, vertex_errors_mm
from spectral_jax.runs.run import Run
from spectral_jax.training.step import VALIDATION_BATCH, validate


@dataclass(frozen=True)
class Summary:
    """Errors over the evaluated meshes, millimetres: the network's statistics, and the means of the three baselines."""

    mean_mm: float
    median_mm: float
    std_mm: float
    min_mm: float
    max_mm: float
    count: int
    truncation_mm: float
    mean_shape_mm: float
    pca_mm: float


def evaluate(run: Run, basis: SpectralBasis, train: Split, split: Split) -> Summary:
    """Evaluate a run on a split that has vertices; `train` gives the mean shape and the principal components.

    Raises ValueError when the split has no meshes or no vertices, or when `basis` is not the run's.
    """
    if split.vertices is None:
        raise ValueError("this split has no original vertices to compare with; evaluate the test split")
    if not len(split.vertices):
        raise ValueError("no meshes to evaluate")
    spectral.check_same(run.basis, basis, (f"the basis of {run.path}", "that of the data"))
    num_modes = run.config.model.modes
    modes = jnp.asarray(run.basis.modes[:, :num_modes])
    coefficients, vertices = jnp.asarray(split.coefficients[:, :num_modes]), jnp.asarray(split.vertices)
    errors_mm, _ = validate(run.model, run.params, modes, coefficients, vertices)

    truncation = summarise(spatial_errors_mm(modes, coefficients, vertices)).mean_mm
    sizes = (0, run.config.model.latent_size)
    baselines = pca_errors_mm(modes, train.coefficients[:, :num_modes], coefficients, vertices, sizes)
    return Summary(*summarise(errors_mm), len(vertices), truncation, *baselines)


def basis_warning(summary: Summary) -> str | None:
    """What is probably wrong, and what to do, when the network is worse than the mean shape; None when it is not.

    A converted checkpoint takes the basis of the data it is given, and nothing in it tells whether that is its own.
    """
    times = summary.mean_mm / summary.mean_shape_mm
    if times <= 1.2:
        return None
    return (
        f"the network's error, {summary.mean_mm:.1f} mm, is {times:.1f} times that of the mean shape. Unless it "
        "was hardly trained, the likely cause is another basis than the one it was trained on: other "
        "signs, or rotations inside repeated eigenvalues. `spectral-jax basis align` brings a basis to that "
        "one (--reference), or recovers it from a dataset of vertices and coefficients (--data)."
    )


@jax.jit
def spatial_errors_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    vertices: Float[Array | np.ndarray, "mesh vertex 3"],
) -> Float[Array, "mesh"]:
    """Mean vertex error per mesh, mm, of coefficients against original vertices (paper section 5.1)."""

    def errors(coefficients, vertices):
        reconstructed = jnp.einsum("vf,bfc->bvc", modes, coefficients, precision="highest")
        return vertex_errors_mm(reconstructed, vertices).mean(axis=-1)

    return map_batches(errors, VALIDATION_BATCH, coefficients, vertices)


def pca_errors_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    train: Float[np.ndarray, "train freq 3"],
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    vertices: Float[Array | np.ndarray, "mesh vertex 3"],
    sizes: Sequence[int],
) -> list[float]:
    """Mean vertex error, mm, of PCA with so many numbers a mesh; with none it is that of the mean shape."""
    mean, components = principal_components(train, max(sizes))
    scores = jnp.einsum("mfc,fcl->ml", coefficients - mean, components, precision="highest")
    errors = []
    for size in sizes:
        principal = jnp.einsum("ml,fcl->mfc", scores[:, :size], components[..., :size], precision="highest") + mean
        errors.append(summarise(spatial_errors_mm(modes, principal, vertices)).mean_mm)
    return errors


def principal_components(
    coefficients: Float[np.ndarray, "mesh freq 3"], count: int
) -> tuple[Float[np.ndarray, "1 freq 3"], Float[np.ndarray, "freq 3 component"]]:
    """Mean and the `count` leading principal directions of coefficients (at most one fewer than there are meshes)."""
    import scipy.sparse.linalg

    shape = coefficients.shape[1:]
    mean = coefficients.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    centred = (coefficients - mean).reshape(len(coefficients), -1)
    count = min(count, len(centred) - 1)
    if count > min(centred.shape) // 2:  # Lanczos needs room beyond what it finds
        directions = np.linalg.svd(centred, full_matrices=False)[2][:count]
    elif count:
        start = np.random.default_rng(0).standard_normal(min(centred.shape)).astype(np.float32)
        svds: Any = scipy.sparse.linalg.svds  # typed as if it took no "vh"
        found = svds(centred, count, v0=start, return_singular_vectors="vh")
        directions = found[2][::-1]
    else:
        directions = np.zeros((0, centred.shape[1]), np.float32)
    return mean, directions.T.reshape(*shape, count)
