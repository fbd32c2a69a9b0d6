"""Recover the basis that a network was trained on from the network alone, given meshes in another basis.

A network answers only in its own basis. A basis computed anew has the same eigenspaces, but other signs, and other
rotations where eigenvalues (nearly) repeat. The right ones are those in which the network reproduces meshes best: where
its answers correlate with its inputs, mode by mode. Low modes hold nearly all of a mesh, so they are found first, from
the mean shape; what is not yet sure is taken from the network's own answer until it is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
from jaxtyping import Float

from spectral_jax.basis import align, spectral, spectrum
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data import dataset
from spectral_jax.data.dataset import Data, Split
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.geometry.metrics import summarise
from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network.codec import Codec
from spectral_jax.runs.evaluate import spatial_errors_mm
from spectral_jax.runs.run import Run

ROUNDS = 40
UNUSED = 256  # meshes at most that tell how well a basis fits
ACCEPTED = 0.8  # of the mean shape's error: what the network must stay below on meshes that were not used
SIGNS_SUFFICE = 0.98  # of the correlation that a rotation reaches: then it may be noise, and signs are taken
DOUBTFUL = 3.0  # standard deviations of the correlation of unrelated numbers


@dataclass(frozen=True)
class Recovery:
    """A recovered basis, and how sure it is.

    Attributes:
      basis: with the signs and rotations of the network's own.
      flipped: number of modes that only changed sign.
      rotated: number of groups of modes that were rotated among each other.
      evidence: correlation of the network's answers with its inputs in each mode, 0 to 1.
      doubtful: modes whose correlation may be chance.
      error_mm: of the network on meshes that were not used, in the recovered basis.
      before_mm: the same in the basis given.
      mean_shape_mm: of the mean of the meshes used, on the same meshes.
    """

    basis: SpectralBasis
    flipped: int
    rotated: int
    evidence: Float[np.ndarray, "freq"]
    doubtful: list[int]
    error_mm: float
    before_mm: float
    mean_shape_mm: float

    @property
    def accepted(self) -> bool:
        """Whether the network is well below the mean shape on meshes that were not used."""
        return self.error_mm < ACCEPTED * self.mean_shape_mm


def read_meshes(data: Data, num_modes: int, count: int, progress: Progress = SILENT) -> tuple[Split, Split]:
    """Meshes of a dataset to recover a basis from, and others to check it with: at most `count` and UNUSED.

    They are of the train and the test split, or alternate meshes of the test split if there is no train split. Raises
    ValueError when there are under 2 meshes with vertices, or fewer modes than asked for.
    """

    tested = range(len(data.records("test")))
    if "train" in data.splits:
        split, used, unused = "train", range(len(data.records("train"))), tested
    elif len(tested) > 1:
        split, used, unused = "test", tested[::2], tested[1::2]
    else:
        raise ValueError(f"{data.path}: {len(tested)} mesh, at least 2 are needed: one to recover from, one to check")

    def read(split: str, rows: range, most: int) -> Split:
        chosen = [rows[i] for i in evenly_spaced(len(rows), most)]
        return dataset.read_split(data, split, num_modes, chosen, progress)

    return read(split, used, count), read("test", unused, UNUSED)


def recover(run: Run, basis: SpectralBasis, used: Split, unused: Split, progress: Progress = SILENT) -> Recovery:
    """Recover the basis of a run from coefficients of meshes in another basis of the same connectivity.

    `used` are the meshes to recover it from, `unused` others with vertices, which tell how well it fits. Raises
    ValueError when the basis or the coefficients have fewer modes than the network, or `unused` has no vertices.
    """
    modes = run.config.model.modes
    if min(basis.num_modes, used.coefficients.shape[1]) < modes:
        raise ValueError(f"the network of {run.path} has {modes} modes, the data have {used.coefficients.shape[1]}")
    vertices = unused.vertices
    if vertices is None:
        raise ValueError("the meshes that were not used have no vertices to compare with")
    codec = replace(Codec.of(run), basis=None)  # what it has, if any, may be another
    basis = spectral.truncate(basis, modes)
    groups = align.repeated(basis)
    turn, evidence = find_turn(codec, used.coefficients[:, :modes], groups, progress)

    def error_mm(coefficients: np.ndarray, phi: np.ndarray) -> float:
        return summarise(spatial_errors_mm(phi, coefficients, vertices)).mean_mm

    phi = np.asarray(basis.modes, np.float32)
    aligned = np.asarray(phi @ turn.T, np.float32)
    given = unused.coefficients[:, :modes]
    mean = np.broadcast_to(used.coefficients[:, :modes].mean(axis=0), given.shape)
    diagonal = turn.diagonal()
    return Recovery(
        basis=replace(basis, modes=aligned),
        flipped=int((diagonal == -1).sum()),
        rotated=sum(bool((np.abs(diagonal[group]) != 1).any()) for group in groups),
        evidence=evidence,
        doubtful=np.flatnonzero(evidence < DOUBTFUL / np.sqrt(3 * len(used.coefficients))).tolist(),
        error_mm=error_mm(_answers(codec, turned(turn, given)), aligned),
        before_mm=error_mm(_answers(codec, given), phi),
        mean_shape_mm=error_mm(mean, phi),
    )


def find_turn(
    codec: Codec,
    coefficients: Float[np.ndarray, "mesh freq 3"],
    groups: list[np.ndarray],
    progress: Progress = SILENT,
) -> tuple[scipy.sparse.csr_array, Float[np.ndarray, "freq"]]:
    """The orthogonal matrix (freq, freq) that turns coefficients into those of the network's basis, and the evidence.

    It mixes modes only inside the groups of indices. Rounds of encoding and decoding: each mode, or group, is turned
    to what the network answered, by its sign or by an orthogonal Procrustes fit. In the next round the input is a blend
    of the turned coefficients, by their correlation with the answer, and of that answer.
    """
    zero = np.zeros((1, codec.model.config.latent_size), np.float32)
    answers = np.broadcast_to(codec.decode(zero), coefficients.shape)
    turn, evidence = _fit(coefficients, answers, groups)
    for _ in track(range(ROUNDS), progress, "recovering signs"):
        weights = evidence[None, :, None].astype(np.float32)
        answers = _answers(codec, weights * turned(turn, coefficients) + (1 - weights) * answers)
        turn, evidence = _fit(coefficients, answers, groups)
    return turn, evidence


def turned(turn: scipy.sparse.csr_array, coefficients: np.ndarray) -> np.ndarray:
    """Coefficients (mesh, freq, 3) after a turn of their modes."""
    return _meshes(turn @ _rows(coefficients))


def _rows(coefficients: np.ndarray) -> np.ndarray:
    return coefficients.transpose(1, 0, 2).reshape(coefficients.shape[1], -1)


def _meshes(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(len(rows), -1, 3).transpose(1, 0, 2), np.float32)


def _answers(codec: Codec, coefficients: np.ndarray) -> np.ndarray:
    return codec.decode(codec.encode(coefficients))


def _fit(
    coefficients: np.ndarray, answers: np.ndarray, groups: list[np.ndarray]
) -> tuple[scipy.sparse.csr_array, np.ndarray]:
    """The turn of each group to the answers, and their correlation (freq) after it."""
    given, wanted = _rows(coefficients), _rows(answers)
    values = np.where(np.einsum("fs,fs->f", given, wanted) < 0, -1.0, 1.0)
    rotated, entries = np.zeros(len(given), bool), []
    for group in groups:
        if len(group) > 1:
            rotation, overlap = align.rotation(given[group], wanted[group]), given[group] @ wanted[group].T
            if np.abs(np.diag(overlap)).sum() < SIGNS_SUFFICE * (rotation * overlap).sum():
                rows, columns = np.meshgrid(group, group, indexing="ij")
                entries.append((rotation.T.ravel(), rows.ravel(), columns.ravel()))
                rotated[group] = True
    alone = np.flatnonzero(~rotated)
    entries.append((values[alone], alone, alone))
    data, rows, columns = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    turn = scipy.sparse.csr_array((data.astype(np.float32), (rows, columns)), shape=(len(given), len(given)))
    turned_rows = turn @ given
    norms = np.linalg.norm(turned_rows, axis=1) * np.linalg.norm(wanted, axis=1)
    products = np.einsum("fs,fs->f", turned_rows, wanted)
    return turn, np.clip(products / np.where(norms > 0, norms, 1), 0, 1)


def describe(found: Recovery, used: int, unused: int) -> list[str]:
    """What was recovered from so many meshes and checked with so many others, in lines."""
    count = len(found.evidence)
    ends = (0, *(end for end in spectrum.octave_counts(count) if end >= 64 or end == count))
    bands = ", ".join(f"{a} to {b - 1}: {found.evidence[a:b].mean():.2f}" for a, b in itertools.pairwise(ends))
    doubtful = "no mode is doubtful"
    if found.doubtful:
        doubtful = f"{len(found.doubtful)} modes may be wrong by chance ({align.ranges(found.doubtful)})"
    return [
        f"{count} modes from {used} meshes: {found.flipped} flipped, {found.rotated} groups rotated",
        f"evidence (correlation of answers and meshes) of modes {bands}; {doubtful}",
        f"error on {unused} other meshes: {found.error_mm:.2f} mm (in the basis as given {found.before_mm:.2f} mm, of "
        f"the mean shape {found.mean_shape_mm:.2f} mm)",
    ]
