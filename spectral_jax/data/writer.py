"""Write prepared datasets: array_record files in the format of TensorFlow Datasets, one part after the other."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data.dataset import BASIS_FILE, MESH_FILE, METADATA_FILE, SCHEMA, Example
from spectral_jax.files import atomic
from spectral_jax.files.locks import LOCK_FILE, locked
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.mesh import Mesh, write_mesh

DATASET = "spectral_meshes"
MESHES_A_PART = 1024  # in a record file, at least; a build that is killed loses about as many
REPLACED = "replaced"  # holds the old dataset while the new one takes its place


class Skipped(NamedTuple):
    """An item that gives no (more) examples, and the reason."""

    reason: str


class Source(NamedTuple):
    """The examples of a split, as items (files or sequences) in a fixed order.

    Attributes:
      names: the names of the items.
      read: given an index, yields the examples of that item and of all later ones, each with the index of its item.
      version: changes with the content of the items. An interrupted build resumes only if the version is the same; it
        starts over if the version is "".
    """

    names: Sequence[str]
    read: Callable[[int], Iterable[tuple[int, Example | Skipped]]]
    version: str = ""


@dataclass(frozen=True)
class Build:
    """A dataset in the making: its final folder, what goes into it, and the hidden folder where it is put together."""

    out: Path
    basis: SpectralBasis
    template: Mesh
    sources: Mapping[str, Source]
    metadata: dict[str, Any]
    progress: Progress

    @property
    def staging(self) -> Path:
        """The hidden folder, which holds the dataset and the journal."""
        return self.out.parent / f".{self.out.name}.building"

    @property
    def data(self) -> Path:
        """The dataset until it is complete."""
        return self.staging / "data"

    @property
    def journal(self) -> Path:
        """One JSON file for each record file that is complete."""
        return self.staging / "journal"

    @property
    def resumable(self) -> bool:
        """Whether an interrupted build can resume: all sources have a version."""
        return all(source.version for source in self.sources.values())

    def identity(self) -> str:
        """Text that is equal for two builds exactly if they make the same dataset."""
        modes = hashlib.sha256(np.asarray(self.basis.modes).tobytes()).hexdigest()
        items = {name: [source.version, *source.names] for name, source in self.sources.items()}
        return json.dumps([self.metadata, modes, items])


def file_version(paths: Iterable[Path]) -> str:
    """A digest of the files' names, sizes and modification times."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def features(num_modes: int) -> tfds.features.FeaturesDict:
    """The TFDS features of an example."""

    def tensor(*shape):
        return tfds.features.Tensor(shape=shape, dtype=np.float32, encoding=tfds.features.Encoding.BYTES)

    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "coefficients": tensor(num_modes, 3),
            "vertices": tensor(None, 3),  # no rows in the train split
            "identity": text(),
            "dataset": text(),
            "file": text(),
            "frame": tfds.features.Scalar(np.int32),
            "gender": text(),
        }
    )


