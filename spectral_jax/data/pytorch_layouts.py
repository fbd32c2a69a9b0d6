"""Read datasets of the published PyTorch systems in place: tar files (2022 layout) and .npy files (2026 layout).

The reader executes nothing in these files, uses no member's name as a path, and checks every size before it reads.
"""

from __future__ import annotations

import os
import re
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from spectral_jax.basis.spectral import SpectralBasis, from_modes
from spectral_jax.data.dataset import SCHEMA, Data, Example
from spectral_jax.files import safe_files, torch_file

Layout = Literal["upstream-2022", "upstream-2026"]
MARKS: dict[str, Layout] = {  # files that each has one of
    "train.tar": "upstream-2022",
    "test.tar": "upstream-2022",
    "train_coeffs.npy": "upstream-2026",
    "vald_coeffs.npy": "upstream-2026",
}
COUNTS = {"train": ("nb_train",), "test": ("nb_evals", "nb_test", "nb_vald")}  # names of the counts in infos.json
MEMBER_BYTES = {"infos.json": 1 << 20, "coeffs.pth": 256 << 20, "vertices.pth": 256 << 20}  # limits
JSON_BYTES = 64 << 20  # limit for the list beside an array: about 350,000 meshes
FACES_BYTES = 64 << 20  # limit


def pytorch_layout(path: str | Path) -> Layout | None:
    """The layout of a dataset folder, or of the datasets in a root folder; None if there is none."""
    return next(iter(_datasets(Path(path)).values()), None)


def open_pytorch_layout(path: str | Path) -> Data:
    """Open a dataset folder of either layout, or a root folder with one dataset; meshes are read when indexed.

    Modes and coefficients are cut to the smaller number of the two. The 2026 split "vald" is called "test". The train
    split may be absent: such a dataset can be evaluated on. Raises ValueError, naming file and values, if another file
    is missing, if one is malformed, or if two do not fit together.
    """
    found = _datasets(Path(path))
    if len(found) != 1:
        names = ", ".join(map(str, sorted(found))) or f"no folder with {' or '.join(MARKS)}"
        raise ValueError(f"{path}: {len(found)} datasets, expected 1 ({names})")
    ((folder, layout),) = found.items()
    if layout == "upstream-2022":
        modes_path, faces_path = _only(folder.parent, "mesh.evecs_*"), _only(folder.parent, "mesh.triv")
    else:
        root = folder.parent.parent
        modes_path, faces_path = _only(root, "evecs_GL_*.npy"), _only(root, "smpl_faces.txt")
    modes = _open_array(modes_path, (None, None), ("float32", "float64"))
    num_vertices, num_modes = modes.shape
    splits: dict[str, TarSplit | ArraySplit] = {}
    if layout == "upstream-2022":
        if (folder / "train.tar").exists():
            splits["train"] = TarSplit(folder / "train.tar", num_modes)
        test = splits["test"] = TarSplit(folder / "test.tar", num_modes, num_vertices)
    else:
        if (folder / "train_coeffs.npy").exists():
            splits["train"] = ArraySplit(folder, "train", num_modes)
        test = splits["test"] = ArraySplit(folder, "vald", num_modes, num_vertices)
    for split in splits.values():
        if split.num_modes != test.num_modes:
            raise ValueError(f"{split.path} has {split.num_modes} modes, {test.path} has {test.num_modes}")
    infos = safe_files.read_json(folder / "infos.json") if (folder / "infos.json").exists() else {}
    for name, split in splits.items():
        for key in COUNTS[name]:
            if isinstance(infos.get(key), int) and infos[key] != len(split):
                raise ValueError(
                    f"{folder / 'infos.json'}: {key} is {infos[key]}, {split.path} has {len(split)} meshes"
                )
    basis = _basis(modes_path, modes[:, : test.num_modes], faces_path)
    metadata = {
        "schema": SCHEMA,
        "num_vertices": basis.num_vertices,
        "num_modes": basis.num_modes,
        "connectivity": basis.fingerprint,
        "counts": {name: len(split) for name, split in splits.items()},
        "identities": {name: dict(Counter(s.labels(i)[0] for i in range(len(s)))) for name, s in splits.items()},
        "source": {"recipe": layout, "path": str(path)},
    }
    return Data(folder, basis, metadata, splits)


