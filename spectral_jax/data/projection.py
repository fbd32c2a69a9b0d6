"""From meshes to examples: the basis of a recipe, and projection in batches on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from typing import Any, NamedTuple

import jax
import numpy as np

from spectral_jax.basis import formats, spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data.dataset import Example
from spectral_jax.data.recipes import MeshRecipe, PublishedRecipe
from spectral_jax.data.writer import Skipped
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.mesh import Mesh, check_connectivity, connectivity

BATCH = 64  # meshes projected at once
AHEAD = 8  # batches gathered before they are computed: enough rows to fill the batches of each kind
MODES = 4096  # modes kept by default

Batch = tuple[Any, Any]  # vertices (batch, vertex, 3) or None, and coefficients (batch, freq, 3)


class Row(NamedTuple):
    """What one example is computed from.

    Attributes:
      kind: which computation it needs; rows of one kind share batches.
      arrays: the arguments of that computation, without a batch axis.
      labels: the fields of Example after the arrays: identity, dataset, file, frame, gender.
    """

    kind: str
    arrays: tuple[np.ndarray, ...]
    labels: tuple[str, str, str, int, str]


class Projector:
    """Computes examples from rows, in batches of one kind and one size, so that JAX compiles each kind once.

    `vertices_of(kind, *arrays)` gives the vertices (batch, vertex, 3) in metres of a batch of rows.
    """

    def __init__(self, basis: SpectralBasis, vertices_of: Callable[..., Any], batch_size: int):
        self._basis, self._project = jax.device_put(basis), jax.jit(spectral.project)
        self._vertices_of, self._batch_size = vertices_of, batch_size

    def examples(
        self, rows: Iterable[tuple[int, Row | Skipped]], keep_vertices: bool
    ) -> Iterator[tuple[int, Example | Skipped]]:
        """Examples in the order of their rows; each row and each example comes with the index of its item.

        While the device computes one block of batches, the rows of the next are read.
        """
        block, launched = [], deque()
        for entry in rows:
            block.append(entry)
            if len(block) == AHEAD * self._batch_size:
                launched.append((block, self._launch(block, keep_vertices)))
                block = []
                if len(launched) > 1:
                    yield from _collect(*launched.popleft())
        launched.append((block, self._launch(block, keep_vertices)))
        for entries, batches in launched:
            yield from _collect(entries, batches)

    def _launch(self, block: list[tuple[int, Row | Skipped]], keep_vertices: bool) -> dict[str, list[Batch]]:
        """Start the batches of each kind; the results are still on the device."""
        by_kind: dict[str, list[tuple[np.ndarray, ...]]] = {}
        for _, row in block:
            if isinstance(row, Row):
                by_kind.setdefault(row.kind, []).append(row.arrays)
        batches: dict[str, list[Batch]] = {kind: [] for kind in by_kind}
        for kind, rows in by_kind.items():
            for start in range(0, len(rows), self._batch_size):
                arrays = rows[start : start + self._batch_size]
                arrays += arrays[-1:] * (self._batch_size - len(arrays))  # fill the last batch
                vertices = self._vertices_of(kind, *map(np.stack, zip(*arrays, strict=True)))
                batches[kind].append((vertices if keep_vertices else None, self._project(self._basis, vertices)))
        return batches


def _collect(
    block: list[tuple[int, Row | Skipped]], batches: dict[str, list[Batch]]
) -> Iterator[tuple[int, Example | Skipped]]:
    """Examples of a block: rows of one kind are in the order of that kind's batches."""
    results = {kind: chain.from_iterable(map(_rows, found)) for kind, found in jax.device_get(batches).items()}
    for item, row in block:
        yield item, row if isinstance(row, Skipped) else Example(*next(results[row.kind]), *row.labels)


def _rows(batch: Batch) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Coefficients and vertices, mesh by mesh."""
    vertices, coefficients = batch
    return zip(coefficients, repeat(None) if vertices is None else vertices, strict=False)  # repeat has no end


def choose_basis(shape: Mesh, recipe: PublishedRecipe | MeshRecipe, progress: Progress = SILENT) -> SpectralBasis:
    """The basis that a recipe names, cut to its modes, or the one of this shape (from the cache if it is there).

    Raises ValueError if the named basis has another connectivity, another operator, or too few modes.
    """
    count = len(shape.vertices)
    if recipe.basis is None:
        num_modes = min(MODES, count) if recipe.modes is None else recipe.modes
        vertices = shape.vertices if recipe.operator == "cotangent" else None
        return formats.cached(shape.faces, count, num_modes, vertices, progress)
    basis = spectral.load(recipe.basis)
    check_connectivity(basis.connectivity, connectivity(shape.faces, count), (str(recipe.basis), "the template mesh"))
    if recipe.operator == "cotangent" and basis.operator == "graph":
        raise ValueError(f"{recipe.basis}: a basis of the graph operator, expected the cotangent operator")
    return basis if recipe.modes is None else spectral.truncate(basis, recipe.modes)
