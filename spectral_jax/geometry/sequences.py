"""Folders of registered meshes, all in one connectivity: find the files, read each mesh, check it, place it."""

from __future__ import annotations

import glob
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spectral_jax import extras
from spectral_jax.files import safe_files
from spectral_jax.files.progress import SILENT, Progress, track
from spectral_jax.geometry import mesh
from spectral_jax.geometry.alignment import align as procrustes
from spectral_jax.geometry.mesh import SUFFIXES as MESHES
from spectral_jax.geometry.mesh import Connectivity, Mesh, fingerprint, proper_faces, suffix_of

Center = Literal["none", "centroid", "box"]
Axis = Literal["x", "y", "z"]
Align = Literal["none", "rigid", "similarity"]

HDF5 = (".hdf5", ".h5")
SEQUENCES = (".npz", ".npy", *HDF5)
SUFFIXES = (*MESHES, *SEQUENCES)
VERTICES = ("vertices", "verts", "v")  # names that the array of vertices may have in an .npz
FACES = ("faces", "triangles", "f")
MOST_BYTES = 4 << 30  # limit for the arrays of an .npz, the faces of an HDF5 file, and one frame of its sequences
SLAB_BYTES = 64 << 20  # of an HDF5 sequence, read at a time


class OtherConnectivity(ValueError):
    """A mesh that has not the template's connectivity."""


class Item(NamedTuple):
    """A mesh or a sequence of meshes.

    Attributes:
      path: the file.
      key: the dataset within an HDF5 file, "" for other files.
      identity: the subject.
      name: unique within the folder: the file's path from there, and the key.
      max_bytes: limit of the size of a mesh file.
    """

    path: Path
    key: str
    identity: str
    name: str
    max_bytes: int = mesh.MOST_BYTES


def find(folder: str | Path, max_bytes: int = mesh.MOST_BYTES) -> list[Item]:
    """All meshes and sequences in a folder and below it, sorted by name; hidden files are skipped.

    `folder` may also be a single file. The identity is the first folder below `folder`, or else the file's stem; in an
    HDF5 file (DFAUST) it is the key up to the first underscore. A mesh file may have `max_bytes`. Raises ValueError if
    no mesh is found.
    """
    folder = Path(folder)
    if folder.is_file() and suffix_of(folder) in SUFFIXES:
        return _items(folder, folder.parent, max_bytes)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of meshes or mesh file ({' '.join(SUFFIXES)})")
    paths = [folder / name for name in glob.iglob("**/*", root_dir=folder, recursive=True)]  # skips hidden files
    paths = [path for path in paths if suffix_of(path) in SUFFIXES and path.is_file()]
    if not paths:
        raise ValueError(f"{folder}: no mesh files ({' '.join(SUFFIXES)})")
    return sorted((item for path in paths for item in _items(path, folder, max_bytes)), key=lambda item: item.name)


def read_template(items: list[Item], template_path: str | Path | None = None, max_bytes: int = mesh.MOST_BYTES) -> Mesh:
    """The mesh that all others must fit: that of `template_path`, or else of the first item with faces.

    In an .stl, corners with equal coordinates become one vertex, in order of first appearance. Faces that name a vertex
    twice are left out with a warning. Raises ValueError if no item has faces, or if the faces do not fit the vertices.
    """
    if template_path is not None:
        items = _items(Path(template_path), Path(template_path).parent, max_bytes)[:1]
    for item in items:
        vertices, faces = _first(item)
        if faces is None:
            continue
        _fingerprint(proper := proper_faces(faces), len(vertices), item.path)
        if not len(proper):
            raise ValueError(f"{item.path}: {len(faces)} faces, none of three different vertices")
        if twice := len(faces) - len(proper):
            warnings.warn(f"{item.path}: {twice} of {len(faces)} faces name a vertex twice, left out", stacklevel=2)
        return Mesh(vertices, proper.astype(np.int32))
    where = f"{template_path}: no faces"
    if template_path is None:
        where = f"{items[0].path}: no faces, nor in any other of the {len(items)} items"
    raise ValueError(f"{where}; name a mesh file with faces: --template FILE")


def connectivities(items: list[Item], progress: Progress = SILENT) -> dict[Connectivity, list[Item]]:
    """The items of each connectivity, most items first; arrays without faces are with meshes of as many vertices.

    Raises ValueError as `read_template` does for a file that cannot be read.
    """
    groups: dict[Connectivity, list[Item]] = {}
    for item in track(items, progress, "comparing"):
        vertices, faces = _first(item)
        code = "" if faces is None else _fingerprint(proper_faces(faces), len(vertices), item.path)
        groups.setdefault(Connectivity(code, len(vertices)), []).append(item)
    for alone in [group for group in groups if not group.fingerprint]:
        alike = [group for group in groups if group.fingerprint and group.num_vertices == alone.num_vertices]
        if alike:
            groups[max(alike, key=lambda group: len(groups[group]))] += groups.pop(alone)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _first(item: Item) -> tuple[np.ndarray, np.ndarray | None]:
    """Vertices of the first frame, and faces if there are any; equal corners of an .stl become one vertex."""
    faces, frames = _open(item)
    vertices = _finite(next(iter(frames)), str(item.path / item.key))
    if suffix_of(item.path) == ".stl":
        _, first, inverse = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
        vertices, faces = vertices[np.sort(first)], np.argsort(np.argsort(first))[inverse].reshape(-1, 3)
    return vertices, faces


