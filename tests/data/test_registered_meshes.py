"""Datasets of registered meshes: their splits, their placement, and the formats they come in."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import PEOPLE, Interrupting, bumpy_spheres, meshes_written
from rounding import product_rounding, rounding
from scipy.spatial.transform import Rotation

from spectral_jax.basis import spectral
from spectral_jax.cli import main
from spectral_jax.data import dataset, projection, registered_meshes
from spectral_jax.data.recipes import MeshRecipe
from spectral_jax.data.registered_meshes import split_items
from spectral_jax.files.progress import SILENT, Silent
from spectral_jax.geometry import sequences
from spectral_jax.geometry.alignment import align
from spectral_jax.geometry.mesh import Mesh, read_mesh, write_mesh
from spectral_jax.geometry.sequences import Item
from spectral_jax.runs import run

pytestmark = pytest.mark.usefixtures("few_programs")


def build_meshes(folder, out, progress=SILENT, **options):
    return registered_meshes.build(MeshRecipe(folder=folder, out=out, **options), progress)


def test_a_folder_of_meshes_is_split_by_identity_and_centred(people, sphere, tmp_path, capsys):
    assert main(["dataset", "meshes", str(people), "--out", str(tmp_path / "out")]) == 0
    assert "source: recipe meshes" in capsys.readouterr().out
    data = dataset.open_prepared(tmp_path / "out")
    assert data.metadata["counts"] == {"train": 44, "test": 9}
    assert data.basis.num_modes == 162  # all of a small mesh
    expected = [(f"person{i}", f"person{i}/pose{j:02d}.ply") for i in range(5) for j in range(PEOPLE[i])]
    found = [example for split in ("train", "test") for example in data.splits[split]]
    assert [(example.identity, example.file) for example in found] == expected
    assert {(e.dataset, e.frame, e.gender) for e in found} == {("scans", 0, "")}
    assert all(example.vertices is None for example in data.splits["train"])
    for example in found:
        vertices = read_mesh(people / example.file)[0].astype(np.float64)
        vertices = (vertices - vertices.mean(0)).astype(np.float32)
        expected, tolerance = data.basis.modes.T @ vertices, product_rounding(data.basis.modes.T, vertices)
        np.testing.assert_allclose(example.coefficients, expected, atol=tolerance)
        if example.vertices is not None:
            np.testing.assert_allclose(example.vertices, vertices, atol=rounding(vertices, 2))
    np.testing.assert_array_equal(read_mesh(tmp_path / "out" / "mesh.ply").faces, sphere.faces)


TURNS = {"x": [[0, -1, 0], [1, 0, 0], [0, 0, 1]], "y": np.eye(3), "z": [[1, 0, 0], [0, 0, 1], [0, -1, 0]]}


@pytest.mark.parametrize(("center", "scale", "up"), [("none", 0.001, "z"), ("box", 2.0, "x"), ("centroid", 1.0, "y")])
def test_center_scale_and_up_are_applied_and_recorded(people, tmp_path, center, scale, up):
    out = build_meshes(people, tmp_path / "out", center=center, scale=scale, up=up, modes=12)
    data = dataset.open_prepared(out)
    assert {name: data.metadata["source"][name] for name in ("center", "scale", "up")} == {
        "center": center, "scale": scale, "up": up
    }  # fmt: skip
    for example in data.splits["test"]:
        vertices = scale * read_mesh(people / example.file)[0].astype(np.float64) @ np.transpose(TURNS[up])
        middle = {"none": 0.0, "box": (vertices.min(0) + vertices.max(0)) / 2, "centroid": vertices.mean(0)}[center]
        np.testing.assert_allclose(example.vertices, vertices - middle, atol=rounding(vertices, 4))


def test_meshes_far_too_large_for_metres_are_told(people, tmp_path):
    with pytest.warns(UserWarning, match=r"scale 1000, meshes are 2,\d+ m large; .* millimetres 0.001"):
        build_meshes(people, tmp_path / "out", scale=1000.0, modes=12)


def test_aligned_meshes_do_not_depend_on_where_and_how_they_stood(people, tmp_path):
    random, moved = np.random.default_rng(0), tmp_path / "moved"
    first = True
    for path in sorted(people.rglob("*.ply")):
        vertices, faces = read_mesh(path)
        if not first:  # the template stays
            turn, size = Rotation.from_quat(random.normal(size=4)).as_matrix(), random.uniform(0.5, 2)
            vertices = (size * vertices @ turn.T + random.normal(size=3)).astype(np.float32)
        first = False
        (moved / path.parent.name).mkdir(parents=True, exist_ok=True)
        write_mesh(moved / path.parent.name / path.name, Mesh(vertices, faces))
    as_they_were, turned = (
        dataset.open_prepared(build_meshes(folder, tmp_path / f"out-{i}", align="similarity", modes=12))
        for i, folder in enumerate((people, moved))
    )
    assert turned.metadata["source"]["align"] == "similarity"
    template = read_mesh(tmp_path / "out-0" / "mesh.ply").vertices
    for a, b in zip(as_they_were.splits["test"], turned.splits["test"], strict=True):
        # float32 files of vertices of up to 6 m, whose errors the alignment averages
        np.testing.assert_allclose(a.vertices, b.vertices, atol=rounding(8.0, 4))
        again = align(a.vertices, template, scaled=True)
        np.testing.assert_allclose(again.rotation, np.eye(3), atol=1e-5)
        assert again.scale == pytest.approx(1, abs=1e-5)


def test_a_mesh_that_cannot_be_aligned_is_named(people, tmp_path):
    copied = shutil.copytree(people, tmp_path / "people")
    last = sorted(copied.rglob("*.ply"))[-1]
    vertices, faces = read_mesh(last)
    write_mesh(last, Mesh(vertices * np.array([1, 0, 0], np.float32), faces))
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(last))}: {len(vertices)} points do not determine a rotation"
    ):
        build_meshes(copied, tmp_path / "out", align="rigid", modes=12)


@pytest.mark.parametrize(
    ("options", "train", "test"),
    [
        (["--test", "person1", "person3"], "024", "13"),
        (["--train", "person[0-2]"], "012", "34"),
        (["--train", "person0", "--test", "person4"], "0", "4"),
        (["--fraction", "0.5"], "01", "234"),
    ],
)
def test_identities_are_chosen_by_name_pattern_or_share(people, tmp_path, options, train, test):
    assert main(["dataset", "meshes", str(people), "--out", str(tmp_path / "out"), "--modes", "12", *options]) == 0
    metadata = dataset.open_prepared(tmp_path / "out").metadata
    for split, digits in (("train", train), ("test", test)):
        assert metadata["identities"][split] == {f"person{i}": PEOPLE[int(i)] for i in digits}
    assert metadata["source"]["unused"] == 53 - sum(metadata["counts"].values())


def test_a_split_by_mesh_is_the_seeds(people, tmp_path):
    def files(name, seed):
        out = build_meshes(people, tmp_path / name, split_by="mesh", seed=seed, fraction=0.25, modes=12)
        return {split: {e.file for e in found} for split, found in dataset.open_prepared(out).splits.items()}

    first = files("a", 1)
    assert (len(first["train"]), len(first["test"])) == (39, 14)
    assert not first["train"] & first["test"]
    assert len({file.split("/")[0] for file in first["test"]}) > 1
    assert first == files("b", 1)
    assert first != files("c", 2)


def test_hdf5_sequences_of_dfaust_are_read_frame_by_frame(sphere, tmp_path):
    frames = bumpy_spheres(sphere, 9, 3)
    (tmp_path / "DFAUST").mkdir()
    with h5py.File(tmp_path / "DFAUST" / "registrations_m.hdf5", "w") as file:
        file["faces"] = sphere.faces.astype(np.uint32)
        for name in ("50002_jumping", "50002_running", "50004_jumping"):
            file[name] = np.moveaxis(frames, 0, 2)
    out = build_meshes(tmp_path / "DFAUST", tmp_path / "out", center="none", modes=12)
    data = dataset.open_prepared(out)
    wanted = [("50004", "registrations_m.hdf5/50004_jumping", frame) for frame in range(9)]
    assert [(e.identity, e.file, e.frame) for e in data.splits["test"]] == wanted
    assert data.metadata["identities"]["train"] == {"50002": 18}
    np.testing.assert_array_equal([e.vertices for e in data.splits["test"]], frames)


def test_coma_folders_are_identities_and_expressions(sphere, tmp_path):
    for identity in ("FaceTalk_1", "FaceTalk_2"):
        for i, vertices in enumerate(bumpy_spheres(sphere, 2, 4)):
            path = tmp_path / "CoMA" / identity / "bareteeth" / f"bareteeth.{i:06d}.ply"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mesh(path, Mesh(vertices, sphere.faces))
    data = dataset.open_prepared(build_meshes(tmp_path / "CoMA", tmp_path / "out", modes=12))
    found = [(e.identity, e.dataset, e.file) for e in data.splits["test"]]
    assert found == [("FaceTalk_2", "CoMA", f"FaceTalk_2/bareteeth/bareteeth.00000{i}.ply") for i in range(2)]


def test_vertices_in_no_face_are_refused_or_left_out_everywhere(sphere, tmp_path, capsys):
    frames = bumpy_spheres(sphere, 4, 8)
    for i, vertices in enumerate(frames):
        loose = np.insert(vertices, [80, 162], [[0, 0, 0], [9, 9, 9]], axis=0)
        path = tmp_path / "scans" / f"s{i}.obj"
        path.parent.mkdir(exist_ok=True)
        write_mesh(path, Mesh(loose, sphere.faces + (sphere.faces >= 80)))
    command = ["dataset", "meshes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), "--modes", "12"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "2 of 164 vertices" in error
    assert "--drop-unused" in error
    assert main([*command, "--drop-unused"]) == 0
    data = dataset.open_prepared(tmp_path / "out")
    assert data.metadata["source"]["unused_vertices"] == [80, 163]
    np.testing.assert_array_equal(data.basis.faces, sphere.faces)
    centred = frames[3] - frames[3].astype(np.float64).mean(0)  # the loose ones do not move the middle
    np.testing.assert_allclose(data.splits["test"][0].vertices, centred, atol=1e-6)
    assert len(read_mesh(tmp_path / "out" / "mesh.ply").vertices) == 162


@pytest.fixture
def mixed(sphere, tmp_path):
    """Four meshes of the sphere, one of them an array without faces, two of a part of it, and one other."""
    frames = bumpy_spheres(sphere, 7, 9)
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i in (0, 2, 4):
        write_mesh(folder / f"s{i}.obj", Mesh(frames[i], sphere.faces))
    np.save(folder / "s6.npy", frames[6])
    for i in (1, 5):
        write_mesh(folder / f"s{i}.obj", Mesh(frames[i], sphere.faces[:-2]))
    write_mesh(folder / "s3.ply", Mesh(np.append(frames[3], [[0, 0, 0]], axis=0), sphere.faces))
    return folder


def test_several_connectivities_are_told_apart(mixed, tmp_path, capsys):
    assert main(["dataset", "meshes", str(mixed), "--out", str(tmp_path / "out"), "--modes", "12"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "7 meshes have 3 connectivities" in error
    groups = ["4 of 162 vertices (s0.obj, s2.obj, s4.obj, s6.npy)", "2 of 162 vertices (s1.obj, s5.obj)"]
    assert all(group in error for group in [*groups, "1 of 163 vertices (s3.ply)", "--largest-group"])
    assert [path.name for path in tmp_path.iterdir()] == ["mixed"]


def test_the_largest_group_is_taken_and_the_others_named(mixed, tmp_path, capsys):
    command = ["dataset", "meshes", str(mixed), "--out", str(tmp_path / "out"), "--modes", "12", "--largest-group"]
    assert main([*command, "--template", str(mixed / "s0.obj")]) == 2
    assert "--template" in capsys.readouterr().err
    assert main(command) == 0
    assert "3 meshes of other connectivities left out: s1.obj, s3.ply, s5.obj" in capsys.readouterr().out
    data = dataset.open_prepared(tmp_path / "out")
    assert data.metadata["source"]["other_connectivities"] == ["s1.obj", "s3.ply", "s5.obj"]
    files = [example.file for split in ("train", "test") for example in data.splits[split]]
    assert files == ["s0.obj", "s2.obj", "s4.obj", "s6.npy"]


@pytest.mark.filterwarnings("default")
def test_degenerate_faces_are_counted_once_on_standard_error(sphere, tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    for i, vertices in enumerate(bumpy_spheres(sphere, 3, 8)):
        write_mesh(tmp_path / "scans" / f"s{i}.obj", Mesh(vertices, np.append(sphere.faces, [[5, 5, 6]], axis=0)))
    assert main(["dataset", "meshes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), "--modes", "12"]) == 0
    error = capsys.readouterr().err
    assert "s0.obj: 1 of 321 faces" in error
    assert error.count("warning: ") == 1
    np.testing.assert_array_equal(dataset.open_prepared(tmp_path / "out").basis.faces, sphere.faces)


def test_the_limit_of_a_files_size_is_an_option(people, tmp_path, capsys):
    command = ["dataset", "meshes", str(people), "--out", str(tmp_path / "out"), "--modes", "12"]
    assert main([*command, "--max-file-bytes", "1000"]) == 2
    error = capsys.readouterr().err
    assert "person0/pose00.ply" in error
    assert "1,000; " in error
    assert main([*command, "--max-file-bytes", "100000"]) == 0


def test_arrays_take_their_faces_from_the_template(sphere, tmp_path, capsys):
    frames = bumpy_spheres(sphere, 6, 5)
    for i in range(2):
        (tmp_path / "arrays" / f"person{i}").mkdir(parents=True)
        np.save(tmp_path / "arrays" / f"person{i}" / "walk.npy", frames[3 * i : 3 * i + 3])
    write_mesh(tmp_path / "template.obj", sphere)
    command = ["dataset", "meshes", str(tmp_path / "arrays"), "--out", str(tmp_path / "out"), "--center", "none"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "walk.npy: no faces" in error
    assert "--template" in error
    assert main([*command, "--template", str(tmp_path / "template.obj"), "--modes", "12"]) == 0
    data = dataset.open_prepared(tmp_path / "out")
    np.testing.assert_array_equal([e.vertices for e in data.splits["test"]], frames[3:])
    assert [(e.file, e.frame) for e in data.splits["test"]] == [("person1/walk.npy", i) for i in range(3)]
    np.testing.assert_array_equal(data.basis.faces, sphere.faces)


def test_the_first_mesh_that_does_not_fit_is_named_and_nothing_is_left(people, sphere, tmp_path, capsys, small_parts):
    shutil.copytree(people, tmp_path / "scans")
    write_mesh(tmp_path / "scans" / "person2" / "pose01.ply", sphere._replace(vertices=sphere.vertices[:-1] * 2))
    write_mesh(tmp_path / "scans" / "person3" / "pose00.ply", sphere._replace(faces=sphere.faces[:-1]))
    assert main(["dataset", "meshes", str(tmp_path / "scans"), "--out", str(tmp_path / "out"), "--modes", "12"]) == 2
    error = capsys.readouterr().err
    assert "person2/pose01.ply" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_a_basis_from_a_file_is_used_and_must_be_of_the_meshes(people, sphere, kept, tmp_path, capsys):
    command = ["dataset", "meshes", str(people), "--out", str(tmp_path / "out"), "--basis", str(tmp_path / "basis.npz")]
    other = spectral.compute(sphere.faces[:-2], 162, 8)
    for basis, message in ((other, other.fingerprint[:12]), (kept, "9 modes")):
        spectral.save(tmp_path / "basis.npz", basis)
        assert main([*command, "--modes", "9"]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, "--operator", "cotangent"]) == 2
    assert "basis.npz: a basis of the graph operator" in capsys.readouterr().err
    turned = spectral.SpectralBasis(-kept.modes, kept.eigenvalues, kept.faces)
    spectral.save(tmp_path / "basis.npz", turned)
    assert main(command) == 0
    np.testing.assert_array_equal(dataset.open_prepared(tmp_path / "out").basis.modes, -kept.modes)


@pytest.mark.parametrize("operator", ["graph", pytest.param("cotangent", marks=pytest.mark.slow)])
def test_a_network_trains_on_a_folder_of_meshes(people, tmp_path, capsys, operator):
    out, folder = tmp_path / "out", tmp_path / "run"
    build_meshes(people, out, operator=operator, modes=32)
    data = dataset.open_prepared(out)
    assert data.basis.operator == data.metadata["operator"] == operator
    template = read_mesh(out / "mesh.ply")
    shape = template.vertices if operator == "cotangent" else None
    wanted = spectral.compute(template.faces, 162, 32, shape)
    np.testing.assert_allclose(data.basis.eigenvalues, wanted.eigenvalues, rtol=1e-4, atol=1e-6)
    test = data.splits["test"]
    vertices = np.stack([example.vertices for example in test])
    coefficients, mass = spectral.project(data.basis, vertices), 1 if data.basis.mass is None else data.basis.mass
    tolerance = product_rounding(data.basis.modes.T * mass, vertices)
    np.testing.assert_allclose([example.coefficients for example in test], coefficients, atol=tolerance)
    options = ["--epochs", "1", "--batch-size", "8", "--latent-size", "4", "--learning-rate", "1e-3"]
    assert main(["train", "--data", str(out), "--run", str(folder), *options]) == 0
    assert spectral.load(folder / "basis.npz").operator == operator
    assert main(["eval", str(folder), "--json", str(tmp_path / "eval.json")]) == 0
    figures = json.loads((tmp_path / "eval.json").read_text())
    assert figures["count"] == 9
    smoothed = spectral.reconstruct(data.basis, coefficients) - vertices
    assert figures["truncation_mm"] == pytest.approx(1000 * np.linalg.norm(smoothed, axis=-1).mean(), rel=1e-3)
    assert run.load_run(folder).basis.operator == operator


def test_ctrl_c_of_a_command_says_what_is_kept(people, tmp_path, capsys, small_parts, monkeypatch):
    command = ["dataset", "meshes", str(people), "--out", str(tmp_path / "out"), "--modes", "12"]
    read = sequences.read

    def interrupted(error):
        def reading(item, template):
            if item.name == "person3/pose06.ply":
                raise error
            return read(item, template)

        return reading

    monkeypatch.setattr(projection, "BATCH", 2)
    monkeypatch.setattr(projection, "AHEAD", 1)
    monkeypatch.setattr(sequences, "read", interrupted(KeyboardInterrupt))
    assert main(command) == 130
    assert capsys.readouterr().err == "interrupted; 33 meshes are kept: the same command resumes from there\n"
    monkeypatch.setattr(sequences, "read", interrupted(OSError("no space left on device")))
    assert main(command) == 2
    error = "error: no space left on device; 33 meshes are kept: the same command resumes from there\n"
    assert capsys.readouterr().err == error
    names = []
    monkeypatch.setattr(sequences, "read", lambda item, template: names.append(item.name) or read(item, template))
    assert main(command) == 0
    assert len(names) == 53 - 33
    assert dataset.open_prepared(tmp_path / "out").metadata["counts"] == {"train": 44, "test": 9}


def test_a_mesh_that_was_changed_meanwhile_is_read_again(people, sphere, tmp_path, small_parts):
    shutil.copytree(people, tmp_path / "scans")
    with pytest.raises(KeyboardInterrupt):
        build_meshes(tmp_path / "scans", tmp_path / "out", modes=12, progress=Interrupting(20))
    write_mesh(tmp_path / "scans" / "person0" / "pose00.ply", sphere)
    out = build_meshes(tmp_path / "scans", tmp_path / "out", modes=12)
    first = dataset.open_prepared(out).splits["train"][0]
    centred = sphere.vertices - sphere.vertices.mean(0)
    modes = dataset.open_prepared(out).basis.modes
    np.testing.assert_allclose(first.coefficients, modes.T @ centred, atol=product_rounding(modes.T, centred))


def test_no_more_than_a_few_batches_are_in_memory(people, tmp_path, monkeypatch):
    read, counts = sequences.read, {"read": 0, "ahead": 0}

    def counting(item, template):
        counts["read"] += 1
        return read(item, template)

    class Watching(Silent):
        def update(self, task, done, total=None, note=""):
            if task.startswith("building"):
                written = meshes_written(note) + (44 if task == "building test" else 0)
                counts["ahead"] = max(counts["ahead"], counts["read"] - written)

    monkeypatch.setattr(projection, "BATCH", 2)
    monkeypatch.setattr(projection, "AHEAD", 1)
    monkeypatch.setattr(sequences, "read", counting)
    build_meshes(people, tmp_path / "out", modes=12, progress=Watching())
    assert counts["read"] == 53
    assert counts["ahead"] <= 2 * 2


def test_mistakes_get_one_line_and_nothing_is_made(people, data_folder, tmp_path, capsys, monkeypatch):
    def no_work(*arguments, **options):
        raise AssertionError("work was begun")

    monkeypatch.setattr(projection, "choose_basis", no_work)
    (tmp_path / "empty").mkdir()
    scans, old, new, empty = str(people), str(data_folder), str(tmp_path / "new"), str(tmp_path / "empty")

    def meshes(*options, folder=scans, out=new):
        return ["dataset", "meshes", folder, "--out", out, *options]

    cases = [
        (meshes(out=old), f"{old} exists already; --overwrite replaces it"),
        (meshes("--overwrite", out=empty), "is not a prepared dataset (metadata.json is missing)"),
        (meshes(folder="none"), "none: no such folder of meshes"),
        (meshes(folder=empty), "no mesh files"),
        (meshes("--test", "nobody"), "'nobody', available (5): person0, person1"),
        (meshes("--test", "person1", "--train", "person*"), "identity person1 matches both"),
        (meshes("--train", "person*"), "nothing is left for test"),
        (meshes("--fraction", "1.5"), "the fraction for test is 1.5"),
        (meshes("--scale", "0"), "scale is 0.0"),
        (meshes("--template", "none.obj"), "none.obj"),
    ]
    for command, message in cases:
        assert main(command) == 2, command
        captured = capsys.readouterr()
        assert message in captured.err, (command, captured.err)
        assert captured.err.count("\n") == 1, captured.err
        assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert list((tmp_path / "empty").iterdir()) == []


ITEMS = [
    Item(Path(), "", f"{who}{i}", f"{who}{i}/{k}.ply") for who in ("an", "bo", "cy") for i in (0, 1) for k in (0, 1)
]


def identities(parts):
    return {name: sorted({item.identity for item in items}) for name, items in parts.items()}


def split(items=ITEMS, **options):
    return split_items(items, MeshRecipe(folder=Path("meshes"), out=Path("out"), **options))


def test_split_by_patterns():
    both = identities(split(train=("an*",), test=("cy0", "bo?")))
    assert both == {"train": ["an0", "an1"], "test": ["bo0", "bo1", "cy0"], "unused": ["cy1"]}
    assert identities(split(test=("*0",))) == {
        "train": ["an1", "bo1", "cy1"],
        "test": ["an0", "bo0", "cy0"],
        "unused": [],
    }
    assert identities(split(train=("*0",)))["test"] == ["an1", "bo1", "cy1"]
    brackets = [item._replace(identity=f"[{item.identity}]") for item in ITEMS]
    assert identities(split(brackets, test=("[an0]",)))["test"] == ["[an0]"]


def test_split_by_fraction_takes_the_last_identities():
    assert identities(split(fraction=0.2))["test"] == ["cy0", "cy1"]
    assert identities(split(fraction=0.01))["test"] == ["cy1"]
    assert identities(split(fraction=0.99))["train"] == ["an0"]
    parts = split(fraction=0.5)
    assert parts["train"] + parts["test"] == ITEMS


FACES = [
    Item(Path(f"{k:03d}.ply"), "", who, f"{who}/{kind}/{k:03d}.ply")
    for who in ("an", "bo") for kind in ("cry", "smile") for k in range(120)
]  # fmt: skip


def test_split_by_sequence_and_by_file():
    """Expressions, as faces are split to test extrapolation; an array is a sequence of its own."""
    parts = split(FACES, split_by="sequence", test=("*/smile",))
    assert {item.name.split("/")[1] for item in parts["test"]} == {"smile"}
    assert {item.name.split("/")[1] for item in parts["train"]} == {"cry"}
    assert len(parts["test"]) == len(parts["train"]) == 240
    last = split(FACES, split_by="sequence", fraction=0.25)["test"]
    assert {item.name.rsplit("/", 1)[0] for item in last} == {"bo/smile"}
    arrays = [Item(Path(name), "", "an", f"an/{name}") for name in ("a.npy", "b.npy", "c.npy")]
    assert split(arrays, split_by="sequence", test=("an/b.npy",))["test"] == arrays[1:2]
    parts = split(FACES, split_by="file", test=("an/*/00?.ply", "bo/cry/007.ply"))
    assert len(parts["test"]) == 21
    with pytest.raises(ValueError, match=r"no sequence matches 'smile', available .4.: an/cry, an/smile"):
        split(FACES, split_by="sequence", test=("smile",))


def test_split_by_slice_tests_on_the_end_of_every_hundred_frames():
    """As faces are split to test interpolation: ten frames of a hundred, in each sequence."""
    parts = split(FACES, split_by="slice", fraction=0.1)
    assert [item.name for item in parts["test"][:10]] == [f"an/cry/{k:03d}.ply" for k in range(90, 100)]
    assert len(parts["test"]) == 40
    assert sorted(parts["train"] + parts["test"], key=FACES.index) == FACES


def test_split_by_mesh_is_random_and_repeatable():
    parts = split(split_by="mesh", fraction=0.25, seed=3)
    assert len(parts["test"]) == 3
    assert sorted(parts["train"] + parts["test"], key=ITEMS.index) == ITEMS
    assert parts == split(split_by="mesh", fraction=0.25, seed=3)
    assert parts != split(split_by="mesh", fraction=0.25, seed=4)


@pytest.mark.parametrize(
    ("items", "train", "test", "fraction", "by", "message"),
    [
        (ITEMS, ("an*",), ("*1",), 0.2, "identity", "identity an1 matches both"),
        (ITEMS, (), ("Cy*",), 0.2, "identity", "'Cy.', available .6.: an0, an1, bo0"),
        (ITEMS, ("*",), (), 0.2, "identity", "nothing is left for test: train gets all 6 identities, an0, an1"),
        (ITEMS, (), ("??0", "??1"), 0.2, "identity", "nothing is left for train: test gets all"),
        (ITEMS[:2], (), (), 0.2, "identity", r"train gets the only identity, an0; split by mesh instead"),
        (ITEMS[:1], (), (), 0.2, "mesh", r"train gets the only mesh, an0/0\.ply$"),
        (ITEMS, ("an*",), (), 0.2, "mesh", "an. cannot split by mesh"),
        (ITEMS, (), (), 1.5, "identity", r"fraction for test is 1\.5"),
    ],
)
def test_splits_that_cannot_be_are_refused(items, train, test, fraction, by, message):
    with pytest.raises(ValueError, match=message):
        split(items, train=train, test=test, fraction=fraction, split_by=by)
