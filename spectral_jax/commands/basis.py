"""`spectral-jax basis ...`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import tyro

from spectral_jax.commands.console import Bars, check_free, console, shown_warnings, track
from spectral_jax.commands.dataset import open_data
from spectral_jax.geometry.mesh import MOST_BYTES, Mesh, Operator
from spectral_jax.geometry.sampling import evenly_spaced

if TYPE_CHECKING:
    from spectral_jax.basis.spectral import SpectralBasis

ALLOWED = 1e-4  # limit of a basis's residual and deviation from orthonormality (see `spectral_jax.basis.quality`)


class Shape(NamedTuple):
    """What a mesh file holds: faces (face, 3), the number of vertices, and vertices (vertex, 3) unless it has none."""

    faces: np.ndarray
    num_vertices: int
    vertices: np.ndarray | None


@dataclass(frozen=True)
class BasisCompute:
    """Compute the lowest eigenmodes of a mesh's Laplacian, and save them. A cache keeps them for the next time."""

    mesh: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FACES_OR_MESH")]
    """A mesh (.obj .ply .off .stl .npz .hdf5 ...), an SMPL-H body (.npz), or faces as text (.txt .triv)."""
    out: Path
    """The .npz file to write."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of modes (default: the number of vertices)."""
    operator: Operator = "graph"
    """The Laplacian: graph, of the connectivity alone, as published; or cotangent, of the mesh's shape."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.basis import formats, spectral
        from spectral_jax.geometry import mesh

        check_free(self.out, self.overwrite)
        with shown_warnings():
            shape = read_shape(self.mesh, self.max_file_bytes)
        if self.operator == "cotangent" and shape.vertices is None:
            raise ValueError(f"{self.mesh}: holds faces alone, --operator cotangent needs a mesh with vertices")
        vertices = shape.vertices if self.operator == "cotangent" else None
        modes = shape.num_vertices if self.modes is None else self.modes
        start = time.monotonic()
        with Bars() as bars, shown_warnings():
            computed = formats.cached(shape.faces, shape.num_vertices, modes, vertices, bars)
        seconds = time.monotonic() - start
        figures = check(self.mesh, computed, vertices)
        spectral.save(self.out, computed)
        parts = mesh.num_components(mesh.edges(shape.faces, shape.num_vertices), shape.num_vertices)
        solver = f"by the {spectral.solver(shape.num_vertices, modes)} solver"
        how = solver if parts == 1 else f"for each of {parts} components"
        origin = f"computed {how}" if bars.tasks else "from the cache"
        print(f"{describe(self.out, computed)}, {origin} in {seconds:.1f} s\n{figures}")


@dataclass(frozen=True)
class BasisCheck:
    """Check a basis file: its arrays, whether its modes are eigenmodes, which of them are unique, and its mesh."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .npz file."""
    mesh: Annotated[Path | None, tyro.conf.arg(metavar="FACES_OR_MESH")] = None
    """A mesh, body or text of faces that the basis must belong to; a cotangent basis is checked against its shape."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked."""

    def __call__(self) -> None:
        from spectral_jax.basis import spectral
        from spectral_jax.geometry import mesh

        loaded, vertices = spectral.load(self.file), None
        if self.mesh:
            faces, count, vertices = read_shape(self.mesh, self.max_file_bytes)
            names = str(self.file), str(self.mesh)
            mesh.check_connectivity(loaded.connectivity, mesh.connectivity(faces, count), names)
        figures = check(self.file, loaded, vertices)
        print(f"{describe(self.file, loaded)}, fine\n{figures}")


