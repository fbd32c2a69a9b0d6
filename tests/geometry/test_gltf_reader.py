"""glTF files: what exporters write is read in the order of the file, everything else is refused with the reason."""

import base64
import json
import struct

import numpy as np
import pytest
import trimesh

from spectral_jax.geometry import gltf, sequences
from spectral_jax.geometry.mesh import read_mesh, write_mesh


def parts_of(mesh, numbers=np.uint32, pieces=1):
    """The document and the buffer of a mesh whose faces come in pieces that share one array of positions."""
    positions = mesh.vertices.astype("<f4").tobytes()
    indices = [part.astype(numbers).tobytes() for part in np.array_split(mesh.faces, pieces)]
    views, binary = [{"buffer": 0, "byteLength": len(positions)}], positions
    for part in indices:
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(part)})
        binary += part + bytes(-len(part) % 4)
    component = {1: 5121, 2: 5123, 4: 5125}[np.dtype(numbers).itemsize]
    counts = [len(part) // np.dtype(numbers).itemsize for part in indices]
    accessors = [{"bufferView": 0, "componentType": 5126, "count": len(mesh.vertices), "type": "VEC3"}]
    accessors += [
        {"bufferView": 1 + i, "componentType": component, "count": count, "type": "SCALAR"}
        for i, count in enumerate(counts)
    ]
    primitives = [{"attributes": {"POSITION": 0}, "indices": 1 + i} for i in range(pieces)]
    document = {"asset": {"version": "2.0"}, "meshes": [{"primitives": primitives}], "nodes": [{"mesh": 0}]}
    document |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(binary)}]}
    return document, binary


def glb(document, binary):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def check(path, mesh):
    found = read_mesh(path)
    np.testing.assert_allclose(found.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_array_equal(found.faces, mesh.faces)


def test_what_trimesh_writes_is_read(sphere, tmp_path):
    write_mesh(tmp_path / "a.glb", sphere)
    check(tmp_path / "a.glb", sphere)
    files = trimesh.Trimesh(sphere.vertices, sphere.faces, process=False).export(file_type="gltf")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    check(tmp_path / "model.gltf", sphere)
    items = sequences.find(tmp_path)
    assert [item.name for item in items] == ["a.glb", "model.gltf"]
    assert len([frame for item in items for frame in sequences.read(item, sphere)]) == 2


@pytest.mark.parametrize("numbers", [np.uint8, np.uint16, np.uint32])
def test_parts_that_share_positions_share_vertices(sphere, tmp_path, numbers):
    (tmp_path / "a.glb").write_bytes(glb(*parts_of(sphere, numbers, pieces=3)))
    check(tmp_path / "a.glb", sphere)


def test_parts_with_positions_of_their_own_follow_one_another(sphere, tmp_path):
    document, binary = parts_of(sphere, pieces=2)
    document["accessors"].append(document["accessors"][0])
    document["meshes"][0]["primitives"][1]["attributes"]["POSITION"] = 3
    (tmp_path / "a.glb").write_bytes(glb(document, binary))
    found = read_mesh(tmp_path / "a.glb")
    np.testing.assert_array_equal(found.vertices, np.concatenate([sphere.vertices, sphere.vertices]))
    np.testing.assert_array_equal(found.faces, np.concatenate([sphere.faces[:160], sphere.faces[160:] + 162]))


def test_interleaved_arrays_and_buffers_in_the_text(sphere, tmp_path):
    document, _ = parts_of(sphere)
    rows = np.concatenate([sphere.vertices, np.full_like(sphere.vertices, 9)], axis=1)  # positions and normals
    binary = rows.astype("<f4").tobytes() + sphere.faces.astype("<u4").tobytes()
    document["bufferViews"][0] |= {"byteLength": rows.nbytes, "byteStride": 24}
    document["bufferViews"][1]["byteOffset"] = rows.nbytes
    document["buffers"] = [{"byteLength": len(binary), "uri": "data:;base64," + base64.b64encode(binary).decode()}]
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    check(tmp_path / "a.gltf", sphere)


def test_a_mesh_is_where_its_node_and_those_above_place_it(sphere, tmp_path):
    document, binary = parts_of(sphere)
    half = np.sqrt(0.5)
    turned = {"rotation": [0, 0, half, half], "scale": [2, 1, 1], "children": [2]}  # x to y, after stretching x
    above = {"matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 6, 7, 1], "children": [0]}
    document["nodes"] = [turned, above, {"mesh": 0, "translation": [1, 0, 0]}]
    (tmp_path / "a.glb").write_bytes(glb(document, binary))
    x, y, z = sphere.vertices.T
    check(tmp_path / "a.glb", sphere._replace(vertices=np.stack([5 - y, 6 + 2 * (x + 1), 7 + z], axis=1)))


def changed(document, path, value):
    *way, last = path
    for step in way:
        document = document[step]
    document[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["extensionsRequired"], ["KHR_draco_mesh_compression"], "KHR_draco_mesh_compression"),
        (["meshes"], [{}, {}], "2 meshes"),
        (["meshes"], [], "0 meshes"),
        (["nodes"], [{"mesh": 0}, {"mesh": 0}], "2 times"),
        (["nodes"], [{"mesh": 0, "children": [0]}], "circle"),
        (["meshes", 0, "primitives", 0, "mode"], 1, "mode 1"),
        (["meshes", 0, "primitives", 0, "targets"], [{}], "1 morph targets"),
        (["meshes", 0, "primitives", 0, "indices"], 7, "no item 7 among 2"),
        (["accessors", 0, "type"], "VEC4", "VEC4"),
        (["accessors", 0, "count"], 200, "200 rows"),
        (["accessors", 0, "count"], 100, "vertex 161 of 100"),
        (["accessors", 1, "count"], 959, "959 corners"),
        (["bufferViews", 0, "byteLength"], 10, "162 rows"),
        (["bufferViews", 0, "byteOffset"], -4, "expected"),
        (["buffers", 0, "uri"], "../secret.bin", "secret"),
        (["buffers", 0, "uri"], "..%2Fsecret.bin", "secret"),
        (["buffers", 0, "uri"], "http://host/a.bin", "host"),
        (["buffers", 0, "uri"], "missing.bin", "missing.bin"),
    ],
)
def test_what_is_no_single_plain_mesh_is_refused_with_the_reason(sphere, tmp_path, path, value, message):
    document, binary = parts_of(sphere)
    changed(document, path, value)
    (tmp_path / "secret.bin").write_bytes(binary)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.glb").write_bytes(glb(document, binary))
    with pytest.raises(ValueError, match=rf"a\.glb: .*{message}"):
        read_mesh(tmp_path / "in" / "a.glb")


def test_damaged_files_and_animations_are_refused(sphere, tmp_path):
    whole = glb(*parts_of(sphere))
    for content in (whole[:-9], b"glTF", whole[:4] + b"\1" + whole[5:], b"{}", b""):
        (tmp_path / "a.glb").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.glb: not a readable mesh"):
            read_mesh(tmp_path / "a.glb")
    gltf.write_animation(tmp_path / "path.glb", np.stack([sphere.vertices] * 3), sphere.faces)
    with pytest.raises(ValueError, match=r"path\.glb: .*2 morph targets"):
        read_mesh(tmp_path / "path.glb")
