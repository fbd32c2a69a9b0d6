"""Folders of registered meshes (one connectivity): find them, read and check each, split them."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from spectral_jax import extras
from spectral_jax.files import safe_files
from spectral_jax.geometry.mesh import SUFFIXES as MESHES
from spectral_jax.geometry.mesh import Mesh, fingerprint, read_mesh

HDF5 = (".hdf5", ".h5")
SEQUENCES = (".npz", ".npy", *HDF5)
SUFFIXES = (*MESHES, *SEQUENCES)
VERTICES, FACES = ("vertices", "verts", "v"), ("faces", "triangles", "f")  # what the arrays of an .npz may be called
MOST_BYTES = 4 << 30  # of the arrays of an .npz, or of one of an HDF5 file read at once
SLAB_BYTES = 64 << 20  # of an HDF5 sequence in memory at a time


class Item(NamedTuple):
    """A mesh or a sequence of them: its file, HDF5 dataset (else ""), who it is, and its name within the folder."""

    path: Path
    key: str
    identity: str
    name: str


def find(folder: str | Path) -> list[Item]:
    """Meshes and sequences anywhere in the folder, sorted by name, hidden ones skipped; or those of a single file.

    Identity: the first folder on the way, else the file's stem; in HDF5 (DFAUST) the key up to its first underscore.
    Raises ValueError when there are none.
    """
    folder = Path(folder)
    if folder.is_file() and folder.suffix.lower() in SUFFIXES:
        return _items(folder, folder.parent)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of meshes, or no mesh file ({' '.join(SUFFIXES)})")
    paths = [folder / name for name in glob.iglob("**/*", root_dir=folder, recursive=True)]  # skips what is hidden
    paths = [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not paths:
        raise ValueError(f"{folder}: no mesh files ({' '.join(SUFFIXES)}) in it")
    return sorted((item for path in paths for item in _items(path, folder)), key=lambda item: item.name)


def read_template(items: list[Item], template_path: str | Path | None = None) -> Mesh:
    """The mesh that all others are compared with: that of `template_path`, else the first item that holds faces.

    Corners of an .stl with equal coordinates become one vertex, in order of first appearance. Raises ValueError when
    there are no faces or they do not fit the vertices.
    """
    if template_path is not None:
        items = _items(Path(template_path), Path(template_path).parent)[:1]
    for item in items:
        faces, frames = _open(item)
        if faces is None and item.path.suffix.lower() != ".stl":
            continue
        vertices = _finite(next(iter(frames)), str(item.path / item.key))
        if faces is None:
            _, first, inverse = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
            vertices, faces = vertices[np.sort(first)], np.argsort(np.argsort(first))[inverse].reshape(-1, 3)
        _fingerprint(faces, len(vertices), item.path)
        return Mesh(vertices, faces.astype(np.int32))
    where = f"{template_path}: no faces"
    if template_path is None:
        where = f"none of the {len(items)} meshes has faces, from {items[0].path} on"
    raise ValueError(f"{where}; give a mesh file that has them with --template")


def read(item: Item, template: Mesh) -> Iterator[tuple[int, Float[np.ndarray, "vertex 3"]]]:
    """Frame index (0 for a single mesh) and vertices, float32 and in the file's units, one frame after the other.

    Raises ValueError naming file and frame where the number of vertices or the connectivity (as a graph) is not the
    template's, a value is not finite, or corners of an .stl that are one vertex of the template are apart.
    """
    where, suffix = str(item.path / item.key), item.path.suffix.lower()
    faces, frames = _open(item)
    for frame, vertices in enumerate(frames):
        if suffix == ".stl":
            vertices = _weld(vertices, template, where)
        if len(vertices) != len(template.vertices):
            raise ValueError(f"{where}: {len(vertices)} vertices, the template has {len(template.vertices)}")
        if frame == 0 and faces is not None:
            _check_connectivity(faces, template, where)
        yield frame, _finite(vertices, f"{where}: frame {frame}" if suffix in SEQUENCES else where)


def normalise(
    vertices: Float[np.ndarray, "batch vertex 3"],
    center: Literal["none", "centroid", "box"],
    scale: float,
    up: Literal["x", "y", "z"],
) -> Float[np.ndarray, "batch vertex 3"]:
    """Meshes turned so that the axis `up` becomes y, times `scale` (metres a unit of the files), then centred; float32.

    Centred: each mesh's mean vertex, or the middle of its bounding box, becomes 0. Raises ValueError for scale <= 0.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}, expected metres a unit of the files, above 0")
    x, y, z = np.moveaxis(vertices.astype(np.float64), -1, 0)
    turned = np.stack({"x": (-y, x, z), "y": (x, y, z), "z": (x, z, -y)}[up], axis=-1) * scale
    if center == "centroid":
        turned -= turned.mean(axis=1, keepdims=True)
    elif center == "box":
        turned -= (turned.min(axis=1, keepdims=True) + turned.max(axis=1, keepdims=True)) / 2
    return turned.astype(np.float32)


