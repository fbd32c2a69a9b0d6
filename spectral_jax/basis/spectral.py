"""The spectral basis of a connectivity: compute, project, reconstruct, save, load and compare."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax.basis import components, eigen
from spectral_jax.files import atomic, safe_files
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry import mesh
from spectral_jax.geometry.mesh import Operator
from spectral_jax.geometry.sampling import evenly_spaced

DENSE = 2500  # vertices up to which the dense solver is used: it is as fast as the sparse one, or takes seconds
HOST = 500  # vertices up to which the host solves even beside a GPU, which compiles a program for each size
MOST_BYTES = 4 << 30  # limit of a file's size: all modes of 32,000 vertices
REMEDY = "a network works only with the basis it was trained on; `spectral-jax basis align` turns one into the other"


class Unused(NamedTuple):
    """Vertices of a dataset's files that belong to no face, and so to no mode.

    Attributes:
      indices: in the numbering of the files, ascending, int32.
      vertices: their places in the template, in metres, float32.
    """

    indices: Int[np.ndarray, "unused"]
    vertices: Float[np.ndarray, "unused 3"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpectralBasis:
    """The lowest eigenmodes of a Laplacian of one connectivity (paper section 3.1).

    Attributes:
      modes: eigenvectors in columns by ascending eigenvalue, float32; orthonormal under the mass, if there is one.
      eigenvalues: their eigenvalues, float64 on the host.
      faces: 0-based vertex indices, int32.
      mass: cotangent operator: area of each vertex over the mean area, float32; graph operator: None.
      unused: vertices of the dataset's files that are left out, None if there are none.
    """

    modes: Float[Array | np.ndarray, "vertex freq"]
    eigenvalues: Float[Array | np.ndarray, "freq"]
    faces: Int[Array | np.ndarray, "face 3"]
    mass: Float[Array | np.ndarray, "vertex"] | None = None
    unused: Unused | None = None

    @property
    def num_vertices(self) -> int:
        """Number of vertices."""
        return self.modes.shape[0]

    @property
    def num_modes(self) -> int:
        """Number of modes."""
        return self.modes.shape[1]

    @property
    def operator(self) -> Operator:
        """The kind of Laplacian."""
        return "graph" if self.mass is None else "cotangent"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the connectivity (see `spectral_jax.geometry.mesh.fingerprint`)."""
        return mesh.fingerprint(np.asarray(self.faces), self.num_vertices)

    @property
    def connectivity(self) -> mesh.Connectivity:
        """The fingerprint with the number of vertices, for comparisons."""
        return mesh.Connectivity(self.fingerprint, self.num_vertices)


def project(
    basis: SpectralBasis, vertices: Float[Array | np.ndarray, "*batch vertex 3"]
) -> Float[Array, "*batch freq 3"]:
    """Spectral coefficients C = Phi^T X (Phi^T M X with a mass M) of vertices in metres, at full float32 precision.

    Raises ValueError for a wrong number of vertices.
    """
    if vertices.shape[-2] != basis.num_vertices:
        raise ValueError(f"meshes have {vertices.shape[-2]} vertices, the basis has {basis.num_vertices}")
    weighted = basis.modes if basis.mass is None else basis.modes * basis.mass[:, None]
    return jnp.einsum("vf,...vc->...fc", weighted, vertices, precision="highest")


def reconstruct(
    basis: SpectralBasis, coefficients: Float[Array | np.ndarray, "*batch freq 3"]
) -> Float[Array, "*batch vertex 3"]:
    """Vertices X = Phi C in metres from the first `freq` modes, at full float32 precision.

    Raises ValueError for more modes than the basis has.
    """
    if coefficients.shape[-2] > basis.num_modes:
        raise ValueError(f"coefficients have {coefficients.shape[-2]} modes, the basis has {basis.num_modes}")
    return jnp.einsum("vf,...fc->...vc", basis.modes[:, : coefficients.shape[-2]], coefficients, precision="highest")


