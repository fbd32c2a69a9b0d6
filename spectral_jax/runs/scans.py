"""Fit a run to files of scans: open the run, fit each scan, and write the mesh, the latent and the errors of each."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import trimesh
from jaxtyping import Float

from spectral_jax.basis import spectral
from spectral_jax.files import atomic
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.fitting.closest import closest_points, near_faces
from spectral_jax.fitting.fit import FittedScan, fit_prior, fit_scan
from spectral_jax.geometry import scans
from spectral_jax.geometry.mesh import MOST_BYTES, Mesh
from spectral_jax.geometry.scans import METRES, Unit
from spectral_jax.runs import latents
from spectral_jax.runs.opened import OpenedRun, encode_some

NUM_LATENTS = 2048  # train meshes whose latents give the prior
NEAR = 32  # faces near a point, among which the closest point is searched for the errors
LARGEST, SMALLEST = 10.0, 0.02  # a scan's size over the mean shape's, beyond which the unit must be wrong
TABLE = "errors.csv"


@dataclass(frozen=True)
class ScanOptions:
    """How scans are read and fitted."""

    unit: Unit = "m"
    """Unit of the scans and landmarks; the results are written in it."""
    scaled: bool = False
    """Find the scale, too."""
    refine_modes: int = 0
    """Number of lowest modes that follow the points beyond what the network can decode."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a scan's size, unpacked."""


@dataclass(frozen=True)
class ScanErrors:
    """Distances in mm from the points of a scan to the fitted surface, and the scale that was found."""

    scan: str
    points: int
    mean_mm: float
    median_mm: float
    percentile_95_mm: float
    scale: float


def fit_scans(
    opened: OpenedRun,
    paths: Sequence[Path],
    out: Path,
    options: ScanOptions,
    landmarks: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> Iterator[ScanErrors]:
    """Fit a run to scans one after the other, and write OUT/NAME.ply, .npz and .glb of each, and OUT/errors.csv.

    `landmarks` are files of them, as many as scans, or none. All files are read before the first fit. Raises ValueError
    naming the file for a scan that cannot be read or whose size is not that of the meshes, and for two of one name.
    """
    names = [path.name.partition(".")[0] for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two scans are called {twice}, so their results would be, too: fit them into two folders")
    if landmarks and len(landmarks) != len(paths):
        raise ValueError(f"{len(landmarks)} files of landmarks for {len(paths)} scans: give one for each scan, or none")
    prior = fit_prior(encode_some(opened, NUM_LATENTS, progress=progress).latents)
    mean = opened.codec.decode_vertices([np.asarray(prior.density.mean)])[0]
    for path in paths:
        _read(path, mean, options)
    marks = [_read_landmarks(path, opened, options.unit) for path in landmarks] or [(None, None)] * len(paths)
    rows: list[ScanErrors] = []
    for name, path, marked in track(list(zip(names, paths, marks, strict=True)), progress, "scans"):
        points = _read(path, mean, options)
        how = {"scaled": options.scaled, "refine_modes": options.refine_modes, "progress": progress}
        try:
            fitted = fit_scan(opened.codec, prior, points, *marked, **how)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        rows.append(_errors(name, fitted, points, np.asarray(opened.basis.faces)))
        _write(out / name, fitted, points, opened, options.unit)
        _write_table(out / TABLE, rows)
        yield rows[-1]


def _read(path: Path, mean: np.ndarray, options: ScanOptions) -> np.ndarray:
    """Points on a scan in metres. Raises ValueError where its size is not that of the mean shape."""
    points = scans.sample(scans.read_scan(path, options.unit, options.max_file_bytes))
    most = np.quantile(points, (0.01, 0.99), axis=0)  # a few points may lie far away
    extent, usual = (float(np.linalg.norm(np.ptp(x, axis=0))) for x in (most, mean))
    if options.scaled or SMALLEST * usual <= extent <= LARGEST * usual:
        return points
    ratio = max(extent, 1e-30) / METRES[options.unit] / usual
    unit = min(METRES, key=lambda unit: abs(np.log(ratio * METRES[unit])))
    hint = "--scale finds the scale" if unit == options.unit else f"--unit {unit} reads it in {unit}"
    raise ValueError(f"{path}: {extent:.3g} m large, the meshes of the run {usual:.3g} m; {hint}")


def _read_landmarks(path: Path, opened: OpenedRun, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks, whose vertices are numbered as those of the dataset's files, for the vertices that the modes have."""
    vertices, places = scans.read_landmarks(path, unit)
    count = opened.basis.num_vertices
    whole, _ = spectral.with_unused(opened.basis, np.zeros((count, 3), np.float32))
    if wrong := [vertex for vertex in vertices.tolist() if not 0 <= vertex < len(whole)]:
        raise ValueError(f"{path}: vertex {wrong[0]}, the run has vertices 0 to {len(whole) - 1}")
    numbers = np.full(len(whole), -1)
    unused = [] if opened.basis.unused is None else np.asarray(opened.basis.unused.indices)
    numbers[np.delete(np.arange(len(whole)), unused)] = np.arange(count)
    if (numbers[vertices] < 0).any():
        raise ValueError(f"{path}: vertex {vertices[numbers[vertices] < 0][0]} belongs to no face of the run's meshes")
    return numbers[vertices].astype(np.int32), places


def _errors(name: str, fitted: FittedScan, points: np.ndarray, faces: np.ndarray) -> ScanErrors:
    """The distances of points to a fitted surface."""
    centre = fitted.vertices.mean(axis=0)
    vertices, here = ((x - centre).astype(np.float32) for x in (fitted.vertices, points))
    near = near_faces(vertices, faces, here, NEAR)
    distances = 1000 * np.asarray(jax.jit(closest_points)(vertices, faces, here, near).distances, np.float64)
    figures = distances.mean(), np.median(distances), np.quantile(distances, 0.95), fitted.pose.scale
    return ScanErrors(name, len(points), *map(float, figures))


def _write(stem: Path, fitted: FittedScan, points: Float[np.ndarray, "point 3"], opened: OpenedRun, unit: Unit) -> None:
    """Write the latent and the pose, the scan with the fit, and last the registered mesh."""
    metres = METRES[unit]
    pose = fitted.pose
    arrays = {"latents": fitted.latent[None], "residual": fitted.residual, "unit": np.array(unit)}
    arrays |= {"rotation": pose.rotation, "translation": pose.translation / metres}
    arrays |= {"scale": np.array(pose.scale / metres), **latents.origin(opened.run)}
    with atomic.replacing(stem.with_name(f"{stem.name}.npz")) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    # vertices in no face are where the template has them, before it is posed
    placed = pose.inverse().apply(fitted.vertices).astype(np.float32)
    vertices, faces = spectral.with_unused(opened.basis, placed)
    whole = Mesh(pose.apply(vertices.astype(np.float64)), faces)
    surface = trimesh.Trimesh(*whole, process=False)
    scene: Any = trimesh.Scene([surface, trimesh.PointCloud(points)])
    moved: Any = trimesh.Trimesh(whole.vertices / metres, faces, process=False)
    for suffix, exported in ((".glb", scene), (".ply", moved)):
        with atomic.replacing(stem.with_name(stem.name + suffix)) as partial:
            partial.write_bytes(exported.export(file_type=suffix[1:]))


def _write_table(path: Path, rows: list[ScanErrors]) -> None:
    """Write the errors as a table, with a line for each scan."""
    with atomic.replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(ScanErrors)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)