@dataclass(frozen=True)
class BasisImport:
    """Import modes from another program or a published dataset, and save them as a basis file."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Modes in columns: .npy, .evecs_6890 and the like, MATLAB .mat, text, or bare floats (.bin, rows or columns)."""
    mesh: Annotated[Path, tyro.conf.arg(metavar="FACES_OR_MESH")]
    """The mesh, body, or faces (text, or bare integers .bin) whose graph Laplacian has these modes."""
    out: Path
    """The .npz file to write."""
    variable: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The variable of a .mat file (default: one with a usual name such as evecs, else the largest matrix)."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of modes to keep (default: all)."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a mesh file's size, unpacked."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.basis import formats, raw, spectral

        check_free(self.out, self.overwrite)
        faces, count, _ = read_shape(self.mesh, self.max_file_bytes)
        if self.file.suffix.lower() == ".bin" and self.file.is_file():
            modes = raw.read_modes(self.file, count)
        else:
            modes = formats.read_modes(self.file, self.variable)
        if len(modes) != count:
            raise ValueError(f"{self.file} has modes of {len(modes)} vertices, {self.mesh} has {count}")
        if self.modes is not None and not 1 <= self.modes <= modes.shape[1]:
            raise ValueError(f"{self.modes} modes asked for, {self.file} has {modes.shape[1]}")
        imported = spectral.from_modes(modes[:, : self.modes], faces, (str(self.file), str(self.mesh)))
        figures = check(self.file, imported, None)
        spectral.save(self.out, imported)
        print(f"{describe(self.out, imported)}\n{figures}")


