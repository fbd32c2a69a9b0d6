"""The lowest eigenmodes of a symmetric matrix: dense, or sparse with proof that none is missed and none is doubled.

The sparse way cuts the spectrum at shifts. A factorisation A - shift = L D L^T says by the signs of D how many
eigenvalues lie below the shift (Sylvester's law of inertia), block Lanczos on its inverse finds those around it, and
the modes found from two neighbouring shifts must be as many as lie between them (Grimes, Lewis and Simon 1994).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.files.progress import SILENT, Progress

COMPUTING = "computing modes"  # the task that progress is told of
SLICE = 160  # eigenvalues between two shifts, at most
OVERLAP = 8  # eigenvalues that a run finds beyond the middle of a slice
BLOCK, LARGEST_BLOCK = 4, 64  # vectors in a block of Lanczos: a run sees eigenvalues repeated as often
NEAREST = 1e-6  # distance of a shift to an eigenvalue over that to the next shift, at least
CONVERGED = 1e-11  # residual of a mode of the inverse, relative to its eigenvalue
ACCURATE = 1e-11  # residual of a mode, relative to the matrix, at most: less so where a shift is near an eigenvalue
CROSSTALK = 2e-7  # product of two modes from different runs, at most

Pairs = tuple[np.ndarray, np.ndarray]  # eigenvalues ascending, eigenvectors in columns


class Factor(NamedTuple):
    """A - shift, factorised."""

    shift: float
    below: int  # eigenvalues of A below the shift
    error: float  # bound of the norm of A - shift - L D L^T: a nearer eigenvalue may be miscounted (Weyl)
    solve: Callable[[np.ndarray], np.ndarray]


class ShiftResult(NamedTuple):
    """The modes around a shift, without gaps: those below it and those above it."""

    factor: Factor
    below: Pairs
    above: Pairs


def dense(matrix: Any, count: int) -> Pairs:
    """Eigenvalues (freq,) ascending and unit eigenvectors (vertex, freq) by LAPACK, float64."""
    import scipy.linalg

    full = matrix.toarray()
    if count > 0.6 * len(full):  # divide and conquer gives all modes faster than MRRR gives most
        values, vectors = scipy.linalg.eigh(full, driver="evd", overwrite_a=True)
        return values[:count], vectors[:, :count]
    return scipy.linalg.eigh(full, driver="evr", subset_by_index=(0, count - 1), overwrite_a=True)


def dense_on_device(matrix: Any, count: int) -> Pairs:
    """As `dense`, by JAX on its device and in float64: in float32 a GPU gives wrong modes of a graph Laplacian."""
    import jax

    with jax.enable_x64(True):
        values, vectors = jax.numpy.linalg.eigh(jax.numpy.asarray(matrix.toarray()))
        return np.asarray(values)[:count], np.asarray(vectors)[:, :count]


def sliced(
    matrix: Any, count: int, progress: Progress = SILENT
) -> tuple[Float[np.ndarray, "freq"], Float[np.ndarray, "vertex freq"]]:
    """Eigenvalues (freq,) ascending and unit eigenvectors (vertex, freq) of a sparse, positive semidefinite matrix.

    float64; `progress` counts the modes found. Raises ValueError where the modes found cannot be made as many as there
    are: an eigenvalue is repeated more than some dozen times.
    """
    matrix = matrix.tocsc()
    shifts, sizes = plan(matrix, count)
    room = np.minimum(np.diff(shifts, prepend=-np.inf), np.diff(shifts, append=np.inf)).tolist()
    values, vectors = np.empty(count), np.empty((matrix.shape[0], count), order="F")
    done, block, overlap, first, i = 0, BLOCK, OVERLAP, None, 0
    while done < count:
        if i == len(sizes) or block > LARGEST_BLOCK:
            raise ValueError(
                f"only {done} of {count} modes can be told apart: beyond the eigenvalue {shifts[i]:.9g} one is "
                "repeated too many times"
            )
        reach = [0, *(-(-size // 2) + overlap for size in sizes), 0]
        first = first or run(matrix, shifts[i], room[i], reach[i], reach[i + 1], block)
        second = run(matrix, shifts[i + 1], room[i + 1], reach[i + 1], reach[i + 2], block)
        between = join(first, second) if first and second and first.factor.below == done else None
        if between is None or second is None:  # a run saw too few copies of a repeated eigenvalue, or none of the gaps
            block, overlap, first = 2 * block, overlap * (2 if first and second else 1), None
            continue
        stop = min(done + len(between[0]), count)
        values[done:stop], vectors[:, done:stop] = between[0][: stop - done], between[1][:, : stop - done]
        done, first, i = stop, second, i + 1
        shifts[i] = second.factor.shift  # where a wider run has to start again
        progress.update(COMPUTING, done, count)
    return values, vectors


def plan(matrix: Any, count: int) -> tuple[list[float], list[int]]:
    """Shifts from below the spectrum to above its `count` lowest, and how many eigenvalues lie between them."""
    top = 1.0001 * float(abs(matrix).sum(axis=1).max())  # Gershgorin: no eigenvalue is larger
    ends, i = [(0.0, 0), (top, matrix.shape[0])], 0
    while i < len(ends) - 1 and ends[i][1] < count:
        (low, below), (high, above) = ends[i], ends[i + 1]
        if above - below > SLICE and high - low > max(1e-4 * high, 1e-9 * top):
            ends.insert(i + 1, halve(matrix, low, high))
        else:
            i += 1
    low, high = ends[i - 1], ends[i]
    for _ in range(6 if high[1] == matrix.shape[0] else 0):  # the bound may be far above the last eigenvalue
        middle = halve(matrix, low[0], high[0])
        low, high = (low, middle) if middle[1] == high[1] else (middle, high)
    ends = [end for end, before in zip(ends[1:i], ends, strict=False) if end[1] > before[1]] + [high]
    shifts, counts = zip(*ends, strict=True)
    return [-0.1 * shifts[0], *shifts], np.diff(counts, prepend=0).tolist()


def halve(matrix: Any, low: float, high: float) -> tuple[float, int]:
    """A shift between two others and the number of eigenvalues below it."""
    # not the middle: halves of whole numbers are all too often eigenvalues of a graph
    factor = factorise(matrix, low + 0.4877 * (high - low), high - low)
    return factor.shift, factor.below


def factorise(matrix: Any, shift: float, room: float) -> Factor:
    """L D L^T of A - shift with pivots from the diagonal.

    A shift too near to an eigenvalue, or where the factors are inexact, moves up by less than a tenth of its room.
    """
    import scipy.sparse
    from scipy.sparse.linalg import splu

    # the norm of M X, X normal in 16 columns, is 4 times that of M on average and below it once in 10^12
    probes = np.random.default_rng(0).standard_normal((matrix.shape[0], 16))
    best, least = None, np.inf
    for moved in (shift + 0.01 * room * np.arange(8)).tolist():
        shifted = scipy.sparse.csc_array(matrix - moved * scipy.sparse.eye_array(matrix.shape[0]))
        try:
            options = {"SymmetricMode": True}
            factors = splu(shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
        except RuntimeError:  # a pivot is exactly zero
            continue
        if (factors.perm_r != factors.perm_c).any():
            continue
        lower, pivots = factors.L, factors.U.diagonal()[:, None]
        image = (shifted @ probes[factors.perm_c])[np.argsort(factors.perm_c)]
        error = float(np.linalg.norm(lower @ (pivots * (lower.T @ probes)) - image))
        inverse = float(np.linalg.norm(factors.solve(probes))) / 4  # no eigenvalue is nearer than one over it
        doubt = max(error, NEAREST * room) * inverse
        if doubt < least:
            best, least = Factor(moved, int((pivots < 0).sum()), error, factors.solve), doubt
        if doubt < 0.1:
            break
    if best is None:
        raise ValueError(f"the matrix has no factorisation with pivots from its diagonal near {shift:.9g}")
    return best


def run(matrix: Any, shift: float, room: float, below: int, above: int, block: int) -> ShiftResult | None:
    """The `below` and `above` modes, or all, nearest to the shift on its two sides; None where they are not found.

    A shift too near to an eigenvalue moves up, by less than the room that it has.
    """
    size, norm = matrix.shape[0], float(abs(matrix).sum(axis=1).max())
    for moved in (shift + 0.01 * room * np.arange(0, 80, 8)).tolist():
        factor = factorise(matrix, moved, room)
        found = lanczos(factor.solve, size, min(below, factor.below), min(above, size - factor.below), block)
        if found is None:
            return None
        values, vectors = factor.shift + 1 / found[0], found[1]
        residual = float(np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max())
        middle = int((found[0] < 0).sum())
        if abs(values - factor.shift).min() > factor.error and residual < ACCURATE * norm:
            return ShiftResult(factor, (values[:middle], vectors[:, :middle]), (values[middle:], vectors[:, middle:]))
    return None


def lanczos(solve: Callable, size: int, negative: int, positive: int, block: int) -> Pairs | None:
    """So many of the largest eigenvalues of an inverse of each sign, negative ones first; deterministic.

    Ordered as the eigenvalues of the matrix ascend. None where they are not found.
    """
    rng = np.random.default_rng(0)
    basis = np.empty((size, min(size - block, 4 * (negative + positive) + 64 * block)), order="F")
    projected = np.zeros((basis.shape[1],) * 2)
    basis[:, :block] = np.linalg.qr(rng.standard_normal((size, block)))[0]
    check = 2 * (negative + positive) + 8 * block
    steps = range(block, basis.shape[1] - block + 1, block)
    for done in steps:
        known, last = basis[:, :done], basis[:, max(0, done - 2 * block) : done]
        new = solve(np.asfortranarray(known[:, -block:]))
        recent = last.T @ new  # of exact Lanczos this would be all
        new -= last @ recent
        column = known.T @ new
        new -= known @ column
        column[-len(recent) :] += recent
        projected[:done, done - block : done] = column
        new, link = np.linalg.qr(new)
        exhausted = abs(np.diag(link)) < 1e-12 * abs(projected[:done, done - block : done]).max()
        if exhausted.any():  # the space is invariant: go on in a direction that it lacks
            known = np.concatenate([known, new[:, ~exhausted]], axis=1)
            fresh = rng.standard_normal((size, int(exhausted.sum())))
            for _ in range(2):
                fresh -= known @ (known.T @ fresh)
            new[:, exhausted] = np.linalg.qr(fresh)[0]
            link[exhausted] = 0
        basis[:, done : done + block] = new
        if done < min(check, steps[-1]):
            continue
        check = 1.1 * done
        upper = np.triu(projected[:done, :done])
        inverse, turn = np.linalg.eigh(upper + np.triu(upper, 1).T)
        converged = np.linalg.norm(link @ turn[-block:], axis=0) <= CONVERGED * abs(inverse)
        below, above = np.flatnonzero(inverse < 0)[:negative], np.flatnonzero(inverse > 0)[::-1][:positive]
        kept = np.concatenate([below[::-1], above])
        if len(kept) == negative + positive and converged[kept].all():  # none before these is still to come
            return inverse[kept], basis[:, :done] @ turn[:, kept]
    return None


def join(first: ShiftResult, second: ShiftResult) -> Pairs | None:
    """All modes between two shifts, from the runs on either side; None where they are not proven to be all."""
    (low, low_vectors), (high, high_vectors) = first.above, second.below
    size = second.factor.below - first.factor.below
    gaps = {}  # by how many modes are taken from the first run, the rest being from the second
    for taken in range(max(0, size - len(high)), min(size, len(low)) + 1):
        left = low[taken - 1] if taken else first.factor.shift
        right = high[len(high) - size + taken] if taken < size else second.factor.shift
        gaps[taken] = right - left
    if not gaps:
        return None
    taken = max(gaps, key=gaps.__getitem__)
    left, right = low_vectors[:, :taken], high_vectors[:, len(high) - size + taken :]
    if gaps[taken] < 0 or abs(left.T @ right).max(initial=0.0) > CROSSTALK:
        return None
    return np.append(low[:taken], high[len(high) - size + taken :]), np.concatenate([left, right], axis=1)