class TarSplit(Sequence):
    """A split of the 2022 layout: members <key>.infos.json, .coeffs.pth and, given `num_vertices`, .vertices.pth.

    The file stays open until `close` or until the split is garbage. Reads give their offset, so any thread may read.
    """

    def __init__(self, path: Path, max_modes: int, num_vertices: int | None = None):
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        self.path, self._num_vertices = path, num_vertices
        self._file = path.open("rb", buffering=0)
        self.close = weakref.finalize(self, self._file.close)
        self._suffixes = list(MEMBER_BYTES)[: 2 if num_vertices is None else 3]
        index = _scan(path, self._file.fileno(), self._suffixes)
        for key, places in index.items():
            if None in places:
                raise ValueError(f"{path}: no member {f'{key}.{self._suffixes[places.index(None)]}'!r}")
        if not index:
            raise ValueError(f"{path}: no members <key>.coeffs.pth")
        self._keys, self._places = list(index), np.array(list(index.values()), np.int64)  # (mesh, suffix, offset|size)
        self._rows = 1
        self._rows = len(self._tensor(0, "coeffs.pth"))
        self.num_modes = min(max_modes, self._rows)

    def __len__(self):
        return len(self._keys)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: no mesh {index}, the split has {len(self)}")
        coefficients = self._tensor(int(index), "coeffs.pth")[: self.num_modes]
        vertices = None if self._num_vertices is None else self._tensor(int(index), "vertices.pth")
        return Example(coefficients, vertices, *self.labels(int(index)))

    def coefficients(self, indices: Int[np.ndarray, "mesh"]) -> Iterator[Float[np.ndarray, "freq 3"]]:
        """Read the coefficients of meshes alone."""
        return (self._tensor(index, "coeffs.pth")[: self.num_modes] for index in indices.tolist())

    def labels(self, index: int) -> tuple[str, str, str, int, str]:
        """Identity, dataset, file, frame and gender of a mesh."""
        content, where = self._read(index, "infos.json")
        return _labels(safe_files.parse_json(content, where))

    def _read(self, index: int, suffix: str) -> tuple[bytes, str]:
        """The content of a member, and its name for errors."""
        offset, size = self._places[index, self._suffixes.index(suffix)].tolist()
        content = os.pread(self._file.fileno(), size, offset)
        where = f"{self.path}: member {f'{self._keys[index]}.{suffix}'!r}"
        if len(content) != size:
            raise ValueError(f"{where} has {size:,} bytes, only {len(content):,} could be read")
        return content, where

    def _tensor(self, index: int, suffix: str) -> np.ndarray:
        """The array in a member as float32. Raises ValueError if it has another shape than the split's."""
        content, where = self._read(index, suffix)
        try:
            tensor = torch_file.load(content)
        except torch_file.TorchFileError as error:
            raise ValueError(f"{where} {str(error).removeprefix('<bytes>: ')}") from error
        if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f":
            raise ValueError(
                f"{where} holds {getattr(tensor, 'dtype', type(tensor).__name__)}, expected a float tensor"
            )
        if suffix == "coeffs.pth":
            fits, expected = tensor.shape[:1] >= (self._rows,), f"({self._rows} or more, 3)"
        else:
            fits, expected = tensor.shape[:1] == (self._num_vertices,), f"({self._num_vertices}, 3)"
        if not fits or tensor.shape[1:] != (3,):
            raise ValueError(f"{where} has shape {tensor.shape}, expected {expected}")
        return _finite(tensor, where)


