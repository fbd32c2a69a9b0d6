"""Evaluate a run on a split: errors of the network, and of the basis, the mean shape and PCA on the same meshes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data.coefficients import LazyCoefficients, LazySplit
from spectral_jax.data.dataset import Data, Split
from spectral_jax.data.open import open_data
from spectral_jax.data.recipes import DEMO_DATA
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.geometry.metrics import map_batches, summarise, vertex_errors_mm
from spectral_jax.network import principal
from spectral_jax.network.codec import Codec, decode_batch, decode_vertices_batch, encode_batch
from spectral_jax.network.config import TITLES
from spectral_jax.network.principal import Principal
from spectral_jax.runs.opened import OpenedRun, open_run
from spectral_jax.runs.run import Run
from spectral_jax.training.step import VALIDATION_BATCH

NO_VERTICES = "this split has no original vertices to compare with: evaluate the test split"
BASELINES = ("truncation_mm", "mean_shape_mm", "pca_mm")  # fields of Summary, in the order of their errors
BASELINE_TOLERANCE = 1e-5  # of captured variance, on splits that are not held: under 0.1 % of the error of PCA
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
    mean_shape_mm: float | None = None
    """Error of the mean of the train split; None where there is no train split."""
    pca_mm: float | None = None
    """Error of PCA with as many components as the network has latents; None where there is no train split."""


def evaluate(
    run: Run | str | Path,
    data: Data | str | Path | None = None,
    split: str = "test",
    progress: Progress = SILENT,
    baselines: Data | None = None,
) -> Summary:
    """Evaluate a run, or its folder, on a split of a dataset (default: the one it was trained on).

    Meshes are read batch by batch. `baselines` is the dataset whose train split gives mean shape and principal
    components (default: what `find_baselines` finds). Raises ValueError as `spectral_jax.runs.opened.open_run` and
    `evaluate_split` do, and when there is no such split.
    """
    opened = open_run(run, data, progress=progress)
    meshes = LazySplit(opened.data, split, opened.num_modes)
    if meshes.vertices is None:  # before the train split is read
        raise ValueError(NO_VERTICES)
    baselines = baselines or find_baselines(opened)
    fitted = None
    if baselines:
        train = LazyCoefficients(baselines, "train", opened.num_modes, progress)
        fitted = principal.fit(train, opened.run.config.model.latent_size, tolerance=BASELINE_TOLERANCE)
    return _summarise(opened.codec, fitted, read_batches(meshes, opened.num_modes, progress))


def evaluate_split(run: Run, basis: SpectralBasis, train: Split | None, split: Split) -> Summary:
    """Evaluate a run on a split that has vertices; `train` gives the mean shape and the principal components.

    Raises ValueError when the split has no meshes or no vertices, or when `basis` is not the run's.
    """
    if split.vertices is None:
        raise ValueError(NO_VERTICES)
    if not len(split.vertices):
        raise ValueError("the split has no meshes (0)")
    spectral.check_same(run.require_basis(), basis, (f"the basis of {run.path}", "that of the data"))
    model = run.config.model
    fitted = None if train is None else principal.fit(train.coefficients[:, : model.modes], model.latent_size)
    return _summarise(Codec.of(run), fitted, read_batches(split, model.modes))


def read_batches(
    split: Split | LazySplit, num_modes: int, progress: Progress = SILENT
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Coefficients and vertices of the meshes of a split that has vertices, batch by batch."""
    assert split.vertices is not None
    for start in track(range(0, len(split.coefficients), VALIDATION_BATCH), progress, "measuring"):
        rows = slice(start, start + VALIDATION_BATCH)
        if isinstance(split, LazySplit):
            yield split.read(rows)
        else:
            yield split.coefficients[rows][:, :num_modes], split.vertices[rows]


