"""Prepared datasets: array_record files in the format of TensorFlow Datasets, written and read without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import options, safe_files

SCHEMA = 1
BASIS_FILE, MESH_FILE, METADATA_FILE = "basis.npz", "mesh.ply", "metadata.json"
TFDS_FILES = "dataset_info.json", "features.json"
METADATA_BYTES = 64 << 20  # it lists all identities and all files that were skipped


class Example(NamedTuple):
    """One mesh: spectral coefficients, its vertices in metres (test split only) and where it comes from."""

    coefficients: Float[np.ndarray, "freq 3"]
    vertices: Float[np.ndarray, "vertex 3"] | None
    identity: str
    dataset: str
    file: str
    frame: int
    gender: str


class Split(NamedTuple):
    """A whole split in memory, float32 and metres; train has no vertices."""

    coefficients: Float[np.ndarray, "mesh freq 3"]
    vertices: Float[np.ndarray, "mesh vertex 3"] | None
    identities: list[str]


@dataclass(frozen=True)
class Data:
    """An opened dataset: folder, basis (faces included), metadata, and its splits as lazy sequences of Example."""

    path: Path
    basis: SpectralBasis
    metadata: dict[str, Any]
    splits: Mapping[str, Sequence]


def untracked(iterable: Iterable, description: str) -> Iterable:
    """The iterable itself: the silent progress bar."""
    return iterable


class Records(Sequence):
    """A split of a prepared folder as a sequence of examples, read when asked for."""

    def __init__(self, path: Path, split: str, basis: SpectralBasis):
        self._path, self._split, self._basis = path, split, basis
        check_features(path)
        try:
            builder: Any = tfds.builder_from_directory(str(path))
            self._source = builder.as_data_source(split)
        except Exception as error:  # TFDS, array_record and protobuf each raise their own
            raise ValueError(f"{path}: not a prepared dataset, split {split} is unreadable ({error})") from error

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"{self._path}: split {self._split} has {len(self)} meshes, not one of index {index}")
        try:
            record = dict(self._source[index])
            for name in ("identity", "dataset", "file", "gender"):
                record[name] = record[name].decode()
            record["vertices"] = record["vertices"] if len(record["vertices"]) else None
            example = Example(**record)
        except Exception as error:  # array_record and the proto parser raise RuntimeError, DecodeError, ...
            raise ValueError(f"{self._path}: record {index} of split {self._split} is unreadable ({error})") from error
        for found, count, what in (
            (example.coefficients, self._basis.num_modes, "modes"),
            (example.vertices, self._basis.num_vertices, "vertices"),
        ):
            if found is not None and len(found) != count:
                raise ValueError(
                    f"{self._path}: record {index} of split {self._split} has {len(found)} {what}, {BASIS_FILE} {count}"
                )
        return example


def check_features(path: Path) -> None:
    """Raise ValueError unless the files TFDS reads are small, and name no classes (it imports them) but its own."""
    if (path / TFDS_FILES[0]).is_file():
        safe_files.check_size(path / TFDS_FILES[0], safe_files.JSON_BYTES)
    level = [safe_files.read_json(path / TFDS_FILES[1])] if (path / TFDS_FILES[1]).is_file() else []
    while level:
        for node in level:
            for name in (node.get(key) for key in ("pythonClassName", "python_class_name", "type")):
                if isinstance(name, str) and not name.startswith("tensorflow_datasets.core.features."):
                    raise ValueError(f"{path / TFDS_FILES[1]}: names the class {name[:80]!r}, none of TFDS")
        level = [child for node in level for child in node.values() if isinstance(child, dict)]


def open_data(path: str | Path) -> Data:
    """Open a prepared folder. Raises ValueError naming the folder when it is missing or not a dataset."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such data folder")
    if not (path / METADATA_FILE).is_file():
        raise ValueError(f"{path}: not a prepared dataset ({METADATA_FILE} is missing)")
    metadata = safe_files.read_json(path / METADATA_FILE, max_bytes=METADATA_BYTES)
    try:
        options.check_schema(metadata, SCHEMA)
        for name, kind in (("counts", int), ("identities", dict), ("skipped", list), ("source", object)):
            value = metadata.setdefault(name, {})
            if not isinstance(value, dict) or not all(isinstance(part, kind) for part in value.values()):
                raise ValueError(f"{name} is {str(value)[:80]}, which is no dict of such")
        if missing := sorted(metadata["counts"].keys() - metadata["identities"].keys()):
            raise ValueError(f"no identities of the split {missing[0]}")
    except ValueError as error:
        raise ValueError(f"{path / METADATA_FILE}: not a dataset's metadata ({error})") from error
    basis = spectral.load(path / BASIS_FILE)
    parts = {"num_vertices": basis.num_vertices, "num_modes": basis.num_modes, "connectivity": basis.fingerprint}
    for name, found in parts.items():
        if metadata.get(name) != found:
            raise ValueError(f"{path / BASIS_FILE}: {name} is {found}, {METADATA_FILE} says {metadata.get(name)!r}")
    splits = {name: Records(path, name, basis) for name in metadata["counts"]}
    for name, records in splits.items():
        if not len(records):
            raise ValueError(f"{path}: split {name} is empty (0 meshes)")
        if len(records) != metadata["counts"][name]:
            raise ValueError(
                f"{path}: {len(records)} records in split {name}, metadata says {metadata['counts'][name]}"
            )
    return Data(path, basis, metadata, splits)


def read_split(
    data: Data,
    split: str,
    num_modes: int | None = None,
    track: Callable[[Iterable, str], Iterable] = untracked,
    rows: range | None = None,
) -> Split:
    """Read a split's first `num_modes` (default: all) coefficients, and vertices where it has them, into memory.

    `rows` (default: all) are the meshes to read.

    `track` wraps the loop over records (a progress bar). Raises ValueError for an unknown split, too many modes, or a
    mesh with a value that is not finite.
    """
    if split not in data.splits:
        raise ValueError(f"{data.path}: no split {split!r}, there are {', '.join(data.splits)}")
    num_modes = data.basis.num_modes if num_modes is None else num_modes
    if num_modes > data.basis.num_modes:
        raise ValueError(f"{data.path}: {num_modes} modes asked for, the dataset has {data.basis.num_modes}")
    records = data.splits[split]
    rows = range(len(records)) if rows is None else rows
    coefficients = np.empty((len(rows), num_modes, 3), np.float32)
    vertices = None
    identities = []
    for i, row in enumerate(track(rows, f"reading {split}")):
        example = records[row]
        coefficients[i] = example.coefficients[:num_modes]
        if example.vertices is not None:
            if vertices is None:
                vertices = np.empty((len(rows), data.basis.num_vertices, 3), np.float32)
            vertices[i] = example.vertices
        if not (np.isfinite(coefficients[i]).all() and (vertices is None or np.isfinite(vertices[i]).all())):
            raise ValueError(
                f"{data.path}: mesh {row} of split {split} ({example.file}) has values that are not finite"
            )
        identities.append(example.identity)
    return Split(coefficients, vertices, identities)
