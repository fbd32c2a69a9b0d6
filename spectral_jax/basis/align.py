"""Turning a basis into another one of the same connectivity: signs, and rotations inside repeated eigenvalues."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.basis.spectral import SpectralBasis

# Modes rotate among each other where eigenvalues are closer than this times max(1, eigenvalue), for the cotangent
# operator max(a tenth of the last, eigenvalue). The first suffices for modes found in float64; those that it leaves
# apart are tried in the larger groups of the next, for modes of float32.
GAPS = (1e-6, 1e-5, 1e-4, 1e-3)
LARGEST = 64  # modes in a group of any gap but the first
RESIDUAL = 0.01  # of the norm of a mode: it agrees


class AlignmentReport(NamedTuple):
    """What an alignment did; modes by index, groups of modes as (first, size).

    Attributes:
      compared: what the difference is of: modes, or coefficients in metres.
      num_modes: modes that were compared.
      flipped: modes that changed sign and nothing else.
      rotated: groups of modes that were rotated among each other.
      unmatched: modes that do not agree, brought as near as their group allows.
      cut: likewise, these being the last group of the basis, which may go on beyond its last mode.
      undetermined: modes for which the data tell too little.
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
        """Whether every mode compared agrees."""
        return not (self.unmatched or self.cut or self.undetermined)


def describe(report: AlignmentReport) -> str:
    """The report as a paragraph."""
    largest = max((size for _, size in report.rotated), default=0)
    rotated = f"{len(report.rotated)} groups rotated" + (f" (the largest of {largest} modes)" if largest else "")
    text = f"{report.num_modes} modes compared: {report.flipped} flipped, {rotated}"
    text += f"; largest remaining difference of {report.compared} {report.difference:.2g}."
    if report.unmatched:
        text += f" {len(report.unmatched)} modes do not agree: {_ranges(report.unmatched)}."
    if report.cut:
        text += (
            f" Modes at the end ({_ranges(report.cut)}) do not agree, as when the last eigenvalue is repeated beyond "
            "the last mode: align a basis that was computed with more modes."
        )
    if report.undetermined:
        text += (
            f" {len(report.undetermined)} modes are undetermined ({_ranges(report.undetermined)}): the data have too "
            "few meshes or too little in them."
        )
    return text


def align(basis: SpectralBasis, reference: SpectralBasis) -> tuple[SpectralBasis, AlignmentReport]:
    """The basis with the signs of the reference, and its rotations inside (near-)repeated eigenvalues.

    Either may have more modes; those beyond the reference's stay orthonormal eigenmodes. Raises ValueError when the
    connectivities or the operators differ.
    """
    if basis.fingerprint != reference.fingerprint:
        raise ValueError(
            f"the basis has {basis.num_vertices} vertices and connectivity {basis.fingerprint[:12]}, the reference "
            f"{reference.num_vertices} and {reference.fingerprint[:12]}: not the same connectivity"
        )
    if basis.operator != reference.operator:
        raise ValueError(
            f"the basis is of the {basis.operator} operator, the reference of the {reference.operator} operator"
        )
    given, wanted = (np.ascontiguousarray((np.asarray(b.modes) * _roots(b)).T) for b in (basis, reference))
    return _match(basis, given, wanted, "modes")


def signs_from_data(
    basis: SpectralBasis,
    vertices: Float[np.ndarray, "mesh vertex 3"],
    coefficients: Float[np.ndarray, "mesh freq 3"],
) -> tuple[SpectralBasis, AlignmentReport]:
    """The basis in which meshes of these vertices have these coefficients, both in metres.

    A group of modes needs at least a third of its size in meshes. Raises ValueError for another number of vertices,
    unequal numbers of meshes or values that are not finite.
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
    """Roots of the mass (vertex, 1): by them vectors become such that the plain inner product is the basis's."""
    return np.sqrt(np.ones((1, 1), np.float32) if basis.mass is None else np.asarray(basis.mass)[:, None])


