"""The arrays of a split, and the mirror images of its coefficients, read when they are indexed."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import DTypeLike

from spectral_jax.basis import mirror, spectral
from spectral_jax.basis.mirror import Mirror
from spectral_jax.data.dataset import Data, Records
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network.principal import Rows

CHUNK = 1024  # meshes read at a time
MEAN_OF = 1024  # meshes whose mean shape tells left from right


class LazyCoefficients:
    """Coefficients (mesh, freq, 3) of a split, float32, of its first `num_modes` modes; nothing is kept in memory.

    `meshes` are those of the split that count (default: all). An index is a slice of them or an array of indices.
    Raises ValueError for an unknown split or too many modes, and when read, for a mesh with a value that is not finite.
    """

    def __init__(
        self,
        data: Data,
        split: str,
        num_modes: int,
        progress: Progress = SILENT,
        meshes: Int[np.ndarray, "mesh"] | None = None,
    ):
        if num_modes > data.basis.num_modes:
            raise ValueError(f"{data.path}: {num_modes} modes requested, the dataset has {data.basis.num_modes}")
        self._data, self._split = data, split
        self._progress, self._started = progress, time.monotonic()
        self._meshes = np.arange(len(data.records(split))) if meshes is None else meshes
        self.shape = (len(self._meshes), num_modes, 3)

    def truncate(self, num_modes: int) -> LazyCoefficients:
        """Those of the first modes."""
        return LazyCoefficients(self._data, self._split, num_modes, self._progress, self._meshes)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, "mesh"]) -> Float[np.ndarray, "mesh freq 3"]:
        if not isinstance(rows, slice):
            return _read(self._data, self._split, "coefficients", self._meshes[rows], self.shape[1:])
        start, stop, _ = rows.indices(len(self))
        if start == 0:  # of another pass
            self._started = time.monotonic()
        coefficients = _read(self._data, self._split, "coefficients", self._meshes[rows], self.shape[1:])
        rate = stop * coefficients[:1].nbytes / max(time.monotonic() - self._started, 1e-3)
        self._progress.update(f"reading {self._split}", stop, len(self), f"{rate / 1e9:.2g} GB/s")
        return coefficients


def truncate(
    coefficients: Float[np.ndarray, "mesh freq 3"] | LazyCoefficients, num_modes: int
) -> Float[np.ndarray, "mesh kept 3"] | LazyCoefficients:
    """The coefficients of the first modes, still unread if they are."""
    if isinstance(coefficients, LazyCoefficients):
        return coefficients.truncate(num_modes)
    return coefficients[:, :num_modes]


class LazyVertices:
    """Vertices (mesh, vertex, 3) of a split, float32, metres; nothing is kept in memory.

    `meshes`, indices and errors are those of `LazyCoefficients`; a mesh without vertices is an error.
    """

    def __init__(self, data: Data, split: str, meshes: Int[np.ndarray, "mesh"] | None = None):
        self._data, self._split = data, split
        self._meshes = np.arange(len(data.records(split))) if meshes is None else meshes
        self.shape = (len(self._meshes), data.basis.num_vertices, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, "mesh"]) -> Float[np.ndarray, "mesh vertex 3"]:
        return _read(self._data, self._split, "vertices", self._meshes[rows], self.shape[1:])


def _read(data: Data, split: str, name: str, indices: Int[np.ndarray, "mesh"], shape: tuple[int, ...]) -> np.ndarray:
    """The first rows of an array of each of some meshes. Raises ValueError naming a mesh that is not finite."""
    examples, found = data.records(split), np.empty((len(indices), *shape), np.float32)
    read = getattr(examples, name, None)  # most splits read an array alone faster than whole examples
    meshes = read(indices) if read else (getattr(examples[int(index)], name) for index in indices)
    for index, row, mesh in zip(indices, found, meshes, strict=True):
        if mesh is None:
            raise ValueError(f"{data.path}: mesh {index} of the {split} split has no {name}")
        row[:] = mesh[: len(row)]
    wrong = ~np.isfinite(found.sum(axis=(1, 2)))  # also where finite values add up to infinity: look closer
    for index in indices[wrong & ~np.isfinite(found).all(axis=(1, 2))]:
        raise ValueError(
            f"{data.path}: mesh {index} of the {split} split ({examples[int(index)].file}) has values "
            "that are not finite"
        )
    return found


@dataclass(frozen=True)
class LazySplit:
    """What `Split` holds, read when it is asked for: nothing but the identities is kept in memory."""

    data: Data
    split: str
    num_modes: int
    progress: Progress = SILENT

    @property
    def coefficients(self) -> LazyCoefficients:
        return LazyCoefficients(self.data, self.split, self.num_modes, self.progress)

    @functools.cached_property
    def vertices(self) -> LazyVertices | None:
        """None when the first mesh has none."""
        return None if self.data.records(self.split)[0].vertices is None else LazyVertices(self.data, self.split)

    @functools.cached_property
    def identities(self) -> list[str]:
        return read_identities(self.data, self.split, self.progress)


def read_identities(data: Data, split: str, progress: Progress = SILENT) -> list[str]:
    """The identity of each mesh of a split."""
    examples, found = data.records(split), []
    for start in track(range(0, len(examples), CHUNK), progress, f"reading identities of {split}"):
        rows = range(start, min(start + CHUNK, len(examples)))
        if isinstance(examples, Records):
            found += examples.identities(np.array(rows))
        else:
            labels = getattr(examples, "labels", None)  # of the published layouts: without the arrays
            found += [labels(row)[0] if labels else examples[row].identity for row in rows]
    return found


class MirroredCoefficients:
    """Coefficients with the mirror image of every mesh behind it: row 2 i is mesh i, and row 2 i + 1 its image."""

    def __init__(self, coefficients: LazyCoefficients, reflection: Mirror):
        self._coefficients, self.reflection = coefficients, jax.device_put(reflection)
        self.shape = (2 * len(coefficients), *coefficients.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, "mesh"]) -> Float[np.ndarray, "mesh freq 3"]:
        indices = np.arange(len(self))[rows]
        meshes, where = np.unique(indices // 2, return_inverse=True)
        if isinstance(rows, slice) and len(meshes):  # consecutive: read as such
            found = self._coefficients[int(meshes[0]) : int(meshes[-1]) + 1]
        else:
            found = self._coefficients[meshes]
        chosen, image = found[where], indices % 2 == 1
        if image.any():
            chosen[image] = np.asarray(mirror.reflect(self.reflection, found))[where[image]]
        return chosen


def find_reflection(coefficients: LazyCoefficients, data: Data) -> Mirror:
    """The reflection of a dataset's meshes, by their mean shape. Raises ValueError with the reason if there is none."""
    basis = spectral.truncate(data.basis, coefficients.shape[1])
    mean = coefficients[np.array(evenly_spaced(len(coefficients), MEAN_OF))].mean(axis=0)
    try:
        return mirror.find_mirror(basis, np.asarray(spectral.reconstruct(basis, mean)))
    except ValueError as error:
        raise ValueError(f"{data.path}: the meshes cannot be mirrored: {error}") from error


