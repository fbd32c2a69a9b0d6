"""Prepared datasets: array_record files in the format of TensorFlow Datasets, written and read without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from spectral_jax import basis as spectral
from spectral_jax.basis import SpectralBasis

SCHEMA = 1
BASIS_FILE, MESH_FILE, METADATA_FILE = "basis.npz", "mesh.ply", "metadata.json"


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

    def __init__(self, path: Path, split: str):
        self._path, self._split = path, split
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
        except Exception as error:  # array_record and the proto parser raise RuntimeError, DecodeError, ...
            raise ValueError(f"{self._path}: record {index} of split {self._split} is unreadable ({error})") from error
        for name in ("identity", "dataset", "file", "gender"):
            record[name] = record[name].decode()
        record["vertices"] = record["vertices"] if len(record["vertices"]) else None
        return Example(**record)


def open_data(path: str | Path) -> Data:
    """Open a prepared folder. Raises ValueError naming the folder when it is missing or not a dataset."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such data folder")
    if not (path / METADATA_FILE).is_file():
        raise ValueError(f"{path}: not a prepared dataset ({METADATA_FILE} is missing)")
    try:
        metadata = json.loads((path / METADATA_FILE).read_text())
        schema = metadata["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path / METADATA_FILE}: not a dataset's metadata ({error})") from error
    if schema > SCHEMA:
        raise ValueError(f"{path}: written by a newer version (schema {schema}, this version reads {SCHEMA})")
    basis = spectral.load(path / BASIS_FILE)
    splits = {name: Records(path, name) for name in metadata["counts"]}
    for name, records in splits.items():
        if len(records) != metadata["counts"][name]:
            raise ValueError(
                f"{path}: {len(records)} records in split {name}, metadata says {metadata['counts'][name]}"
            )
    return Data(path, basis, metadata, splits)


def read_split(
    data: Data, split: str, num_modes: int | None = None, track: Callable[[Iterable, str], Iterable] = untracked
) -> Split:
    """Read a split's first `num_modes` (default: all) coefficients, and vertices where it has them, into memory.

    `track` wraps the loop over records (a progress bar). Raises ValueError for an unknown split, too many modes, or a
    mesh with a value that is not finite.
    """
    if split not in data.splits:
        raise ValueError(f"{data.path}: no split {split!r}, there are {', '.join(data.splits)}")
    num_modes = data.basis.num_modes if num_modes is None else num_modes
    if num_modes > data.basis.num_modes:
        raise ValueError(f"{data.path}: {num_modes} modes asked for, the dataset has {data.basis.num_modes}")
    records = data.splits[split]
    coefficients = np.empty((len(records), num_modes, 3), np.float32)
    vertices = None
    identities = []
    for i, example in enumerate(track(records, f"reading {split}")):
        coefficients[i] = example.coefficients[:num_modes]
        if example.vertices is not None:
            if vertices is None:
                vertices = np.empty((len(records), data.basis.num_vertices, 3), np.float32)
            vertices[i] = example.vertices
        if not np.isfinite(coefficients[i]).all():
            raise ValueError(f"{data.path}: mesh {i} of split {split} ({example.file}) has values that are not finite")
        identities.append(example.identity)
    return Split(coefficients, vertices, identities)
