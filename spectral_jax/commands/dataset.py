"""`spectral-jax dataset ...`, and the DATA argument of every other command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.commands.console import Bars, shown_warnings
from spectral_jax.data.recipes import DEMO_DATA, AmassRecipe, DemoRecipe, MeshRecipe, PublishedRecipe

if TYPE_CHECKING:
    from spectral_jax.data.dataset import Data


@dataclass(frozen=True, kw_only=True)
class DatasetDemo(DemoRecipe):
    """Build the demo dataset: free human bodies in synthetic motion, no subject in both splits."""

    def __call__(self) -> None:
        from spectral_jax.data import posed_bodies

        with Bars() as bars:
            posed_bodies.demo(self, bars)
        show_counts(open_data(self.out))


@dataclass(frozen=True, kw_only=True)
class DatasetAmass(AmassRecipe):
    """Build the published AMASS dataset: every 100th frame from the middle of each sequence."""

    def __call__(self) -> None:
        build_published("amass", self)


@dataclass(frozen=True, kw_only=True)
class DatasetDfaust(PublishedRecipe):
    """Build the published DFAUST dataset from AMASS's set DFaust: every frame, 8 identities to train on, 2 to test."""

    def __call__(self) -> None:
        build_published("dfaust", self)


def build_published(which: Literal["amass", "dfaust"], recipe: PublishedRecipe) -> None:
    """Build a published dataset and print its counts."""
    from spectral_jax.data import posed_bodies

    with Bars() as bars:
        posed_bodies.published(which, recipe, bars)
    show_counts(open_data(recipe.out))


@dataclass(frozen=True, kw_only=True)
class DatasetMeshes(MeshRecipe):
    """Build a dataset of your own registered meshes: .obj .ply .off .stl .glb .gltf .npz .npy, and DFAUST's .hdf5."""

    def __call__(self) -> None:
        from spectral_jax.data import registered_meshes

        with Bars() as bars, shown_warnings():
            registered_meshes.build(self, bars)
        show_counts(open_data(self.out))


@dataclass(frozen=True)
class DatasetImport:
    """Convert a dataset of the published PyTorch systems to a prepared folder, which reads faster."""

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder in either PyTorch layout: .tar files (2022) or .npy files (2026)."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to create."""
    overwrite: bool = False
    """Replace the dataset in the folder."""

    def __call__(self) -> None:
        import numpy as np

        from spectral_jax.data import pytorch_layouts, writer
        from spectral_jax.geometry.mesh import Mesh

        writer.check_replaceable(self.out, self.overwrite)
        data = pytorch_layouts.open_pytorch_layout(self.data)
        template = Mesh(data.splits["test"][0].vertices, np.asarray(data.basis.faces))
        contents = data.basis, template, data.splits, data.metadata["source"]
        with Bars() as bars:
            writer.write(self.out, *contents, overwrite=self.overwrite, progress=bars)
        show_counts(open_data(self.out))


@dataclass(frozen=True)
class DatasetExport:
    """Write a dataset in a layout of the published PyTorch systems, so that their programs train on it.

    `dataset import` gives back the same meshes and modes, bit for bit.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A prepared dataset folder, a dataset of the PyTorch systems, or the word demo."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to create: it gets the basis, the faces and a folder with the meshes."""
    layout: Literal["2022", "2026"] = "2022"
    """2022: .tar files (the program MEPP-team/SAE reads these). 2026: .npy files."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the folder with the meshes (default: that of DATA)."""

    def __call__(self) -> None:
        from spectral_jax.data import pytorch_export

        data = open_data(self.data)
        with Bars() as bars:
            folder = pytorch_export.export(data, self.out, self.layout, self.name, bars)
        print(f"{folder}: layout of {self.layout}, {data.basis.num_modes:,} modes")
        for name, records in data.splits.items():
            print(f"  {name}: {len(records):,} meshes")


def show_counts(data: Data) -> None:
    """Print the origin of a dataset, its numbers of meshes and identities, and what was skipped."""
    print(f"{data.path}: {data.basis.num_vertices:,} vertices, {data.basis.num_modes:,} modes")
    source = data.metadata["source"].items()
    print("source: " + ", ".join(f"{name} {len(v) if isinstance(v, list) else v}" for name, v in source))
    table = Table()
    table.add_column("split")
    table.add_column("meshes", justify="right")
    table.add_column("identities", justify="right")
    for name, records in data.splits.items():
        table.add_row(name, f"{len(records):,}", f"{len(data.metadata['identities'][name]):,}")
    Console().print(table)
    for line in [*unnamed_genders(data.metadata), *other_connectivities(data), *skipped_files(data)]:
        print(line)


def unnamed_genders(metadata: dict[str, Any]) -> list[str]:
    """A line that counts the meshes of a published dataset whose files name no gender."""
    if metadata["source"].get("recipe") not in ("amass", "dfaust"):
        return []
    count = sum(genders.get("", 0) for genders in metadata.get("genders", {}).values())
    return [f"{count:,} meshes are from files without a gender, and have the male body"] if count else []


def other_connectivities(data: Data) -> list[str]:
    """A line that names meshes which were left out because most others have another connectivity."""
    names = data.metadata["source"].get("other_connectivities", [])
    listed = ", ".join(names[:5]) + (f", ... (full list: {data.path / 'metadata.json'})" if len(names) > 5 else "")
    return [f"{len(names):,} meshes of other connectivities left out: {listed}"] if names else []


def skipped_files(data: Data) -> list[str]:
    """Lines that tell which sequence files were skipped, and why; files with one reason share a line."""
    skipped = [line for lines in data.metadata.get("skipped", {}).values() for line in lines]
    groups: dict[str, list[str]] = {}
    for line in skipped:
        _, _, reason = line.rpartition(".npz: ")
        groups.setdefault(re.sub(r"\d+", "0", reason), []).append(line)  # lengths of sequences make no other reason
    lines = [f"{len(skipped):,} files skipped (full list: {data.path / 'metadata.json'}):"] if skipped else []
    for first, *others in sorted(groups.values(), key=len, reverse=True):
        path, dot, reason = first.rpartition(".npz: ")
        lines.append(f"  {1 + len(others):,} files: {reason} (such as {path}{dot[:4]})" if others else f"  {first}")
    return lines[:12] + (["  ..."] if len(lines) > 12 else [])


def open_data(source: str | Path) -> Data:
    """Open the dataset that a DATA argument names, with progress bars while the demo is built."""
    from spectral_jax.data import open as opening

    with Bars() as bars:
        return opening.open_data(source, bars)


def data_source(source: str, data: Data) -> str:
    """The text by which a run remembers a DATA argument: the word demo, or the absolute path of the folder."""
    return source if source == "demo" else str(data.path.resolve())


def ensure_demo_data(overwrite: bool = False) -> None:
    """Build data/demo if it is missing, or anew with `overwrite`."""
    if overwrite or not DEMO_DATA.exists():
        DatasetDemo(overwrite=overwrite)()
