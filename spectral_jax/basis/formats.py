"""Bases on disk beside our own .npz: a cache, and modes as MATLAB, NumPy and the published systems write them."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int

from spectral_jax import extras
from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic, safe_files
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry import mesh

SOLVER = 2  # part of the cache's file names; increase it when `spectral.compute` gives other modes than before
NAMES = ("evecs", "modes", "eigenvectors", "Phi", "phi", "V")  # usual names of modes in a .mat file


def cached(
    faces: Int[np.ndarray, "face 3"],
    num_vertices: int,
    num_modes: int | None = None,
    vertices: Float[np.ndarray, "vertex 3"] | None = None,
    progress: Progress = SILENT,
) -> SpectralBasis:
    """The basis of `spectral.compute`, from a cache by connectivity (and shape), or computed and added to it.

    A basis with more modes is truncated. The cache is the user's cache folder, or $SPECTRAL_JAX_CACHE.
    """
    num_modes = num_vertices if num_modes is None else num_modes
    name = f"{mesh.fingerprint(faces, num_vertices)[:32]}-{SOLVER}"
    if vertices is not None:  # different faces can have the same edges, hence the same fingerprint
        shape = np.asarray(vertices, np.float64).tobytes() + np.asarray(faces, np.int64).tobytes()
        name += f"-cotangent-{hashlib.sha256(shape).hexdigest()[:32]}"
    paths = [path for path in cache_folder().glob(f"{name}-*.npz") if path.stem[len(name) + 1 :].isdecimal()]
    kept = {int(path.stem[len(name) + 1 :]): path for path in paths}
    for count in sorted(count for count in kept if count >= num_modes):
        try:
            basis = spectral.truncate(spectral.load(kept[count]), num_modes)
        except ValueError:
            continue  # damaged: compute it again
        return replace(basis, faces=np.asarray(faces, np.int32))
    basis = spectral.compute(faces, num_vertices, num_modes, vertices, progress)
    with contextlib.suppress(OSError):  # work without a cache if it cannot be written
        spectral.save(cache_folder() / f"{name}-{num_modes}.npz", basis)
    return basis


def cache_folder() -> Path:
    """The folder of the cache."""
    import platformdirs

    return Path(os.environ.get("SPECTRAL_JAX_CACHE") or Path(platformdirs.user_cache_dir("spectral_jax")) / "bases")


def read_modes(path: str | Path, variable: str | None = None) -> Float[np.ndarray, "vertex freq"]:
    """Read modes in columns, float32, from .npy (with any suffix, such as mesh.evecs_6890), MATLAB .mat, or text.

    In a .mat file they are the given variable, else one with a usual name (evecs, modes, ...), else the largest matrix.
    Raises ValueError naming the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of modes")
    with path.open("rb") as file:
        start = file.read(16)
    try:
        if start.startswith(b"\x93NUMPY"):
            modes = safe_files.open_npy(path)
        elif path.suffix.lower() == ".mat":
            modes = _read_mat(path, start, variable)
        else:
            with path.open("rb") as file:
                comma = b"," in file.readline()
            modes = np.loadtxt(path, np.float64, delimiter="," if comma else None, ndmin=2)
    except Exception as error:  # readers of .mat raise many kinds of errors for a damaged file
        raise ValueError(f"{path}: not readable as modes ({error})") from error
    if modes.ndim != 2 or modes.dtype.kind != "f" or not 1 <= modes.shape[1] <= modes.shape[0]:
        raise ValueError(
            f"{path}: holds {modes.dtype} {modes.shape}, expected floats (vertices, modes), modes in columns"
        )
    with np.errstate(over="ignore"):
        modes = np.array(modes, np.float32, order="C")
    if not np.isfinite(modes).all():
        raise ValueError(f"{path}: mode {int(np.argmin(np.isfinite(modes).all(axis=0)))} is not finite")
    return modes


def _read_mat(path: Path, start: bytes, variable: str | None) -> np.ndarray:
    """Read a variable of a .mat file, of version 7.3 (HDF5) or older."""
    if start.startswith((b"\x89HDF", b"MATLAB 7.3")):
        h5py = extras.require("h5py", "hdf5", "a MATLAB 7.3 file")
        with h5py.File(path, "r") as file:
            arrays = {name: array for name, array in file.items() if getattr(array, "ndim", 0) == 2}
            shapes = {name: array.shape[::-1] for name, array in arrays.items() if array.dtype.kind == "f"}
            return arrays[_choose(shapes, variable)][()].T
    import scipy.io

    found = scipy.io.whosmat(path)
    shapes = {name: shape for name, shape, kind in found if len(shape) == 2 and kind in ("double", "single")}
    name = _choose(shapes, variable)
    return np.asarray(scipy.io.loadmat(path, variable_names=[name])[name])


def _choose(shapes: dict[str, tuple[int, ...]], variable: str | None) -> str:
    """Choose among matrices of floats: the given variable, else one with a usual name, else the largest."""
    if variable is not None and variable not in shapes:
        raise ValueError(f"no matrix of floats {variable!r}, available: {', '.join(shapes) or 'none'}")
    if not shapes:
        raise ValueError("it holds no matrix of floats")
    usual = next((name for name in NAMES if name in shapes), None)
    return variable or usual or max(shapes, key=lambda name: shapes[name][0] * shapes[name][1])


def write_modes(path: str | Path, basis: SpectralBasis) -> None:
    """Write modes in the format of the suffix: .npy or .evecs_N (NumPy), .mat (see `_write_mat`), .txt.

    Raises ValueError for another suffix.
    """
    path, modes = Path(path), np.asarray(basis.modes, np.float32)
    numpy = path.suffix == ".npy" or path.suffix.startswith(".evecs")
    if not numpy and path.suffix not in (".mat", ".txt"):
        raise ValueError(f"{path}: modes are written as .npy, .evecs_{basis.num_vertices}, .mat or .txt")
    with atomic.replacing(path) as partial, partial.open("wb") as file:
        if numpy:
            np.save(file, modes, allow_pickle=False)
        elif path.suffix == ".txt":
            np.savetxt(file, modes, fmt="%.9g")
        else:
            _write_mat(file, basis)


def _write_mat(file: BinaryIO, basis: SpectralBasis) -> None:
    """Write evecs, evals, triv (1-based faces) and mass, if there is one."""
    import scipy.io

    arrays = {
        "evecs": np.asarray(basis.modes, np.float32),
        "evals": np.asarray(basis.eigenvalues)[:, None],
        "triv": np.asarray(basis.faces) + 1.0,
    }
    if basis.mass is not None:
        arrays["mass"] = np.asarray(basis.mass)[:, None]
    scipy.io.savemat(file, arrays, do_compression=True)
