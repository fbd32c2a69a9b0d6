"""`spectral-jax basis ...`."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from spectral_jax.basis.spectral import Operator, SpectralBasis
from spectral_jax.commands.console import Bars, check_free, console, track
from spectral_jax.commands.dataset import open_data
from spectral_jax.geometry.mesh import Mesh

ALLOWED = 1e-4  # residual and orthonormality of a basis, see `spectral_jax.basis.quality`


@dataclass(frozen=True)
class BasisCompute:
    """Compute the lowest eigenmodes of a mesh's Laplacian and save them; computed once, they are kept in a cache."""

    mesh: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FACES_OR_MESH")]
    """A mesh (.obj .ply .off .stl .npz .hdf5 ...), an SMPL-H body (.npz), or faces as text (.txt .triv)."""
    out: Path
    """The .npz file to write."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """How many modes (default: as many as there are vertices)."""
    operator: Operator = "graph"
    """The Laplacian: of the graph, as published, or the cotangent one of the mesh's shape."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.basis import formats, spectral

        check_free(self.out, self.overwrite)
        faces, count, vertices = read_shape(self.mesh)
        if self.operator == "cotangent" and vertices is None:
            raise ValueError(f"{self.mesh}: holds faces alone, --operator cotangent needs a mesh with vertices")
        vertices = vertices if self.operator == "cotangent" else None
        modes, start = count if self.modes is None else self.modes, time.monotonic()
        with Bars() as bars, warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: console.print(f"warning: {message}", soft_wrap=True)
            computed = formats.cached(faces, count, modes, vertices, bars)
        seconds = time.monotonic() - start
        figures = check(self.mesh, computed, vertices)
        spectral.save(self.out, computed)
        origin = f"computed by the {spectral.solver(count, modes)} solver" if bars.tasks else "from the cache"
        print(f"{describe(self.out, computed)}, {origin} in {seconds:.1f} s\n{figures}")


@dataclass(frozen=True)
class BasisCheck:
    """Check a basis file: its arrays, whether its modes are eigenmodes and which are unique, and whose basis it is."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .npz file."""
    mesh: Annotated[Path | None, tyro.conf.arg(metavar="FACES_OR_MESH")] = None
    """A mesh, body or text of faces whose connectivity must be the basis's; for a cotangent basis, its shape."""

    def __call__(self) -> None:
        from spectral_jax.basis import spectral
        from spectral_jax.geometry import mesh

        loaded, vertices = spectral.load(self.file), None
        if self.mesh:
            faces, count, vertices = read_shape(self.mesh)
            found = mesh.fingerprint(faces, count)
            if found != loaded.fingerprint:
                raise ValueError(
                    f"{self.file} is for {loaded.num_vertices} vertices of connectivity {loaded.fingerprint[:12]}, "
                    f"{self.mesh} has {count} of {found[:12]}"
                )
        figures = check(self.file, loaded, vertices)
        print(f"{describe(self.file, loaded)}, fine\n{figures}")


@dataclass(frozen=True)
class BasisImport:
    """Turn modes of another program, or of a published dataset, into a basis file."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Modes in columns: .npy, .evecs_6890 and the like, MATLAB .mat, or numbers as text."""
    mesh: Annotated[Path, tyro.conf.arg(metavar="FACES_OR_MESH")]
    """A mesh, body or text of faces of whose graph Laplacian they are the modes."""
    out: Path
    """The .npz file to write."""
    variable: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The variable of a .mat file (default: evecs or the like, else the largest matrix)."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """How many of them (default: all)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.basis import formats, spectral

        check_free(self.out, self.overwrite)
        (faces, count, _), modes = read_shape(self.mesh), formats.read_modes(self.file, self.variable)
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
    """Write the modes of a basis for other programs."""

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
            note = "these modes are orthonormal under the mass of the vertices, which only a .mat file has"
            console.print(note, soft_wrap=True)


def read_shape(path: Path) -> tuple[np.ndarray, int, np.ndarray | None]:
    """Faces (face, 3), number of vertices and, unless the file is text of faces, vertices (vertex, 3)."""
    from spectral_jax.data import pytorch_layouts
    from spectral_jax.geometry import mesh, sequences

    suffix = path.suffix.lower()
    if suffix in (".txt", ".triv"):
        faces, vertices = pytorch_layouts.read_faces(path), None
    elif path.is_file():
        vertices, faces = (_body(path) if suffix == ".npz" else None) or sequences.read_template([], path)
    else:
        raise ValueError(f"{path}: no such mesh file")
    count = int(faces.max()) + 1 if vertices is None else len(vertices)
    try:
        mesh.edges(faces, count)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return faces, count, vertices


