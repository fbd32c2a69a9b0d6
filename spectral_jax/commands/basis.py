"""`spectral-jax basis ...`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from spectral_jax.commands.console import console


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