def train_coefficients(
    data: Data,
    num_modes: int,
    mirrored: bool = False,
    progress: Progress = SILENT,
    meshes: Int[np.ndarray, "mesh"] | None = None,
) -> LazyCoefficients | MirroredCoefficients:
    """The rows that a network trains on. Raises ValueError as `LazyCoefficients` and `find_reflection` do."""
    coefficients = LazyCoefficients(data, "train", num_modes, progress, meshes)
    if not mirrored:
        return coefficients
    return MirroredCoefficients(coefficients, find_reflection(coefficients, data))


class HeldOut(NamedTuple):
    """The train split without some of its identities.

    Attributes:
      identities: that are held out.
      meshes: of the other identities, by index.
      held: meshes of these.
    """

    identities: list[str]
    meshes: Int[np.ndarray, "mesh"]
    held: Int[np.ndarray, "held"]


def hold_out(data: Data, count: int, seed: int, progress: Progress = SILENT) -> HeldOut:
    """Draw `count` identities of the train split. Raises ValueError unless others are left."""
    owners = np.array(read_identities(data, "train", progress))
    names = np.unique(owners)
    if count >= len(names):
        raise ValueError(f"{data.path}: {count} identities to hold out, the train split has {len(names)}")
    chosen = np.sort(np.random.default_rng(seed).choice(names, count, replace=False))
    held = np.isin(owners, chosen)
    return HeldOut(chosen.tolist(), np.flatnonzero(~held), np.flatnonzero(held))


def read(rows: Rows, chosen: range, dtype: DTypeLike = np.float32) -> Shaped[np.ndarray, "mesh *row"]:
    """Read consecutive rows into memory, block by block."""
    coefficients = np.empty((len(chosen), *rows.shape[1:]), dtype)
    for start in range(0, len(chosen), CHUNK):
        block = coefficients[start : start + CHUNK]
        block[:] = rows[chosen.start + start : chosen.start + start + len(block)]
    return coefficients
