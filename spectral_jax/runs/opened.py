"""A trained run opened with its dataset: where evaluations, reports, viewers and experiments begin."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.basis import spectral
from spectral_jax.data import open as opening
from spectral_jax.data.dataset import Data, Example
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.geometry import mesh
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network.codec import Codec
from spectral_jax.runs import run as runs
from spectral_jax.runs.run import Run

MOST_ENCODED = 4096  # meshes whose latents tell enough of a split
NUM_REFERENCES = 256  # meshes of a split that the meshes of a path are compared with


@dataclass(frozen=True)
class OpenedRun:
    """A trained run and a dataset of the same basis."""

    run: Run
    data: Data

    @functools.cached_property
    def codec(self) -> Codec:
        """The compiled network."""
        return Codec.of(self.run)

    @property
    def basis(self) -> SpectralBasis:
        """The basis of the run."""
        return self.run.require_basis()

    @property
    def num_modes(self) -> int:
        """Modes that the network uses."""
        return self.run.config.model.modes


def open_run(
    run: Run | str | Path,
    data: Data | str | Path | None = None,
    which: Literal["last", "best"] | None = None,
    progress: Progress = SILENT,
) -> OpenedRun:
    """Open a run, or its folder, with a dataset, or whatever `open_data` takes (default: the one it was trained on).

    Raises ValueError when either cannot be read, when the run names no dataset, or when the two differ in connectivity
    or modes.
    """
    loaded = run if isinstance(run, Run) else runs.load_run(run, which)
    basis = loaded.require_basis()
    opened = data if isinstance(data, Data) else opening.open_data(data or _trained_on(loaded), progress)
    spectral.check_same(basis, opened.basis, (f"the basis of {loaded.path}", f"that of {opened.path}"))
    return OpenedRun(loaded, opened)


def _trained_on(run: Run) -> str:
    """The dataset that a run was trained on, as its config.json names it. Raises ValueError when it names none."""
    if not run.config.data:
        raise ValueError(f"{run.path}: its config.json names no dataset; name one (--data DATA)")
    return run.config.data


def example(data: Data, split: str, index: int) -> Example:
    """One mesh of a split. Raises ValueError when there is no such split or index."""
    examples = data.records(split)
    if not 0 <= index < len(examples):
        raise ValueError(f"{data.path}: no mesh {index} in split {split} (available: 0 to {len(examples) - 1})")
    return examples[index]


def read_coefficients(
    opened: OpenedRun, source: str, split: str, max_bytes: int = mesh.MOST_BYTES
) -> Float[np.ndarray, "freq 3"]:
    """Coefficients of a mesh: an index of the split, or a mesh file (metres) of the run's connectivity.

    A file may have `max_bytes`. Raises ValueError when there is no such index, or when the file cannot be read or has
    another connectivity.
    """
    if source.isdecimal():
        return example(opened.data, split, int(source)).coefficients[: opened.num_modes]
    loaded, basis = mesh.read_mesh(source, max_bytes), opened.basis
    whole, faces = spectral.with_unused(basis, np.zeros((basis.num_vertices, 3), np.float32))
    found, expected = (mesh.connectivity(f, len(v)) for v, f in (loaded, (whole, faces)))
    mesh.check_connectivity(found, expected, (source, str(opened.run.path)))
    return np.asarray(spectral.project(basis, spectral.without_unused(basis, loaded.vertices)))[: opened.num_modes]


class EncodedMeshes(NamedTuple):
    """Meshes of a split and their latents.

    Attributes:
      indices: of the meshes, in the split.
      examples: what is known of them, without coefficients and vertices.
      latents: of the meshes.
    """

    indices: list[int]
    examples: list[Example]
    latents: Float[np.ndarray, "mesh latent"]


def encode_some(
    opened: OpenedRun, most: int = MOST_ENCODED, split: str = "train", progress: Progress = SILENT
) -> EncodedMeshes:
    """Encode at most so many meshes of a split, spread evenly over it, batch by batch.

    Raises ValueError when there is no such split, or for a mesh with a value that is not finite.
    """
    records, known = opened.data.records(split), []
    indices = evenly_spaced(len(records), most)

    def coefficients() -> Iterator[np.ndarray]:
        for index in track(indices, progress, f"encoding {split}"):
            found = records[index]
            if not np.isfinite(found.coefficients).all():
                where = f"{opened.data.path}: mesh {index} of the {split} split ({found.file})"
                raise ValueError(f"{where} has values that are not finite")
            known.append(found._replace(coefficients=None, vertices=None))
            yield found.coefficients[: opened.num_modes]

    return EncodedMeshes(indices, known, opened.codec.encode(coefficients()))


class ReferenceMeshes(NamedTuple):
    """Meshes of a split that a path is compared with.

    Attributes:
      indices: of the meshes, in the split.
      vertices: metres, reconstructed from the modes that the network uses.
      spread: sqrt(mean |z - mean|^2) of their latents z.
    """

    indices: list[int]
    vertices: Float[np.ndarray, "mesh vertex 3"]
    spread: float


def read_references(opened: OpenedRun, split: str, progress: Progress = SILENT) -> ReferenceMeshes:
    """Read up to 256 meshes, spread evenly over a split. Raises ValueError when there is no such split."""
    examples = opened.data.records(split)
    indices = evenly_spaced(len(examples), NUM_REFERENCES)
    rows = [examples[i].coefficients[: opened.num_modes] for i in track(indices, progress, f"reading {split}")]
    coefficients = np.stack(rows)
    latents = opened.codec.encode(coefficients)
    spread = float(np.sqrt(np.square(latents - latents.mean(axis=0)).sum(axis=1).mean()))
    return ReferenceMeshes(indices, np.asarray(spectral.reconstruct(opened.basis, coefficients)), spread)
