import gzip
import sys

import h5py
import numpy as np
import pytest
import trimesh

from spectral_jax.geometry import sequences
from spectral_jax.geometry.mesh import Mesh, read_mesh, write_mesh


def read_all(items, template):
    return [vertices for item in items for _, vertices in sequences.read(item, template)]


def written(folder, names, mesh):
    """Files of the mesh, each a little larger than the one before."""
    meshes = [mesh._replace(vertices=(mesh.vertices * np.float32(1 + i / 10))) for i in range(len(names))]
    for name, each in zip(names, meshes, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_mesh(folder / name, each)
    return [each.vertices for each in meshes]


def write_registrations(path, faces, **sequences):
    with h5py.File(path, "w") as file:
        file["faces"] = faces.astype(np.uint32)
        for name, frames in sequences.items():
            file[name] = np.moveaxis(frames, 0, 2)


def refused(message, item, template):
    with pytest.raises(ValueError, match=message):
        list(sequences.read(item, template))


def corners(mesh):
    return mesh.vertices[mesh.faces.ravel()]


@pytest.fixture(scope="module")
def loose(sphere):
    """The sphere with a vertex in the middle and one at the end that no face names."""
    vertices = np.insert(sphere.vertices, 80, 7.0, axis=0)
    return Mesh(np.concatenate([vertices, [[8, 8, 8]]]).astype(np.float32), sphere.faces + (sphere.faces >= 80))


@pytest.mark.parametrize("suffix", ["obj", "ply", "off", "PLY"])
def test_mesh_files_keep_the_order_of_their_vertices(loose, tmp_path, suffix):
    expected = written(tmp_path, [f"{i}.{suffix}" for i in range(3)], loose)
    items = sequences.find(tmp_path)
    template = sequences.read_template(items)
    np.testing.assert_array_equal(template.faces, loose.faces)
    np.testing.assert_allclose(read_all(items, template), expected, atol=1e-6)


@pytest.mark.parametrize("form", ["{v}", "{v}/{t}", "{v}//{n}", "{v}/{t}/{n}"])
@pytest.mark.parametrize("materials", [False, True])
def test_obj_vertices_are_those_of_the_v_lines(loose, tmp_path, form, materials):
    lines = ["mtllib none.mtl", "# made by hand", *(f"v {x} {y} {z} 0.5 0.5 0.5" for x, y, z in loose.vertices)]
    lines += [f"vt {i / 99} 0.5" for i in range(99)] + ["vn 0 0 1", "vn 0 1 0"]
    for i, face in enumerate(loose.faces):
        if materials and i % 100 == 0:
            lines += [f"o part{i}", f"g group{i}", f"usemtl material{i % 200}", "s 1"]
        words = [form.format(v=v + 1, t=(7 * v + i) % 99 + 1, n=i % 2 + 1) for v in face.tolist()]
        lines.append("f " + " ".join(words))
    (tmp_path / "a.obj").write_text("\r\n".join(lines))
    template = sequences.read_template(sequences.find(tmp_path))
    np.testing.assert_allclose(template.vertices, loose.vertices, atol=1e-6)
    np.testing.assert_array_equal(template.faces, loose.faces)


PYRAMID = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1]], np.float32)


@pytest.mark.parametrize("faces", [[[0, 1, 2, 3], [0, 1, 4], [1, 2, 4], [3, 0, 4]], [[0, 1, 2, 3], [4, 3, 2, 1]]])
def test_quads_become_the_same_triangles_in_every_format(tmp_path, faces):
    points = "\n".join(f"{x} {y} {z}" for x, y, z in PYRAMID) + "\n"
    rows = "\n".join(f"{len(face)} {' '.join(map(str, face))}" for face in faces) + "\n"
    header = "element vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
    header += f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.off").write_text(f"OFF\n5 {len(faces)} 0\n{points}{rows}")
    (tmp_path / "b.ply").write_text(f"ply\nformat ascii 1.0\n{header}{points}{rows}")
    relative = "\n".join("f " + " ".join(str(v - 5) for v in face) for face in faces)
    (tmp_path / "c.obj").write_text("v " + points.strip().replace("\n", "\nv ") + "\n" + relative)
    if len({len(face) for face in faces}) == 1:
        binary = b"".join(np.uint8(len(face)).tobytes() + np.array(face, "<i4").tobytes() for face in faces)
        start = f"ply\nformat binary_little_endian 1.0\n{header}".encode()
        (tmp_path / "d.ply").write_bytes(start + PYRAMID.tobytes() + binary)
    items = sequences.find(tmp_path)
    template = sequences.read_template(items)
    assert len(template.faces) == sum(len(face) - 2 for face in faces)
    for vertices in read_all(items, template):
        np.testing.assert_array_equal(vertices, PYRAMID)


