"""How datasets are made: the demo, the published AMASS and DFAUST recipes, and folders of registered meshes."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from spectral_jax.basis import formats, spectral
from spectral_jax.basis.spectral import Operator, SpectralBasis
from spectral_jax.bodies import amass
from spectral_jax.bodies.amass import Recording
from spectral_jax.bodies.motion import read_sequence, write_demo_motions
from spectral_jax.bodies.smplh import Body, demo_body_path, find_bodies, load_body, pose_bodies
from spectral_jax.data import writer
from spectral_jax.data.dataset import Example
from spectral_jax.data.writer import Skipped, Source
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry import sequences
from spectral_jax.geometry.mesh import Mesh

BATCH, AHEAD = 64, 8  # meshes computed at once, and batches gathered before they are: to fill those of either sex
MODES = 4096  # by default, or as many as there are vertices
DEMO_SUBJECTS = {"train": 32, "test": 6}
DEMO_FRAMES = 12

Watch = Callable[[str, int, int, int], None]


class Row(NamedTuple):
    """What an example is computed from: what kind of computation it takes, its arrays, and the labels."""

    kind: str
    arrays: tuple[np.ndarray, ...]
    labels: tuple[str, str, str, int, str]


def demo(
    out: str | Path,
    num_vertices: int = 1229,
    num_modes: int = 1024,
    seed: int = 0,
    overwrite: bool = False,
    watch: Watch = writer.unwatched,
) -> Path:
    """Build the demo dataset: free bodies in synthetic motion, 12 frames of each sequence, subjects disjoint.

    The same seed gives the same records.
    """
    writer.check_free(Path(out), overwrite)
    body = load_body(demo_body_path(num_vertices))
    basis = spectral.compute(body.faces, body.num_vertices, num_modes)
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(write_demo_motions(Path(folder), num_subjects=sum(DEMO_SUBJECTS.values()), seed=seed))
        recordings = [Recording(path, path.parent.parent.name, path.parent.name) for path in paths]
        train = set(sorted({r.identity for r in recordings})[: DEMO_SUBJECTS["train"]])
        splits = {
            "train": [r for r in recordings if r.identity in train],
            "test": [r for r in recordings if r.identity not in train],
        }

        def frames(count: int) -> list[int]:
            return np.linspace(0, count, DEMO_FRAMES, endpoint=False).astype(int).tolist()

        source = {"recipe": "demo", "seed": seed, "frames_per_sequence": DEMO_FRAMES}
        bodies = {"male": body, "female": body}
        return _build_bodies(out, bodies, (), basis, splits, frames, source, True, overwrite, watch)


def published(
    recipe: Literal["amass", "dfaust"],
    folder: str | Path,
    body_folder: str | Path,
    out: str | Path,
    num_modes: int | None = None,
    operator: Operator = "graph",
    basis_path: str | Path | None = None,
    allow_missing: bool = False,
    strict: bool = False,
    overwrite: bool = False,
    watch: Watch = writer.unwatched,
    progress: Progress = SILENT,
) -> Path:
    """Build the published AMASS or DFAUST dataset from AMASS files and SMPL-H bodies of both sexes.

    A gender other than female is male. `progress` is told how many modes are computed. Raises ValueError for missing
    sets (unless they may be) and, when strict, for a sequence file that cannot be used, which is else skipped.
    """
    writer.check_free(Path(out), overwrite)
    sets = amass.find_sets(folder)
    choose = amass.published_splits if recipe == "amass" else amass.dfaust_splits
    splits = choose(sets, allow_missing)
    paths = find_bodies(body_folder)
    bodies = {gender: load_body(paths[gender]) for gender in ("male", "female")}
    male, female = bodies["male"], bodies["female"]
    if male.num_vertices != female.num_vertices or not np.array_equal(male.faces, female.faces):
        raise ValueError(
            f"{paths['male']} has {male.num_vertices} vertices and {len(male.faces)} faces, {paths['female']} has "
            f"{female.num_vertices} and {len(female.faces)}, or other faces: not the same connectivity"
        )
    basis = _basis(_rest_shape(male), num_modes, operator, basis_path, progress)
    source = {"recipe": recipe, "folder": str(folder), "body_folder": str(body_folder)}
    files = [paths["male"], paths["female"]]
    return _build_bodies(out, bodies, files, basis, splits, FRAMES[recipe], source, strict, overwrite, watch)


def _amass_frames(count: int) -> range:
    return range(int(0.1 * count), int(0.9 * count), 100)


FRAMES: dict[str, Callable[[int], Iterable[int]]] = {"amass": _amass_frames, "dfaust": range}


def meshes(
    folder: str | Path,
    out: str | Path,
    train: tuple[str, ...] = (),
    test: tuple[str, ...] = (),
    fraction: float = 0.2,
    by: Literal["identity", "mesh"] = "identity",
    seed: int = 0,
    template_path: str | Path | None = None,
    center: Literal["none", "centroid", "box"] = "centroid",
    scale: float = 1.0,
    up: Literal["x", "y", "z"] = "y",
    num_modes: int | None = None,
    operator: Operator = "graph",
    basis_path: str | Path | None = None,
    overwrite: bool = False,
    watch: Watch = writer.unwatched,
    progress: Progress = SILENT,
) -> Path:
    """Build a dataset of a folder of registered meshes (see `spectral_jax.geometry.sequences` for all it takes).

    Raises ValueError naming the first mesh that does not fit the others.
    """
    writer.check_free(Path(out), overwrite)
    items = sequences.find(folder)
    parts = sequences.split(items, train, test, fraction, by, seed)
    raw = sequences.read_template(items, template_path)
    shape = sequences.normalise(raw.vertices[None], center, scale, up)[0]
    basis = _basis(Mesh(shape, raw.faces), num_modes, operator, basis_path, progress)
    on_device, project = jax.device_put(basis), jax.jit(spectral.project)

    def source(split: str) -> Source:
        chosen = parts[split]

        def rows(start: int) -> Iterator[tuple[int, Row | Skipped]]:
            for index in range(start, len(chosen)):
                item = chosen[index]
                for frame, vertices in sequences.read(item, raw):
                    labels = (item.identity, Path(folder).absolute().name, item.name, frame, "")
                    yield index, Row("", (sequences.normalise(vertices[None], center, scale, up)[0],), labels)

        size = int(np.clip(3_000_000 // len(shape), 1, BATCH))
        names = [item.name for item in chosen]
        version = writer.file_version(sorted({item.path for item in chosen}))
        return Source(
            names,
            lambda start: _examples(rows(start), lambda _, v: (v, project(on_device, v)), size, split == "test"),
            version,
        )

    options = {"center": center, "scale": scale, "up": up, "split_by": by, "unused": len(parts["unused"])}
    metadata = {"recipe": "meshes", "folder": str(folder), **options}
    splits = {split: source(split) for split in ("train", "test")}
    return writer.write(out, basis, Mesh(shape, raw.faces), splits, metadata, overwrite, watch)


def _rest_shape(body: Body) -> Mesh:
    """The body in its rest pose, mean shape."""
    zeros = np.zeros((BATCH, 156), np.float32), np.zeros((BATCH, 16), np.float32)  # as many as are compiled for anyway
    return Mesh(np.asarray(pose_bodies(body, *zeros)[0]), body.faces)


def _basis(
    shape: Mesh,
    num_modes: int | None,
    operator: Operator,
    path: str | Path | None,
    progress: Progress,
) -> SpectralBasis:
    """The basis in a file, which must be of this connectivity, or the one of this shape."""
    count = len(shape.vertices)
    if path is None:
        num_modes = min(MODES, count) if num_modes is None else num_modes
        vertices = shape.vertices if operator == "cotangent" else None
        return formats.cached(shape.faces, count, num_modes, vertices, progress)
    basis = spectral.load(path)
    template = SpectralBasis(np.empty((count, 0), np.float32), np.empty(0), shape.faces)
    if basis.fingerprint != template.fingerprint:
        raise ValueError(
            f"{path} is for {basis.num_vertices} vertices and connectivity {basis.fingerprint[:12]}, the meshes have "
            f"{count} and {template.fingerprint[:12]}"
        )
    if operator == "cotangent" and basis.operator == "graph":
        raise ValueError(f"{path} is of the graph operator, not the cotangent")
    return basis if num_modes is None else spectral.truncate(basis, num_modes)


def _build_bodies(
    out: str | Path,
    bodies: Mapping[str, Body],
    body_files: Sequence[Path],
    basis: SpectralBasis,
    splits: Mapping[str, Sequence[Recording]],
    frames: Callable[[int], Iterable[int]],
    metadata: dict[str, Any],
    strict: bool,
    overwrite: bool,
    watch: Watch,
) -> Path:
    """Write the posed bodies of recordings: pelvis at the origin, root orientation removed, metres.

    Without body files the recordings are taken to be temporary: such a build starts from nothing each time.
    """
    on_device, project = jax.device_put(basis), jax.jit(spectral.project)

    def compute(sex, poses, betas):
        vertices = pose_bodies(bodies[sex], poses, betas)
        return vertices, project(on_device, vertices)

    def source(split: str) -> Source:
        recordings = splits[split]

        def examples(start: int) -> Iterator[tuple[int, Example | Skipped]]:
            return _examples(_rows(recordings, start, frames, strict), compute, BATCH, split == "test")

        names = [str(Path(r.dataset) / r.identity / r.path.name) for r in recordings]
        version = writer.file_version([*body_files, *(r.path for r in recordings)]) + strict * " strict"
        return Source(names, examples, version if body_files else "")

    sources = {split: source(split) for split in splits}
    return writer.write(out, basis, _rest_shape(bodies["male"]), sources, metadata, overwrite, watch)


def _rows(
    recordings: Sequence[Recording], start: int, frames: Callable[[int], Iterable[int]], strict: bool
) -> Iterator[tuple[int, Row | Skipped]]:
    """Pose and shape of the chosen frames, by sex; files are read ahead in a thread."""

    def read(recording: Recording):
        try:
            return read_sequence(recording.path)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        ahead, later = deque(), iter(recordings[start:])
        for index in range(start, len(recordings)):
            ahead.extend(pool.submit(read, recording) for recording in islice(later, 4 - len(ahead)))
            recording, sequence = recordings[index], ahead.popleft().result()
            if isinstance(sequence, ValueError):
                if strict:
                    raise sequence
                yield index, Skipped(str(sequence))
                continue
            sex = "female" if sequence.gender == "female" else "male"
            for frame in frames(len(sequence.poses)):
                labels = (recording.identity, recording.dataset, recording.path.name, frame, sequence.gender)
                yield index, Row(sex, (sequence.poses[frame], sequence.betas), labels)


def _examples(
    rows: Iterable[tuple[int, Row | Skipped]], compute: Callable[..., Any], size: int, keep_vertices: bool
) -> Iterator[tuple[int, Example | Skipped]]:
    """Examples of rows, in their order, computed in batches of one kind and size; some are ahead on the device."""

    def launch(entries: list[tuple[int, Row | Skipped]]):
        kinds: dict[str, list[tuple[int, Row]]] = {}
        for position, (_, row) in enumerate(entries):
            if isinstance(row, Row):
                kinds.setdefault(row.kind, []).append((position, row))
        batches, places = [], {}
        for kind, found in kinds.items():
            for chunk in (found[start : start + size] for start in range(0, len(found), size)):
                places |= {position: (len(batches), i) for i, (position, _) in enumerate(chunk)}
                arrays = [row.arrays for _, row in chunk]
                arrays += arrays[-1:] * (size - len(chunk))
                vertices, coefficients = compute(kind, *map(np.stack, zip(*arrays, strict=True)))
                batches.append((vertices if keep_vertices else None, coefficients))
        return entries, places, batches

    def finish(entries, places, batches) -> Iterator[tuple[int, Example | Skipped]]:
        batches = jax.device_get(batches)
        for position, (index, row) in enumerate(entries):
            if isinstance(row, Skipped):
                yield index, row
                continue
            batch, i = places[position]
            vertices, coefficients = batches[batch]
            yield index, Example(coefficients[i], vertices[i] if keep_vertices else None, *row.labels)

    entries, under_way = [], deque()
    for entry in rows:
        entries.append(entry)
        if len(entries) == AHEAD * size:
            under_way.append(launch(entries))
            entries = []
            if len(under_way) > 1:
                yield from finish(*under_way.popleft())
    under_way.append(launch(entries))
    for block in under_way:
        yield from finish(*block)
