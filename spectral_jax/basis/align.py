"""Align a basis with another one of the same connectivity: signs, and rotations inside repeated eigenvalues."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.basis.spectral import SpectralBasis, check_comparable

# Eigenvalues closer than this relative gap count as repeated. The gap is relative to max(1, eigenvalue), or for the
# cotangent operator to max(a tenth of the last eigenvalue, eigenvalue). The first gap suffices for modes computed in
# float64. Modes that do not agree then are tried again with the next gaps, which suit modes computed in float32.
GAPS = (1e-6, 1e-5, 1e-4, 1e-3)
LARGEST = 64  # modes in a group, for every gap but the first
RESIDUAL = 0.01  # modes agree if their difference is smaller than this part of their norm


class AlignmentReport(NamedTuple):
    """What an alignment did. Modes are given by index, groups of modes as (first, size).

    Attributes:
      compared: what was compared: modes, or coefficients in metres.
      num_modes: number of modes compared.
      flipped: number of modes that only changed sign.
      rotated: groups of modes that were rotated among each other.
      unmatched: modes that do not agree; they are as near as their group allows.
      cut: modes that do not agree because the last group may continue beyond the last mode of the basis.
      undetermined: modes that the meshes do not determine.
      difference: largest remaining difference.
    """

    compared: Literal["modes", "coefficients"]
    num_modes: int
    flipped: int
    rotated: list[tuple[int, int]]
    unmatched: list[int]
    cut: list[int]
    undetermined: list[int]
    difference: float

    @property
    def complete(self) -> bool:
        """Whether all compared modes agree."""
        return not (self.unmatched or self.cut or self.undetermined)


def describe(report: AlignmentReport) -> str:
    """Describe a report in a paragraph."""
    largest = max((size for _, size in report.rotated), default=0)
    rotated = f"{len(report.rotated)} groups rotated" + (f" (the largest of {largest} modes)" if largest else "")
    text = f"{report.num_modes} modes compared: {report.flipped} flipped, {rotated}"
    text += f"; largest remaining difference of {report.compared} {report.difference:.2g}."
    if report.unmatched:
        text += f" {len(report.unmatched)} modes do not agree: {ranges(report.unmatched)}."
    if report.cut:
        text += (
            f" The last modes ({ranges(report.cut)}) do not agree. Perhaps their eigenvalue is repeated beyond the "
            "last mode: align a basis computed with more modes."
        )
    if report.undetermined:
        text += (
            f" {len(report.undetermined)} modes are undetermined ({ranges(report.undetermined)}): there are too few "
            "meshes, or these modes hardly occur in them."
        )
    return text


def align(basis: SpectralBasis, reference: SpectralBasis) -> tuple[SpectralBasis, AlignmentReport]:
    """Give a basis the signs of the reference, and its rotations inside (near-)repeated eigenvalues.

    Either basis may have more modes. Modes beyond the reference's last stay orthonormal eigenmodes. Raises ValueError
    when the connectivities or the operators differ.
    """
    check_comparable(basis, reference, ("the basis", "the reference"))
    given, wanted = (np.ascontiguousarray((np.asarray(b.modes) * _roots(b)).T) for b in (basis, reference))
    return _match(basis, given, wanted, "modes")


def signs_from_data(
    basis: SpectralBasis,
    vertices: Float[np.ndarray, "mesh vertex 3"],
    coefficients: Float[np.ndarray, "mesh freq 3"],
) -> tuple[SpectralBasis, AlignmentReport]:
    """Align a basis such that meshes of these vertices have these coefficients, both in metres.

    A group of n modes needs at least n / 3 meshes. Raises ValueError for a wrong number of vertices, unequal numbers of
    meshes, or values that are not finite.
    """
    if vertices.shape[1] != basis.num_vertices or len(vertices) != len(coefficients) or not len(vertices):
        raise ValueError(
            f"{vertices.shape[0]} meshes of {vertices.shape[1]} vertices and {len(coefficients)} of coefficients "
            f"given; the basis has {basis.num_vertices} vertices"
        )
    if not (np.isfinite(vertices).all() and np.isfinite(coefficients).all()):
        raise ValueError("the meshes have values that are not finite")
    positions = vertices.astype(np.float64).transpose(1, 0, 2).reshape(basis.num_vertices, -1)
    positions *= _roots(basis)
    projected = (np.asarray(basis.modes, np.float64) * _roots(basis)).T @ positions
    given = coefficients.astype(np.float64).transpose(1, 0, 2).reshape(coefficients.shape[1], -1)
    noise = 4 * float(np.finfo(np.float32).eps) * float(np.sqrt(np.square(positions).mean() * positions.shape[1]))
    return _match(basis, projected, given, "coefficients", noise)


def _roots(basis: SpectralBasis) -> np.ndarray:
    """Square roots of the mass (vertex, 1). Vectors times them have the basis's inner product as their plain one."""
    return np.sqrt(np.ones((1, 1), np.float32) if basis.mass is None else np.asarray(basis.mass)[:, None])