@pytest.mark.parametrize("lines", ["v 0 0\nf 1 1 1", "v 0 0 0\nf 0 1 2", "v 0 0 x\nf 1 2 3", "v 0 0 0\nf a/1 b/2 c/3"])
def test_obj_lines_that_are_none_are_refused(tmp_path, lines):
    (tmp_path / "a.obj").write_text(lines)
    with pytest.raises(ValueError, match=r"a\.obj: not a readable mesh"):
        read_mesh(tmp_path / "a.obj")


@pytest.mark.parametrize("per_face", [False, True])
def test_ply_texture_seams_split_no_vertex(tmp_path, per_face):
    faces = [[0, 1, 3], [1, 2, 3]]  # vertex 4 is in none
    header = "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
    header += "" if per_face else "property float s\nproperty float t\n"
    header += "element face 2\nproperty list uchar int vertex_indices\n"
    header += ("property list uchar float texcoord\n" if per_face else "") + "end_header\n"
    rows = [f"{x} {y} {z}" + ("" if per_face else f" 0.{i} 0.5") for i, (x, y, z) in enumerate(PYRAMID)]
    texture = [" 6 0 .1 .2 .3 .4 .5", " 6 .5 .6 .7 .8 .9 1"] if per_face else ["", ""]
    rows += [f"3 {a} {b} {c}{uv}" for (a, b, c), uv in zip(faces, texture, strict=True)]
    (tmp_path / "a.ply").write_text(header + "\n".join(rows) + "\n")
    template = sequences.read_template(sequences.find(tmp_path))
    np.testing.assert_array_equal(template.vertices, PYRAMID)
    np.testing.assert_array_equal(template.faces, faces)


def test_stl_corners_are_welded_as_the_first_mesh_is(sphere, tmp_path):
    expected = written(tmp_path, ["0.stl", "1.stl"], sphere)
    items = sequences.find(tmp_path)
    template = sequences.read_template(items)
    assert template.vertices.shape == (162, 3)
    first_seen = np.array(list(dict.fromkeys(sphere.faces.ravel().tolist())))
    np.testing.assert_array_equal(template.vertices, sphere.vertices[first_seen])
    np.testing.assert_array_equal(first_seen[template.faces], sphere.faces)
    np.testing.assert_array_equal(read_all(items, template), [vertices[first_seen] for vertices in expected])


def test_stl_corners_that_must_coincide_are_named(sphere, tmp_path):
    written(tmp_path, ["0.stl"], sphere)
    torn = trimesh.Trimesh(corners(sphere), np.arange(960).reshape(-1, 3), process=False)
    moved = next(i for i in range(960) if sphere.faces.ravel()[i] in sphere.faces.ravel()[:i])
    torn.vertices[moved] += 0.5
    torn.export(tmp_path / "1.stl")
    trimesh.Trimesh(sphere.vertices, sphere.faces[:-1], process=False).export(tmp_path / "2.stl")
    items = sequences.find(tmp_path)
    template = sequences.read_template(items)
    refused(rf"1\.stl: corner {moved % 3} of face {moved // 3} is at .* earlier corner", items[1], template)
    refused(r"2\.stl: 319 faces, the template has 320", items[2], template)


def test_stl_in_an_indexed_template_takes_its_order(sphere, loose, tmp_path):
    expected = written(tmp_path, ["a/0.stl"], sphere)
    solids = [trimesh.Trimesh(sphere.vertices, part, process=False) for part in np.split(sphere.faces, 2)]
    (tmp_path / "a" / "1.stl").write_text("\n".join(str(solid.export(file_type="stl_ascii")) for solid in solids))
    write_mesh(tmp_path / "template.ply", sphere)
    items = sequences.find(tmp_path / "a")
    template = sequences.read_template(items, tmp_path / "template.ply")
    np.testing.assert_allclose(read_all(items, template), expected * 2, atol=1e-6)
    refused("in no face", items[0], loose)


