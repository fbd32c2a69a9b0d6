"""Triangle meshes that share one connectivity: the record, the connectivity's graph and Laplacian, files."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spectral_jax import extras
from spectral_jax.geometry import gltf_reader

if TYPE_CHECKING:
    import scipy.sparse

Operator = Literal["graph", "cotangent"]  # the Laplacian of a mesh
SUFFIXES = (".obj", ".ply", ".off", ".stl", ".glb", ".gltf")
MOST_BYTES = 32 << 20  # limit of a file's size: 450,000 vertices as text, for which trimesh takes 75 times the memory
LINE = 1 << 16  # limit of characters in a line of an .obj file


class Mesh(NamedTuple):
    """A triangle mesh: vertices (vertex, 3) in metres, faces (face, 3) as 0-based vertex indices."""

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]


class Connectivity(NamedTuple):
    """What tells connectivities apart: the fingerprint, and the number of vertices where it is known."""

    fingerprint: str
    num_vertices: int | None = None

    def __str__(self) -> str:
        known = "" if self.num_vertices is None else f"{self.num_vertices} vertices and "
        return f"{known}connectivity {self.fingerprint[:12]}"


def connectivity(faces: Int[np.ndarray, "face 3"], num_vertices: int) -> Connectivity:
    """The connectivity of the faces. Raises ValueError as `edges` does."""
    return Connectivity(fingerprint(faces, num_vertices), num_vertices)


def check_connectivity(found: Connectivity, expected: Connectivity, names: tuple[str, str]) -> None:
    """Raise ValueError, which calls the two by their `names`, unless the connectivities are the same."""
    if found.fingerprint != expected.fingerprint:
        raise ValueError(f"{names[0]} has {found}, {names[1]} has {expected}: not the same connectivity")


def edges(faces: Int[np.ndarray, "face 3"], num_vertices: int) -> Int[np.ndarray, "edge 2"]:
    """Undirected edges of the faces, each once, sorted, the smaller index first.

    Raises ValueError for a face that names a vertex outside 0 .. num_vertices - 1, or one vertex twice.
    """
    faces = np.asarray(faces, np.int64)
    if faces.size and (faces.min() < 0 or faces.max() >= num_vertices):
        raise ValueError(
            f"faces name vertices {faces.min()} to {faces.max()}, but there are {num_vertices} vertices "
            f"(0 to {num_vertices - 1}); are the faces 1-based?"
        )
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    degenerate = pairs[:, 0] == pairs[:, 1]
    if degenerate.any():
        raise ValueError(f"face {int(np.argmax(degenerate)) % len(faces)} names vertex {pairs[degenerate][0, 0]} twice")
    codes = np.unique(pairs[:, 0] * num_vertices + pairs[:, 1])  # one number per edge: sorts far faster than rows
    return np.stack([codes // num_vertices, codes % num_vertices], axis=1)


def graph_laplacian(edges: Int[np.ndarray, "edge 2"], num_vertices: int) -> scipy.sparse.csr_array:
    """Combinatorial graph Laplacian L = D - A, (vertex, vertex) sparse float64 (paper section 3.1)."""
    import scipy.sparse

    i, j = np.asarray(edges, np.int64).T
    ones = np.ones(2 * len(i))
    adjacency = scipy.sparse.coo_array((ones, (np.r_[i, j], np.r_[j, i])), shape=(num_vertices, num_vertices)).tocsr()
    return scipy.sparse.csr_array(scipy.sparse.diags_array(adjacency.sum(axis=1)) - adjacency)


def laplacian(
    faces: Int[np.ndarray, "face 3"], num_vertices: int, vertices: Float[np.ndarray, "vertex 3"] | None = None
) -> tuple[Any, Float[np.ndarray, "vertex"] | None]:
    """The symmetric sparse matrix M^(-1/2) L M^(-1/2) of a Laplacian L, and its mass M (vertex,) over the mean of M.

    Without vertices: the graph Laplacian, whose mass is None. With vertices in metres: the cotangent Laplacian of the
    intrinsic Delaunay triangulation (Sharp and Crane 2020). Raises ValueError for a vertex without area, or without
    robust_laplacian.
    """
    if vertices is None:
        return graph_laplacian(edges(faces, num_vertices), num_vertices), None
    robust_laplacian = extras.require("robust_laplacian", "cotangent", "--operator cotangent")
    import scipy.sparse

    stiffness, areas = robust_laplacian.mesh_laplacian(np.asarray(vertices, np.float64), np.asarray(faces, np.int64))
    areas = areas.diagonal()
    if not (np.isfinite(areas).all() and areas.min() > 0):
        raise ValueError(f"vertex {int(np.argmin(areas))} has the area {areas.min():.3g}, expected a positive one")
    scale = scipy.sparse.diags_array(1 / np.sqrt(areas))
    return scipy.sparse.csr_array(scale @ stiffness @ scale), areas / areas.mean()


def components(edges: Int[np.ndarray, "edge 2"], num_vertices: int) -> Int[np.ndarray, "vertex"]:
    """The connected component of each vertex, numbered from 0 by their first vertices. An isolated vertex is one."""
    import scipy.sparse

    ones = np.ones(len(edges))
    graph = scipy.sparse.coo_array((ones, tuple(np.asarray(edges).T)), shape=(num_vertices, num_vertices))
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    first = np.unique(labels, return_index=True)[1]
    return np.argsort(np.argsort(first))[labels]


def num_components(edges: Int[np.ndarray, "edge 2"], num_vertices: int) -> int:
    """Number of connected components of the graph."""
    return int(components(edges, num_vertices).max(initial=-1)) + 1


def fingerprint(faces: Int[np.ndarray, "face 3"], num_vertices: int) -> str:
    """SHA-256 of the vertex count and the edges: the same exactly when two meshes have the same graph Laplacian."""
    pairs = edges(faces, num_vertices).astype("<i8")
    return hashlib.sha256(np.int64(num_vertices).astype("<i8").tobytes() + pairs.tobytes()).hexdigest()


def proper_faces(faces: Int[np.ndarray, "face 3"]) -> Int[np.ndarray, "proper 3"]:
    """The faces without those that name a vertex twice, which have no area and add no edge to those of the others."""
    a, b, c = faces.T
    return faces[(a != b) & (b != c) & (c != a)]


def suffix_of(path: str | Path) -> str:
    """The suffix in lower case that tells the format of a file: ".obj" of both a.OBJ and a.obj.gz."""
    path = Path(path)
    inner = Path(path.stem).suffix.lower()
    return inner if path.suffix.lower() == ".gz" and inner in SUFFIXES else path.suffix.lower()


def read_mesh(path: str | Path, max_bytes: int = MOST_BYTES) -> Mesh:
    """Read a triangle mesh as `read_raw` does, and leave out faces that name a vertex twice.

    Raises ValueError as `read_raw` does.
    """
    vertices, faces = read_raw(path, max_bytes)
    proper = proper_faces(faces)
    if not len(proper):
        raise ValueError(f"{path}: {len(faces)} faces, none of three different vertices")
    return Mesh(vertices, proper)


def read_raw(path: str | Path, max_bytes: int = MOST_BYTES, need_faces: bool = True) -> Mesh:
    """Read a triangle mesh (.obj .ply .off .stl .glb .gltf, also with .gz) of at most `max_bytes`, packed and unpacked.

    The order of vertices and the units are those of the file. Raises ValueError naming the file when it is missing, of
    another type, too large, unreadable or, unless `need_faces` is false, without triangles.
    """
    import trimesh

    path, suffix = Path(path), suffix_of(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such mesh file")
    if suffix not in SUFFIXES:  # trimesh reads more formats, and the files that those refer to
        raise ValueError(f"{path}: expected a mesh file ({' '.join(SUFFIXES)}, or one of them with .gz)")
    content = _content(path, max_bytes)
    try:
        if suffix == ".obj":
            vertices, faces = _read_obj(io.BytesIO(content))
        elif suffix in (".glb", ".gltf"):
            vertices, faces = gltf_reader.read(path, content, max_bytes)
        else:  # by default trimesh splits the vertices of a .ply along texture seams and drops unused ones
            load = trimesh.load_mesh if need_faces else trimesh.load  # the former drops points without a face
            loaded: Any = load(
                io.BytesIO(content), file_type=suffix[1:], process=False, fix_texture=False, skip_materials=True
            )
            faces = np.asarray(getattr(loaded, "faces", np.zeros((0, 3))), np.int32)
            vertices = np.asarray(loaded.vertices, np.float32)
    except Exception as error:  # trimesh's readers raise many kinds of errors
        raise ValueError(f"{path}: not a readable mesh ({error})") from error
    if not len(faces) and need_faces:
        raise ValueError(f"{path}: no triangles among its {len(vertices)} vertices")
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError(f"{path}: faces name vertices {faces.min()} to {faces.max()} of {len(vertices)}")
    return Mesh(vertices, faces)


def _content(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, unpacked if it is a .gz."""
    size, packed = path.stat().st_size, path.suffix.lower() == ".gz"
    content = b""
    if size <= max_bytes:
        try:
            with gzip.open(path) if packed else path.open("rb") as file:
                content = file.read(max_bytes + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: not a readable {path.suffix} file ({error})") from error
        size = len(content)
    if size > max_bytes:
        found = f"more than {max_bytes:,} bytes unpacked" if packed else f"{size:,} bytes"
        raise ValueError(f"{path}: {found}, the limit is {max_bytes:,}; --max-file-bytes lifts it")
    return content


def _read_obj(content: io.BytesIO) -> tuple[np.ndarray, np.ndarray]:
    """Vertices, and triangles (polygons as fans), of an .obj; trimesh would split, reorder and drop vertices."""
    vertices, faces = array("f"), array("i")
    with io.TextIOWrapper(content, encoding="utf-8", errors="replace") as file:
        for line in _whole_lines(file):
            kind, *words = line.split("#")[0].split() or [""]
            if kind == "v":
                x, y, z, *_ = map(float, words)
                vertices.extend((x, y, z))
            elif kind == "f":
                numbers = [int(word.split("/")[0]) for word in words]
                if 0 in numbers:
                    raise ValueError(f"a face names vertex 0, vertices count from 1: {line.strip()[:80]}")
                first, *others = [number - 1 if number > 0 else len(vertices) // 3 + number for number in numbers]
                for a, b in itertools.pairwise(others):
                    faces.extend((first, a, b))
    return np.array(vertices, np.float32).reshape(-1, 3), np.array(faces, np.int32).reshape(-1, 3)


def _whole_lines(file: Iterable[str]) -> Iterator[str]:
    """Yield lines; a line that ends in a backslash is joined with the next."""
    begun = ""
    for line in file:
        begun += line
        if len(begun) > LINE:
            raise ValueError(f"a line has more than {LINE:,} characters")
        if begun.endswith("\\\n"):
            begun = begun[:-2] + " "
            continue
        yield begun
        begun = ""
    yield begun


def write_mesh(path: str | Path, mesh: Mesh) -> None:
    """Write a mesh in the format of the suffix (.ply, .obj, .stl, .off, .glb). The order of vertices is kept."""
    import trimesh

    trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).export(Path(path))