def _body(path: Path) -> Mesh | None:
    """Template and faces of an SMPL-H-format body, which is known by its array v_template; None for another .npz."""
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
            "(vertices, 3) and whole numbers (faces, 3)"
        )
    return Mesh(vertices, faces.astype(np.int32))


def describe(path: Path, basis: SpectralBasis) -> str:
    """What a basis is of."""
    return (
        f"{path}: {basis.num_modes} modes of {basis.num_vertices} vertices, {basis.operator} operator, connectivity "
        f"{basis.fingerprint[:12]}"
    )


def check(path: Path, basis: SpectralBasis, vertices: np.ndarray | None) -> str:
    """What there is to say of a basis's quality; ValueError where its modes are none."""
    from spectral_jax.basis.quality import quality

    with console.status("checking the modes"):
        found = quality(basis, vertices)
    for name, value in (("residual", found.residual), ("deviation from orthonormality", found.orthonormality)):
        if value is not None and not value <= ALLOWED:
            shape = f" of {'that graph' if basis.mass is None else 'this shape'}" if name == "residual" else ""
            raise ValueError(f"{path}: {name} is {value:.2g}, at most {ALLOWED:g} allowed: not the eigenmodes{shape}")
    residual = f"{found.residual:.1e} of the largest eigenvalue" if found.residual is not None else "only --mesh tells"
    gaps = ", ".join(f"{gap:.1e} before mode {mode}" for mode, gap in found.smallest_gaps)
    repeated = (
        f"{found.repeated} modes have a near-equal neighbour: any rotation among them is as good, so solvers differ"
    )
    return (
        f"residual: {residual}; orthonormal to {found.orthonormality:.1e}\n"
        f"smallest relative gaps: {gaps or 'none'}\n"
        f"{repeated if found.repeated else 'no repeated eigenvalues: every mode is unique but for its sign'}"
    )


@dataclass(frozen=True)
class BasisAlign:
    """Give a basis the signs of another one of its mesh, and its rotations inside repeated eigenvalues."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .npz file of the basis; with a few more modes than wanted, a repeated eigenvalue at the end is whole."""
    out: Path
    """The .npz file to write."""
    reference: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The .npz file of the other basis."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """Instead of a reference: a dataset whose test split has vertices, and their coefficients in that basis."""
    meshes: int = 64
    """How many meshes of the dataset to compare, spread over the split."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.basis import align, spectral

        if bool(self.reference) == bool(self.data):
            raise ValueError("give either --reference or --data")
        if self.meshes < 1:
            raise ValueError(f"--meshes must be at least 1, not {self.meshes}")
        check_free(self.out, self.overwrite)
        loaded = spectral.load(self.file)
        if self.reference:
            aligned, report = align.align(loaded, spectral.load(self.reference))
        else:
            aligned, report = align.signs_from_data(loaded, *self._samples(loaded, str(self.data)))
        spectral.save(self.out, aligned)
        print(f"{self.out}: {align.describe(report)}")

    def _samples(self, loaded, source: str):
        """Vertices and coefficients of the dataset's meshes."""
        data = open_data(source)
        if data.basis.fingerprint != loaded.fingerprint:
            raise ValueError(
                f"{self.file} is for {loaded.num_vertices} vertices of connectivity {loaded.fingerprint[:12]}, "
                f"{data.path} has {data.basis.num_vertices} of {data.basis.fingerprint[:12]}"
            )
        if data.basis.operator != loaded.operator:
            raise ValueError(
                f"{self.file} is of the {loaded.operator} operator, {data.path} of the {data.basis.operator} operator"
            )
        records = data.splits.get("test", ())
        if not len(records) or records[0].vertices is None:
            raise ValueError(f"{data.path}: no test split with vertices to compare")
        chosen = np.unique(np.linspace(0, len(records) - 1, self.meshes).astype(int)).tolist()
        examples = [records[i] for i in track(chosen, "reading test")]
        return np.stack([e.vertices for e in examples]), np.stack([e.coefficients for e in examples])
