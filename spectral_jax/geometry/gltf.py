"""Write moving meshes as binary glTF 2.0 (.glb), which Blender and web viewers play: one morph target per frame."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

# Constants of glTF: component types, and the buffer targets of vertices and of indices.
FLOAT = 5126
UINT32 = 5125
ARRAY_BUFFER = 34962
ELEMENT_ARRAY_BUFFER = 34963


def write_animation(
    path: str | Path,
    vertices: Float[np.ndarray, "step vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    seconds: float = 3.0,
) -> None:
    """Write meshes (metres) as an animation from the first to the last in `seconds`, and back.

    Raises ValueError for fewer than 2 meshes.
    """
    if len(vertices) < 2:
        raise ValueError(f"an animation needs at least 2 meshes, not {len(vertices)}")
    vertices = np.ascontiguousarray(vertices, np.float32)
    num_targets = len(vertices) - 1
    order = [*range(num_targets + 1), *range(num_targets - 1, -1, -1)]
    times = np.linspace(0, 2 * seconds, len(order), dtype=np.float32)
    weights = np.eye(num_targets + 1, dtype=np.float32)[order, 1:]  # all zero for the first mesh
    chunks: list[bytes] = []
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []

    def add(array: np.ndarray, kind: str, target: int | None = None) -> int:
        """Add an array to the buffer, with its view and its accessor. Returns the accessor's index."""
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        view = {"buffer": 0, "byteOffset": sum(map(len, chunks)), "byteLength": len(data)}
        views.append(view | ({} if target is None else {"target": target}))
        component = UINT32 if array.dtype == np.uint32 else FLOAT
        accessor = {"bufferView": len(views) - 1, "componentType": component, "count": len(array), "type": kind}
        if component == FLOAT:
            rows = array.reshape(len(array), -1)
            accessor |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
        accessors.append(accessor)
        chunks.append(data)
        return len(accessors) - 1

    primitive = {
        "attributes": {"POSITION": add(vertices[0], "VEC3", ARRAY_BUFFER)},
        "indices": add(faces.astype(np.uint32).ravel(), "SCALAR", ELEMENT_ARRAY_BUFFER),
        "targets": [{"POSITION": add(mesh - vertices[0], "VEC3", ARRAY_BUFFER)} for mesh in vertices[1:]],
        "material": 0,
    }
    sampler = {"input": add(times, "SCALAR"), "output": add(weights.ravel(), "SCALAR"), "interpolation": "LINEAR"}
    document = {
        "asset": {"version": "2.0", "generator": "spectral_jax"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive], "weights": [0.0] * num_targets}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}}],
        "animations": [{"channels": [{"sampler": 0, "target": {"node": 0, "path": "weights"}}], "samplers": [sampler]}],
        "buffers": [{"byteLength": sum(map(len, chunks))}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(chunks)  # 4-byte numbers throughout: aligned without padding
    with Path(path).open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(data)))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(data), b"BIN\0") + data)
