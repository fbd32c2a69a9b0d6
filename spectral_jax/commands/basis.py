"""`spectral-jax basis ...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from spectral_jax.commands.console import console, track
from spectral_jax.commands.dataset import open_data


@dataclass(frozen=True)
class BasisCompute:
    """Compute the lowest eigenmodes of a mesh's graph Laplacian and save them."""

    mesh: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MESH")]
    """Any mesh file trimesh reads (.obj, .ply, .off, .stl, ...)."""
    out: Path
    """The .npz file to write."""
    modes: int | None = None
    """How many modes (default: as many as there are vertices)."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax import basis, mesh

        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists already; --overwrite replaces it")
        loaded = mesh.read_mesh(self.mesh)
        with console.status(f"computing modes of {len(loaded.vertices)} vertices"):
            computed = basis.compute(loaded.faces, len(loaded.vertices), self.modes)
        basis.save(self.out, computed)
        print(f"{self.out}: {computed.num_modes} modes of {computed.num_vertices} vertices")


@dataclass(frozen=True)
class BasisCheck:
    """Check a basis file: its arrays, its orthonormality, and whether it is the basis of a mesh."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The .npz file."""
    mesh: Path | None = None
    """A mesh file whose connectivity must be the basis's."""

    def __call__(self) -> None:
        from spectral_jax import basis, mesh

        loaded = basis.load(self.file)
        if self.mesh:
            other = mesh.read_mesh(self.mesh)
            found = mesh.fingerprint(other.faces, len(other.vertices))
            if found != loaded.fingerprint:
                raise ValueError(
                    f"{self.file} is for {loaded.num_vertices} vertices of connectivity {loaded.fingerprint[:12]}, "
                    f"{self.mesh} has {len(other.vertices)} of {found[:12]}"
                )
        print(
            f"{self.file}: {loaded.num_modes} modes of {loaded.num_vertices} vertices, {loaded.fingerprint[:12]}, fine"
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
        from spectral_jax import align, basis

        if bool(self.reference) == bool(self.data):
            raise ValueError("give either --reference or --data")
        if self.meshes < 1:
            raise ValueError(f"--meshes must be at least 1, not {self.meshes}")
        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists already; --overwrite replaces it")
        loaded = basis.load(self.file)
        if self.reference:
            aligned, report = align.align(loaded, basis.load(self.reference))
        else:
            aligned, report = align.signs_from_data(loaded, *self._samples(loaded, str(self.data)))
        basis.save(self.out, aligned)
        print(f"{self.out}: {align.describe(report)}")

    def _samples(self, loaded, source: str):
        """Vertices and coefficients of the dataset's meshes."""
        import numpy as np

        data = open_data(source)
        if data.basis.fingerprint != loaded.fingerprint:
            raise ValueError(
                f"{self.file} is for {loaded.num_vertices} vertices of connectivity {loaded.fingerprint[:12]}, "
                f"{data.path} has {data.basis.num_vertices} of {data.basis.fingerprint[:12]}"
            )
        records = data.splits.get("test", ())
        if not len(records) or records[0].vertices is None:
            raise ValueError(f"{data.path}: no test split with vertices to compare")
        chosen = np.unique(np.linspace(0, len(records) - 1, self.meshes).astype(int)).tolist()
        examples = [records[i] for i in track(chosen, "reading test")]
        return np.stack([e.vertices for e in examples]), np.stack([e.coefficients for e in examples])