@dataclass(frozen=True)
class BasisExport:
    """Export the modes of a basis for other programs."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .npz file of the basis."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The file to write: .npy or .evecs_N (both NumPy), .mat (with eigenvalues and faces), or .txt."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.basis import formats, spectral

        check_free(self.out, self.overwrite)
        loaded = spectral.load(self.file)
        formats.write_modes(self.out, loaded)
        print(describe(self.out, loaded))
        if loaded.mass is not None:
            note = "these modes are orthonormal under the mass of the vertices, which only a .mat file includes"
            console.print(note, soft_wrap=True)


def read_shape(path: Path, max_bytes: int = MOST_BYTES) -> Shape:
    """Read a mesh of at most `max_bytes`, a body, or faces as text. Raises ValueError naming the file."""
    from spectral_jax.basis import raw
    from spectral_jax.data import pytorch_layouts
    from spectral_jax.geometry import mesh, sequences

    suffix = path.suffix.lower()
    if suffix in (".txt", ".triv"):
        faces, vertices = pytorch_layouts.read_faces(path), None
    elif suffix == ".bin" and path.is_file():
        faces, vertices = raw.read_faces(path), None
    elif path.is_file():
        vertices, faces = (_body(path) if suffix == ".npz" else None) or sequences.read_template([], path, max_bytes)
    else:
        raise ValueError(f"{path}: no such mesh file")
    count = int(faces.max()) + 1 if vertices is None else len(vertices)
    try:
        mesh.edges(faces, count)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Shape(faces, count, vertices)


def _body(path: Path) -> Mesh | None:
    """Template and faces of an SMPL-H-format body, recognised by its array v_template; None for another .npz."""
    from spectral_jax.bodies import smplh_pickle
    from spectral_jax.files import safe_files

    try:
        with safe_files.open_npz(path, smplh_pickle.FILE_BYTES) as arrays:
            if "v_template" not in arrays:
                return None
            vertices, faces = np.asarray(arrays["v_template"], np.float32), arrays["f"]
    except ValueError as error:
        raise ValueError(f"{path}: not readable as a mesh or a body ({error})") from error
    if vertices.shape[1:] != (3,) or faces.shape[1:] != (3,) or faces.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: v_template {vertices.shape} and f {faces.dtype} {faces.shape} are not those of a body, expected "
            "(vertices, 3) and integers (faces, 3)"
        )
    return Mesh(vertices, faces.astype(np.int32))


def describe(path: Path, basis: SpectralBasis) -> str:
    """Summarise a basis in a line."""
    return (
        f"{path}: {basis.num_modes} modes of {basis.num_vertices} vertices, {basis.operator} operator, connectivity "
        f"{basis.fingerprint[:12]}"
    )


def check(path: Path, basis: SpectralBasis, vertices: np.ndarray | None) -> str:
    """Describe the quality of a basis in lines. Raises ValueError if its modes are not the eigenmodes."""
    from spectral_jax.basis.quality import quality

    with console.status("checking the modes"):
        found = quality(basis, vertices)
    for name, value in (("residual", found.residual), ("deviation from orthonormality", found.orthonormality)):
        if value is not None and not value <= ALLOWED:
            shape = f" of {'that graph' if basis.mass is None else 'this shape'}" if name == "residual" else ""
            raise ValueError(f"{path}: {name} is {value:.2g}, allowed {ALLOWED:g}: not the eigenmodes{shape}")
    residual = "only --mesh tells"
    if found.residual is not None:
        residual = f"{found.residual:.1e} of the largest eigenvalue"
    gaps = ", ".join(f"{gap:.1e} before mode {mode}" for mode, gap in found.smallest_gaps)
    repeated = f"{found.repeated} modes have nearly repeated eigenvalues, so solvers may rotate them differently"
    return (
        f"residual: {residual}; orthonormal to {found.orthonormality:.1e}\n"
        f"smallest relative gaps: {gaps or 'none'}\n"
        f"{repeated if found.repeated else 'no repeated eigenvalues: every mode is unique up to its sign'}"
    )


@dataclass(frozen=True, kw_only=True)
class BasisAlign:
    """Align a basis with another of the same mesh: signs, and rotations inside repeated eigenvalues.

    The other basis is in a file (--reference), or it is the one that made the coefficients of a dataset (--data), or
    the one that a network was trained on and that is lost (--run): then --data names meshes in the basis to align.
    """

    file: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = None
    """The .npz file of the basis. Compute a few more modes than needed, so that no repeated eigenvalue is cut off. With
    --run, the basis is that of the dataset, and FILE is left out."""
    out: Path
    """The .npz file to write."""
    reference: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The .npz file of the other basis."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """Instead of --reference: a dataset whose test split has vertices and their coefficients in the other basis."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Recover the basis of this run's network from meshes of --data, which need not be those it was trained on. A run
    without a basis gets it."""
    meshes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of meshes of the dataset to compare, evenly spaced in the split (default: 64; 512 with --run)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.basis import align, spectral

        if self.meshes is not None and self.meshes < 1:
            raise ValueError(f"--meshes must be at least 1, not {self.meshes}")
        check_free(self.out, self.overwrite)
        if self.run is not None:
            self._recover(self.run)
            return
        if bool(self.reference) == bool(self.data):
            raise ValueError("give either --reference or --data")
        if self.file is None:
            raise ValueError("FILE is missing: the basis to align")
        loaded = spectral.load(self.file)
        if self.reference:
            aligned, report = align.align(loaded, spectral.load(self.reference))
        else:
            aligned, report = align.signs_from_data(loaded, *self._samples(loaded, str(self.data)))
        spectral.save(self.out, aligned)
        print(f"{self.out}: {align.describe(report)}")

    def _samples(self, loaded, source: str):
        """Vertices and coefficients of meshes of the dataset."""
        from spectral_jax.basis import spectral

        data = open_data(source)
        spectral.check_comparable(loaded, data.basis, (str(self.file), str(data.path)))
        records = data.splits.get("test", ())
        if not len(records) or records[0].vertices is None:
            raise ValueError(f"{data.path}: no test split with vertices to compare")
        chosen = evenly_spaced(len(records), self.meshes or 64)
        examples = [records[i] for i in track(chosen, "reading test")]
        return np.stack([e.vertices for e in examples]), np.stack([e.coefficients for e in examples])

    def _recover(self, folder: Path) -> None:
        """Recover the basis of a run from meshes; write it, and store it in the run, if it is accepted."""
        from spectral_jax.basis import spectral
        from spectral_jax.runs import recovery
        from spectral_jax.runs import run as runs

        if self.file is not None or self.reference is not None or self.data is None:
            raise ValueError("--run needs --data, meshes to recover the basis from, and takes no FILE or --reference")
        loaded, data = runs.load_run(folder), open_data(self.data)
        with Bars() as bars:
            used, unused = recovery.read_meshes(data, loaded.config.model.modes, self.meshes or 512, bars)
            found = recovery.recover(loaded, data.basis, used, unused, bars)
        lines = recovery.describe(found, len(used.coefficients), len(unused.coefficients))
        if not found.accepted:
            raise ValueError(f"{data.path}: no basis found in which the network of {folder} works: {lines[-1]}")
        spectral.save(self.out, found.basis)
        print("\n".join([f"{self.out}: {lines[0]}", *lines[1:]]))
        if loaded.basis is None:
            runs.check_basis(folder, found.basis, str(self.out))
            print(f"{folder}: this is its basis now")
        else:
            print(f"{folder} keeps the basis it has; convert its checkpoint without --data for one that takes this one")
