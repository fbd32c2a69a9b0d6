"""`spectral-jax dataset ...`, and the DATA argument of every other command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from spectral_jax.basis.spectral import Operator
from spectral_jax.commands.console import Bars, building

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
        from spectral_jax.data import recipes

        with building("sequences") as (watch, _):
            recipes.demo(self.out, self.vertices, self.modes, self.seed, self.overwrite, watch)
        show_counts(open_data(str(self.out)))


@dataclass(frozen=True)
class DatasetAmass:
    """Build the published AMASS dataset: every 100th frame of the middle of each sequence, posed, projected."""

    amass: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder with the sets of AMASS (SMPL+H): CMU, KIT, ..., under their old or new names."""
    body_dir: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder with the SMPL-H bodies: SMPLH_MALE.pkl or .npz, or male/model.npz, and so for female."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to make."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Spectral modes kept (default: 4096, or all of a smaller body)."""
    operator: Operator = "graph"
    """The Laplacian whose modes are used; the published networks use the graph's."""
    basis: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Use this basis (.npz) instead of computing one: that of a network to go on with."""
    allow_missing: bool = False
    """Build without the sets, or identities, that are not there."""
    strict: bool = False
    """Stop at a sequence file that cannot be used instead of skipping it."""
    overwrite: bool = False
    """Replace the folder."""

    def __call__(self) -> None:
        build_published("amass", self)


@dataclass(frozen=True)
class DatasetDfaust(DatasetAmass):
    """Build the published DFAUST dataset: every frame of AMASS's set DFaust, first 8 identities train, last 2 test."""

    def __call__(self) -> None:
        build_published("dfaust", self)


def build_published(recipe: Literal["amass", "dfaust"], options: DatasetAmass) -> None:
    """Build one of the published datasets and say what it holds."""
    from spectral_jax.data import recipes

    chosen = {name: getattr(options, name) for name in ("operator", "allow_missing", "strict", "overwrite")}
    with Bars() as bars:
        recipes.published(
            recipe, options.amass, options.body_dir, options.out, options.modes, basis_path=options.basis, **chosen,
            progress=bars,
        )  # fmt: skip
    show_counts(open_data(str(options.out)))


@dataclass(frozen=True)
class DatasetMeshes:
    """Build a dataset of your own registered meshes: .obj .ply .off .stl .npz .npy, DFAUST's .hdf5, in any folders."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The folder of meshes of one connectivity; the first folder below it is a mesh's identity."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """The folder to make."""
    train: tuple[str, ...] = ()
    """Identities to train on, by name or pattern such as 'person1*' (default: all that are not for test)."""
    test: tuple[str, ...] = ()
    """Identities to test on (default: all that are not for training, or the last --fraction of them)."""
    fraction: float = 0.2
    """Share of the identities for test where neither --train nor --test names any."""
    split_by: Literal["identity", "mesh"] = "identity"
    """By identity, so that none is in both splits, or mesh by mesh at random."""
    seed: int = 0
    """Seed of the split by mesh."""
    template: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A mesh with the faces, where the files have none, and the shape of --operator cotangent (default: the first)."""
    center: Literal["none", "centroid", "box"] = "centroid"
    """What becomes the origin of each mesh: its mean vertex, or the middle of its bounding box."""
    scale: float = 1.0
    """Metres a unit of the files: 0.001 for millimetres."""
    up: Literal["x", "y", "z"] = "y"
    """The axis of the files that points up; y does in the dataset."""
    modes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Spectral modes kept (default: 4096, or all of a smaller mesh)."""
    operator: Operator = "graph"
    """The Laplacian whose modes are used."""
    basis: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Use this basis (.npz) instead of computing one."""
    overwrite: bool = False
    """Replace the folder."""

    def __call__(self) -> None:
        from spectral_jax.data import recipes

        with Bars() as bars:
            recipes.meshes(
                self.folder, self.out, self.train, self.test, self.fraction, self.split_by, self.seed, self.template,
                self.center, self.scale, self.up, self.modes, self.operator, self.basis, self.overwrite, progress=bars,
            )  # fmt: skip
        show_counts(open_data(str(self.out)))


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

        from spectral_jax.data import pytorch_layouts, writer
        from spectral_jax.geometry.mesh import Mesh

        writer.check_free(self.out, self.overwrite)
        data = pytorch_layouts.open_upstream(self.data)
        faces = np.asarray(data.basis.faces)
        template = Mesh(data.splits["test"][0].vertices, faces)
        with building("meshes") as (watch, _):
            writer.write(self.out, data.basis, template, data.splits, data.metadata["source"], self.overwrite, watch)
        show_counts(open_data(str(self.out)))


def show_counts(data) -> None:
    """Print what a dataset is made of, and how much there is of it."""
    print(f"{data.path}: {data.basis.num_vertices:,} vertices, {data.basis.num_modes:,} modes")
    print("source: " + ", ".join(f"{name} {value}" for name, value in data.metadata["source"].items()))
    table = Table()
    table.add_column("split")
    table.add_column("meshes", justify="right")
    table.add_column("identities", justify="right")
    for name, records in data.splits.items():
        table.add_row(name, f"{len(records):,}", f"{len(data.metadata['identities'][name]):,}")
    Console().print(table)
    skipped = [reason for reasons in data.metadata.get("skipped", {}).values() for reason in reasons]
    if skipped:
        print(f"{len(skipped)} files skipped (all of them: {data.path / 'metadata.json'}):")
        print("\n".join(f"  {reason}" for reason in skipped[:10]) + ("\n  ..." if len(skipped) > 10 else ""))


def open_data(source: str):
    """The dataset a DATA argument names: a prepared folder, a published layout, or the word demo, built when absent."""
    from spectral_jax.data import dataset, pytorch_layouts

    if source == "demo":
        ensure_demo_data()
        source = str(DEMO_DATA)
    return (
        pytorch_layouts.open_upstream(Path(source))
        if pytorch_layouts.is_upstream(Path(source))
        else dataset.open_data(source)
    )


def data_source(source: str, data) -> str:
    """How a run remembers a DATA argument: the word demo, or the folder wherever it is used from."""
    return source if source == "demo" else str(data.path.resolve())


def ensure_demo_data(overwrite: bool = False) -> None:
    """Build data/demo unless it is there."""
    if overwrite or not DEMO_DATA.exists():
        DatasetDemo(overwrite=overwrite)()
