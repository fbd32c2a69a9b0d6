"""The spectral basis of a connectivity: Laplacian eigenmodes, project, reconstruct, files."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax import mesh

if TYPE_CHECKING:
    from spectral_jax.align import AlignmentReport

REMEDY = "a network only fits the basis it was trained on; `spectral-jax basis align` turns one basis into the other"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpectralBasis:
    """The lowest eigenmodes of the graph Laplacian of one connectivity (paper section 3.1).

    Attributes:
      modes: orthonormal columns, ascending eigenvalue, float32.
      eigenvalues: of the same columns, float64 on the host.
      faces: 0-based vertex indices, int32.
    """

    modes: Float[Array | np.ndarray, "vertex freq"]
    eigenvalues: Float[Array | np.ndarray, "freq"]
    faces: Int[Array | np.ndarray, "face 3"]

    @property
    def num_vertices(self) -> int:
        """Number of vertices."""
        return self.modes.shape[0]

    @property
    def num_modes(self) -> int:
        """Number of modes."""
        return self.modes.shape[1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the connectivity (see `spectral_jax.mesh.fingerprint`)."""
        return mesh.fingerprint(np.asarray(self.faces), self.num_vertices)


def project(
    basis: SpectralBasis, vertices: Float[Array | np.ndarray, "*batch vertex 3"]
) -> Float[Array, "*batch freq 3"]:
    """Spectral coefficients C = Phi^T X of vertices in metres, at full float32 precision."""
    if vertices.shape[-2] != basis.num_vertices:
        raise ValueError(f"meshes have {vertices.shape[-2]} vertices, the basis has {basis.num_vertices}")
    return jnp.einsum("vf,...vc->...fc", basis.modes, vertices, precision="highest")


def reconstruct(
    basis: SpectralBasis, coefficients: Float[Array | np.ndarray, "*batch freq 3"]
) -> Float[Array, "*batch vertex 3"]:
    """Vertices X = Phi C in metres from the first `freq` modes, at full float32 precision."""
    if coefficients.shape[-2] > basis.num_modes:
        raise ValueError(f"coefficients have {coefficients.shape[-2]} modes, the basis has {basis.num_modes}")
    return jnp.einsum("vf,...fc->...vc", basis.modes[:, : coefficients.shape[-2]], coefficients, precision="highest")


def truncate(basis: SpectralBasis, num_modes: int) -> SpectralBasis:
    """The basis of the first `num_modes` modes. Raises ValueError when there are fewer."""
    if not 1 <= num_modes <= basis.num_modes:
        raise ValueError(f"{num_modes} modes asked for, the basis has {basis.num_modes}")
    return SpectralBasis(basis.modes[:, :num_modes], basis.eigenvalues[:num_modes], basis.faces)


def compute(faces: Int[np.ndarray, "face 3"], num_vertices: int, num_modes: int | None = None) -> SpectralBasis:
    """The `num_modes` (default: all) lowest modes of the graph Laplacian of the faces.

    Raises ValueError for faces out of range, isolated vertices or more modes than vertices; warns when the mesh has
    several components. Each mode's sign is fixed by `orient`, so machines agree wherever an eigenvalue is simple.
    """
    pairs = mesh.edges(faces, num_vertices)
    isolated = np.setdiff1d(np.arange(num_vertices), pairs)
    if isolated.size:
        raise ValueError(f"{isolated.size} of {num_vertices} vertices belong to no face, the first is {isolated[0]}")
    components = mesh.num_components(pairs, num_vertices)
    if components > 1:
        warnings.warn(f"the mesh has {components} components: as many modes are constant on each", stacklevel=2)
    num_modes = num_vertices if num_modes is None else num_modes
    if not 1 <= num_modes <= num_vertices:
        raise ValueError(f"{num_modes} modes asked for, a mesh of {num_vertices} vertices has {num_vertices}")
    eigenvalues, modes = eigenmodes(mesh.graph_laplacian(pairs, num_vertices), num_modes)
    return SpectralBasis(orient(modes).astype(np.float32), eigenvalues, np.asarray(faces, np.int32))


