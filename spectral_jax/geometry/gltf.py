"""Binary glTF 2.0 (.glb): a coloured mesh, a path of meshes as an animation, or a mesh with sliders.

Blender and web viewers play the animation, and show a slider for each named shape.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from spectral_jax.files import atomic

FLOAT = 5126  # component types
UINT32 = 5125
VERTEX_BUFFER = 34962  # buffer targets
INDEX_BUFFER = 34963


class _Buffer:
    """The arrays of a .glb as they are added, with the views and accessors that describe them."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, array: np.ndarray, kind: Literal["SCALAR", "VEC3"], target: int | None = None) -> int:
        """Add an array of float32 or uint32; the index of its accessor."""
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        view = {"buffer": 0, "byteOffset": sum(map(len, self.chunks)), "byteLength": len(data)}
        self.views.append(view | ({} if target is None else {"target": target}))
        component = UINT32 if array.dtype == np.uint32 else FLOAT
        accessor = {"bufferView": len(self.views) - 1, "componentType": component, "count": len(array), "type": kind}
        if component == FLOAT:
            rows = array.reshape(len(array), -1)
            accessor |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
        self.accessors.append(accessor)
        self.chunks.append(data)
        return len(self.accessors) - 1

    def add_vertices(self, array: Float[np.ndarray, "vertex 3"]) -> int:
        """Add an attribute of vertices; the index of its accessor."""
        return self.add(np.asarray(array, np.float32), "VEC3", VERTEX_BUFFER)

    def add_faces(self, faces: Int[np.ndarray, "face 3"]) -> int:
        """Add faces; the index of their accessor."""
        return self.add(faces.astype(np.uint32).ravel(), "SCALAR", INDEX_BUFFER)

    def add_shapes(
        self,
        base: Float[np.ndarray, "vertex 3"],
        faces: Int[np.ndarray, "face 3"],
        shapes: Float[np.ndarray, "shape vertex 3"],
    ) -> dict[str, Any]:
        """Add a mesh, and other shapes of it as morph targets; its primitive."""
        return {
            "attributes": {"POSITION": self.add_vertices(base)},
            "indices": self.add_faces(faces),
            "targets": [{"POSITION": self.add_vertices(shape - base)} for shape in shapes],
            "material": 0,
        }

    def pack(self, mesh: dict[str, Any], **parts: Any) -> bytes:
        """The .glb of a scene of one mesh; `parts` are further parts of its document."""
        data = b"".join(self.chunks)  # all numbers have 4 bytes, so it is aligned
        document = {
            "asset": {"version": "2.0", "generator": "spectral_jax"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [mesh],
            "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}}],
            "buffers": [{"byteLength": len(data)}],
            "bufferViews": self.views,
            "accessors": self.accessors,
            **parts,
        }
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(data))
        return b"".join(
            [head, struct.pack("<I4s", len(text), b"JSON"), text, struct.pack("<I4s", len(data), b"BIN\0"), data]
        )


def coloured_mesh(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"], colours: Float[np.ndarray, "vertex 3"]
) -> bytes:
    """The .glb of a mesh (metres) with a colour (sRGB, 0 to 1) for each vertex."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)  # as glTF stores them
    buffer = _Buffer()
    attributes = {
        "POSITION": buffer.add_vertices(vertices),
        "NORMAL": buffer.add_vertices(vertex_normals(vertices, faces)),
        "COLOR_0": buffer.add_vertices(linear),
    }
    return buffer.pack({"primitives": [{"attributes": attributes, "indices": buffer.add_faces(faces), "material": 0}]})


def write_animation(
    path: str | Path,
    vertices: Float[np.ndarray, "step vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    seconds: float = 3.0,
) -> None:
    """Write a path of meshes (metres) as an animation from the first to the last and back, of `seconds` each way.

    Every mesh after the first is a morph target. Raises ValueError for fewer than 2 meshes.
    """
    if len(vertices) < 2:
        raise ValueError(f"an animation needs at least 2 meshes, not {len(vertices)}")
    num_targets = len(vertices) - 1
    order = [*range(num_targets + 1), *range(num_targets - 1, -1, -1)]
    times = np.linspace(0, 2 * seconds, len(order), dtype=np.float32)
    weights = np.eye(num_targets + 1, dtype=np.float32)[order, 1:]  # none for the first mesh
    buffer = _Buffer()
    primitive = buffer.add_shapes(vertices[0], faces, vertices[1:])
    sampler = {
        "input": buffer.add(times, "SCALAR"),
        "output": buffer.add(weights.ravel(), "SCALAR"),
        "interpolation": "LINEAR",
    }
    channel = {"sampler": 0, "target": {"node": 0, "path": "weights"}}
    mesh = {"primitives": [primitive], "weights": [0.0] * num_targets}
    packed = buffer.pack(mesh, animations=[{"channels": [channel], "samplers": [sampler]}])
    with atomic.replacing(path) as partial:
        partial.write_bytes(packed)


def write_shapes(
    path: str | Path,
    base: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    shapes: Mapping[str, Float[np.ndarray, "vertex 3"]],
) -> None:
    """Write a mesh (metres) and other shapes of it by name: at weight 1 of its slider, the mesh is that shape.

    Sliders add up: at several of them, the displacements of their shapes are added. Raises ValueError without a shape.
    """
    if not shapes:
        raise ValueError(f"{path}: a mesh with sliders needs at least 1 shape, not 0")
    buffer = _Buffer()
    primitive = buffer.add_shapes(base, faces, np.stack([*shapes.values()]))
    # The format itself has no names of morph targets; Blender and viewers read them from here.
    mesh = {"primitives": [primitive], "weights": [0.0] * len(shapes), "extras": {"targetNames": [*shapes]}}
    with atomic.replacing(path) as partial:
        partial.write_bytes(buffer.pack(mesh))


def vertex_normals(
    vertices: Float[np.ndarray, "vertex 3"], faces: Int[np.ndarray, "face 3"]
) -> Float[np.ndarray, "vertex 3"]:
    """Unit normals of vertices: the sum of the normals of their faces, weighted by area."""
    a, b, c = vertices[faces.T]
    across = np.cross(b - a, c - a)
    summed = [np.bincount(faces.ravel(), np.repeat(axis, 3), len(vertices)) for axis in across.T]
    stacked = np.stack(summed, axis=1)
    return (stacked / (np.linalg.norm(stacked, axis=1, keepdims=True) + 1e-20)).astype(np.float32)