def read(item: Item, template: Mesh) -> Iterator[tuple[int, Float[np.ndarray, "vertex 3"]]]:
    """Frame index (0 for a single mesh) and vertices, frame by frame: float32, in the file's units.

    Raises OtherConnectivity, naming the file, if the number of vertices or the graph of the faces differs from the
    template's, and ValueError, naming file and frame, if a value is not finite, or if corners of an .stl that the
    template joins in one vertex lie apart.
    """
    where, suffix = str(item.path / item.key), suffix_of(item.path)
    faces, frames = _open(item)
    for frame, vertices in enumerate(frames):
        if suffix == ".stl":
            vertices = _weld(vertices, template, where)
        if len(vertices) != len(template.vertices):
            raise OtherConnectivity(f"{where}: {len(vertices)} vertices, the template has {len(template.vertices)}")
        if frame == 0 and faces is not None:
            _check_connectivity(proper_faces(faces), template, where)
        yield frame, _finite(vertices, _place(item, frame))


def read_placed(
    item: Item, template: Mesh, used: Int[np.ndarray, "used"], placement: Mapping[str, Any]
) -> Iterator[tuple[int, Float[np.ndarray, "used 3"]]]:
    """`read`, with the used vertices of each mesh as `normalise` places them by the arguments `placement`.

    Raises also ValueError, naming file and frame, for a mesh that cannot be placed: it may be degenerate.
    """
    for frame, vertices in read(item, template):
        try:
            placed = normalise(vertices[None, used], **placement)[0]
        except ValueError as error:
            raise ValueError(f"{_place(item, frame)}: {error}") from error
        yield frame, placed


def _place(item: Item, frame: int) -> str:
    """Where a mesh was read from, for errors."""
    where = str(item.path / item.key)
    return f"{where}: frame {frame}" if suffix_of(item.path) in SEQUENCES else where


def normalise(
    vertices: Float[np.ndarray, "batch vertex 3"],
    *,
    center: Center,
    scale: float,
    up: Axis,
    align: Align = "none",
    template: Float[np.ndarray, "vertex 3"] | None = None,
) -> Float[np.ndarray, "batch vertex 3"]:
    """Place meshes: turn the axis `up` to y, multiply by `scale` (metres per unit of the files), then centre; float32.

    Centring moves the mean vertex of each mesh ("centroid"), or the middle of its bounding box ("box"), to the origin.
    With `align`, each mesh is then moved rigidly, or by a similarity, as near to the placed template as it can be
    (Procrustes). Raises ValueError for scale <= 0.
    """
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}, expected metres per unit of the files, above 0")
    x, y, z = np.moveaxis(vertices.astype(np.float64), -1, 0)
    turned = np.stack({"x": (-y, x, z), "y": (x, y, z), "z": (x, z, -y)}[up], axis=-1) * scale
    if center == "centroid":
        turned -= turned.mean(axis=1, keepdims=True)
    elif center == "box":
        turned -= (turned.min(axis=1, keepdims=True) + turned.max(axis=1, keepdims=True)) / 2
    if align != "none":
        assert template is not None, "meshes are aligned to a template"
        turned = np.stack([procrustes(each, template, align == "similarity").apply(each) for each in turned])
    return turned.astype(np.float32)


def _items(path: Path, folder: Path, max_bytes: int) -> list[Item]:
    """The item of a file, or one for each sequence of an HDF5 file."""
    inner = path.relative_to(folder)
    if path.suffix.lower() not in HDF5:
        stem = path.stem if suffix_of(path) == path.suffix.lower() else Path(path.stem).stem
        return [Item(path, "", inner.parts[0] if len(inner.parts) > 1 else stem, inner.as_posix(), max_bytes)]
    with _hdf5(path) as file:
        keys = sorted(key for key in file if key != "faces")
    if not keys:
        raise ValueError(f"{path}: contains no sequences")
    return [Item(path, key, key.split("_")[0], f"{inner.as_posix()}/{key}", max_bytes) for key in keys]


