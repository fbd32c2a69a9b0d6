"""Read the mesh in a glTF 2.0 file (.glb, or .gltf with its buffers in the text or in files beside it).

Vertices stay in the order of the file. Where an exporter has split them along seams they stay split, unless the parts
of the mesh share one array of positions.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from spectral_jax.files import safe_files

TRIANGLES = 4  # the mode of a primitive
NUMBERS = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}  # by component type
WIDTHS = {"SCALAR": 1, "VEC3": 3}
DATA_URI = ";base64,"


def read(path: Path, content: bytes, max_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (vertex, 3) float32 and faces (face, 3) int32 of the only mesh in a file with this content.

    The parts of the mesh follow one another; parts that share an array of positions share its vertices. All buffers
    together may have `max_bytes`. Raises ValueError, which does not name the file, for anything else than one mesh of
    triangles; a damaged document raises errors of other kinds, too.
    """
    text, binary = _chunks(content) if content[:4] == b"glTF" else (content, None)
    document = safe_files.parse_json(text, "its JSON")
    if needed := document.get("extensionsRequired"):
        raise ValueError(f"it needs the extension {str(needed)[:80]}, only plain arrays are read")
    primitives = _only_mesh(document)["primitives"]
    buffers = _buffers(document, path.parent, binary, max_bytes)
    starts: dict[int, int] = {}  # the first vertex of each array of positions
    vertices, faces, total, left = [], [], 0, max_bytes // 4
    for part in primitives:
        if part.get("mode", TRIANGLES) != TRIANGLES:
            raise ValueError(f"its mesh has a part of mode {part['mode']}, expected triangles ({TRIANGLES})")
        if part.get("targets"):
            raise ValueError(f"its mesh has {len(part['targets'])} morph targets, expected one shape a file")
        place = part["attributes"]["POSITION"]
        if place not in starts:
            starts[place] = total
            vertices.append(_array(document, buffers, place, "VEC3", "f"))
            total += len(vertices[-1])
        count = len(vertices[list(starts).index(place)])
        corners = np.arange(count)
        if "indices" in part:
            corners = _array(document, buffers, part["indices"], "SCALAR", "u")
        left -= len(corners)
        if left < 0:
            raise ValueError(f"its mesh has more than {max_bytes // 4:,} corners, the limit for {max_bytes:,} bytes")
        if len(corners) % 3 or (len(corners) and int(corners.max()) >= count):
            raise ValueError(f"its mesh has {len(corners)} corners up to vertex {corners.max()} of {count}")
        faces.append(corners.astype(np.int64).reshape(-1, 3) + starts[place])
    matrix = _placement(document)
    with np.errstate(all="ignore"):  # numbers that are not finite are refused later, with their vertex
        placed = np.concatenate(vertices).astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        return placed.astype(np.float32), np.concatenate(faces).astype(np.int32)


def _chunks(content: bytes) -> tuple[bytes, bytes | None]:
    """The JSON and the buffer of a .glb."""
    _, version, length = struct.unpack_from("<4sII", content)
    if version != 2 or length != len(content):
        raise ValueError(f"glTF {version} of {length:,} bytes, expected glTF 2 of {len(content):,}")
    chunks: dict[bytes, bytes] = {}
    start = 12
    while start < length:
        size, kind = struct.unpack_from("<I4s", content, start)
        if start + 8 + size > length:
            raise ValueError(f"a part of {size:,} bytes goes beyond the end (truncated)")
        chunks.setdefault(kind, content[start + 8 : start + 8 + size])
        start += 8 + size
    return chunks[b"JSON"], chunks.get(b"BIN\0")


def _only_mesh(document: dict[str, Any]) -> dict[str, Any]:
    meshes = document.get("meshes", [])
    if len(meshes) != 1:
        raise ValueError(f"it has {len(meshes)} meshes, expected one a file")
    return meshes[0]


