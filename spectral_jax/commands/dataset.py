"""`spectral-jax dataset ...`, and the DATA argument of every other command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import track

DEMO_DATA = Path("data/demo")


@dataclass(frozen=True)
class DatasetDemo:
    """Build the demo dataset: free human bodies in synthetic motion, subjects disjoint between the splits."""

    out: Path = DEMO_DATA
    """The folder to make."""
    vertices: Literal[1229, 12272] = 1229
    """Vertices of the body."""
    modes: int = 1024
    """Spectral modes kept."""
    seed: int = 0
    """Seed of the subjects and their motions."""
    overwrite: bool = False
    """Replace the folder."""

    def __call__(self) -> None:
        from spectral_jax import recipes

        path = recipes.demo(self.out, self.vertices, self.modes, self.seed, self.overwrite, track)
        DatasetInfo(str(path))()


@dataclass(frozen=True)
class DatasetImport:
    """Turn a dataset of the published PyTorch systems into a prepared folder, which reads faster."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder in either published layout: .tar or .npy files."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to make."""
    overwrite: bool = False
    """Replace the folder."""

    def __call__(self) -> None:
        import numpy as np

        from spectral_jax import dataset, upstream
        from spectral_jax.mesh import Mesh

        if self.out.exists() and not self.overwrite:
            raise ValueError(f"{self.out} exists already; --overwrite replaces it")
        data = upstream.open_upstream(self.data)
        faces = np.asarray(data.basis.faces)
        template = Mesh(data.splits["test"][0].vertices, faces)
        splits = {name: track(records, f"importing {name}") for name, records in data.splits.items()}
        dataset.write(self.out, data.basis, template, splits, data.metadata["source"], self.overwrite)
        DatasetInfo(str(self.out))()


@dataclass(frozen=True)
class DatasetInfo:
    """Say what a dataset holds."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A prepared dataset folder, or the word demo."""

    def __call__(self) -> None:
        data = open_data(self.data)
        print(f"{data.path}: {data.basis.num_vertices:,} vertices, {data.basis.num_modes:,} modes")
        table = Table()
        table.add_column("split")
        table.add_column("meshes", justify="right")
        table.add_column("identities", justify="right")
        for name, records in data.splits.items():
            table.add_row(name, f"{len(records):,}", f"{len(data.metadata['identities'][name]):,}")
        Console().print(table)


def open_data(source: str):
    """The dataset a DATA argument names: a prepared folder, a published layout, or the word demo, built when absent."""
    from spectral_jax import dataset, upstream

    if source == "demo":
        ensure_demo_data()
        source = str(DEMO_DATA)
    return upstream.open_upstream(Path(source)) if upstream.is_upstream(Path(source)) else dataset.open_data(source)


def data_source(source: str, data) -> str:
    """How a run remembers a DATA argument: the word demo, or the folder wherever it is used from."""
    return source if source == "demo" else str(data.path.resolve())


def ensure_demo_data(overwrite: bool = False) -> None:
    """Build data/demo unless it is there."""
    if overwrite or not DEMO_DATA.exists():
        DatasetDemo(overwrite=overwrite)()