def write(
    out: str | Path,
    basis: SpectralBasis,
    template: Mesh,
    splits: Mapping[str, Source | Iterable[Example]],
    source: dict[str, Any],
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Write examples as a prepared folder, which holds all that training needs, and return the folder.

    The folder gets its name when it is complete. If the build is interrupted, its finished parts stay in a hidden
    folder beside it, and the same build resumes there if its sources have versions. After a ValueError from a source
    nothing stays, because the source has to change. `source` goes into the metadata: how the dataset was made. Raises
    ValueError if `out` exists (unless `overwrite`) or a split is empty.
    """
    metadata = {
        "schema": SCHEMA,
        "num_vertices": basis.num_vertices,
        "num_modes": basis.num_modes,
        "connectivity": basis.fingerprint,
        "operator": basis.operator,
        "source": source,
    }
    sources = {name: split if isinstance(split, Source) else _source_of(split) for name, split in splits.items()}
    build = Build(Path(out), basis, template, sources, metadata, progress)
    if (build.staging / REPLACED).is_dir() and not build.out.exists():  # killed between the two renames of `_publish`
        os.replace(build.staging / REPLACED, build.out)
    check_replaceable(build.out, overwrite)
    with locked(build.staging, f"{out}: another process is building this dataset"):
        _begin(build)
        try:
            parts = {name: _write_parts(build, name) for name in sources}
            _publish(build, parts)
        except BaseException as error:
            kept = sum(json.loads(path.read_text())["meshes"] for path in build.journal.glob("*.json"))
            if build.resumable and kept and not isinstance(error, ValueError):
                error.add_note(f"{kept:,} meshes are kept: the same command resumes from there")
            else:
                shutil.rmtree(build.staging, ignore_errors=True)
            raise
        shutil.rmtree(build.staging, ignore_errors=True)
    return build.out


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Raise ValueError unless `out` is free or, with `overwrite`, a dataset; other folders are never replaced."""
    atomic.check_free(out, overwrite)
    if out.exists() and not (out / METADATA_FILE).is_file():
        raise ValueError(f"{out} is not a prepared dataset ({METADATA_FILE} is missing): not overwritten")


def _source_of(examples: Iterable[Example]) -> Source:
    """Examples as they come, each its own item."""
    names = range(len(examples)) if isinstance(examples, Sequence) else ()
    return Source([str(i) for i in names], lambda start: enumerate(examples))


def _begin(build: Build) -> None:
    """Empty the hidden folder unless it holds parts of the same build."""
    stamp, identity = build.staging / "build", build.identity()
    if build.resumable and build.data.is_dir() and stamp.is_file() and stamp.read_text() == identity:
        return
    for old in (path for path in build.staging.iterdir() if path.name != LOCK_FILE):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    build.data.mkdir()
    build.journal.mkdir()
    stamp.write_text(identity)


def _write_parts(build: Build, split: str) -> list[dict[str, Any]]:
    """Write a split as record files of at least MESHES_A_PART meshes, each of whole items.

    Returns the journal's entry of each file. What the journal lists already is not written again.
    """
    source, form = build.sources[split], features(build.basis.num_modes)
    entries = [json.loads(path.read_text()) for path in sorted(build.journal.glob(f"{split}-*.json"))]
    last, total = entries[-1]["stop"] if entries else 0, len(source.names)
    if entries and last >= total:
        return entries
    kept = meshes = sum(entry["meshes"] for entry in entries)
    part, started = None, time.monotonic()
    for item, found in source.read(last):
        if part and part.entry["meshes"] >= MESHES_A_PART and item != last:
            entries.append(part.close(item))
            part = None
        part = part or Part(build, split, len(entries))
        last = item
        if isinstance(found, Skipped):
            part.entry["skipped"].append(found.reason)
        else:
            part.add(found, form)
            meshes += 1
        rate = (meshes - kept) / max(time.monotonic() - started, 1e-3)
        build.progress.update(f"building {split}", item, total or None, f"{meshes:,} meshes, {rate:,.0f} meshes/s")
    if part:
        entries.append(part.close(total))
    return entries


class Part:
    """A record file that is being written, and its entry in the journal."""

    def __init__(self, build: Build, split: str, number: int):
        self._writer = ArrayRecordWriter(str(build.data / _record_file(split, number)), "group_size:1,uncompressed")
        self._journal = build.journal / f"{split}-{number:05d}.json"
        self.entry: dict[str, Any] = {"meshes": 0, "bytes": 0, "identities": {}, "genders": {}, "skipped": []}

    def add(self, example: Example, form: tfds.features.FeaturesDict) -> None:
        """Append an example."""
        vertices = np.zeros((0, 3), np.float32) if example.vertices is None else example.vertices
        serialised = _in_order(form.serialize_example(example._asdict() | {"vertices": vertices}))
        self._writer.write(serialised)
        self.entry["meshes"] += 1
        self.entry["bytes"] += len(serialised)
        for counts, label in (("identities", example.identity), ("genders", example.gender)):
            self.entry[counts][label] = self.entry[counts].get(label, 0) + 1

    def close(self, stop: int) -> dict[str, Any]:
        """Finish the file and enter it into the journal; `stop` is the first item that comes after it."""
        self._writer.close()
        atomic.write_json(self._journal, {**self.entry, "stop": stop})
        return self.entry


def _publish(build: Build, parts: dict[str, list[dict[str, Any]]]) -> None:
    """Complete the dataset with its basis, template and metadata, and move it to its final folder."""
    counts = {name: sum(part["meshes"] for part in entries) for name, entries in parts.items()}
    skipped = {name: [reason for part in entries for reason in part["skipped"]] for name, entries in parts.items()}
    for name, count in counts.items():
        if not count:
            reason = f", {skipped[name][0]}" if skipped[name] else ""
            raise ValueError(f"{build.out}: the {name} split would be empty{reason}")
    identities = {name: _sum_counts(part["identities"] for part in entries) for name, entries in parts.items()}
    genders = {name: _sum_counts(part.get("genders", {}) for part in entries) for name, entries in parts.items()}
    metadata = {**build.metadata, "counts": counts, "identities": identities, "genders": genders, "skipped": skipped}
    spectral.save(build.data / BASIS_FILE, build.basis)
    write_mesh(build.data / MESH_FILE, build.template)
    atomic.write_text(build.data / METADATA_FILE, json.dumps(metadata, indent=1))
    _describe(build, parts)
    if build.out.exists():
        os.replace(build.out, build.staging / REPLACED)
    os.replace(build.data, build.out)


def _sum_counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def _in_order(serialised: bytes) -> bytes:
    """The same tf.Example with its fields sorted: TFDS writes them in an order that differs between processes."""
    proto: Any = tf_example_pb2
    return proto.Example.FromString(serialised).SerializeToString(deterministic=True)


def _record_file(split: str, part: int) -> str:
    return f"{DATASET}-{split}.array_record-{part:05d}"


def _describe(build: Build, parts: dict[str, list[dict[str, Any]]]) -> None:
    """Write the files in which TFDS describes the record files."""
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
    infos = []
    for split, written in parts.items():
        if written[-1]["meshes"] == 0:  # all items of the last part were skipped
            (build.data / _record_file(split, len(written) - 1)).unlink()
        name = {"data_dir": build.data, "dataset_name": DATASET, "split": split, "filetype_suffix": "array_record"}
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[part["meshes"] for part in written if part["meshes"]],
                num_bytes=sum(part["bytes"] for part in written),
                filename_template=tfds.core.ShardedFileTemplate(template=template, **name),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=build.data,
        features=features(build.basis.num_modes),
        split_infos=infos,
        filename_template=template,
        check_data=False,
        description="Registered meshes as coefficients of the eigenmodes of a Laplacian.",
        disable_shuffling=True,
    )