def _open(item: Item) -> tuple[np.ndarray | None, Iterable[np.ndarray]]:
    """Faces (face, 3), None if the file has none, and vertices (vertex, 3) frame by frame; of an .stl its corners."""
    path, suffix = item.path, suffix_of(item.path)
    if suffix in HDF5:
        with _hdf5(path) as file:
            faces = file.get("faces")
            if faces is not None and not 0 < getattr(faces, "nbytes", 0) <= MOST_BYTES:
                raise ValueError(f"{path}: faces {faces}, the limit is {MOST_BYTES:,} bytes")
            return faces if faces is None else _faces(faces[()], path), _slabs(item)
    if suffix not in SEQUENCES:
        vertices, faces = mesh.read_raw(path, item.max_bytes)
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
                    raise ValueError(f"no array {' or '.join(VERTICES)}, available: {', '.join(data)}")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not readable as meshes ({str(error).removeprefix(f'{path}: ')})") from error
    if array.ndim == 2 and array.shape[1] > 3 and array.shape[1] % 3 == 0:  # frames of x, y, z, x, y, z, ...
        array = array.reshape(len(array), array.shape[1] // 3, 3)
    if array.ndim not in (2, 3) or array.shape[-1] != 3 or array.dtype.kind not in "fiu" or not array.size:
        raise ValueError(
            f"{path}: {array.dtype} {array.shape}, expected ([frames,] vertices, 3) or (frames, 3 * vertices)"
        )
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
    """Frames (vertex, 3) of an HDF5 array (vertex, 3, frame), read in slabs of SLAB_BYTES."""
    with _hdf5(item.path) as file:
        array = file[item.key]
        shape = getattr(array, "shape", ())
        if len(shape) != 3 or shape[1] != 3 or array.dtype.kind not in "fiu" or not array.size:
            raise ValueError(f"{item.path / item.key}: {array}, expected numbers (vertices, 3, frames)")
        if array.nbytes // shape[2] > MOST_BYTES:
            raise ValueError(f"{item.path / item.key}: {array}, the limit is {MOST_BYTES:,} bytes per frame")
        step = max(1, SLAB_BYTES // (3 * shape[0] * array.dtype.itemsize))
        for start in range(0, shape[2], step):
            yield from np.moveaxis(array[:, :, start : start + step], 2, 0)


def _faces(array: np.ndarray, path: Path) -> np.ndarray:
    """Faces (face, 3) as int32. Raises ValueError for an array of another shape or type."""
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu":
        raise ValueError(f"{path}: faces are {array.dtype} {array.shape}, expected whole numbers (faces, 3)")
    return array.astype(np.int32)


def _finite(vertices: np.ndarray, where: str) -> np.ndarray:
    """A float32 copy. Raises ValueError naming the first vertex that is not finite."""
    with np.errstate(over="ignore"):
        vertices = np.array(vertices, np.float32, order="C")
    if not np.isfinite(vertices).all():
        vertex = int(np.isfinite(vertices).all(axis=1).argmin())
        raise ValueError(f"{where}: vertex {vertex} is {vertices[vertex].tolist()}, not finite")
    return vertices


def _fingerprint(faces: np.ndarray, num_vertices: int, where: str | Path) -> str:
    """`mesh.fingerprint`, with errors that name the file."""
    try:
        return fingerprint(faces, num_vertices)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_connectivity(faces: np.ndarray, template: Mesh, where: str) -> None:
    """Raise OtherConnectivity if the faces have another graph than the template's."""
    theirs, count = template.faces, len(template.vertices)
    if np.array_equal(faces, theirs) or _fingerprint(faces, count, where) == fingerprint(theirs, count):
        return
    face = next((i for i, (a, b) in enumerate(zip(faces, theirs, strict=False)) if (a != b).any()), None)
    detail = f"{len(faces)} faces, the template has {len(theirs)}"
    if face is not None:
        detail = f"face {face} is {faces[face].tolist()}, in the template {theirs[face].tolist()}"
    raise OtherConnectivity(f"{where}: connectivity differs from the template's, {detail}")


def _weld(corners: np.ndarray, template: Mesh, where: str) -> np.ndarray:
    """Vertices in the template's order from the corners of an .stl. Corners of one vertex must coincide."""
    vertex_of = template.faces.ravel()
    if len(corners) > len(vertex_of):  # the template has no faces with two equal corners
        a, b, c = np.moveaxis(corners.reshape(-1, 3, 3), 1, 0)
        apart = (a != b).any(axis=1) & (b != c).any(axis=1) & (c != a).any(axis=1)
        corners = corners.reshape(-1, 3, 3)[apart].reshape(-1, 3)
    if len(corners) != len(vertex_of):
        raise OtherConnectivity(f"{where}: {len(corners) // 3} faces, the template has {len(template.faces)}")
    if len(np.unique(vertex_of)) != len(template.vertices):
        raise ValueError(f"{where}: the template has vertices in no face, which an .stl cannot hold")
    vertices = np.empty_like(template.vertices)
    vertices[vertex_of[::-1]] = corners[::-1]  # reversed: the first corner of a vertex is written last and stays
    apart = (vertices[vertex_of] != corners).any(axis=1)
    if apart.any():
        corner = int(apart.argmax())
        at, other = corners[corner].tolist(), vertices[vertex_of[corner]].tolist()
        raise ValueError(
            f"{where}: corner {corner % 3} of face {corner // 3} is at {at}, an earlier corner of the same vertex "
            f"({vertex_of[corner]} of the template) at {other}"
        )
    return vertices