def with_unused(
    basis: SpectralBasis, vertices: Float[np.ndarray, "*batch vertex 3"]
) -> tuple[Float[np.ndarray, "*batch all 3"], Int[np.ndarray, "face 3"]]:
    """Vertices and faces in the numbering of the dataset's files; those in no face are where the template has them."""
    if basis.unused is None:
        return np.asarray(vertices), np.asarray(basis.faces)
    indices, places = map(np.asarray, basis.unused)
    kept = np.delete(np.arange(basis.num_vertices + len(indices)), indices)
    full = np.empty((*vertices.shape[:-2], basis.num_vertices + len(indices), 3), np.float32)
    full[..., kept, :], full[..., indices, :] = vertices, places
    return full, kept[np.asarray(basis.faces)].astype(np.int32)


def without_unused(
    basis: SpectralBasis, vertices: Float[np.ndarray, "*batch all 3"]
) -> Float[np.ndarray, "*batch vertex 3"]:
    """The vertices that the modes have, from vertices in the numbering of the dataset's files."""
    return vertices if basis.unused is None else np.delete(vertices, np.asarray(basis.unused.indices), axis=-2)


def truncate(basis: SpectralBasis, num_modes: int) -> SpectralBasis:
    """Keep the first `num_modes` modes. Raises ValueError when the basis has fewer."""
    if not 1 <= num_modes <= basis.num_modes:
        raise ValueError(f"{num_modes} modes asked for, the basis has {basis.num_modes}")
    return replace(basis, modes=basis.modes[:, :num_modes], eigenvalues=basis.eigenvalues[:num_modes])


def compute(
    faces: Int[np.ndarray, "face 3"],
    num_vertices: int,
    num_modes: int | None = None,
    vertices: Float[np.ndarray, "vertex 3"] | None = None,
    progress: Progress = SILENT,
) -> SpectralBasis:
    """Compute the `num_modes` (default: all) lowest modes of the graph Laplacian of the faces.

    With vertices in metres: of the cotangent Laplacian of that shape (see `mesh.laplacian`), eigenvalues in 1/m^2.
    `fix_signs` sets the signs, so machines agree wherever an eigenvalue is simple. If the mesh has several components,
    each mode lives on one of them, and a warning tells their number. `progress` counts the modes found, which only the
    sparse solver does as it goes (see `solver`). Raises ValueError for faces out of range, isolated vertices or more
    modes than vertices.
    """
    pairs = mesh.edges(faces, num_vertices)
    isolated = np.setdiff1d(np.arange(num_vertices), pairs)
    if isolated.size:
        raise ValueError(f"{isolated.size} of {num_vertices} vertices belong to no face, the first is {isolated[0]}")
    labels = mesh.components(pairs, num_vertices)
    if labels.any():
        warnings.warn(f"the mesh has {labels.max() + 1} components, hence as many constant modes", stacklevel=2)
    num_modes = num_vertices if num_modes is None else num_modes
    if not 1 <= num_modes <= num_vertices:
        raise ValueError(f"{num_modes} modes asked for, a mesh of {num_vertices} vertices has {num_vertices}")
    matrix, mass = mesh.laplacian(faces, num_vertices, vertices)
    progress.update(eigen.COMPUTING, 0, num_modes)
    if labels.any():
        eigenvalues, modes = components.lowest(matrix, labels, num_modes, _solve, progress)
    else:
        eigenvalues, modes = _solve(matrix, num_modes, progress)
    if mass is not None:
        modes = modes / np.sqrt(mass)[:, None]
        mass = mass.astype(np.float32)
    return SpectralBasis(fix_signs(modes).astype(np.float32), eigenvalues, np.asarray(faces, np.int32), mass)


def _solve(matrix: Any, num_modes: int, progress: Progress) -> eigen.Pairs:
    """The lowest eigenpairs of a matrix by the solver for its size."""
    chosen = solver(matrix.shape[0], num_modes)
    if chosen == "sparse":
        return eigen.sliced(matrix, num_modes, progress)
    return (eigen.dense if chosen == "dense" else eigen.dense_on_device)(matrix, num_modes)


def solver(num_vertices: int, num_modes: int) -> Literal["dense", "dense on the GPU", "sparse"]:
    """Choose a solver of `spectral_jax.basis.eigen`: sparse where it is faster or the dense matrix is too large."""
    if num_vertices > (2 * DENSE if num_modes > 0.6 * num_vertices else DENSE):
        return "sparse"
    return "dense on the GPU" if num_vertices > HOST and jax.default_backend() == "gpu" else "dense"