def find_baselines(opened: OpenedRun) -> Data | None:
    """The dataset whose train split gives mean shape and principal components: the run's own if it is there.

    Else the one that the run was opened with; None if that has no train split.
    """
    own = opened.run.config.data
    path = Path(DEMO_DATA if own == "demo" else own or ".").resolve()
    if own and path != opened.data.path.resolve() and path.is_dir():
        try:
            found = open_data(path)
            if "train" in found.splits and found.basis.num_modes >= opened.num_modes:
                spectral.check_same(opened.basis, found.basis, (str(opened.run.path), str(path)))
                return found
        except ValueError:  # no longer the data that the run was trained on
            pass
    return opened.data if "train" in opened.data.splits else None


class Baselines(NamedTuple):
    """Principal components that a network is compared with; the mean is that of the train split.

    Attributes:
      fitted: the components in coefficients.
      displacements: the same in vertices, metres.
    """

    fitted: Principal
    displacements: Principal

    @classmethod
    def of(cls, fitted: Principal, basis: SpectralBasis) -> Baselines:
        """Both, on the device."""
        return cls(jax.device_put(fitted), principal.in_vertices(fitted, basis))


def _summarise(codec: Codec, fitted: Principal | None, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Summary:
    """The summary of a network, and of the basis, the mean shape and PCA, on batches of coefficients and vertices."""
    baselines = None if fitted is None else Baselines.of(fitted, codec.require_basis())
    found = [errors_mm.T for errors_mm in map_padded(functools.partial(_batch_errors_mm, codec, baselines), batches)]
    network, *others = np.concatenate(found, axis=1)
    means = [summarise(errors_mm).mean_mm for errors_mm in others]
    return Summary(**summarise(network)._asdict(), count=len(network), **dict(zip(BASELINES, means, strict=False)))


def map_padded(
    function: Callable[[np.ndarray, np.ndarray], Any], batches: Iterable[tuple[np.ndarray, np.ndarray]]
) -> Iterator[Any]:
    """Map a compiled function over batches of coefficients and vertices; yields its results, on the host.

    Each array that it returns has a leading axis of meshes. One batch is computed while the next is read.
    """
    under_way, size = None, 1

    def fetched(result: Any, count: int) -> Any:
        return jax.tree.map(lambda array: np.asarray(array)[:count], result)

    for coefficients, vertices in batches:
        count = len(coefficients)
        size = max(size, 1 << (count - 1).bit_length())  # pad a smaller last batch rather than compile for it
        if count < size:
            padding = [(0, size - count), (0, 0), (0, 0)]
            coefficients, vertices = np.pad(coefficients, padding), np.pad(vertices, padding)
        result = function(coefficients, vertices)
        if under_way:
            yield fetched(*under_way)
        under_way = result, count
    if under_way:
        yield fetched(*under_way)


@jax.jit
@jax.default_matmul_precision("highest")
def _batch_errors_mm(
    codec: Codec,
    baselines: Baselines | None,
    coefficients: Float[Array | np.ndarray, "batch freq 3"],
    vertices: Float[Array | np.ndarray, "batch vertex 3"],
) -> Float[Array, "batch method"]:
    """Mean vertex error of each mesh by each method of `method_errors_mm`."""
    errors = method_errors_mm(codec, baselines, coefficients, encode_batch(codec, coefficients), vertices)
    return jnp.stack([errors_mm.mean(axis=1) for errors_mm in errors], axis=1)


def method_errors_mm(
    codec: Codec,
    baselines: Baselines | None,
    coefficients: Float[Array | np.ndarray, "batch freq 3"],
    latents: Float[Array, "batch latent"],
    vertices: Float[Array | np.ndarray, "batch vertex 3"],
) -> list[Float[Array, "batch vertex"]]:
    """Vertex errors by the network, the basis alone and, given baselines, by the mean shape and PCA."""
    if codec.displacements is None:  # one product for both
        decoded = jnp.stack([decode_batch(codec, latents), coefficients])
        found = list(spectral.reconstruct(codec.require_basis(), decoded))
    else:
        found = [decode_vertices_batch(codec, latents), spectral.reconstruct(codec.require_basis(), coefficients)]
    if baselines is not None:
        scores = principal.project(baselines.fitted, coefficients)
        found += [principal.reconstruct(baselines.displacements, x) for x in (scores[:, :0], scores)]
    return [vertex_errors_mm(x, vertices) for x in found]


def titles(runs: Sequence[Run]) -> list[str]:
    """What to call each of several runs in a table; folder and epoch tell runs of equal options apart."""
    models = [run.config.model for run in runs]
    return [
        f"{TITLES[model.network]}, latent {model.latent_size}"
        + (f"\n{run.path}, epoch {run.epoch}" if models.count(model) > 1 else "")
        for run, model in zip(runs, models, strict=True)
    ]


def selection_note(run: Run) -> str | None:
    """On which meshes the checkpoint was chosen; None for the newest one, which nothing chose."""
    if run.checkpoint != "best":
        return None
    held = run.config.train.holdout
    chosen_on = f"{held} identities held out of the train split" if held else "the test split"
    return f"{run.path} is its best checkpoint, chosen by its error on {chosen_on}"


def basis_warning(summary: Summary) -> str | None:
    """The likely cause and the remedy when the network is worse than the mean shape; None when it is not.

    A converted checkpoint takes the basis of the data it is given, and nothing in it tells whether that is its own.
    """
    if summary.mean_shape_mm is None or summary.mean_mm <= SUSPICIOUS * summary.mean_shape_mm:
        return None
    times = summary.mean_mm / summary.mean_shape_mm
    return (
        f"the network's error, {summary.mean_mm:.1f} mm, is {times:.1f} times that of the mean shape. Unless the "
        "network is hardly trained, the basis is probably not the one it was trained on: signs, or rotations within "
        "repeated eigenvalues, differ. `spectral-jax basis align` turns a basis into the original one, given that "
        "basis (--reference), a dataset of vertices and coefficients (--data), or the network alone (--run)."
    )


@jax.jit
def spatial_errors_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    vertices: Float[Array | np.ndarray, "mesh vertex 3"],
) -> Float[Array, "mesh"]:
    """Mean vertex error of each mesh, mm, of coefficients against original vertices (paper section 5.1)."""

    def errors(coefficients, vertices):
        reconstructed = jnp.einsum("vf,bfc->bvc", modes, coefficients, precision="highest")
        return vertex_errors_mm(reconstructed, vertices).mean(axis=1)

    return map_batches(errors, VALIDATION_BATCH, coefficients, vertices)