@pytest.mark.parametrize(("vertices_name", "faces_name"), [("vertices", "faces"), ("verts", "triangles"), ("v", "f")])
def test_npz_of_one_mesh_or_of_a_sequence(sphere, tmp_path, vertices_name, faces_name):
    frames = np.stack([sphere.vertices, 2 * sphere.vertices]).astype(np.float64)
    np.savez(tmp_path / "a.npz", **{vertices_name: frames[1]})
    np.savez_compressed(tmp_path / "b.npz", **{vertices_name: frames, faces_name: sphere.faces.astype(np.uint32)})
    items = sequences.find(tmp_path)
    template = sequences.read_template(items)
    np.testing.assert_array_equal(template.vertices, frames[0])
    read = [list(sequences.read(item, template)) for item in items]
    assert [[frame for frame, _ in pairs] for pairs in read] == [[0], [0, 1]]
    assert read[0][0][1].dtype == np.float32
    np.testing.assert_array_equal(read[0][0][1], frames[1])
    np.testing.assert_array_equal([vertices for _, vertices in read[1]], frames)


def test_npy_sequences_take_their_faces_from_a_template(sphere, tmp_path):
    frames = np.stack([sphere.vertices * np.float32(scale) for scale in (1, 2, 3)])
    np.save(tmp_path / "a.npy", frames)
    np.save(tmp_path / "b.npy", frames[2])
    items = sequences.find(tmp_path)
    with pytest.raises(ValueError, match=r"a\.npy: no faces.* 2 .*--template"):
        sequences.read_template(items)
    with pytest.raises(ValueError, match=r"b\.npy: no faces.*--template"):
        sequences.read_template(items, tmp_path / "b.npy")
    np.testing.assert_array_equal(read_all(items, sphere), [*frames, frames[2]])
    frames[1, 17, 1] = np.inf
    np.save(tmp_path / "a.npy", frames)
    refused(r"a\.npy: frame 1: vertex 17 is \[.*inf.*\], not finite", items[0], sphere)


def test_flat_arrays_are_frames_of_the_template(sphere, tmp_path):
    frames = np.stack([sphere.vertices * np.float32(scale) for scale in (1, 2, 3)])
    np.save(tmp_path / "a.npy", frames.reshape(3, -1))
    np.savez(tmp_path / "b.npz", vertices=frames.reshape(3, -1), faces=sphere.faces)
    np.save(tmp_path / "c.npy", frames[:, 1:].reshape(3, -1))
    *items, other = sequences.find(tmp_path)
    np.testing.assert_array_equal(read_all(items, sphere), [*frames, *frames])
    refused(r"c\.npy: 161 vertices, the template has 162", other, sphere)


@pytest.mark.parametrize("suffix", ["obj", "ply", "off", "stl", "npz"])
def test_faces_that_name_a_vertex_twice_are_left_out_and_counted(sphere, tmp_path, suffix):
    faces = np.insert(sphere.faces, [3, 7, 320], [[5, 5, 6], [9, 1, 9], [4, 4, 4]], axis=0)
    for i in range(2):
        vertices = sphere.vertices * np.float32(1 + i)
        if suffix == "npz":
            np.savez(tmp_path / f"{i}.npz", vertices=vertices, faces=faces)
        else:
            write_mesh(tmp_path / f"{i}.{suffix}", Mesh(vertices, faces))
    items = sequences.find(tmp_path)
    with pytest.warns(UserWarning, match=rf"0\.{suffix}: 3 of 323 faces"):
        template = sequences.read_template(items)
    order = np.array(list(dict.fromkeys(faces.ravel().tolist()))) if suffix == "stl" else np.arange(162)
    np.testing.assert_array_equal(order[template.faces], sphere.faces)
    expected = [sphere.vertices[order], 2 * sphere.vertices[order]]
    np.testing.assert_allclose(read_all(items, template), expected, atol=1e-6)
    if suffix not in ("stl", "npz"):
        np.testing.assert_array_equal(read_mesh(items[0].path).faces, sphere.faces)


@pytest.mark.parametrize("suffix", ["obj", "PLY", "off", "stl"])
def test_packed_files_are_those_within(sphere, tmp_path, suffix):
    expected = written(tmp_path, [f"a.b.{suffix}"], sphere)
    plain = sequences.read_template(sequences.find(tmp_path))
    packed = gzip.compress((tmp_path / f"a.b.{suffix}").read_bytes())
    (tmp_path / f"a.b.{suffix}").unlink()
    (tmp_path / f"a.b.{suffix}.gz").write_bytes(packed)
    (tmp_path / "notes.txt.gz").write_bytes(packed)
    (item,) = sequences.find(tmp_path)
    assert (item.identity, item.name) == ("a.b", f"a.b.{suffix}.gz")
    found = sequences.read_template([item])
    np.testing.assert_array_equal(found.faces, plain.faces)
    np.testing.assert_array_equal(found.vertices, plain.vertices)
    np.testing.assert_allclose(read_all([item], plain)[0], plain.vertices, atol=1e-6)
    assert len(expected[0]) == len(plain.vertices)
    for spoilt in (packed[:-20], packed[:50], b"no gzip"):
        item.path.write_bytes(spoilt)
        refused(rf"a\.b\.{suffix}\.gz: not a readable", item, plain)