def split(
    items: list[Item],
    train: tuple[str, ...],
    test: tuple[str, ...],
    fraction: float,
    by: Literal["identity", "mesh"],
    seed: int,
) -> dict[str, list[Item]]:
    """Items of "train", "test" and "unused": identities that match the patterns, or a `fraction` for test.

    Patterns of one side alone leave the rest to the other. Without: the last of the sorted identities, or by mesh
    random items (a sequence stays whole). Raises ValueError for patterns that match nothing or overlap, and where a
    side would be empty.
    """
    names = [item.name if by == "mesh" else item.identity for item in items]
    groups = sorted(set(names))
    if by == "mesh" and (train or test):
        raise ValueError(f"patterns are for identities, {', '.join(train + test)} cannot split by mesh")
    if train or test:
        chosen, held = _matching(groups, train), _matching(groups, test)
        if chosen & held:
            raise ValueError(f"identity {min(chosen & held)} matches patterns of train and of test")
        chosen, held = chosen if train else set(groups) - held, held if test else set(groups) - chosen
    else:
        if not 0 < fraction < 1:
            raise ValueError(f"the fraction for test is {fraction}, expected above 0 and below 1")
        if by == "mesh":
            np.random.default_rng(seed).shuffle(groups)
        count = math.ceil(round(fraction * len(groups), 9))  # 0.07 * 100 is a little more than 7
        held = set(groups[max(1, len(groups) - count) :])
        chosen = set(groups) - held
    if not (chosen and held):
        full, empty = ("train", "test") if chosen else ("test", "train")
        what = f"the only {by}" if len(groups) == 1 else f"all {len(groups)} identities"
        advice = "; split by mesh instead" if by == "identity" else ""
        raise ValueError(f"nothing is left for {empty}: {full} gets {what}, {', '.join(groups[:10])}{advice}")
    parts: dict[str, list[Item]] = {"train": [], "test": [], "unused": []}
    for item, name in zip(items, names, strict=True):
        parts["train" if name in chosen else "test" if name in held else "unused"].append(item)
    return parts


def _matching(identities: list[str], patterns: tuple[str, ...]) -> set[str]:
    """Identities that a pattern equals or matches as it would a file's name."""
    found: set[str] = set()
    for pattern in patterns:
        matches = {name for name in identities if name == pattern or fnmatchcase(name, pattern)}
        if not matches:
            some = ", ".join(identities[:10]) + (", ..." if len(identities) > 10 else "")
            raise ValueError(f"no identity of {len(identities)} matches {pattern!r}: there are {some}")
        found |= matches
    return found


def _items(path: Path, folder: Path) -> list[Item]:
    """The mesh in a file, or its HDF5 sequences."""
    inner = path.relative_to(folder)
    if path.suffix.lower() not in HDF5:
        return [Item(path, "", inner.parts[0] if len(inner.parts) > 1 else path.stem, inner.as_posix())]
    with _hdf5(path) as file:
        keys = sorted(key for key in file if key != "faces")
    if not keys:
        raise ValueError(f"{path}: no sequences in it")
    return [Item(path, key, key.split("_")[0], f"{inner.as_posix()}/{key}") for key in keys]


def _open(item: Item) -> tuple[np.ndarray | None, Iterable[np.ndarray]]:
    """Faces (face, 3) where the file has them, and vertices (vertex, 3) frame after frame; of an .stl its corners."""
    path, suffix = item.path, item.path.suffix.lower()
    if suffix in HDF5:
        with _hdf5(path) as file:
            faces = file.get("faces")
            if faces is not None and not 0 < getattr(faces, "nbytes", 0) <= MOST_BYTES:
                raise ValueError(f"{path}: faces {faces}, at most {MOST_BYTES:,} bytes are read")
            return faces if faces is None else _faces(faces[()], path), _slabs(item)
    if suffix not in SEQUENCES:
        vertices, faces = read_mesh(path)
        return (None, [vertices[faces.ravel()]]) if suffix == ".stl" else (faces, [vertices])
    faces = None
    try:
        if suffix == ".npy":
            array = safe_files.open_npy(path)
        else:
            with safe_files.open_npz(path, MOST_BYTES) as data:
                array = next((data[name] for name in VERTICES if name in data), None)
                faces = next((data[name] for name in FACES if name in data), None)
                if array is None:
                    raise ValueError(f"no array {', '.join(VERTICES)}, there are {', '.join(data)}")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as meshes ({str(error).removeprefix(f'{path}: ')})") from error
    if array.ndim not in (2, 3) or array.shape[-1] != 3 or array.dtype.kind not in "fiu" or not array.size:
        raise ValueError(f"{path}: {array.dtype} {array.shape}, expected numbers ([frames,] vertices, 3)")
    return faces if faces is None else _faces(faces, path), array.reshape(-1, *array.shape[-2:])