def _match(
    basis: SpectralBasis,
    given: np.ndarray,
    wanted: np.ndarray,
    compared: Literal["modes", "coefficients"],
    noise: float = 0.0,
) -> tuple[SpectralBasis, AlignmentReport]:
    """Rotate modes such that the rows (freq, sample) of `given`, rotated likewise, become `wanted`.

    `noise` is the norm of the rounding errors in a row.

    The rows of each group of (near-)repeated eigenvalues are an orthogonal Procrustes problem of their own.
    """
    columns = np.ascontiguousarray(np.asarray(basis.modes, np.float32).T)
    eigenvalues, scale = np.asarray(basis.eigenvalues, np.float64), _scale(basis)
    shared = min(len(given), len(wanted))
    aligned = columns.copy()
    difference = np.zeros(shared)
    flipped = 0
    rotated: list[tuple[int, int]] = []
    undetermined: list[int] = []
    pending = np.arange(len(given))  # modes that do not agree yet
    last = range(0)  # the last group that does not agree
    for gap in GAPS:
        first = gap == GAPS[0]
        groups, pending = _groups(pending, eigenvalues, gap, scale), pending[:0]
        for group in groups:
            targets = wanted[group[0] : min(group[-1] + 1, shared)]
            fits = len(targets) and (len(group) <= LARGEST or first)
            turn = _turn(given[group], targets, noise) if fits else None
            if turn is None or not (turn.agrees or first):
                pending = np.append(pending, group)
                continue
            compared_modes = group[: len(targets)]
            aligned[group] = turn.rotation.T @ columns[group]
            difference[compared_modes] = np.abs(turn.remaining).max(axis=1)
            diagonal = np.diag(turn.rotation)
            if noise and not _rank_is_full(given[group], 10 * noise):
                undetermined += compared_modes.tolist()
            elif not turn.agrees:
                pending = np.append(pending, group)
                last = range(group[0], group[-1] + 1)
            elif np.abs(diagonal).sum() == len(group):  # signs alone
                flipped += int((diagonal[: len(targets)] < 0).sum())
            else:
                rotated.append((int(group[0]), len(group)))
    unmatched: list[int] = pending[pending < shared].tolist()
    ends_inside_group = len(given) == shared and shared - 1 in unmatched and all(mode in last for mode in unmatched)
    report = AlignmentReport(
        compared=compared,
        num_modes=shared,
        flipped=flipped,
        rotated=sorted(rotated),
        unmatched=[] if ends_inside_group else unmatched,
        cut=unmatched if ends_inside_group else [],
        undetermined=sorted(undetermined),
        difference=float(difference.max()),
    )
    return replace(basis, modes=np.ascontiguousarray(aligned.T)), report


def repeated(basis: SpectralBasis) -> list[np.ndarray]:
    """The modes of a basis in groups of consecutive ones whose eigenvalues repeat; most groups are of one mode."""
    return _groups(np.arange(basis.num_modes), np.asarray(basis.eigenvalues, np.float64), GAPS[0], _scale(basis))


def _scale(basis: SpectralBasis) -> float:
    """The eigenvalue from which on gaps are relative to the eigenvalue itself."""
    return 1.0 if basis.mass is None else 0.1 * float(basis.eigenvalues[-1])


class _Turn(NamedTuple):
    """A group of modes turned to its targets.

    Attributes:
      rotation: orthogonal, float64; signs alone where those suffice.
      remaining: difference (freq, sample) between the turned rows and the targets.
      agrees: whether that difference is within RESIDUAL and the noise.
    """

    rotation: np.ndarray
    remaining: np.ndarray
    agrees: bool


def _turn(rows: np.ndarray, targets: np.ndarray, noise: float) -> _Turn:
    """Turn rows (freq, sample) of a group to as many targets or fewer."""
    turn = rotation(rows, targets)
    remaining = turn.T[: len(targets)] @ rows - targets
    allowed = RESIDUAL * np.linalg.norm(targets, axis=1) + 3 * noise
    return _Turn(turn, remaining, bool((np.linalg.norm(remaining, axis=1) <= allowed).all()))


def _groups(pending: np.ndarray, eigenvalues: np.ndarray, gap: float, scale: float) -> list[np.ndarray]:
    """Groups of consecutive pending modes whose eigenvalues are closer than the gap, relative to `scale` or more."""
    if not len(pending):
        return []
    values = eigenvalues[pending]
    apart = (np.diff(values) > gap * np.maximum(scale, values[1:])) | (np.diff(pending) > 1)
    return np.split(pending, np.flatnonzero(apart) + 1)


def _rank_is_full(rows: np.ndarray, smallest: float) -> bool:
    """Whether the rows are independent: their smallest singular value exceeds `smallest`."""
    return rows.shape[1] >= len(rows) and bool(np.linalg.svd(rows, compute_uv=False)[-1] > smallest)


def rotation(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Orthogonal R, float64, such that the first rows of R^T rows are nearest to the targets.

    Only signs, exactly, where the rotation is that within 1e-4.
    """
    if len(rows) == 1:
        return np.where(rows @ targets.T < 0, -1.0, 1.0)
    rows, targets = rows.astype(np.float64), targets.astype(np.float64)
    count = len(targets)
    # With fewer targets than rows this is not a Procrustes problem: take least squares, then the nearest isometry.
    overlap = rows @ targets.T if count == len(rows) else np.linalg.lstsq(rows.T, targets.T)[0]
    left, _, right = np.linalg.svd(overlap)
    found = np.concatenate([left[:, :count] @ right, left[:, count:]], axis=1)
    signs = np.diag(np.where(np.diag(found) < 0, -1.0, 1.0))
    return signs if np.abs(found - signs).max() < 1e-4 else found


def ranges(modes: list[int], most: int = 8) -> str:
    """Format indices as ranges: 3, 5-8, ..."""
    runs = np.split(np.array(modes), np.flatnonzero(np.diff(modes) > 1) + 1)
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:most]]
    return ", ".join(words + ["..."] * (len(runs) > most))