def eigenmodes(laplacian, num_modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (freq,) ascending and unit eigenvectors (vertex, freq) of a symmetric sparse matrix, float64."""
    import scipy.linalg

    dense = laplacian.toarray()
    if num_modes > 0.6 * len(dense):  # LAPACK's divide and conquer gives all modes faster than MRRR gives most
        eigenvalues, modes = scipy.linalg.eigh(dense, driver="evd", overwrite_a=True)
        return eigenvalues[:num_modes], modes[:, :num_modes]
    return scipy.linalg.eigh(dense, driver="evr", subset_by_index=(0, num_modes - 1), overwrite_a=True)


def orient(modes: Float[np.ndarray, "vertex freq"]) -> Float[np.ndarray, "vertex freq"]:
    """Flip signs so that every mode has a positive sum weighted by w_v = frac((v + 1)^2 * golden ratio).

    The weights follow no symmetry of a mesh, so the sum is never zero by symmetry as that of entries or cubes is.
    """
    weights = (np.arange(1, len(modes) + 1, dtype=np.float64) ** 2 * ((1 + np.sqrt(5)) / 2)) % 1.0
    return modes * np.where(weights @ modes < 0, -1, 1).astype(modes.dtype)


def align(basis: SpectralBasis, reference: SpectralBasis) -> tuple[SpectralBasis, AlignmentReport]:
    """The basis with the reference's signs and rotations inside repeated eigenvalues (see `spectral_jax.align`)."""
    from spectral_jax.align import align

    return align(basis, reference)


def save(path: str | Path, basis: SpectralBasis) -> None:
    """Write a basis as .npz, atomically and without pickle."""
    path = Path(path)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        modes=np.asarray(basis.modes, np.float32),
        eigenvalues=np.asarray(basis.eigenvalues, np.float64),
        faces=np.asarray(basis.faces, np.int32),
        fingerprint=np.array(basis.fingerprint),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, path)


def load(path: str | Path) -> SpectralBasis:
    """Read a basis written by `save` and check it.

    Raises ValueError naming the file when it is missing, malformed, not orthonormal to 1e-4 on a sample of modes, or
    when its fingerprint is not that of its faces.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such basis file")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            modes, eigenvalues, faces = file["modes"], file["eigenvalues"], file["faces"]
            stored = str(file["fingerprint"])
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a spectral basis ({error})") from error
    if modes.ndim != 2 or eigenvalues.shape != modes.shape[1:] or faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(
            f"{path}: modes {modes.shape}, eigenvalues {eigenvalues.shape}, faces {faces.shape} do not fit"
        )
    deviation = orthonormality_error(modes)
    if not deviation < 1e-4:
        raise ValueError(f"{path}: modes are not orthonormal (off by {deviation:.2g}, at most 1e-4 allowed)")
    basis = SpectralBasis(modes, eigenvalues, faces)
    if basis.fingerprint != stored:
        raise ValueError(f"{path}: its faces have fingerprint {basis.fingerprint[:12]}, it was made for {stored[:12]}")
    return basis


def orthonormality_error(modes: Float[np.ndarray, "vertex freq"]) -> float:
    """Largest deviation of the Gram matrix of up to 64 modes, spread over the spectrum, from the identity."""
    sample = modes[:, np.unique(np.linspace(0, modes.shape[1] - 1, 64).astype(int))].astype(np.float64)
    return float(np.abs(sample.T @ sample - np.eye(sample.shape[1])).max())


def check_same(basis: SpectralBasis, other: SpectralBasis, names: tuple[str, str], tolerance: float = 1e-3) -> None:
    """Raise ValueError unless two bases have one connectivity and the same modes, signs and rotations included."""
    if basis.fingerprint != other.fingerprint:
        raise ValueError(
            f"{names[0]} has {basis.num_vertices} vertices and connectivity {basis.fingerprint[:12]}, "
            f"{names[1]} has {other.num_vertices} and {other.fingerprint[:12]}: not the same connectivity"
        )
    shared = min(basis.num_modes, other.num_modes)
    difference = np.abs(np.asarray(basis.modes[:, :shared]) - np.asarray(other.modes[:, :shared])).max(axis=0)
    if difference.max() > tolerance:
        raise ValueError(
            f"{names[0]} and {names[1]} have different modes ({(difference > tolerance).sum()} of {shared} differ, the "
            f"first is mode {int(np.argmax(difference > tolerance))}): {REMEDY}"
        )