def from_modes(
    modes: Float[np.ndarray, "vertex freq"], faces: Int[np.ndarray, "face 3"], names: tuple[str, str]
) -> SpectralBasis:
    """Make a basis of modes computed elsewhere; the eigenvalues are Rayleigh quotients.

    Raises ValueError, which calls modes and faces by their `names`, unless the modes are orthonormal eigenvectors of
    the graph Laplacian of the faces.
    """
    modes = np.asarray(modes, np.float32)
    try:
        matrix = mesh.graph_laplacian(mesh.edges(faces, len(modes)), len(modes))
    except ValueError as error:
        raise ValueError(f"{names[1]}: {error}") from error
    eigenvalues, residuals = rayleigh(modes, matrix)
    deviation = orthonormality_error(modes)
    if not (deviation < 1e-4 and residuals.max() < 1e-3):
        raise ValueError(
            f"{names[0]}: is not the eigenbasis of the graph Laplacian of {names[1]} (deviation from orthonormality "
            f"{deviation:.2g}, allowed 1e-4; residual of mode {residuals.argmax()} {residuals.max():.2g}, allowed 1e-3)"
        )
    return SpectralBasis(modes, eigenvalues, faces)


def rayleigh(modes: Float[np.ndarray, "vertex freq"], matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rayleigh quotients (freq,) of unit columns, and norms (freq,) of the residuals A phi - lambda phi, float64."""
    eigenvalues, residuals = np.empty((2, modes.shape[1]))
    for start in range(0, modes.shape[1], 256):  # in blocks, to hold few modes in float64
        block = slice(start, start + 256)
        phi = modes[:, block].astype(np.float64)
        image = matrix @ phi
        eigenvalues[block] = np.einsum("vf,vf->f", phi, image)
        residuals[block] = np.linalg.norm(image - phi * eigenvalues[block], axis=0)
    return eigenvalues, residuals


def fix_signs(modes: Float[np.ndarray, "vertex freq"]) -> Float[np.ndarray, "vertex freq"]:
    """Flip signs such that the sum of each mode weighted by w_v = frac((v + 1)^2 * golden ratio) is positive.

    The weights follow no symmetry of a mesh. Sums of entries or of their cubes would vanish for symmetric modes.
    """
    weights = (np.arange(1, len(modes) + 1, dtype=np.float64) ** 2 * ((1 + np.sqrt(5)) / 2)) % 1.0
    return modes * np.where(weights @ modes < 0, -1, 1).astype(modes.dtype)


def save(path: str | Path, basis: SpectralBasis) -> None:
    """Write a basis as .npz, atomically and without pickle."""
    arrays: dict[str, Any] = {
        "modes": np.asarray(basis.modes, np.float32),
        "eigenvalues": np.asarray(basis.eigenvalues, np.float64),
        "faces": np.asarray(basis.faces, np.int32),
        "fingerprint": np.array(basis.fingerprint),
    }
    if basis.mass is not None:
        arrays["mass"] = np.asarray(basis.mass, np.float32)
    if basis.unused is not None:
        arrays["unused"], arrays["unused_vertices"] = map(np.asarray, basis.unused)
    with atomic.replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def load(path: str | Path) -> SpectralBasis:
    """Read a basis written by `save`, and check it.

    Raises ValueError naming the file when it is missing or malformed, when a sample of modes is not orthonormal to
    1e-4, or when the fingerprint is not that of the faces.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such basis file")
    try:
        with safe_files.open_npz(path, MOST_BYTES) as file:
            modes, eigenvalues, faces = file["modes"], file["eigenvalues"], file["faces"]
            stored, mass = str(file["fingerprint"]), file.get("mass")
            unused = Unused(file["unused"], file["unused_vertices"]) if "unused" in file else None
    except ValueError as error:
        raise ValueError(f"{path}: not a spectral basis ({error})") from error
    if modes.ndim != 2 or 0 in modes.shape or eigenvalues.shape != modes.shape[1:] or faces.shape[1:] != (3,):
        raise ValueError(
            f"{path}: modes {modes.shape}, eigenvalues {eigenvalues.shape} and faces {faces.shape} do not match, "
            "expected (vertex, freq), (freq,) and (face, 3)"
        )
    floats = (modes, eigenvalues) if mass is None else (modes, eigenvalues, mass)
    if any(array.dtype.kind != "f" for array in floats) or faces.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: modes, eigenvalues and mass are {', '.join(str(array.dtype) for array in floats)}, faces "
            f"{faces.dtype}; expected floats, and integers for faces"
        )
    if mass is not None and not (mass.shape == modes.shape[:1] and ((mass > 0) & (mass < np.inf)).all()):
        raise ValueError(f"{path}: mass {mass.shape}, expected ({len(modes)},) and positive")
    if unused is not None:
        _check_unused(unused, len(modes), path)
    with np.errstate(all="ignore"):
        deviation = orthonormality_error(modes, mass)
    if not deviation < 1e-4:
        raise ValueError(f"{path}: modes are not orthonormal (off by {deviation:.2g}, allowed 1e-4)")
    if not (np.isfinite(modes).all() and np.isfinite(eigenvalues).all()):
        raise ValueError(f"{path}: some modes or eigenvalues are not finite")
    try:
        found = mesh.fingerprint(faces, len(modes))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if found != stored:
        raise ValueError(f"{path}: its faces have fingerprint {found[:12]}, it says {stored[:12]}")
    return SpectralBasis(modes, eigenvalues, faces.astype(np.int32), mass, unused)