def test_sizes_are_bounded_packed_and_unpacked(sphere, tmp_path):
    written(tmp_path, ["a.obj"], sphere)
    content = (tmp_path / "a.obj").read_bytes()
    (tmp_path / "b.obj.gz").write_bytes(gzip.compress(content))
    for item in sequences.find(tmp_path, len(content) - 1):
        refused(rf"{item.name}: .*{len(content) - 1:,}; .*--max-file-bytes", item, sphere)
    assert len(read_all(sequences.find(tmp_path, len(content)), sphere)) == 2


def test_items_are_grouped_by_connectivity_whatever_their_format(sphere, loose, tmp_path):
    written(tmp_path, ["a.obj", "b.ply", "c.stl"], sphere)
    written(tmp_path, ["d.obj"], loose)
    np.save(tmp_path / "e.npy", loose.vertices)
    np.save(tmp_path / "f.npy", sphere.vertices[1:])
    turned = Mesh(sphere.vertices, sphere.faces[::-1, [1, 2, 0]])
    written(tmp_path, ["g.obj"], turned)
    groups = sequences.connectivities(sequences.find(tmp_path))
    found = {"".join(item.name[0] for item in items): group.num_vertices for group, items in groups.items()}
    assert found == {"abg": 162, "de": 164, "c": 162, "f": 161}  # an .stl has an order of its own
    assert next(iter(found)) == "abg"


def test_arrays_of_other_kinds_are_refused(sphere, tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "flat.npy", sphere.vertices.ravel())
    np.savez(tmp_path / "motion.npz", poses=np.zeros(3))
    np.savez(tmp_path / "quads.npz", v=sphere.vertices, f=np.zeros((9, 4), int))
    (tmp_path / "text.npz").write_text("no archive")
    messages = ["flat.npy: float32 .486,., expected", "motion.npz: .*available: poses"]
    messages += ["objects.npy: not readable", "quads.npz: faces are int64 .9, 4.", "text.npz: not readable"]
    for item, message in zip(sequences.find(tmp_path), messages, strict=True):
        refused(message, item, sphere)


def test_dfaust_registrations_are_sequences_of_subjects(sphere, tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "SLAB_BYTES", 2 * sphere.vertices.nbytes)
    frames = np.stack([sphere.vertices * np.float32(1 + i / 10) for i in range(5)])
    write_registrations(
        tmp_path / "registrations_m.hdf5", sphere.faces, **{"50009_jiggle_on_toes": frames, "50002_run": frames[:1]}
    )
    write_registrations(tmp_path / "registrations_f.h5", sphere.faces, **{"50004_hips": frames[2:]})
    items = sequences.find(tmp_path)
    assert [item.identity for item in items] == ["50004", "50002", "50009"]
    assert [item.name for item in items][1:] == [f"registrations_m.hdf5/{k}" for k in ("50002_run", items[2].key)]
    template = sequences.read_template(items)
    np.testing.assert_array_equal(template.vertices, frames[2])
    read = list(sequences.read(items[2], template))
    assert [frame for frame, _ in read] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal([vertices for _, vertices in read], frames)
    np.testing.assert_array_equal(sequences.read_template([], tmp_path / "registrations_m.hdf5").faces, sphere.faces)


def test_hdf5_mistakes_are_named(sphere, tmp_path, monkeypatch):
    write_registrations(
        tmp_path / "a.hdf5", sphere.faces, one_run=np.full((2, 162, 3), np.nan), two_=np.zeros((9, 4, 1))
    )
    one, two = sequences.find(tmp_path)
    refused(r"a\.hdf5/one_run: frame 0: vertex 0 is \[nan, nan, nan\]", one, sphere)
    refused(r"a\.hdf5/two_: .*shape .*expected numbers \(vertices, 3, frames\)", two, sphere)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"a\.hdf5 needs h5py: pip install 'spectral-jax\[hdf5\]'"):
        sequences.find(tmp_path)
    monkeypatch.undo()
    (tmp_path / "b.h5").write_text("no archive")
    with pytest.raises(ValueError, match=r"b\.h5: not a readable HDF5 file"):
        sequences.find(tmp_path)
    write_registrations(tmp_path / "b.h5", sphere.faces)
    with pytest.raises(ValueError, match=r"b\.h5: .*no sequences"):
        sequences.find(tmp_path)