class ArraySplit(Sequence):
    """A split of the 2026 layout: <name>_coeffs.npy, _infos.json and, given `num_vertices`, _vertices.npy."""

    def __init__(self, folder: Path, name: str, max_modes: int, num_vertices: int | None = None):
        self.path, self._vertices_path = folder / f"{name}_coeffs.npy", folder / f"{name}_vertices.npy"
        self._coefficients, self._vertices = _open_array(self.path, (None, None, 3)), None
        if 0 in self._coefficients.shape:
            raise ValueError(f"{self.path}: no meshes, its shape is {self._coefficients.shape}")
        if num_vertices is not None:
            self._vertices = _open_array(self._vertices_path, (len(self), num_vertices, 3))
        infos_path = folder / f"{name}_infos.json"
        infos = safe_files.read_json(infos_path, list, JSON_BYTES)
        if len(infos) != len(self):
            raise ValueError(f"{infos_path} has {len(infos)} entries, {self.path} has {len(self)} meshes")
        for i, entry in enumerate(infos):
            if not isinstance(entry, dict):
                raise ValueError(f"{infos_path}: entry {i} is a {type(entry).__name__}, expected a dict")
        self._labels = [_labels(entry) for entry in infos]
        self.num_modes = min(max_modes, self._coefficients.shape[1])

    def __len__(self):
        return len(self._coefficients)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: no mesh {index}, the split has {len(self)}")
        (coefficients,) = self.coefficients(np.array([index]))
        vertices = self._vertices
        if vertices is not None:
            vertices = _finite(vertices[index], f"{self._vertices_path}: mesh {index}")
        return Example(coefficients, vertices, *self._labels[index])

    def coefficients(self, indices: Int[np.ndarray, "mesh"]) -> Iterator[Float[np.ndarray, "freq 3"]]:
        """Read the coefficients of meshes alone."""
        for index in indices.tolist():
            yield _finite(self._coefficients[index, : self.num_modes], f"{self.path}: mesh {index}")

    def labels(self, index: int) -> tuple[str, str, str, int, str]:
        """Identity, dataset, file, frame and gender of a mesh."""
        return self._labels[index]


def _datasets(path: Path) -> dict[Path, Layout]:
    """Dataset folders and their layouts: the path itself, or else the folders below it."""
    path = Path(os.path.abspath(path))
    for places in ([""], ["*/", "Datasets/*/"]):
        found: dict[Path, Layout] = {
            file.parent: MARKS[mark] for place in places for mark in MARKS for file in path.glob(place + mark)
        }
        if found:
            return found
    return {}