@contextmanager
def _hdf5(path: Path) -> Iterator[Any]:
    """An open HDF5 file."""
    h5py = extras.require("h5py", "hdf5", f"reading {path}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path}: not a readable HDF5 file ({error})") from error


def _slabs(item: Item) -> Iterator[np.ndarray]:
    """Frames (vertex, 3) of an HDF5 array (vertex, 3, frame), read many at a time but never all of a long one."""
    with _hdf5(item.path) as file:
        array = file[item.key]
        shape = getattr(array, "shape", ())
        if len(shape) != 3 or shape[1] != 3 or array.dtype.kind not in "fiu" or not array.size:
            raise ValueError(f"{item.path / item.key}: {array}, expected numbers (vertices, 3, frames)")
        if array.nbytes // shape[2] > MOST_BYTES:
            raise ValueError(f"{item.path / item.key}: {array}, at most {MOST_BYTES:,} bytes a frame are read")
        step = max(1, SLAB_BYTES // (3 * shape[0] * array.dtype.itemsize))
        for start in range(0, shape[2], step):
            yield from np.moveaxis(array[:, :, start : start + step], 2, 0)


def _faces(array: np.ndarray, path: Path) -> np.ndarray:
    """The faces, checked to be some."""
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu":
        raise ValueError(f"{path}: faces are {array.dtype} {array.shape}, expected whole numbers (faces, 3)")
    return array.astype(np.int32)


def _finite(vertices: np.ndarray, where: str) -> np.ndarray:
    """A float32 copy, its values checked."""
    with np.errstate(over="ignore"):
        vertices = np.array(vertices, np.float32, order="C")
    if not np.isfinite(vertices).all():
        vertex = int(np.isfinite(vertices).all(axis=1).argmin())
        raise ValueError(f"{where}: vertex {vertex} is {vertices[vertex].tolist()}, not finite")
    return vertices


def _fingerprint(faces: np.ndarray, num_vertices: int, where: str | Path) -> str:
    """The fingerprint; errors name the file."""
    try:
        return fingerprint(faces, num_vertices)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_connectivity(faces: np.ndarray, template: Mesh, where: str) -> None:
    """Raise ValueError unless the graph is the template's."""
    theirs, count = template.faces, len(template.vertices)
    if np.array_equal(faces, theirs) or _fingerprint(faces, count, where) == fingerprint(theirs, count):
        return
    face = next((i for i, (a, b) in enumerate(zip(faces, theirs, strict=False)) if (a != b).any()), None)
    detail = f"{len(faces)} faces, the template has {len(theirs)}"
    if face is not None:
        detail = f"face {face} is {faces[face].tolist()}, in the template {theirs[face].tolist()}"
    raise ValueError(f"{where}: another connectivity, {detail}")


def _weld(corners: np.ndarray, template: Mesh, where: str) -> np.ndarray:
    """Vertices in the template's order from the corners of an .stl; corners of one vertex have to coincide."""
    vertex_of = template.faces.ravel()
    if len(corners) != len(vertex_of):
        raise ValueError(f"{where}: {len(corners) // 3} faces, the template has {len(template.faces)}")
    if len(np.unique(vertex_of)) != len(template.vertices):
        raise ValueError(f"{where}: an .stl cannot hold the template's vertices that are in no face")
    vertices = np.empty_like(template.vertices)
    vertices[vertex_of[::-1]] = corners[::-1]  # the first corner of a vertex is written last
    apart = (vertices[vertex_of] != corners).any(axis=1)
    if apart.any():
        corner = int(apart.argmax())
        at, other = corners[corner].tolist(), vertices[vertex_of[corner]].tolist()
        raise ValueError(
            f"{where}: corner {corner % 3} of face {corner // 3} is at {at}, an earlier one of vertex "
            f"{vertex_of[corner]} of the template at {other}"
        )
    return vertices
