"""The lowest eigenmodes of a matrix that falls into blocks, one for each connected component of a mesh.

Its spectrum is that of the blocks together, and each mode lives on one component. Found block by block, the modes take
less time: the vectors are shorter, each block has few of the modes, and components that are copies of one another give
no repeated eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spectral_jax.basis import eigen
from spectral_jax.basis.eigen import COMPUTING, Pairs
from spectral_jax.files.progress import SILENT, Progress

COUNTED = 2500  # vertices above which it is counted how many modes each component has; below, all are sought
SPARE = 0.1  # modes counted beyond those wanted, over those wanted, that are no reason to count again
HALVINGS = 40  # of the range of eigenvalues, at most
SAME = 1e-10  # difference of two eigenvalues, over the norm of the matrix, that may be rounding

Solve = Callable[[Any, int, Progress], Pairs]


class Part(NamedTuple):
    """The progress of one component's modes, told as a part of the whole."""

    progress: Progress
    before: int
    total: int

    def update(self, task: str, done: int, total: int | None = None, note: str = "") -> None:
        self.progress.update(task, self.before + done, self.total, note)

    def should_stop(self) -> bool:
        return self.progress.should_stop()


def lowest(
    matrix: Any, labels: Int[np.ndarray, "vertex"], count: int, solve: Solve, progress: Progress = SILENT
) -> tuple[Float[np.ndarray, "freq"], Float[np.ndarray, "vertex freq"]]:
    """Eigenvalues (freq,) ascending and unit eigenvectors (vertex, freq), each zero outside of one component; float64.

    `labels` has the component of each vertex, from 0; `solve` finds the lowest pairs of a block. Equal eigenvalues of
    several components are in the order of the components. Raises ValueError as `solve` does.
    """
    members = [np.flatnonzero(labels == part) for part in range(labels.max() + 1)]
    sizes = [len(part) for part in members]
    sought = sizes if len(labels) <= COUNTED else counts(matrix, labels, count)
    sought = [min(number, size, count) for number, size in zip(sought, sizes, strict=True)]
    found: list[Pairs] = []
    for number, part in enumerate(members):
        told = Part(progress, sum(sought[:number]), sum(sought))
        found.append(solve(matrix[part][:, part], sought[number], told))
        told.update(COMPUTING, sought[number])
    values = np.concatenate([pairs[0] for pairs in found])
    owner = np.repeat(np.arange(len(members)), sought)
    order = np.argsort(values, kind="stable")
    ascending = values[order][:count]
    cut_off = [pairs[0][-1] for pairs, size in zip(found, sizes, strict=True) if len(pairs[0]) < min(size, count)]
    if len(ascending) < count or min(cut_off, default=np.inf) < ascending[-1]:  # the counts were wrong
        return solve(matrix, count, progress)
    alike = np.cumsum(np.diff(values[order], prepend=values[order[0]]) > SAME * norm(matrix))
    order = order[np.lexsort((owner[order], alike))][:count]
    modes, starts = np.zeros((len(labels), count)), np.cumsum([0, *sought])
    for number, part in enumerate(members):
        columns = np.flatnonzero(owner[order] == number)
        modes[np.ix_(part, columns)] = found[number][1][:, order[columns] - starts[number]]
    return ascending, modes


def counts(matrix: Any, labels: Int[np.ndarray, "vertex"], count: int) -> list[int]:
    """How many modes to seek in each component: one more than it has below a shift that `count` or more are below.

    A factorisation at a shift tells for every component how many of its eigenvalues are below (see `eigen`).
    """
    sizes = np.bincount(labels)
    low, high, below = 0.0, norm(matrix), sizes
    for _ in range(HALVINGS):
        factor = eigen.factorise(matrix, low + 0.4877 * (high - low), high - low)  # as in `eigen.halve`
        if factor.below < count:
            low = factor.shift
            continue
        high, below = factor.shift, np.bincount(labels[factor.negative], minlength=len(sizes))
        if factor.below <= (1 + SPARE) * count:
            break
    return (below + 1).tolist()


def norm(matrix: Any) -> float:
    """An upper bound of the eigenvalues (Gershgorin)."""
    return float(abs(matrix).sum(axis=1).max())
