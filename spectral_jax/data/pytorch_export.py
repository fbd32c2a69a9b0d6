"""Write datasets in the published PyTorch layouts: tar files (2022) and .npy files (2026), one mesh after the other."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np

from spectral_jax.data.dataset import Data, Example
from spectral_jax.files import atomic, torch_file
from spectral_jax.files.locks import LOCK_FILE, locked
from spectral_jax.files.progress import SILENT, Progress, track

ExportLayout = Literal["2022", "2026"]
# For each layout: what its splits are called, and their counts in infos.json.
SPLITS = {"2022": {"train": "train", "test": "test"}, "2026": {"train": "train", "test": "vald"}}
COUNTS = {"2022": {"train": "nb_train", "test": "nb_evals"}, "2026": {"train": "nb_train", "test": "nb_vald"}}
# The published program of 2022 opens the modes by this name, whatever their number of vertices.
MODES_2022 = "mesh.evecs_6890"
LABELS = ("identity", "dataset", "file", "frame_idx", "gender")  # of an example, in its order
LABEL_BYTES = 512  # of a mesh, about: for the room that is asked for
MEMBER_BYTES = 2048  # of a tar and of the archive in it, beside the array


def export(
    data: Data, out: str | Path, layout: ExportLayout = "2022", name: str | None = None, progress: Progress = SILENT
) -> Path:
    """Write a dataset as a root folder of a published layout; the folder in it that holds the meshes.

    The root has basis and faces, and a folder `name` (default: that of the dataset's own folder), which the PyTorch
    program calls its path. What an import of it gives has the same coefficients, vertices, labels, modes and faces, bit
    for bit. The root gets its name when it is complete; nothing stays after a failure. Raises ValueError if `out`
    exists, there is not enough room, or the dataset lacks what the layout needs: a train and a test split, original
    vertices, the graph Laplacian.
    """
    out, name = Path(out), data.path.resolve().name if name is None else name
    if layout not in get_args(ExportLayout):
        raise ValueError(f"layout must be one of {', '.join(get_args(ExportLayout))}, not {layout!r}")
    if name in ("", "..") or Path(name).name != name:
        raise ValueError(f"the folder of the meshes needs a plain name, not {name!r}")
    if os.path.lexists(out):
        raise ValueError(f"{out} exists already")
    if data.basis.mass is not None:
        raise ValueError(
            f"{data.path}: the modes are those of the cotangent Laplacian, but the published layouts have no place for "
            "their mass; only datasets of the graph Laplacian can be exported"
        )
    if data.records("test")[0].vertices is None:
        raise ValueError(f"{data.path}: split test has no original vertices, which the published layouts need")
    data.records("train")
    staging = out.parent / f".{out.name}.exporting"
    with locked(staging, f"{out}: another process is exporting to this folder"):
        try:
            for old in (path for path in staging.iterdir() if path.name != LOCK_FILE):  # of a killed export
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            _check_room(out, _bytes(data))
            root = staging / "root"
            _write(data, root, layout, name, progress)
            os.replace(root, out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return _folder(out, layout, name)


def _folder(root: Path, layout: ExportLayout, name: str) -> Path:
    return root / name if layout == "2022" else root / "Datasets" / name


def _bytes(data: Data) -> int:
    """About how many bytes the dataset takes in either layout, rather too many."""
    basis, counts = data.basis, {name: len(data.records(name)) for name in ("train", "test")}
    mesh = 12 * basis.num_modes + LABEL_BYTES + 3 * MEMBER_BYTES
    vertices = 12 * basis.num_vertices * counts["test"]
    return sum(counts.values()) * mesh + vertices + 4 * basis.num_vertices * basis.num_modes + 24 * len(basis.faces)


def _check_room(out: Path, size: int) -> None:
    """Raise ValueError unless so many bytes are free where `out` will be."""
    free = shutil.disk_usage(out.absolute().parent).free
    if free < size:
        raise ValueError(f"{out}: needs {size:,} bytes, {free:,} are free")


def _write(data: Data, root: Path, layout: ExportLayout, name: str, progress: Progress) -> None:
    """Write the root folder."""
    folder, basis = _folder(root, layout, name), data.basis
    folder.mkdir(parents=True)
    faces, modes = np.asarray(basis.faces), np.asarray(basis.modes, np.float32)
    counts: dict[str, Any] = {COUNTS[layout][split]: len(data.records(split)) for split in SPLITS[layout]}
    if layout == "2022":
        np.savetxt(root / "mesh.triv", faces + 1, fmt="%d")
        modes_file = MODES_2022
    else:
        np.savetxt(root / "smpl_faces.txt", faces, fmt="%d")
        modes_file = f"evecs_GL_{basis.num_vertices}.npy"
        counts |= {SPLITS[layout][split]: list(data.metadata["identities"][split]) for split in SPLITS[layout]}
    with (root / modes_file).open("wb") as file:
        np.save(file, modes, allow_pickle=False)
    atomic.write_json(folder / "infos.json", counts)
    write_split = _write_tar if layout == "2022" else _write_arrays
    for split, theirs in SPLITS[layout].items():
        write_split(folder, theirs, data, split, progress)


def _write_tar(folder: Path, theirs: str, data: Data, split: str, progress: Progress) -> None:
    """Write a split of the layout of 2022: for each mesh one member with its labels and one for each array.

    Headers are written here one by one, because tarfile keeps all of them in memory.
    """

    def append(name: str, content: bytes) -> None:
        header = tarfile.TarInfo(name)
        header.size = len(content)
        for part in (header.tobuf(tarfile.USTAR_FORMAT), content, bytes(-len(content) % tarfile.BLOCKSIZE)):
            file.write(part)

    with (folder / f"{theirs}.tar").open("wb") as file:
        for index, example in enumerate(_examples(data, split, progress)):
            append(f"{index:06d}.infos.json", json.dumps(_labels(example)).encode())
            append(f"{index:06d}.coeffs.pth", _saved(example.coefficients))
            if split == "test":
                append(f"{index:06d}.vertices.pth", _saved(example.vertices))
        file.write(bytes(2 * tarfile.BLOCKSIZE))


def _write_arrays(folder: Path, theirs: str, data: Data, split: str, progress: Progress) -> None:
    """Write a split of the layout of 2026: one array for each kind, and a list of the labels."""
    count, shape = len(data.records(split)), (data.basis.num_modes, 3)
    with (
        (folder / f"{theirs}_coeffs.npy").open("wb") as coefficients,
        (folder / f"{theirs}_infos.json").open("w", encoding="utf-8") as labels,
    ):
        _write_header(coefficients, (count, *shape))
        vertices = (folder / f"{theirs}_vertices.npy").open("wb") if split == "test" else io.BytesIO()
        with vertices:
            if split == "test":
                _write_header(vertices, (count, data.basis.num_vertices, 3))
            for index, example in enumerate(_examples(data, split, progress)):
                coefficients.write(_plain(example.coefficients).tobytes())
                if split == "test":
                    vertices.write(_plain(example.vertices).tobytes())
                labels.write(("[\n" if index == 0 else ",\n") + json.dumps(_labels(example)))
        labels.write("\n]\n")


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Begin a .npy file of float32; the values follow in C order."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def _examples(data: Data, split: str, progress: Progress) -> Iterator[Example]:
    """The examples of a split, read one by one. Raises ValueError for one that an import would refuse."""
    records = data.records(split)
    for index in track(range(len(records)), progress, f"writing {split}"):
        example = records[index]
        arrays = [example.coefficients] + [example.vertices] * (split == "test")
        if any(array is None or not np.isfinite(array).all() for array in arrays):
            what = "has no original vertices" if example.vertices is None and split == "test" else "is not finite"
            raise ValueError(f"{data.path}: mesh {index} of split {split} ({example.file}) {what}")
        yield example


def _labels(example: Example) -> dict[str, str | int]:
    """The published labels of a mesh."""
    return dict(zip(LABELS, example[2:], strict=True))


def _plain(array: Any) -> np.ndarray:
    """Little-endian float32 in C order."""
    return np.ascontiguousarray(array, "<f4")


def _saved(array: Any) -> bytes:
    """The array as a file of torch.save."""
    stream = io.BytesIO()
    torch_file.save(stream, _plain(array))
    return stream.getvalue()
