"""Building prepared datasets: examples into array_record files of the TensorFlow Datasets format, part by part."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from spectral_jax.geometry.mesh import Mesh, write_mesh

DATASET = "spectral_meshes"
MESHES_A_PART = 1024  # at least, in a record file: about as much is lost when a build is killed
REPLACED = "replaced"  # where the dataset is put that another takes the place of


class Skipped(NamedTuple):
    """An item that gave no examples, or no more of them, and why."""

    reason: str


class Source(NamedTuple):
    """Where the examples of a split come from: items (files, sequences) in a fixed order.

    Attributes:
      names: of the items.
      read: given the index of an item, what it and all items after it hold, each with the index of its item.
      version: changes with the items' content; a build that was cut short goes on only from the same version.
    """

    names: Sequence[str]
    read: Callable[[int], Iterable[tuple[int, Example | Skipped]]]
    version: str = ""


def unwatched(split: str, item: int, items: int, meshes: int) -> None:
    """Takes how far a build is, and says nothing."""


def file_version(paths: Iterable[Path]) -> str:
    """A digest of names, sizes and times of files."""
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
    overwrite: bool = False,
    watch: Callable[[str, int, int, int], None] = unwatched,
) -> Path:
    """Write examples as a prepared folder that holds all that training needs; returns `out`.

    The folder appears under its name only when it is complete. What a build that was cut short had finished stays in a
    hidden folder beside it, and the same build goes on from there where its sources have versions; a ValueError of
    theirs leaves nothing, for they have to change. `watch` is told of every mesh. Raises ValueError when `out` exists
    (unless `overwrite`) or a split is empty.
    """
    out = Path(out)
    staging = out.parent / f".{out.name}.building"
    if (staging / REPLACED).is_dir() and not out.exists():  # a process was killed between the renames at the end
        os.replace(staging / REPLACED, out)
    check_free(out, overwrite)
    sources = {name: split if isinstance(split, Source) else _of(split) for name, split in splits.items()}
    metadata = {
        "schema": SCHEMA,
        "num_vertices": basis.num_vertices,
        "num_modes": basis.num_modes,
        "connectivity": basis.fingerprint,
        "operator": basis.operator,
        "source": source,
    }
    modes = hashlib.sha256(np.asarray(basis.modes).tobytes()).hexdigest()
    build = json.dumps([metadata, modes, {name: [split.version, *split.names] for name, split in sources.items()}])
    with locked(staging, f"{out}: another process is building this dataset"):
        _build(out, staging, build, basis, template, sources, metadata, watch)
        shutil.rmtree(staging, ignore_errors=True)
    return out


def _build(
    out: Path,
    staging: Path,
    build: str,
    basis: SpectralBasis,
    template: Mesh,
    sources: Mapping[str, Source],
    metadata: dict[str, Any],
    watch: Callable[[str, int, int, int], None],
) -> None:
    """Make a dataset in the hidden folder, going on where the same build stopped, and move it to its name."""
    data, journal = staging / "data", staging / "journal"
    resumable = all(split.version for split in sources.values())
    begun = data.is_dir() and (staging / "build").is_file() and (staging / "build").read_text() == build
    if not (resumable and begun):
        for old in (path for path in staging.iterdir() if path.name != LOCK_FILE):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        data.mkdir()
        journal.mkdir()
        (staging / "build").write_text(build)
    try:
        parts = {name: _write_parts(data, journal, name, split, basis, watch) for name, split in sources.items()}
        for name in sources:
            if not sum(part["meshes"] for part in parts[name]):
                why = f", {_skipped(parts[name])[0]}" if _skipped(parts[name]) else ""
                raise ValueError(f"{out}: the {name} split would be empty{why}")
        metadata["counts"] = {name: sum(part["meshes"] for part in parts[name]) for name in sources}
        metadata["identities"] = {name: _identities(parts[name]) for name in sources}
        metadata["skipped"] = {name: _skipped(parts[name]) for name in sources}
        spectral.save(data / BASIS_FILE, basis)
        write_mesh(data / MESH_FILE, template)
        (data / METADATA_FILE).write_text(json.dumps(metadata, indent=1))
        _describe(data, parts, basis.num_modes)
        if out.exists():
            os.replace(out, staging / REPLACED)
        os.replace(data, out)
    except BaseException as error:
        kept = sum(json.loads(path.read_text())["meshes"] for path in journal.glob("[!.]*"))
        if resumable and kept and not isinstance(error, ValueError):
            error.add_note(f"{kept:,} meshes are kept: the same command goes on from there")
        else:
            shutil.rmtree(staging, ignore_errors=True)
        raise


def check_free(out: Path, overwrite: bool) -> None:
    """Raise ValueError when the folder cannot become a dataset: it exists, or is none that `overwrite` may replace."""
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists already; --overwrite replaces it")
    if out.exists() and not (out / METADATA_FILE).is_file():
        raise ValueError(f"{out} is not a prepared dataset ({METADATA_FILE} is missing): not overwritten")


def _of(examples: Iterable[Example]) -> Source:
    """Examples as they come, each its own item."""
    names = range(len(examples)) if isinstance(examples, Sequence) else ()
    return Source([str(i) for i in names], lambda start: enumerate(examples))


def _write_parts(
    data: Path, journal: Path, split: str, source: Source, basis: SpectralBasis, watch: Callable
) -> list[dict[str, Any]]:
    """Write a split as record files of some MESHES_A_PART, each whole items; the journal says which are complete."""
    paths = sorted(journal.glob(f"{split}-*.json"))
    parts = [json.loads(path.read_text()) for path in paths]
    form, meshes = features(basis.num_modes), sum(part["meshes"] for part in parts)
    last, writer, part = parts[-1]["stop"] if parts else 0, None, {}

    def close(writer: ArrayRecordWriter, stop: int) -> None:
        writer.close()
        name = f"{split}-{len(parts):05d}.json"
        atomic.write_json(journal / name, {**part, "stop": stop})
        parts.append(part)

    for item, found in source.read(last) if last < len(source.names) or not parts else ():
        if writer and part["meshes"] >= MESHES_A_PART and item != last:
            close(writer, item)
            writer = None
        if writer is None:
            writer = ArrayRecordWriter(str(data / _record_file(split, len(parts))), "group_size:1,uncompressed")
            part = {"meshes": 0, "bytes": 0, "identities": {}, "skipped": []}
        last = item
        if isinstance(found, Skipped):
            part["skipped"].append(found.reason)
        else:
            empty = np.zeros((0, 3), np.float32)
            record = found._asdict() | {"vertices": empty if found.vertices is None else found.vertices}
            serialised = _in_order(form.serialize_example(record))
            writer.write(serialised)
            part["meshes"], part["bytes"] = part["meshes"] + 1, part["bytes"] + len(serialised)
            part["identities"][found.identity] = part["identities"].get(found.identity, 0) + 1
            meshes += 1
        watch(split, item, len(source.names), meshes)
    if writer:
        close(writer, len(source.names))
    return parts


def _in_order(serialised: bytes) -> bytes:
    """The same tf.Example with its fields in one order: TFDS leaves them in another in each process."""
    proto: Any = tf_example_pb2
    return proto.Example.FromString(serialised).SerializeToString(deterministic=True)


def _record_file(split: str, part: int) -> str:
    return f"{DATASET}-{split}.array_record-{part:05d}"


def _skipped(parts: list[dict[str, Any]]) -> list[str]:
    return [reason for part in parts for reason in part["skipped"]]


def _identities(parts: list[dict[str, Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part["identities"])
    return dict(counts)


def _describe(data: Path, parts: dict[str, list[dict[str, Any]]], num_modes: int) -> None:
    """Write what TFDS needs to know of the record files."""
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
    infos = []
    for split, written in parts.items():
        if written[-1]["meshes"] == 0:  # nothing but items that were skipped
            (data / _record_file(split, len(written) - 1)).unlink()
        name = {"data_dir": data, "dataset_name": DATASET, "split": split, "filetype_suffix": "array_record"}
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[part["meshes"] for part in written if part["meshes"]],
                num_bytes=sum(part["bytes"] for part in written),
                filename_template=tfds.core.ShardedFileTemplate(template=template, **name),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=data,
        features=features(num_modes),
        split_infos=infos,
        filename_template=template,
        check_data=False,
        description="Registered meshes as coefficients of the eigenmodes of a Laplacian.",
        disable_shuffling=True,
    )