def _check_unused(unused: Unused, num_vertices: int, path: Path) -> None:
    """Raise ValueError naming the file unless these are numbers of vertices, ascending, with places."""
    indices, places = unused
    if indices.dtype.kind not in "iu" or indices.ndim != 1 or places.dtype.kind != "f" or not len(indices):
        raise ValueError(f"{path}: unused vertices are {indices.dtype} {indices.shape}, expected integers (unused,)")
    if places.shape != (len(indices), 3) or not np.isfinite(places).all():
        raise ValueError(
            f"{path}: places of unused vertices are {places.shape}, expected ({len(indices)}, 3) and finite"
        )
    ends, steps = (int(indices[0]), int(indices[-1])), indices.astype(np.int64)
    if ends[0] < 0 or ends[1] >= num_vertices + len(indices) or (np.diff(steps) <= 0).any():
        raise ValueError(
            f"{path}: unused vertices {ends[0]} to {ends[1]}, expected ascending from 0 to "
            f"{num_vertices + len(indices) - 1}"
        )


def orthonormality_error(
    modes: Float[np.ndarray, "vertex freq"], mass: Float[np.ndarray, "vertex"] | None = None
) -> float:
    """Largest entry of the Gram matrix minus the identity, for up to 64 modes spread over the spectrum."""
    sample = modes[:, evenly_spaced(modes.shape[1], 64)].astype(np.float64)
    weighted = sample if mass is None else sample * mass[:, None]
    return float(np.abs(sample.T @ weighted - np.eye(sample.shape[1])).max())


def check_comparable(basis: SpectralBasis, other: SpectralBasis, names: tuple[str, str]) -> None:
    """Raise ValueError, which calls them by their `names`, unless two bases have one connectivity and one operator."""
    mesh.check_connectivity(basis.connectivity, other.connectivity, names)
    if basis.operator != other.operator:
        raise ValueError(f"{names[0]} is of the {basis.operator} operator, {names[1]} of the {other.operator} operator")


def check_same(basis: SpectralBasis, other: SpectralBasis, names: tuple[str, str], tolerance: float = 1e-3) -> None:
    """Raise ValueError unless two bases are comparable and have the same modes, including signs and rotations."""
    check_comparable(basis, other, names)
    shared = min(basis.num_modes, other.num_modes)
    modes, others = (np.asarray(each.modes[:, :shared]) for each in (basis, other))
    if np.array_equal(modes, others):
        return
    difference = np.abs(modes - others).max(axis=0)
    if difference.max() > tolerance:
        raise ValueError(
            f"{names[0]} and {names[1]} have different modes ({(difference > tolerance).sum()} of {shared} differ, the "
            f"first is mode {int(np.argmax(difference > tolerance))}): {REMEDY}"
        )