def _match(
    basis: SpectralBasis,
    given: np.ndarray,
    wanted: np.ndarray,
    compared: Literal["modes", "coefficients"],
    noise: float = 0.0,
) -> tuple[SpectralBasis, AlignmentReport]:
    """Rotate modes so that rows (freq, sample) of `given`, turned likewise, are `wanted`, where rows carry `noise`.

    The rows of a group are an orthogonal Procrustes problem of their own.
    """
    columns = np.ascontiguousarray(np.asarray(basis.modes, np.float32).T)
    eigenvalues, shared = np.asarray(basis.eigenvalues, np.float64), min(len(given), len(wanted))
    aligned, difference = columns.copy(), np.zeros(shared)
    least = 1.0 if basis.mass is None else 0.1 * eigenvalues[-1]
    flipped, rotated, undetermined, last = 0, [], [], range(0)
    pending = np.arange(len(given))
    for gap in GAPS:
        first = gap == GAPS[0]
        groups, pending = _groups(pending, eigenvalues, gap, least), pending[:0]
        for group in groups:
            rows, targets = given[group], wanted[group[0] : min(group[-1] + 1, shared)]
            compare = group[: len(targets)]
            if not len(targets) or (len(group) > LARGEST and not first):
                pending = np.append(pending, group)
                continue
            rotation = _rotation(rows, targets)
            remaining = rotation.T[: len(targets)] @ rows - targets
            allowed = RESIDUAL * np.linalg.norm(targets, axis=1) + 3 * noise
            agrees = (np.linalg.norm(remaining, axis=1) <= allowed).all()
            if not (agrees or first):
                pending = np.append(pending, group)
                continue
            aligned[group] = rotation.T @ columns[group]
            difference[compare] = np.abs(remaining).max(axis=1)
            if noise and not _rank_is_full(rows, 10 * noise):
                undetermined += compare.tolist()
            elif not agrees:
                pending = np.append(pending, group)
                last = range(group[0], group[-1] + 1)
            elif np.abs(np.diag(rotation)).sum() == len(group):  # signs alone
                flipped += int((np.diag(rotation)[: len(targets)] < 0).sum())
            else:
                rotated.append((int(group[0]), len(group)))
    unmatched = pending[pending < shared].tolist()
    cut = []
    if len(given) == shared and shared - 1 in unmatched and all(mode in last for mode in unmatched):
        cut, unmatched = unmatched, cut
    counts = (shared, flipped, sorted(rotated), unmatched, cut, sorted(undetermined))
    report = AlignmentReport(compared, *counts, float(difference.max()))
    return replace(basis, modes=np.ascontiguousarray(aligned.T)), report


def _groups(pending: np.ndarray, eigenvalues: np.ndarray, gap: float, least: float) -> list[np.ndarray]:
    """Runs of consecutive modes among the pending whose eigenvalues follow each other within the gap."""
    if not len(pending):
        return []
    values = eigenvalues[pending]
    apart = (np.diff(values) > gap * np.maximum(least, values[1:])) | (np.diff(pending) > 1)
    return np.split(pending, np.flatnonzero(apart) + 1)


def _rank_is_full(rows: np.ndarray, smallest: float) -> bool:
    """Whether every direction among the rows has at least this norm."""
    return rows.shape[1] >= len(rows) and bool(np.linalg.svd(rows, compute_uv=False)[-1] > smallest)


def _rotation(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Orthogonal R, float64, with the first rows of R^T rows nearest to the targets; signs alone where they do."""
    if len(rows) == 1:
        return np.where(rows @ targets.T < 0, -1.0, 1.0)
    rows, targets = rows.astype(np.float64), targets.astype(np.float64)
    count = len(targets)
    # With fewer targets than rows the norm of the result is not fixed: least squares, then the nearest isometry.
    overlap = rows @ targets.T if count == len(rows) else np.linalg.lstsq(rows.T, targets.T)[0]
    left, _, right = np.linalg.svd(overlap)
    rotation = np.concatenate([left[:, :count] @ right, left[:, count:]], axis=1)
    signs = np.diag(np.where(np.diag(rotation) < 0, -1.0, 1.0))
    return signs if np.abs(rotation - signs).max() < 1e-4 else rotation


def _ranges(modes: list[int], most: int = 8) -> str:
    """Indices in words: 3, 5-8, ..."""
    runs = np.split(np.array(modes), np.flatnonzero(np.diff(modes) > 1) + 1)
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:most]]
    return ", ".join(words + ["..."] * (len(runs) > most))
