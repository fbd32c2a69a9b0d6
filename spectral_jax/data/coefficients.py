"""The arrays of a split, and the mirror images of its coefficients, read when they are indexed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
ALIGNMENT = 64  # bytes
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
            return self._read(rows)
        start, stop, _ = rows.indices(len(self))
        if start == 0:  # of another pass
            self._started = time.monotonic()
        coefficients = self._read(rows)
        rate = stop * coefficients[:1].nbytes / max(time.monotonic() - self._started, 1e-3)
        self._progress.update(f"reading {self._split}", stop, len(self), f"{rate / 1e9:.2g} GB/s")
        return coefficients

    def _read(self, rows: Any) -> np.ndarray:
        return _read(self._data, self._split, self._meshes[rows], coefficients=self.shape[1:])[0]


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
        return _read(self._data, self._split, self._meshes[rows], vertices=self.shape[1:])[0]


def _read(data: Data, split: str, indices: Int[np.ndarray, "mesh"], **shapes: tuple[int, ...]) -> list[np.ndarray]:
    """The first rows of arrays of some meshes, by name and shape. Raises ValueError for a mesh that is not finite."""
    examples, found = data.records(split), [_empty((len(indices), *shape)) for shape in shapes.values()]
    for i, arrays in enumerate(_arrays(examples, indices, *shapes)):
        for name, array, into in zip(shapes, arrays, found, strict=True):
            if array is None:
                raise ValueError(f"{data.path}: mesh {indices[i]} of the {split} split has no {name}")
            into[i] = array[: into.shape[1]]
    for array in found:
        wrong = ~np.isfinite(array.sum(axis=(1, 2)))  # also where finite values add up to infinity: look closer
        for index in indices[wrong & ~np.isfinite(array).all(axis=(1, 2))]:
            raise ValueError(
                f"{data.path}: mesh {index} of the {split} split ({examples[int(index)].file}) has values "
                "that are not finite"
            )
    return found


def _arrays(examples: Sequence, indices: Int[np.ndarray, "mesh"], *names: str) -> Iterator[tuple]:
    """The named arrays of some meshes, by the fastest way that the split has."""
    if isinstance(examples, Records):
        return examples.arrays(indices, *names)
    alone = getattr(examples, "coefficients", None)
    if alone and names == ("coefficients",):
        return zip(alone(indices), strict=True)
    return (tuple(getattr(example, name) for name in names) for example in map(examples.__getitem__, indices.tolist()))


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array whose memory begins where JAX can use it on a CPU without a copy."""
    content = np.empty(4 * math.prod(shape) + ALIGNMENT, np.uint8)
    start = -content.ctypes.data % ALIGNMENT
    return content[start : start + 4 * math.prod(shape)].view(np.float32).reshape(shape)


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

    def read(self, rows: slice) -> tuple[Float[np.ndarray, "mesh freq 3"], Float[np.ndarray, "mesh vertex 3"]]:
        """Coefficients and vertices of some meshes, each of which is read once."""
        meshes = np.arange(len(self.data.records(self.split)))[rows]
        shapes = {"coefficients": (self.num_modes, 3), "vertices": (self.data.basis.num_vertices, 3)}
        coefficients, vertices = _read(self.data, self.split, meshes, **shapes)
        return coefficients, vertices

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
