"""Files of latents: what can be encoded, the latents with the origin of each mesh, and what is decoded from them.

An .npz of latents holds `latents` (mesh, latent), one array for each field of `Label`, and the `run`, `epoch` and
`fingerprint` of the network that made them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import atomic, safe_files
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.geometry import mesh, sequences
from spectral_jax.geometry.mesh import Connectivity, Mesh, check_connectivity, write_mesh
from spectral_jax.network.codec import Codec
from spectral_jax.runs.run import Run

MOST_BYTES = 1 << 40  # limit of the arrays of an .npz; safe_files bounds them by the size of the file, too


class Label(NamedTuple):
    """The origin of a mesh; "" for what is unknown."""

    identity: str
    dataset: str
    file: str
    frame: int
    split: str


class Examples(NamedTuple):
    """Meshes to encode.

    Attributes:
      source: their file or folder, for errors.
      are_vertices: whether rows are vertices (vertex, 3) in metres rather than coefficients (freq, 3).
      rows: each mesh with its label, read when it is requested.
    """

    source: str
    are_vertices: bool
    rows: Iterable[tuple[Label, np.ndarray]]


def encode(run: Run, examples: Examples) -> tuple[Float[np.ndarray, "mesh latent"], list[Label]]:
    """Latents and labels of all examples. Raises ValueError, naming the mesh, for values that are not finite."""
    codec = Codec.of(run)
    labels: list[Label] = []

    def rows() -> Iterator[np.ndarray]:
        for label, row in examples.rows:
            if not np.isfinite(row).all():
                raise ValueError(f"{examples.source}: mesh {len(labels)} ({label.file}) has values that are not finite")
            labels.append(label)
            yield row

    try:
        latents = codec.encode_vertices(rows()) if examples.are_vertices else codec.encode(rows())
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"{examples.source}: {len(labels):,} meshes were read, nothing is written")
        raise
    return latents, labels


# What can be encoded.


def read_dataset(data: Any, split: str, run: Run, progress: Progress = SILENT) -> Examples:
    """The coefficients of a split of a dataset, or of all splits.

    Raises ValueError for an unknown split, too few modes, or a basis other than the run's.
    """
    modes = run.config.model.modes
    spectral.check_same(run.require_basis(), data.basis, (f"the basis of {run.path}", f"that of {data.path}"))
    if data.basis.num_modes < modes:
        raise ValueError(f"{data.path} has {data.basis.num_modes} modes, {run.path} needs {modes}")
    if split not in (*data.splits, "all"):
        raise ValueError(f"{data.path}: no split {split!r}, available: {', '.join(data.splits)}, all")

    def rows() -> Iterator[tuple[Label, np.ndarray]]:
        for name in data.splits if split == "all" else [split]:
            for example in track(data.splits[name], progress, f"encoding {name}"):
                label = Label(example.identity, example.dataset, example.file, example.frame, name)
                yield label, example.coefficients[:modes]

    return Examples(str(data.path), False, rows())


def read_meshes(
    path: Path,
    placement: Mapping[str, Any],
    run: Run,
    progress: Progress = SILENT,
    max_bytes: int = mesh.MOST_BYTES,
) -> Examples:
    """The vertices of the meshes in a file or a folder, placed by the options `placement` of `sequences.normalise`.

    Vertices that belong to no face are left out, if the run's dataset has left them out. A mesh file may have
    `max_bytes`. Reading raises ValueError for a mesh that is unreadable or has another connectivity than the run.
    """
    basis = run.require_basis()
    template = Mesh(*spectral.with_unused(basis, np.zeros((basis.num_vertices, 3), np.float32)))
    unused = [] if basis.unused is None else np.asarray(basis.unused.indices)
    used = np.delete(np.arange(len(template.vertices)), unused)
    dataset = (path if path.is_dir() else path.parent).absolute().name

    def rows() -> Iterator[tuple[Label, np.ndarray]]:
        try:
            for item in track(sequences.find(path, max_bytes), progress, "encoding"):
                for frame, placed in sequences.read_placed(item, template, used, placement):
                    yield Label(item.identity, dataset, item.name, frame, ""), placed
        except ValueError as error:
            error.add_note(f"the template is the mesh of {run.path}")
            raise

    return Examples(str(path), True, rows())


def holds_coefficients(path: Path) -> bool:
    """Whether a file is a .npy file, or an .npz with an array `coefficients`; other files hold meshes."""
    if not zipfile.is_zipfile(path):
        return path.suffix == ".npy" and path.is_file()
    with zipfile.ZipFile(path) as archive:
        return "coefficients.npy" in archive.namelist()


def read_coefficients(path: Path, run: Run, progress: Progress = SILENT) -> Examples:
    """The coefficients (mesh, freq, 3) in a file, labelled if it is an .npz with labels. Raises as `read_array`."""
    array, others = read_array(path, "coefficients", (run.config.model.modes, 3), run)
    count = len(array)
    blank = [""] * count
    unknown = {"identity": blank, "dataset": blank, "file": [path.name] * count, "frame": range(count), "split": blank}
    columns = (others.get(name, unknown[name]) for name in Label._fields)
    return Examples(str(path), False, zip(map(Label, *columns), track(array, progress, "encoding"), strict=True))


def read_array(path: Path, name: str, shape: tuple[int, ...], run: Run) -> tuple[np.ndarray, dict[str, Any]]:
    """An array (mesh, *shape) for a run, and the labels and the origin that an .npz holds beside it.

    A .npy file stays on disk (memory map). Raises ValueError naming the file, what it holds and what the run needs.
    """
    others: dict[str, Any] = {}
    try:
        if path.suffix == ".npy":
            array = safe_files.open_npy(path)
        else:
            safe_files.check_size(path, MOST_BYTES)
            with safe_files.open_npz(path, MOST_BYTES) as file:
                array = file[name]
                others = {key: file[key] for key in (*Label._fields, "run", "epoch", "fingerprint") if key in file}
    except ValueError as error:
        if not path.is_file():
            raise
        raise ValueError(f"{path}: not a readable file of {name} ({error})") from error
    if array.dtype.kind != "f" or array.shape[1:] != shape or not len(array):
        needed = ", ".join(map(str, shape))
        raise ValueError(f"{path}: {name} are {array.dtype} {array.shape}, {run.path} needs float (meshes, {needed})")
    if "fingerprint" in others:
        made_for = Connectivity(str(others["fingerprint"]))
        check_connectivity(made_for, run.require_basis().connectivity, (str(path), str(run.path)))
    return array, {
        key: value for key, value in others.items() if key not in Label._fields or value.shape == array.shape[:1]
    }


# What is written.


def origin(run: Run) -> dict[str, np.ndarray]:
    """What a file says of the network that made it: run, epoch and fingerprint."""
    found = {"run": str(run.path.resolve()), "epoch": run.epoch, "fingerprint": run.require_basis().fingerprint}
    return {name: np.array(value) for name, value in found.items()}


def write_latents(path: Path, latents: Float[np.ndarray, "mesh latent"], labels: list[Label], run: Run) -> None:
    """Write latents with their labels and their origin as .npz, atomically."""
    columns = {name: np.array([getattr(label, name) for label in labels]) for name in Label._fields}
    with atomic.replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        _add_arrays(archive, {"latents": latents, **columns, **origin(run)})


def write_array(
    path: Path, name: str, shape: tuple[int, ...], parts: Iterable[np.ndarray], others: Mapping[str, Any]
) -> None:
    """Write an array of `shape`, which may be larger than memory, part by part: as .npy, or with `others` as .npz."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}

    def write(file: Any) -> None:
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
            _add_arrays(archive, others)


def _add_arrays(archive: zipfile.ZipFile, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name, as numpy.savez does; numpy.savez itself cannot write an array called `file`."""
    for name, value in arrays.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)


def write_meshes(folder: Path, parts: Iterable[np.ndarray], basis: SpectralBasis, count: int) -> None:
    """Write `count` meshes as 000.ply, 001.ply, ... in place of those that are there.

    Their vertices are numbered as those of the dataset's files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ply"):
        if old.stem.isdecimal():
            old.unlink()
    digits = max(3, len(str(count - 1)))
    for i, vertices in enumerate(vertices for part in parts for vertices in part):
        write_mesh(folder / f"{i:0{digits}d}.ply", Mesh(*spectral.with_unused(basis, vertices)))