def test_the_first_mesh_that_does_not_fit_is_named(sphere, tmp_path):
    written(tmp_path, ["a.ply"], sphere)
    flipped = sphere.faces.copy()
    flipped[17] = [0, 1, 2]
    nan = sphere.vertices.copy()
    nan[5, 2] = np.nan
    for name, mesh in {
        "b.ply": sphere._replace(faces=sphere.faces[::-1, [1, 2, 0]]),
        "c.ply": Mesh(sphere.vertices[:161], sphere.faces[(sphere.faces < 161).all(axis=1)]),
        "d.ply": sphere._replace(faces=flipped),
        "e.ply": sphere._replace(faces=sphere.faces[:-9]),
        "f.ply": sphere._replace(vertices=nan),
        "g.ply": sphere._replace(faces=sphere.faces + 1),
    }.items():
        write_mesh(tmp_path / name, mesh)
    a, b, *others = sequences.find(tmp_path)
    template = sequences.read_template([a, b])
    first, second = read_all([a, b], template)
    np.testing.assert_array_equal(first, second)  # the graph is the same
    messages = [
        r"c\.ply: 161 vertices, the template has 162",
        rf"d\.ply: .*connectivity .*face 17 is \[0, 1, 2\], .* \[{', '.join(map(str, sphere.faces[17]))}\]",
        r"e\.ply: .*connectivity .*311 faces, the template has 320",
        r"f\.ply: vertex 5 is \[.*nan\], not finite",
        r"g\.ply: faces name vertices 1 to 162",
    ]
    for item, message in zip(others, messages, strict=True):
        refused(message, item, template)
    with pytest.raises(ValueError, match=r"g\.ply: faces name vertices 1 to 162"):
        sequences.read_template(others, tmp_path / "g.ply")


def test_folders_name_identities_and_hidden_files_are_skipped(sphere, tmp_path):
    coma = ["FaceTalk_2/bareteeth/bareteeth.000002.ply", "FaceTalk_2/bareteeth/bareteeth.000001.ply"]
    written(tmp_path, [*coma, "FaceTalk_1/high_smile/high_smile.000001.ply", "alone.000007.ply"], sphere)
    for hidden in (".trash/a.ply", "FaceTalk_1/._a.ply", "notes/read.txt"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text("not a mesh")
    items = sequences.find(str(tmp_path))
    assert [item.name for item in items] == sorted([*coma, items[0].name, "alone.000007.ply"])
    assert [item.identity for item in items] == ["FaceTalk_1", "FaceTalk_2", "FaceTalk_2", "alone.000007"]
    assert all(item.path == tmp_path / item.name for item in items)


def test_folders_without_meshes_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none: no such folder"):
        sequences.find(tmp_path / "none")
    with pytest.raises(
        ValueError, match=rf"{tmp_path.name}: no mesh files \(.obj .ply .off .stl .glb .gltf .npz .npy .hdf5 .h5\)"
    ):
        sequences.find(tmp_path)


@pytest.mark.parametrize(("up", "axis"), [("x", 0), ("y", 1), ("z", 2)])
def test_normalise_turns_up_to_y_and_mirrors_nothing(up, axis):
    rotation = sequences.normalise(np.eye(3, dtype=np.float32)[None], center="none", scale=1.0, up=up)[0]
    np.testing.assert_array_equal(rotation[axis], [0, 1, 0])
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert rotation.dtype == np.float32


def test_normalise_scales_then_centres_each_mesh(sphere):
    batch = np.stack([sphere.vertices**2 * 1000 + 300, sphere.vertices * 50])
    for center in ("none", "centroid", "box"):
        moved = sequences.normalise(batch, center=center, scale=0.001, up="z")
        np.testing.assert_allclose(moved[0].std(axis=0)[[0, 2, 1]], batch[0].std(axis=0) / 1000, rtol=1e-4)
        middle = moved.mean(axis=1) if center == "centroid" else (moved.min(axis=1) + moved.max(axis=1)) / 2
        np.testing.assert_allclose(middle[0], [0, 0, 0] if center != "none" else [0.8, 0.8, -0.8], atol=1e-6)
    with pytest.raises(ValueError, match=r"scale is 0\.0"):
        sequences.normalise(batch, center="none", scale=0.0, up="y")