def baseline_errors_mm(
    basis: SpectralBasis, fitted: Principal, batches: Iterable[tuple[np.ndarray, np.ndarray]], sizes: Sequence[int]
) -> list[float]:
    """Mean vertex errors, mm, of the basis alone, and of PCA with each number of components; none: the mean shape."""
    baselines = Baselines.of(fitted, basis)
    function = functools.partial(_baseline_errors_mm, jax.device_put(basis), baselines, tuple(sizes))
    return [summarise(errors_mm).mean_mm for errors_mm in np.concatenate(list(map_padded(function, batches))).T]


@functools.partial(jax.jit, static_argnames="sizes")
@jax.default_matmul_precision("highest")
def _baseline_errors_mm(
    basis: SpectralBasis,
    baselines: Baselines,
    sizes: tuple[int, ...],
    coefficients: Float[Array | np.ndarray, "batch freq 3"],
    vertices: Float[Array | np.ndarray, "batch vertex 3"],
) -> Float[Array, "batch method"]:
    scores = principal.project(baselines.fitted, coefficients)
    found = [principal.reconstruct(baselines.displacements, scores[:, :size]) for size in sizes]
    methods = [spectral.reconstruct(basis, coefficients), *found]
    return jnp.stack([vertex_errors_mm(x, vertices).mean(axis=1) for x in methods], axis=1)
