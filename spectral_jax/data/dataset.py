"""Read prepared datasets: array_record files in the format of TensorFlow Datasets, without TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, Int

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.files import options, safe_files, tf_example
from spectral_jax.files.progress import SILENT, Progress, track

SCHEMA = 1
BASIS_FILE = "basis.npz"
MESH_FILE = "mesh.ply"
METADATA_FILE = "metadata.json"
TFDS_INFO_FILE = "dataset_info.json"
TFDS_FEATURES_FILE = "features.json"
RECORDS = 256  # read at once from anywhere; the memory of more would be new every time
METADATA_BYTES = 64 << 20  # the metadata lists all identities and all skipped files
# dicts of such values
METADATA_PARTS = {"counts": int, "identities": dict, "genders": dict, "skipped": list, "source": object}


class Example(NamedTuple):
    """One mesh: spectral coefficients, vertices in metres (only in a test split), and its origin."""

    coefficients: Float[np.ndarray, "freq 3"]
    vertices: Float[np.ndarray, "vertex 3"] | None
    identity: str
    dataset: str
    file: str
    frame: int
    gender: str


class Split(NamedTuple):
    """A whole split in memory, float32, metres. The train split of a prepared dataset has no vertices."""

    coefficients: Float[np.ndarray, "mesh freq 3"]
    vertices: Float[np.ndarray, "mesh vertex 3"] | None
    identities: list[str]


@dataclass(frozen=True)
class Data:
    """An opened dataset.

    Attributes:
      path: the folder.
      basis: its modes and faces.
      metadata: counts, identities and genders of each split, skipped files, and how the dataset was made ("source").
      splits: sequences of Example by name; an example is read when it is indexed.
    """

    path: Path
    basis: SpectralBasis
    metadata: dict[str, Any]
    splits: Mapping[str, Sequence]

    def records(self, split: str) -> Sequence:
        """The examples of a split. Raises ValueError naming the splits that exist."""
        if split not in self.splits:
            raise ValueError(f"{self.path}: no split {split!r}, available: {', '.join(self.splits)}")
        return self.splits[split]


class Records(Sequence):
    """A split of a prepared folder; an example is read when it is indexed."""

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
            raise IndexError(f"{self._path}: no mesh {index} in split {self._split}, which has {len(self)}")
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
                    f"{self._path}: record {index} of split {self._split} has {len(found)} {what}, "
                    f"{BASIS_FILE} has {count}"
                )
        return example

    def arrays(self, indices: Int[np.ndarray, "mesh"], *names: str) -> Iterator[tuple[np.ndarray | None, ...]]:
        """Read "coefficients", "vertices" or both, several times as fast as whole examples; None for no vertices."""
        sizes = {"coefficients": 12 * self._basis.num_modes, "vertices": 12 * self._basis.num_vertices}
        for index, found in self._find(indices, *names):
            if all(part is not None and len(part) == sizes[name] for name, part in zip(names, found, strict=True)):
                yield tuple(np.frombuffer(cast(memoryview, part), "<f4").reshape(-1, 3) for part in found)
            else:
                example = self[index]  # reads what is written otherwise, and names what is wrong
                yield tuple(getattr(example, name) for name in names)

    def identities(self, indices: Int[np.ndarray, "mesh"]) -> Iterator[str]:
        """Read the identities of meshes as fast."""
        for index, (found,) in self._find(indices, "identity"):
            try:
                yield str(found or b"\xff", "utf-8")
            except UnicodeDecodeError:  # read as above
                yield self[index].identity

    def _find(self, indices: Int[np.ndarray, "mesh"], *names: str) -> Iterator[tuple[int, list[memoryview | None]]]:
        """Indices and what `tf_example.find_bytes` finds in their records under each name."""
        source, numbers = self._source.data_source, indices.tolist()
        # The system reads ahead of records in order; one at a time, they fill memory that is still in the caches. Those
        # of an epoch are anywhere, and array_record asks for several at once, as slow disks and networks need.
        size = RECORDS if np.any(np.diff(indices) != 1) else 1
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            try:
                records = source.__getitems__(part) if size > 1 else [source[part[0]]]
            except Exception:  # array_record raises its own: read one by one, which names the first that is unreadable
                records = [b""] * len(part)
            for index, record in zip(part, records, strict=True):
                yield index, [tf_example.find_bytes(record, name.encode()) for name in names]


def check_features(path: Path) -> None:
    """Check the files that TFDS reads: they must be small, and the classes they name must be TFDS features.

    TFDS imports the classes that features.json names. Raises ValueError.
    """
    if (path / TFDS_INFO_FILE).is_file():
        safe_files.check_size(path / TFDS_INFO_FILE, safe_files.JSON_BYTES)
    features = path / TFDS_FEATURES_FILE
    level = [safe_files.read_json(features)] if features.is_file() else []
    while level:
        for node in level:
            for name in (node.get(key) for key in ("pythonClassName", "python_class_name", "type")):
                if isinstance(name, str) and not name.startswith("tensorflow_datasets.core.features."):
                    raise ValueError(f"{features}: names the class {name[:80]!r}, expected a TFDS feature")
        level = [child for node in level for child in node.values() if isinstance(child, dict)]


def open_prepared(path: str | Path) -> Data:
    """Open a prepared folder (`spectral_jax.open_data` also opens the PyTorch layouts and builds the demo).

    Raises ValueError naming the file and both values if the folder is missing, incomplete or inconsistent.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path}: no such data folder")
    if not (path / METADATA_FILE).is_file():
        raise ValueError(f"{path}: not a prepared dataset ({METADATA_FILE} is missing)")
    metadata = safe_files.read_json(path / METADATA_FILE, max_bytes=METADATA_BYTES)
    try:
        options.check_schema(metadata, SCHEMA)
        for name, kind in METADATA_PARTS.items():
            value = metadata.setdefault(name, {})
            if not isinstance(value, dict) or not all(isinstance(part, kind) for part in value.values()):
                raise ValueError(f"{name} is {str(value)[:80]}, expected a dict with values of type {kind.__name__}")
        if missing := sorted(metadata["counts"].keys() - metadata["identities"].keys()):
            raise ValueError(f"no identities for split {missing[0]}")
    except ValueError as error:
        raise ValueError(f"{path / METADATA_FILE}: not a dataset's metadata ({error})") from error
    basis = spectral.load(path / BASIS_FILE)
    parts = {"num_vertices": basis.num_vertices, "num_modes": basis.num_modes, "connectivity": basis.fingerprint}
    for name, found in parts.items():
        if metadata.get(name) != found:
            raise ValueError(f"{path / BASIS_FILE}: {name} is {found}, {METADATA_FILE} has {metadata.get(name)!r}")
    splits = {name: Records(path, name, basis) for name in metadata["counts"]}
    for name, records in splits.items():
        if not len(records):
            raise ValueError(f"{path}: split {name} is empty (0 meshes)")
        if len(records) != metadata["counts"][name]:
            raise ValueError(
                f"{path}: {len(records)} records in split {name}, {METADATA_FILE} has {metadata['counts'][name]}"
            )
    return Data(path, basis, metadata, splits)


def read_split(
    data: Data,
    split: str,
    num_modes: int | None = None,
    rows: Sequence[int] | None = None,
    progress: Progress = SILENT,
) -> Split:
    """Read a split into memory: the first `num_modes` coefficients, and the vertices if it has them.

    `num_modes` (default: all) and `rows` (default: all meshes) select a part. Raises ValueError for an unknown split,
    too many modes, or a mesh with a value that is not finite.
    """
    records = data.records(split)
    num_modes = data.basis.num_modes if num_modes is None else num_modes
    if num_modes > data.basis.num_modes:
        raise ValueError(f"{data.path}: {num_modes} modes requested, the dataset has {data.basis.num_modes}")
    rows = range(len(records)) if rows is None else rows
    coefficients = np.empty((len(rows), num_modes, 3), np.float32)
    vertices = None
    identities = []
    for i, row in enumerate(track(rows, progress, f"reading {split}")):
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
