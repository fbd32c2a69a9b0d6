"""Prepared datasets: a TFDS builder over array_record (no TensorFlow), and what training sees of one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float

from spectral_jax import basis as spectral
from spectral_jax.basis import SpectralBasis
from spectral_jax.mesh import Mesh, write_mesh

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


class Folder(tfds.core.Metadata):
    """The files of a prepared folder that are not records; TFDS writes them before the folder gets its final name."""

    def __init__(self, basis: SpectralBasis, template: Mesh, metadata: dict[str, Any]):
        self.basis, self.template, self.metadata = basis, template, metadata

    def save_metadata(self, data_dir):
        folder = Path(data_dir)
        spectral.save(folder / BASIS_FILE, self.basis)
        write_mesh(folder / MESH_FILE, self.template)
        (folder / METADATA_FILE).write_text(json.dumps(self.metadata, indent=1))

    def load_metadata(self, data_dir):
        self.metadata = json.loads((Path(data_dir) / METADATA_FILE).read_text())


class SpectralMeshes(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of registered meshes as spectral coefficients; records keep the order they are given in."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, folder: Folder, splits: Mapping[str, Iterable[Example]], **kwargs):
        self._folder, self._splits = folder, splits
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        def tensor(*shape):
            return tfds.features.Tensor(shape=shape, dtype=np.float32, encoding=tfds.features.Encoding.BYTES)

        text = tfds.features.Text
        features = {
            "coefficients": tensor(self._folder.basis.num_modes, 3),
            "vertices": tensor(None, 3),  # no rows in the train split
            "identity": text(),
            "dataset": text(),
            "file": text(),
            "frame": tfds.features.Scalar(np.int32),
            "gender": text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Registered meshes as coefficients of the eigenmodes of their graph Laplacian.",
            features=tfds.features.FeaturesDict(features),
            metadata=self._folder,
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(examples) for name, examples in self._splits.items()}

    def _generate_examples(self, examples):
        empty = np.zeros((0, 3), np.float32)
        for index, example in enumerate(examples):
            record = example._asdict()
            record["vertices"] = empty if example.vertices is None else example.vertices
            yield index, record


def write(
    out: str | Path,
    basis: SpectralBasis,
    template: Mesh,
    splits: Mapping[str, Iterable[Example]],
    source: dict[str, Any],
    overwrite: bool = False,
) -> Path:
    """Write examples as a prepared folder that holds all that training needs; returns `out`.

    The folder appears under its name only when it is complete. Raises ValueError when it exists (unless `overwrite`)
    or a split is empty.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already; --overwrite replaces it")
    if out.exists() and not (out / METADATA_FILE).is_file():
        raise ValueError(f"{out} is not a prepared dataset ({METADATA_FILE} is missing): not overwritten")
    counts = dict.fromkeys(splits, 0)
    identities: dict[str, dict[str, int]] = {name: {} for name in splits}

    def counted(name: str) -> Iterator[Example]:
        for example in splits[name]:
            counts[name] += 1
            identities[name][example.identity] = identities[name].get(example.identity, 0) + 1
            yield example
        if not counts[name]:
            raise ValueError(f"{out}: the {name} split would be empty")

    metadata = {
        "schema": SCHEMA,
        "num_vertices": basis.num_vertices,
        "num_modes": basis.num_modes,
        "connectivity": basis.fingerprint,
        "counts": counts,
        "identities": identities,
        "source": source,
    }
    staging = out.parent / f".{out.name}.building"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        builder = SpectralMeshes(
            folder=Folder(basis, template, metadata), splits={name: counted(name) for name in splits}, data_dir=staging
        )
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces itself on stdout
            tfds.disable_progress_bar()
            builder.download_and_prepare()
        if out.exists():
            os.replace(out, staging / "replaced")
        os.replace(builder.data_dir, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


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