def _only(folder: Path, pattern: str) -> Path:
    """The only file in the folder that matches the pattern. Raises ValueError for none or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{folder}: {len(found)} files {pattern}, expected 1 (found: {names})")
    return found[0]


def _scan(path: Path, handle: int, suffixes: list[str]) -> dict[str, list[tuple[int, int] | None]]:
    """Offsets and sizes of the members <key>.<suffix> of an uncompressed tar, by key, in file order."""
    index: dict[str, list[tuple[int, int] | None]] = {}
    end, position, long_name = os.fstat(handle).st_size, 0, None
    while (header := os.pread(handle, 512, position)) != bytes(512):
        if len(header) < 512:
            raise ValueError(f"{path}: truncated, no end mark at byte {position:,}")
        try:
            size = int(header[124:136].strip(b" \0") or b"0", 8)
            checksum = int(header[148:156].strip(b" \0"), 8)
        except ValueError:
            size = checksum = -1
        if size < 0 or checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise ValueError(f"{path}: not an uncompressed tar, or damaged (no header at byte {position:,})")
        prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
        name = long_name or (prefix + b"/" if prefix else b"") + header[:100].partition(b"\0")[0]
        where = name.decode(errors="backslashreplace")
        start, kind, long_name = position + 512, header[156:157], None
        position = start + -(-size // 512) * 512
        if start + size > end:
            raise ValueError(f"{path}: truncated, member {where!r} ends at byte {start + size:,} of {end:,}")
        if kind in (b"x", b"L") and size <= MEMBER_BYTES["infos.json"]:  # attributes, long name of the next member
            content = os.pread(handle, size, start)
            record = re.search(rb"^\d+ path=(.*)$" if kind == b"x" else rb"^([^\0]*)", content, re.MULTILINE)
            long_name = record[1] if record else None
        folder, slash, base = where.rpartition("/")
        stem, _, suffix = base.partition(".")
        if kind not in (b"0", b"\0") or not stem or suffix not in suffixes:
            continue
        if size > MEMBER_BYTES[suffix]:
            raise ValueError(f"{path}: member {where!r} has {size:,} bytes, the limit is {MEMBER_BYTES[suffix]:,}")
        places = index.setdefault(folder + slash + stem, [None] * len(suffixes))
        if places[suffixes.index(suffix)]:
            raise ValueError(f"{path}: two members {where!r}")
        places[suffixes.index(suffix)] = start, size
    return index


def _open_array(path: Path, shape: tuple[int | None, ...], dtypes: tuple[str, ...] = ("float32",)) -> np.ndarray:
    """A .npy file of any name as a memory map. None in `shape` stands for any size."""
    array = safe_files.open_npy(path)
    fits = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.name not in dtypes:
        expected = f"{' or '.join(dtypes)} ({', '.join('any' if n is None else str(n) for n in shape)})"
        raise ValueError(f"{path}: holds {array.dtype} {array.shape}, expected {expected}")
    return array


def _finite(array: np.ndarray, where: str) -> np.ndarray:
    """A float32 copy. Raises ValueError if a value is not finite."""
    with np.errstate(over="ignore"):
        copy = np.array(array, np.float32, order="C")
    if not np.isfinite(copy).all():
        raise ValueError(f"{where} has values that are not finite")
    return copy


def _labels(infos: dict[str, Any]) -> tuple[str, str, str, int, str]:
    """Identity, dataset, file, frame and gender; "" or -1 for a value that is missing or has another type."""
    identity, dataset, file, gender = (
        str(value) if isinstance(value := infos.get(name), str | int | float) else ""
        for name in ("identity", "dataset", "file", "gender")
    )
    try:
        frame = int(infos["frame_idx"])
    except (KeyError, TypeError, ValueError, OverflowError):
        frame = -1
    return identity, dataset, file, frame if 0 <= frame < 2**31 else -1, gender


def read_faces(path: Path, num_vertices: int | None = None) -> Int[np.ndarray, "face 3"]:
    """Faces from a text file, 0-based whether the file counts from 0 or from 1.

    Raises ValueError unless the faces name the first and the last of `num_vertices` vertices (default: the highest
    number in the file gives the last).
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of faces")
    safe_files.check_size(path, FACES_BYTES)
    try:
        with warnings.catch_warnings(action="ignore"):  # NumPy warns of an empty file
            rows = np.loadtxt(path, np.float64, comments=None, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: expected three numbers per line ({error})") from error
    if rows.ndim != 2 or rows.shape[1] != 3 or not (np.abs(rows) < 2**31).all() or (rows != np.rint(rows)).any():
        raise ValueError(f"{path}: holds numbers {rows.shape}, expected three integers per line")
    first, last = int(rows.min()), int(rows.max())
    if num_vertices is None:
        num_vertices = last + 1 - (first == 1)
    if (first, last) not in ((0, num_vertices - 1), (1, num_vertices)):
        raise ValueError(
            f"{path}: names vertices {first} to {last}, expected 0 to {num_vertices - 1} or 1 to {num_vertices} "
            f"({num_vertices} vertices)"
        )
    return (rows - first).astype(np.int32)


def _basis(modes_path: Path, columns: Float[np.ndarray, "vertex freq"], faces_path: Path) -> SpectralBasis:
    """The basis with these modes; its eigenvalues are Rayleigh quotients. Raises ValueError if the faces do not fit."""
    modes, num_vertices = _finite(columns, str(modes_path)), len(columns)
    faces = read_faces(faces_path, num_vertices)
    return from_modes(modes, faces, (str(modes_path), str(faces_path)))
