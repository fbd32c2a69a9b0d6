"""The lowest eigenmodes of a symmetric matrix: by a dense solver, or by a sparse one that proves none is missing.

The sparse solver cuts the spectrum at shifts. A factorisation A - shift = L D L^T tells by the signs of D how many
eigenvalues lie below the shift (Sylvester's law of inertia), and block Lanczos on its inverse finds the eigenvalues
around it. The modes found from two neighbouring shifts must be as many as lie between them (Grimes, Lewis and Simon
1994). ARPACK (`scipy.sparse.linalg.eigsh`) is not used: it iterates on single vectors, so it can miss copies of a
repeated eigenvalue, which symmetric meshes have, and it does not count what it should have found.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.files.progress import SILENT, Progress

COMPUTING = "computing modes"  # the task's name in progress reports
SLICE = 160  # eigenvalues between two shifts, at most
NARROWEST = 1e-4  # width of a slice over its upper end: a narrower one, full of near-repeated eigenvalues, is not cut
NARROWEST_OF_ALL = 1e-9  # likewise, width over the whole spectrum: the limit for slices that start near 0
OVERLAP = 8  # eigenvalues that are sought at a shift beyond the middle of the slice
BLOCK = 4  # vectors in a block of Lanczos; an eigenvalue is found at most that many times
LARGEST_BLOCK = 64
NEAREST = 1e-6  # distance from a shift to the nearest eigenvalue over the room around the shift, at least
CONVERGED = 1e-11  # residual of a mode of the inverse, relative to its eigenvalue
ACCURATE = 1e-11  # residual of a mode, relative to the matrix, at most; near an eigenvalue the factors are less exact
CROSSTALK = 2e-7  # inner product of two modes found at different shifts, at most
STEP = 0.01  # by how much a bad shift moves up, over the room around it
STEPS = 8  # shifts that one factorisation tries

Pairs = tuple[np.ndarray, np.ndarray]  # eigenvalues ascending, eigenvectors in columns


class Cut(NamedTuple):
    """A shift, and the number of eigenvalues below it."""

    shift: float
    below: int


class Factor(NamedTuple):
    """The factors of A - shift.

    Attributes:
      shift: the shift, moved up from the one asked for where that was too near to an eigenvalue.
      below: number of eigenvalues of A below the shift.
      negative: indices of rows, as many within each block of A as it has eigenvalues below the shift.
      error: bound of the norm of A - shift - L D L^T; an eigenvalue nearer than this may be miscounted (Weyl).
      solve: multiplies by the inverse of A - shift.
    """

    shift: float
    below: int
    negative: np.ndarray
    error: float
    solve: Callable[[np.ndarray], np.ndarray]


class ShiftResult(NamedTuple):
    """The modes next to a shift, without gaps: those below it and those above it."""

    factor: Factor
    below: Pairs
    above: Pairs


def dense(matrix: Any, count: int) -> Pairs:
    """The `count` lowest eigenvalues (freq,), ascending, and unit eigenvectors (vertex, freq) by LAPACK, float64."""
    import scipy.linalg

    full = matrix.toarray()
    if count > 0.6 * len(full):  # divide and conquer finds all modes faster than MRRR finds most
        values, vectors = scipy.linalg.eigh(full, driver="evd", overwrite_a=True)
        return values[:count], vectors[:, :count]
    return scipy.linalg.eigh(full, driver="evr", subset_by_index=(0, count - 1), overwrite_a=True)


def dense_on_device(matrix: Any, count: int) -> Pairs:
    """As `dense`, by JAX on its device, in float64: in float32 a GPU gives wrong modes of a graph Laplacian."""
    import jax

    with jax.enable_x64(True):
        values, vectors = jax.numpy.linalg.eigh(jax.numpy.asarray(matrix.toarray()))
        return np.asarray(values)[:count], np.asarray(vectors)[:, :count]


def sliced(
    matrix: Any, count: int, progress: Progress = SILENT
) -> tuple[Float[np.ndarray, "freq"], Float[np.ndarray, "vertex freq"]]:
    """Eigenvalues (freq,) ascending and unit eigenvectors (vertex, freq) of a sparse, positive semidefinite matrix.

    float64; `progress` counts the modes found. Raises ValueError where the modes found cannot be matched to the number
    of eigenvalues: one is repeated more than a few dozen times.
    """
    matrix = matrix.tocsc()
    cuts = plan(matrix, count)
    shifts = [cut.shift for cut in cuts]
    sizes = np.diff([cut.below for cut in cuts]).tolist()
    room = np.minimum(np.diff(shifts, prepend=-np.inf), np.diff(shifts, append=np.inf)).tolist()
    values = np.empty(count)
    vectors = np.empty((matrix.shape[0], count), order="F")
    done, i = 0, 0  # modes found, and the slice that comes next
    block, overlap = BLOCK, OVERLAP
    first = None
    while done < count:
        if i == len(sizes) or block > LARGEST_BLOCK:
            raise ValueError(
                f"only {done} of {count} modes can be told apart: an eigenvalue above {shifts[i]:.9g} is repeated too "
                "many times"
            )
        reach = [0, *(-(-size // 2) + overlap for size in sizes), 0]
        first = first or solve_at(matrix, shifts[i], room[i], reach[i], reach[i + 1], block)
        second = solve_at(matrix, shifts[i + 1], room[i + 1], reach[i + 1], reach[i + 2], block)
        between = join(first, second) if first and second and first.factor.below == done else None
        if between is None or second is None:  # copies of a repeated eigenvalue are missing, or a gap to join at
            block, overlap, first = 2 * block, overlap * (2 if first and second else 1), None
            continue
        stop = min(done + len(between[0]), count)
        values[done:stop], vectors[:, done:stop] = between[0][: stop - done], between[1][:, : stop - done]
        done, first, i = stop, second, i + 1
        shifts[i] = second.factor.shift  # a retry with larger blocks starts here
        progress.update(COMPUTING, done, count)
    return values, vectors


def plan(matrix: Any, count: int) -> list[Cut]:
    """Cuts from below the spectrum to above its `count` lowest eigenvalues, up to SLICE eigenvalues apart."""
    size = matrix.shape[0]
    top = 1.0001 * float(abs(matrix).sum(axis=1).max())  # Gershgorin: no eigenvalue is larger
    cuts = [Cut(0.0, 0), Cut(top, size)]
    i = 0
    while i < len(cuts) - 1 and cuts[i].below < count:
        low, high = cuts[i], cuts[i + 1]
        narrowest = max(NARROWEST * high.shift, NARROWEST_OF_ALL * top)
        if high.below - low.below > SLICE and high.shift - low.shift > narrowest:
            cuts.insert(i + 1, halve(matrix, low, high))
        else:
            i += 1
    low, high = cuts[i - 1], cuts[i]
    for _ in range(6 if high.below == size else 0):  # Gershgorin's bound may be far above the last eigenvalue
        middle = halve(matrix, low, high)
        low, high = (low, middle) if middle.below == high.below else (middle, high)
    kept = [cut for before, cut in itertools.pairwise(cuts[:i]) if cut.below > before.below]
    kept.append(high)
    return [Cut(-0.1 * kept[0].shift, 0), *kept]


def halve(matrix: Any, low: Cut, high: Cut) -> Cut:
    """A cut between two others."""
    width = high.shift - low.shift
    # Not the middle: the ends are often round numbers, and halves of whole numbers are often eigenvalues of a graph.
    factor = factorise(matrix, low.shift + 0.4877 * width, width)
    return Cut(factor.shift, factor.below)


def factorise(matrix: Any, shift: float, room: float) -> Factor:
    """Factors L D L^T of A - shift with pivots from the diagonal.

    `room` is the distance to the neighbouring shifts. A shift that is too near to an eigenvalue, or where the factors
    are inexact, moves up by less than a tenth of it. Raises ValueError where no such factorisation exists.
    """
    import scipy.sparse
    from scipy.sparse.linalg import splu

    # The Frobenius norm of M X, X normal with 16 columns, is 4 times that of M on average, and below it once in 10^12.
    probes = np.random.default_rng(0).standard_normal((matrix.shape[0], 16))
    best, least = None, np.inf
    for moved in (shift + STEP * room * np.arange(STEPS)).tolist():
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
        inverse = float(np.linalg.norm(factors.solve(probes))) / 4  # an eigenvalue is at least 1 / this away
        doubt = max(error, NEAREST * room) * inverse
        if doubt < least:
            negative = np.flatnonzero((pivots[:, 0] < 0)[factors.perm_c])
            best, least = Factor(moved, len(negative), negative, error, factors.solve), doubt
        if doubt < 0.1:
            break
    if best is None:
        raise ValueError(f"the matrix has no factorisation with pivots from its diagonal near {shift:.9g}")
    return best


def solve_at(matrix: Any, shift: float, room: float, below: int, above: int, block: int) -> ShiftResult | None:
    """The `below` modes below a shift and the `above` modes above it that are nearest to it, or all if there are fewer.

    Returns None where they are not found. A shift that is too near to an eigenvalue moves up by less than its room.
    """
    size, norm = matrix.shape[0], float(abs(matrix).sum(axis=1).max())
    # Each factorisation tries STEPS shifts of its own; ten of them cover 80 % of the room without trying any twice.
    for moved in (shift + STEP * room * STEPS * np.arange(10)).tolist():
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
    """The `negative` lowest and `positive` highest eigenvalues of an inverse, by block Lanczos; deterministic.

    Pairs are in the order in which the eigenvalues of the matrix ascend. None where they are not found. `solve`
    multiplies by the inverse, a matrix of `size` rows.
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
        recent = last.T @ new  # in exact arithmetic this would be the whole column
        new -= last @ recent
        column = known.T @ new
        new -= known @ column
        column[-len(recent) :] += recent
        projected[:done, done - block : done] = column
        new, link = np.linalg.qr(new)
        exhausted = abs(np.diag(link)) < 1e-12 * abs(projected[:done, done - block : done]).max()
        if exhausted.any():  # the space is invariant: continue in directions orthogonal to it
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
    """All modes between two shifts, from the results on either side; None where they are not proven to be all."""
    (low, low_vectors), (high, high_vectors) = first.above, second.below
    size = second.factor.below - first.factor.below
    # The gap in the spectrum at each place where the modes from below could give way to those from above.
    gaps = {}  # by the number of modes taken from `first`; the rest come from `second`
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