def _buffers(document: dict[str, Any], folder: Path, binary: bytes | None, max_bytes: int) -> list[bytes]:
    """The buffers: the one in a .glb, those in the text, and files beside it."""
    buffers, left = [], max_bytes
    for buffer in document["buffers"]:
        uri = buffer.get("uri")
        if uri is None:
            content = binary or b""
        elif DATA_URI in uri[:100] and uri.startswith("data:"):
            content = _decoded(uri[uri.index(DATA_URI) + len(DATA_URI) :])
        else:
            name = unquote(uri)
            if name in ("", "..") or Path(name).name != name or "\\" in name or ":" in name:
                raise ValueError(f"its buffer is {uri[:80]!r}, expected the name of a file beside it")
            safe_files.check_size(folder / name, left)
            content = (folder / name).read_bytes()
        left -= len(content)
        if left < 0:
            raise ValueError(f"its buffers have {max_bytes - left:,} bytes, the limit is {max_bytes:,}")
        buffers.append(content)
    return buffers


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its buffer is not base64 ({error})") from error


def _array(document: dict[str, Any], buffers: list[bytes], index: int, kind: str, numbers: str) -> np.ndarray:
    """The array of an accessor, which must be of this kind and of these numbers ("f" or "u")."""
    accessor = _item(document["accessors"], index)
    dtype, width = np.dtype(NUMBERS[accessor["componentType"]]), WIDTHS[kind]
    if accessor["type"] != kind or dtype.kind != numbers or "sparse" in accessor or "bufferView" not in accessor:
        raise ValueError(f"array {index} is {str(accessor)[:80]}, expected a plain {kind} of {dtype}")
    view, count = _item(document["bufferViews"], accessor["bufferView"]), accessor["count"]
    buffer, row = _item(buffers, view["buffer"]), dtype.itemsize * width
    stride, inner = view.get("byteStride", row), accessor.get("byteOffset", 0)
    start, size = view.get("byteOffset", 0) + inner, view["byteLength"] - inner
    if not all(type(n) is int and n >= 0 for n in (count, stride, inner, start, size)) or stride < row or count < 1:
        raise ValueError(f"array {index} has {count} rows, one every {stride} bytes, expected {row} bytes or more")
    if (count - 1) * stride + row > min(size, len(buffer) - start):
        raise ValueError(f"array {index} has {count} rows of {row} bytes in a buffer of {len(buffer):,} bytes")
    rows = np.ndarray((count, width), dtype, buffer, start, (stride, dtype.itemsize))
    return rows[:, 0] if kind == "SCALAR" else rows


def _item(items: list[Any], index: int) -> Any:
    """An item of a list, never counted from the end."""
    if type(index) is not int or not 0 <= index < len(items):
        raise ValueError(f"there is no item {str(index)[:20]} among {len(items)}")
    return items[index]


def _placement(document: dict[str, Any]) -> np.ndarray:
    """The matrix (4, 4) that places the mesh in the scene. Raises ValueError if it is placed twice."""
    nodes = document.get("nodes", [])
    parents = {child: i for i, node in enumerate(nodes) for child in node.get("children", [])}
    places = [i for i, node in enumerate(nodes) if "mesh" in node]
    if len(places) > 1:
        raise ValueError(f"its mesh is in the scene {len(places)} times, expected once")
    matrix = np.eye(4)
    for node in _upwards(places, parents):
        matrix = _matrix(nodes[node]) @ matrix
    if not np.isfinite(matrix).all():
        raise ValueError("its mesh is placed by numbers that are not finite")
    return matrix


def _upwards(places: list[int], parents: dict[int, int]) -> Iterator[int]:
    """A node and those above it."""
    node, seen = places[0] if places else None, set()
    while node is not None:
        if node in seen:
            raise ValueError("its nodes form a circle")
        seen.add(node)
        yield node
        node = parents.get(node)


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """The matrix of a node: given, or from its translation, rotation (a unit quaternion) and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = map(float, node.get("rotation", (0, 0, 0, 1)))
    length = math.hypot(x, y, z, w)
    if length == 0:
        raise ValueError("a node is turned by the quaternion 0")
    x, y, z, w = x / length, y / length, z / length, w / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), np.float64)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
