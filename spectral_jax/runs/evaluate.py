"""Evaluate a run on a split: errors of the network, and of the basis, the mean shape and PCA on the same meshes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data import dataset
from spectral_jax.data.dataset import Data, Split
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.metrics import map_batches, summarise, vertex_errors_mm
from spectral_jax.network import principal
from spectral_jax.runs.opened import open_run
from spectral_jax.runs.run import Run
from spectral_jax.training.step import VALIDATION_BATCH, validate

SUSPICIOUS = 1.2  # times the error of the mean shape; a network that was trained at all is below it


@dataclass(frozen=True)
class Summary:
    """Errors over the evaluated meshes, millimetres: statistics of the network, and the means of three baselines."""

    mean_mm: float
    median_mm: float
    std_mm: float
    min_mm: float
    max_mm: float
    count: int
    """Number of meshes."""
    truncation_mm: float
    """Error of the basis alone: of the modes that the network does not use."""
    mean_shape_mm: float
    """Error of the mean of the train split."""
    pca_mm: float
    """Error of PCA with as many components as the network has latents."""


def evaluate(
    run: Run | str | Path, data: Data | str | Path | None = None, split: str = "test", progress: Progress = SILENT
) -> Summary:
    """Evaluate a run, or its folder, on a split of a dataset (default: the one it was trained on).

    Raises ValueError as `spectral_jax.runs.opened.open_run` and `evaluate_split` do, and when there is no such split.
    """
    opened = open_run(run, data, progress=progress)
    opened.data.records(split)  # before the train split is read
    train = dataset.read_split(opened.data, "train", opened.num_modes, progress=progress)
    evaluated = (
        train if split == "train" else dataset.read_split(opened.data, split, opened.num_modes, progress=progress)
    )
    return evaluate_split(opened.run, opened.data.basis, train, evaluated)


def evaluate_split(run: Run, basis: SpectralBasis, train: Split, split: Split) -> Summary:
    """Evaluate a run on a split that has vertices; `train` gives the mean shape and the principal components.

    Raises ValueError when the split has no meshes or no vertices, or when `basis` is not the run's.
    """
    if split.vertices is None:
        raise ValueError("this split has no original vertices to compare with: evaluate the test split")
    if not len(split.vertices):
        raise ValueError("the split has no meshes (0)")
    spectral.check_same(run.require_basis(), basis, (f"the basis of {run.path}", "that of the data"))
    num_modes = run.config.model.modes
    modes = jnp.asarray(run.require_basis().modes[:, :num_modes])
    coefficients, vertices = jnp.asarray(split.coefficients[:, :num_modes]), jnp.asarray(split.vertices)
    errors_mm, _ = validate(run.model, run.params, modes, coefficients, vertices, run.constants)

    truncation_mm = summarise(spatial_errors_mm(modes, coefficients, vertices)).mean_mm
    sizes = (0, run.config.model.latent_size)
    mean_shape_mm, pca_mm = pca_errors_mm(modes, train.coefficients[:, :num_modes], coefficients, vertices, sizes)
    return Summary(
        **summarise(errors_mm)._asdict(),
        count=len(vertices),
        truncation_mm=truncation_mm,
        mean_shape_mm=mean_shape_mm,
        pca_mm=pca_mm,
    )


def basis_warning(summary: Summary) -> str | None:
    """The likely cause and the remedy when the network is worse than the mean shape; None when it is not.

    A converted checkpoint takes the basis of the data it is given, and nothing in it tells whether that is its own.
    """
    times = summary.mean_mm / summary.mean_shape_mm
    if times <= SUSPICIOUS:
        return None
    return (
        f"the network's error, {summary.mean_mm:.1f} mm, is {times:.1f} times that of the mean shape. Unless the "
        "network is hardly trained, the basis is probably not the one it was trained on: signs, or rotations within "
        "repeated eigenvalues, differ. `spectral-jax basis align` turns a basis into the original one, given that "
        "basis (--reference) or a dataset of vertices and coefficients (--data)."
    )


@jax.jit
def part_errors_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    vertices: Float[Array | np.ndarray, "mesh vertex 3"],
    parts: Float[Array | np.ndarray, "vertex part"],
) -> Float[Array, "mesh part"]:
    """Mean vertex error of each part of each mesh, mm, of coefficients against original vertices.

    A column of `parts` holds the weights of one part's mean: they sum to 1.
    """

    def errors(coefficients, vertices):
        reconstructed = jnp.einsum("vf,bfc->bvc", modes, coefficients, precision="highest")
        return jnp.einsum("bv,vp->bp", vertex_errors_mm(reconstructed, vertices), parts, precision="highest")

    return map_batches(errors, VALIDATION_BATCH, coefficients, vertices)


def spatial_errors_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    vertices: Float[Array | np.ndarray, "mesh vertex 3"],
) -> Float[Array, "mesh"]:
    """Mean vertex error of each mesh, mm, of coefficients against original vertices (paper section 5.1)."""
    whole = np.full((len(modes), 1), 1 / len(modes), np.float32)
    return part_errors_mm(modes, coefficients, vertices, whole)[:, 0]


def pca_errors_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    train: Float[np.ndarray, "train freq 3"],
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    vertices: Float[Array | np.ndarray, "mesh vertex 3"],
    sizes: Sequence[int],
) -> list[float]:
    """Mean vertex error, mm, of PCA with each of these numbers of components; 0 components are the mean shape."""
    fitted = principal.fit(train, max(sizes))
    scores = principal.project(fitted, coefficients)
    found = (principal.reconstruct(fitted, scores[:, :size]) for size in sizes)
    return [summarise(spatial_errors_mm(modes, reconstructed, vertices)).mean_mm for reconstructed in found]
