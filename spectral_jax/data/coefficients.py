"""The coefficients of a split as an array that is read when it is indexed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from spectral_jax.data.dataset import Data, Records
from spectral_jax.files.progress import SILENT, Progress


class LazyCoefficients:
    """Coefficients (mesh, freq, 3) of a split, float32, of its first `num_modes` modes; nothing is kept in memory.

    An index is a slice of meshes or an array of them. `progress` counts the meshes of the passes over the split. Raises
    ValueError for an unknown split or too many modes, and when read, for a mesh with a value that is not finite.
    """

    def __init__(self, data: Data, split: str, num_modes: int, progress: Progress = SILENT):
        if num_modes > data.basis.num_modes:
            raise ValueError(f"{data.path}: {num_modes} modes requested, the dataset has {data.basis.num_modes}")
        self._data, self._split, self._examples = data, split, data.records(split)
        self._progress = progress
        self.shape = (len(self._examples), num_modes, 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, "mesh"]) -> Float[np.ndarray, "mesh freq 3"]:
        indices = np.arange(len(self))[rows]
        coefficients = np.empty((len(indices), *self.shape[1:]), np.float32)
        examples = self._examples
        if isinstance(examples, Records):
            found = examples.coefficients(indices)
        else:
            found = (examples[int(index)].coefficients for index in indices)
        for row, mesh in zip(coefficients, found, strict=True):
            row[:] = mesh[: len(row)]
        wrong = ~np.isfinite(coefficients.sum(axis=(1, 2)))  # also where finite values add up to infinity: look closer
        for index in indices[wrong & ~np.isfinite(coefficients).all(axis=(1, 2))]:
            raise ValueError(
                f"{self._data.path}: mesh {index} of split {self._split} ({examples[int(index)].file}) has values that "
                "are not finite"
            )
        if isinstance(rows, slice):
            self._progress.update(f"reading {self._split}", int(indices[-1]) + 1 if len(indices) else 0, len(self))
        return coefficients
