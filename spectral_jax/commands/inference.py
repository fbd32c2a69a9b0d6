"""`spectral-jax encode` and `spectral-jax decode`: any number of meshes to latents, and back."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro

from spectral_jax.commands.console import check_free, console, track
from spectral_jax.commands.dataset import open_data
from spectral_jax.data.recipes import DEMO_DATA
from spectral_jax.files import atomic

ARRAYS = (".npz", ".npy")


class Label(NamedTuple):
    """Where a mesh comes from; "" for what is not known. In a file of latents each is an array."""

    identity: str
    dataset: str
    file: str
    frame: int
    split: str


@dataclass(frozen=True)
class Encode:
    """Write the latents of a dataset, of mesh files or of coefficients."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A dataset folder or demo, a mesh file or a folder of them, or coefficients (mesh, freq, 3) as .npy or .npz."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The .npz file to write: latents, where each is from, the run and its connectivity."""
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    checkpoint: Literal["last", "best"] = "last"
    """The newest checkpoint, or the one with the lowest validation error."""
    split: Annotated[str | None, tyro.conf.arg(metavar="SPLIT")] = None
    """Of a dataset: train, test or all (default: test)."""
    center: Annotated[Literal["none", "centroid", "box"] | None, tyro.conf.arg(metavar="none|centroid|box")] = None
    """Of mesh files: what becomes the origin (default, as for the next two: as the run's dataset was made)."""
    scale: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Of mesh files: metres a unit."""
    up: Annotated[Literal["x", "y", "z"] | None, tyro.conf.arg(metavar="x|y|z")] = None
    """Of mesh files: the axis that points up."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from spectral_jax.network.codec import Codec
        from spectral_jax.runs import run

        if self.out.suffix != ".npz":
            raise ValueError(f"{self.out}: latents are written as an .npz file")
        check_free(self.out, self.overwrite)
        loaded = run.load_run(self.run, self.checkpoint)
        from_vertices, examples = self.open(loaded)
        codec = Codec.of(loaded)
        labels: list[Label] = []

        def rows() -> Iterator[np.ndarray]:
            for label, row in examples:
                if not np.isfinite(row).all():
                    raise ValueError(f"{self.data}: mesh {len(labels)} ({label.file}) has values that are not finite")
                labels.append(label)
                yield row

        with atomic.replacing(self.out) as partial, partial.open("wb") as file:
            latents = codec.encode_vertices(rows()) if from_vertices else codec.encode(rows())
            columns = {name: np.array([getattr(label, name) for label in labels]) for name in Label._fields}
            with zipfile.ZipFile(file, "w") as archive:
                add_arrays(archive, {"latents": latents, **columns, **origin(loaded)})
        print(f"{self.out}: {len(latents):,} latents of {latents.shape[1]} numbers, epoch {loaded.epoch} of {self.run}")

    def open(self, run: Any) -> tuple[bool, Iterable[tuple[Label, np.ndarray]]]:
        """Whether DATA holds vertices rather than coefficients, and each mesh of it, read when asked for."""
        from spectral_jax.data import dataset, pytorch_layouts

        path = Path(self.data)
        if self.data == "demo" or (path / dataset.METADATA_FILE).is_file() or pytorch_layouts.pytorch_layout(path):
            return False, read_dataset(open_data(self.data), self.split or "test", run)
        if self.split:
            raise ValueError(f"{path} is not a dataset, it has no split {self.split!r}")
        if not path.exists():
            raise ValueError(f"{path}: no such dataset, mesh or file of coefficients")
        if holds_coefficients(path):
            return False, read_coefficients(path, run)
        return True, read_meshes(path, self.placement(run), run)

    def placement(self, run: Any) -> dict[str, Any]:
        """How mesh files are centred, scaled and turned: as told, else as those that the run's dataset was made of."""
        from spectral_jax.data import dataset, pytorch_layouts

        told = {"center": self.center, "scale": self.scale, "up": self.up}
        told = {name: value for name, value in told.items() if value is not None}
        made, source = {"center": "none", "scale": 1.0, "up": "y"}, run.config.data
        folder = DEMO_DATA if source == "demo" else Path(source)
        if len(told) == len(made) or (source and pytorch_layouts.pytorch_layout(folder)):
            return made | told
        metadata = folder / dataset.METADATA_FILE
        if not (source and metadata.is_file()):
            raise ValueError(
                f"the dataset of {run.path} ({source or 'unknown'}) is not there to tell how its meshes are placed: "
                "give --center, --scale and --up"
            )
        try:
            options = dict(json.loads(metadata.read_text())["source"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{metadata}: not a dataset's metadata ({error})") from error
        return made | {name: options[name] for name in made if name in options} | told


@dataclass(frozen=True)
class Decode:
    """Write the coefficients, the vertices or the meshes of latents."""

    latents: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="LATENTS")]
    """What `encode` wrote, any .npz with an array `latents`, or a .npy (mesh, latent)."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The .npz or .npy file to write, or the folder of .ply meshes."""
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    checkpoint: Literal["last", "best"] = "last"
    """The newest checkpoint, or the one with the lowest validation error."""
    vertices: bool = False
    """Write vertices (mesh, vertex, 3) in metres, not coefficients (mesh, freq, 3)."""
    overwrite: bool = False
    """Replace the file, or the meshes of the folder."""

    def __call__(self) -> None:
        from spectral_jax.geometry import sequences
        from spectral_jax.network import codec
        from spectral_jax.runs import run

        if self.out.suffix in ARRAYS:
            check_free(self.out, self.overwrite)
        elif self.out.suffix.lower() in sequences.SUFFIXES:
            raise ValueError(f"{self.out}: meshes are written into a folder, arrays as .npz or .npy")
        elif self.out.exists() and any(self.out.iterdir()) and not self.overwrite:
            raise ValueError(f"{self.out} is not empty; --overwrite replaces its meshes")
        loaded = run.load_run(self.run, self.checkpoint)
        latents, others = read_array(self.latents, "latents", (loaded.config.model.latent_size,), loaded)
        if not np.isfinite(latents).all():
            row = int(np.isfinite(latents).all(axis=1).argmin())
            raise ValueError(f"{self.latents}: latent {row} is {latents[row].tolist()}, not finite")
        here = origin(loaded)
        if any(name in others and str(others[name]) != str(here[name]) for name in ("run", "epoch")):
            made, used = (
                f"{found['run']} (epoch {found['epoch']})" for found in ({"run": "", "epoch": ""} | others, here)
            )
            text = f"warning: {self.latents} was made by {made}, and is decoded by {used}"
            console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
        vertices = self.vertices or self.out.suffix not in ARRAYS
        decode = codec.decode_vertices_batch if vertices else codec.decode_batch
        parts = codec.Codec.of(loaded).stream(decode, track(latents, "decoding"))
        faces, config = np.asarray(loaded.basis.faces), loaded.config.model
        if self.out.suffix not in ARRAYS:
            write_meshes(self.out, parts, faces, len(latents))
        elif vertices:
            shape = (len(latents), loaded.basis.num_vertices, 3)
            write_array(self.out, "vertices", shape, parts, others | here | {"faces": faces})
        else:
            write_array(self.out, "coefficients", (len(latents), config.modes, 3), parts, others | here)
        what = "vertices" if vertices else "coefficients"
        print(f"{self.out}: {what} of {len(latents):,} latents, epoch {loaded.epoch} of {self.run}")


def origin(run: Any) -> dict[str, np.ndarray]:
    """What a file says of the network that made it."""
    found = {"run": str(run.path.resolve()), "epoch": run.epoch, "fingerprint": run.basis.fingerprint}
    return {name: np.array(value) for name, value in found.items()}


def read_dataset(data: Any, split: str, run: Any) -> Iterator[tuple[Label, np.ndarray]]:
    """The meshes of a split, or of all, as coefficients."""
    from spectral_jax.basis import spectral

    spectral.check_same(run.basis, data.basis, (f"the basis of {run.path}", f"that of {data.path}"))
    modes = run.config.model.modes
    if data.basis.num_modes < modes:
        raise ValueError(f"{data.path} has {data.basis.num_modes} modes, {run.path} needs {modes}")
    if split not in (*data.splits, "all"):
        raise ValueError(f"{data.path}: no split {split!r}, there are {', '.join(data.splits)}, and all of them: all")
    for name in data.splits if split == "all" else [split]:
        for example in track(data.splits[name], f"encoding {name}"):
            label = Label(example.identity, example.dataset, example.file, example.frame, name)
            yield label, example.coefficients[:modes]


def read_meshes(path: Path, placement: dict[str, Any], run: Any) -> Iterator[tuple[Label, np.ndarray]]:
    """The meshes of a file, or of a folder, as vertices."""
    from spectral_jax.geometry import sequences
    from spectral_jax.geometry.mesh import Mesh

    template = Mesh(np.zeros((run.basis.num_vertices, 3), np.float32), np.asarray(run.basis.faces))
    dataset = (path if path.is_dir() else path.parent).absolute().name
    try:
        for item in track(sequences.find(path), "encoding"):
            for frame, vertices in sequences.read(item, template):
                placed = sequences.normalise(vertices[None], **placement)[0]
                yield Label(item.identity, dataset, item.name, frame, ""), placed
    except ValueError as error:
        error.add_note(f"the template is the mesh of {run.path}")
        raise


def holds_coefficients(path: Path) -> bool:
    """Whether it is a .npy file, or an .npz with coefficients; others are meshes."""
    if not zipfile.is_zipfile(path):
        return path.suffix == ".npy" and path.is_file()
    with zipfile.ZipFile(path) as archive:
        return "coefficients.npy" in archive.namelist()


def read_coefficients(path: Path, run: Any) -> Iterator[tuple[Label, np.ndarray]]:
    """The meshes of a file of coefficients; an .npz may say where each is from."""
    array, others = read_array(path, "coefficients", (run.config.model.modes, 3), run)
    count = len(array)
    unknown = ([""] * count, [""] * count, [path.name] * count, range(count), [""] * count)
    labels = map(Label, *(others.get(name, column) for name, column in zip(Label._fields, unknown, strict=True)))
    yield from zip(labels, track(array, "encoding"), strict=True)


def read_array(path: Path, name: str, shape: tuple[int, ...], run: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """An array (mesh, *shape) for a run, and from an .npz what else it says of the meshes and of the run they are for.

    A .npy file is left on disk. Raises ValueError naming the file, what it holds and what the run needs.
    """
    others: dict[str, Any] = {}
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        if path.suffix == ".npy":
            array = np.lib.format.open_memmap(path, mode="r")
        else:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                array = file[name]
                others = {key: file[key] for key in (*Label._fields, "run", "epoch", "fingerprint") if key in file}
    except (
        ValueError, KeyError, TypeError, EOFError, OSError, OverflowError, MemoryError, RuntimeError, zlib.error,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise ValueError(f"{path}: not a readable file of {name} ({error})") from error
    if array.dtype.kind != "f" or array.shape[1:] != shape or not len(array):
        needed = ", ".join(map(str, shape))
        raise ValueError(f"{path}: {name} are {array.dtype} {array.shape}, {run.path} needs float (meshes, {needed})")
    made_for = str(others.get("fingerprint", run.basis.fingerprint))
    if made_for != run.basis.fingerprint:
        raise ValueError(
            f"{path}: {name} are of connectivity {made_for[:12]}, {run.path} has {run.basis.fingerprint[:12]}"
        )
    return array, {
        key: value for key, value in others.items() if key not in Label._fields or value.shape == array.shape[:1]
    }


def write_array(
    path: Path, name: str, shape: tuple[int, ...], parts: Iterable[np.ndarray], others: dict[str, Any]
) -> None:
    """An array that may be larger than memory, part by part: as .npy, or with others as .npz."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}

    def write(file) -> None:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, "<f4").data)

    with atomic.replacing(path) as partial, partial.open("wb") as file:
        if path.suffix == ".npy":
            write(file)
            return
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write(member)
            add_arrays(archive, others)


def add_arrays(archive: zipfile.ZipFile, arrays: dict[str, Any]) -> None:
    """Write arrays by their names, as numpy.savez does, which takes none that is called file."""
    for name, value in arrays.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)


def write_meshes(folder: Path, parts: Iterable[np.ndarray], faces: np.ndarray, count: int) -> None:
    """Meshes as 000.ply and so on, in place of those that were there."""
    from spectral_jax.geometry.mesh import Mesh, write_mesh

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ply"):
        if old.stem.isdecimal():
            old.unlink()
    digits = max(3, len(str(count - 1)))
    for i, vertices in enumerate(vertices for part in parts for vertices in part):
        write_mesh(folder / f"{i:0{digits}d}.ply", Mesh(vertices, faces))
