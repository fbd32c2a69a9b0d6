"""`spectral-jax fit`: a trained network fitted to scans, which become registered meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars
from spectral_jax.commands.network import Checkpoint, open_run
from spectral_jax.geometry.mesh import MOST_BYTES
from spectral_jax.geometry.scans import Unit


@dataclass(frozen=True)
class Fit:
    """Fit a network to scans: find latent and pose, and write each scan as a mesh in the run's connectivity."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    scans: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SCAN...")]
    """Meshes of any connectivity or point clouds, in any pose: .ply .obj .stl .off .glb .gltf, or points as .npy."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to write: for each scan NAME.ply (the registered mesh), NAME.npz (latent and pose) and NAME.glb (the
    scan with the mesh), and errors.csv."""
    unit: Unit = "m"
    """Unit of the scans and landmarks."""
    scale: bool = False
    """Find the scale of the scans as well."""
    landmarks: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")] = ()
    """A text file for each scan, with a line `vertex x y z` for each landmark: where in the scan a vertex of the run's
    meshes is. Vertices count from 0."""
    refine_modes: int = 0
    """Let this number of the lowest modes follow the points beyond what the network can decode."""
    checkpoint: Checkpoint = None
    """The newest checkpoint (last) or the one with the lowest validation error (best) (default: last for SAE-LP, best
    for the residual network)."""
    data: str | None = None
    """The dataset whose train split says which shapes are usual (default: the one the run was trained on)."""
    max_file_bytes: int = MOST_BYTES
    """Limit of a scan's size, unpacked."""
    overwrite: bool = False
    """Replace the files of the folder."""

    def __call__(self) -> None:
        from spectral_jax.runs import scans

        if not self.scans:
            raise ValueError("no scans given: name at least one file")
        if self.refine_modes < 0:
            raise ValueError(f"--refine-modes must be at least 0, not {self.refine_modes}")
        if self.out.exists() and any(self.out.iterdir()) and not self.overwrite:
            raise ValueError(f"{self.out} is not empty; --overwrite replaces its files")
        opened = open_run(self.run, self.data, self.checkpoint)
        options = scans.ScanOptions(self.unit, self.scale, self.refine_modes, self.max_file_bytes)
        table = Table("scan", title="distances from scan to mesh, mm")
        for name in ("points", "mean", "median", "95 %", *(["scale"] if self.scale else [])):
            table.add_column(name, justify="right")
        done = 0
        try:
            with Bars() as bars:
                for row in scans.fit_scans(opened, self.scans, self.out, options, self.landmarks, bars):
                    figures = [f"{value:.2f}" for value in (row.mean_mm, row.median_mm, row.percentile_95_mm)]
                    scale = [f"{row.scale:.4f}"] if self.scale else []
                    table.add_row(row.scan, f"{row.points:,}", *figures, *scale)
                    done += 1
        except KeyboardInterrupt as error:
            error.add_note(f"{done} of {len(self.scans)} scans are in {self.out}")
            raise
        finally:
            if done:
                Console().print(table)
        print(f"{self.out}: {done} registered meshes")
