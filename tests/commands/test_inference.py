import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY
from rounding import network_rounding

import spectral_jax as sj
from spectral_jax.cli import main
from spectral_jax.data import dataset
from spectral_jax.geometry.mesh import Mesh, read_mesh, write_mesh
from spectral_jax.network import codec as network_codec
from spectral_jax.network.codec import Codec


@pytest.fixture(scope="module")
def latents(trained_run, data_folder, tmp_path_factory):
    """The encoded test split."""
    out = tmp_path_factory.mktemp("latents") / "test.npz"
    assert main(["encode", str(data_folder), str(out), "--run", str(trained_run)]) == 0
    return out


@pytest.fixture(scope="module")
def codec(trained_run):
    return Codec.of(sj.load_run(trained_run))


@pytest.fixture(scope="module")
def test_split(data_folder):
    data = dataset.open_prepared(data_folder)
    return dataset.read_split(data, "test")


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def encode(data, out, run, *options):
    assert main(["encode", str(data), str(out), "--run", str(run), *options]) == 0
    return load(out)


def test_a_dataset_becomes_latents_that_say_where_they_are_from(
    trained_run, latents, codec, test_split, data_folder, capsys
):
    found = load(latents)
    np.testing.assert_array_equal(found["latents"], codec.encode(test_split.coefficients))
    assert found["latents"].dtype == np.float32
    assert found["identity"].tolist() == 9 * ["id2"]
    assert found["file"].tolist() == [f"{i:03d}.ply" for i in range(9)]
    assert found["frame"].tolist() == list(range(9))
    assert found["dataset"].tolist() == 9 * ["Spheres"]
    assert found["split"].tolist() == 9 * ["test"]
    assert (str(found["run"]), int(found["epoch"])) == (str(trained_run.resolve()), 2)
    assert str(found["fingerprint"]) == dataset.open_prepared(data_folder).basis.fingerprint


def test_splits_are_chosen_and_checkpoints_too(trained_run, latents, data_folder, tmp_path, capsys):
    out = tmp_path / "deep" / "all.npz"
    found = encode(data_folder, out, trained_run, "--split", "all")
    assert f"{out}: 53 latents of 4 numbers, epoch 2 of {trained_run}" in capsys.readouterr().out
    assert found["split"].tolist() == 44 * ["train"] + 9 * ["test"]
    np.testing.assert_array_equal(found["latents"][44:], load(latents)["latents"])
    train = encode(data_folder, tmp_path / "train.npz", trained_run, "--split", "train", "--checkpoint", "best")
    best = Codec.of(sj.load_run(trained_run, "best"))
    expected = best.encode(dataset.read_split(dataset.open_prepared(data_folder), "train").coefficients)
    np.testing.assert_array_equal(train["latents"], expected)


def test_meshes_and_coefficients_have_the_latents_of_the_dataset(trained_run, latents, codec, test_split, tmp_path):
    expected, faces = load(latents)["latents"], np.asarray(codec.basis.faces)
    folder = tmp_path / "scans"
    for i, vertices in enumerate(test_split.vertices):
        (folder / f"person{i % 3}").mkdir(parents=True, exist_ok=True)
        write_mesh(folder / f"person{i % 3}" / f"{i}.ply", Mesh(vertices, faces))
    np.savez(tmp_path / "frames.npz", vertices=test_split.vertices, faces=faces)
    np.savez(tmp_path / "coefficients.npz", coefficients=test_split.coefficients)
    np.save(tmp_path / "coefficients.npy", test_split.coefficients)

    found = encode(folder, tmp_path / "a.npz", trained_run)
    order = [int(Path(name).stem) for name in found["file"]]
    np.testing.assert_allclose(found["latents"], expected[order], atol=network_rounding(expected))
    assert found["identity"].tolist() == [f"person{i % 3}" for i in order]
    assert set(found["dataset"]) == {"scans"}
    one = encode(folder / "person1" / "4.ply", tmp_path / "b.npz", trained_run)
    np.testing.assert_allclose(one["latents"], expected[[4]], atol=network_rounding(expected))
    frames = encode(tmp_path / "frames.npz", tmp_path / "c.npz", trained_run)
    np.testing.assert_allclose(frames["latents"], expected, atol=network_rounding(expected))
    assert frames["frame"].tolist() == list(range(9))
    for i, name in enumerate(("coefficients.npy", "coefficients.npz")):
        found = encode(tmp_path / name, tmp_path / f"d{i}.npz", trained_run)
        np.testing.assert_array_equal(found["latents"], expected)
        assert found["file"].tolist() == 9 * [name]


def test_meshes_are_placed_as_those_of_the_runs_dataset(trained_run, codec, test_split, tmp_path, capsys):
    made = {"recipe": "meshes", "center": "centroid", "scale": 0.5, "up": "z"}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text(json.dumps({"source": made}))
    placed = shutil.copytree(trained_run, tmp_path / "placed")
    config = json.loads((placed / "config.json").read_text())
    (placed / "config.json").write_text(json.dumps(config | {"data": str(tmp_path / "data")}))
    mesh = tmp_path / "mesh.ply"
    write_mesh(mesh, Mesh(test_split.vertices[0] + np.float32(0.3), np.asarray(codec.basis.faces)))

    options = ["--center", "centroid", "--scale", "0.5", "--up", "z"]
    expected = encode(mesh, tmp_path / "a.npz", trained_run, *options)["latents"]
    x, y, z = (test_split.vertices[0] - test_split.vertices[0].mean(axis=0)).T
    turned = 0.5 * np.stack([x, z, -y], axis=1)
    np.testing.assert_allclose(expected, codec.encode_vertices(turned[None]), atol=network_rounding(expected))
    np.testing.assert_array_equal(encode(mesh, tmp_path / "b.npz", placed)["latents"], expected)
    as_it_is = encode(mesh, tmp_path / "c.npz", placed, "--center", "none", "--scale", "1", "--up", "y")["latents"]
    np.testing.assert_array_equal(as_it_is, encode(mesh, tmp_path / "d.npz", trained_run)["latents"])

    shutil.rmtree(tmp_path / "data")
    assert main(["encode", str(mesh), str(tmp_path / "e.npz"), "--run", str(placed), *options[:2]]) == 2
    assert "give --center, --scale and --up" in capsys.readouterr().err
    assert main(["encode", str(mesh), str(tmp_path / "e.npz"), "--run", str(placed), *options]) == 0


def test_meshes_are_aligned_as_those_of_the_runs_dataset(trained_run, codec, test_split, tmp_path, capsys):
    faces, data = np.asarray(codec.basis.faces), tmp_path / "data"
    data.mkdir()
    made = {"recipe": "meshes", "center": "centroid", "scale": 1.0, "up": "y", "align": "rigid"}
    (data / "metadata.json").write_text(json.dumps({"source": made}))
    write_mesh(data / "mesh.ply", Mesh(test_split.vertices[1], faces))
    aligned = shutil.copytree(trained_run, tmp_path / "aligned")
    config = json.loads((aligned / "config.json").read_text())
    (aligned / "config.json").write_text(json.dumps(config | {"data": str(data)}))
    turn = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    for name, vertices in (("a", test_split.vertices[0]), ("b", test_split.vertices[0] @ turn + np.float32(0.5))):
        write_mesh(tmp_path / f"{name}.ply", Mesh(vertices, faces))
    a, b = (encode(tmp_path / f"{name}.ply", tmp_path / f"{name}.npz", aligned)["latents"] for name in "ab")
    np.testing.assert_allclose(a, b, atol=network_rounding(np.maximum(np.abs(a), 1)))
    as_it_is = encode(tmp_path / "b.ply", tmp_path / "c.npz", trained_run)["latents"]
    assert np.abs(as_it_is - a).max() > 10 * np.abs(b - a).max()
    flat = np.stack([test_split.vertices[0], np.ones_like(test_split.vertices[0])])
    np.savez(tmp_path / "flat.npz", vertices=flat, faces=faces)
    assert main(["encode", str(tmp_path / "flat.npz"), str(tmp_path / "d.npz"), "--run", str(aligned)]) == 2
    assert "flat.npz: frame 1: 162 points do not determine a rotation" in capsys.readouterr().err


def test_latents_of_the_published_system_in_its_own_layout(tmp_path):
    root = TINY / "root" / "DEMO"
    assert main(["convert", str(TINY / "last.ckpt"), str(tmp_path / "run"), "--data", str(root)]) == 0
    expected = load(TINY / "expected.npz")
    found = encode(root, tmp_path / "latents.npz", tmp_path / "run")
    np.testing.assert_allclose(found["latents"], expected["latents"], atol=network_rounding(expected["latents"]))
    assert found["identity"].tolist() == ["s000", "s000", "s001", "s002", "s003", "s003", "s004", "s005"]
    arguments = [str(tmp_path / "latents.npz"), str(tmp_path / "out.npy"), "--run", str(tmp_path / "run")]
    assert main(["decode", *arguments]) == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "out.npy"), expected["outputs"], atol=network_rounding(expected["outputs"])
    )


def test_latents_become_coefficients_vertices_or_meshes(trained_run, latents, codec, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(network_codec, "BATCH", 4)  # several batches
    values = load(latents)["latents"]
    np.save(tmp_path / "latents.npy", values)

    def decode(out, *options, source=latents):
        assert main(["decode", str(source), str(tmp_path / out), "--run", str(trained_run), *options]) == 0
        return tmp_path / out

    coefficients, vertices = codec.decode(values), codec.decode_vertices(values)
    for source in (latents, tmp_path / "latents.npy"):
        found = load(decode("c.npz", "--overwrite", source=source))
        np.testing.assert_allclose(found["coefficients"], coefficients, atol=network_rounding(coefficients))
        assert ("identity" in found) == (source == latents)
    np.testing.assert_array_equal(np.load(decode("c.npy")), found["coefficients"])
    assert "c.npy: coefficients of 9 latents, epoch 2 of" in capsys.readouterr().out
    found = load(decode("v.npz", "--vertices"))
    np.testing.assert_allclose(found["vertices"], vertices, atol=network_rounding(vertices))
    np.testing.assert_array_equal(found["faces"], codec.basis.faces)
    assert found["file"].tolist() == [f"{i:03d}.ply" for i in range(9)]
    assert np.load(decode("v.npy", "--vertices")).shape == (9, 162, 3)
    meshes = sorted(decode("meshes").iterdir())
    assert [path.name for path in meshes] == [f"{i:03d}.ply" for i in range(9)]
    for path, expected in zip(meshes, vertices, strict=True):
        np.testing.assert_allclose(read_mesh(path).vertices, expected, atol=1e-5)
    again = [
        encode(tmp_path / name, tmp_path / f"{name}.again.npz", trained_run) for name in ("c.npz", "v.npz", "meshes")
    ]
    for found in again:
        np.testing.assert_allclose(found["latents"], again[0]["latents"], atol=1e-4)


def test_fewer_meshes_leave_none_of_those_before_and_nothing_else_is_touched(trained_run, latents, tmp_path):
    np.save(tmp_path / "one.npy", load(latents)["latents"][:1])
    out = tmp_path / "meshes"
    assert main(["decode", str(latents), str(out), "--run", str(trained_run)]) == 0
    (out / "2024-scan.ply").write_text("mine")
    assert main(["decode", str(tmp_path / "one.npy"), str(out), "--run", str(trained_run), "--overwrite"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["000.ply", "2024-scan.ply"]


def test_another_network_is_warned_of(trained_run, latents, tmp_path, capsys):
    other = shutil.copytree(trained_run, tmp_path / "other")
    assert main(["decode", str(latents), str(tmp_path / "a.npz"), "--run", str(trained_run)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["decode", str(latents), str(tmp_path / "b.npz"), "--run", str(other)]) == 0
    warning = f"was made by {trained_run.resolve()} (epoch 2), but is decoded by {other} (epoch 2)"
    assert warning in capsys.readouterr().err


def test_a_failure_on_the_way_leaves_what_was_there(trained_run, latents, data_folder, tmp_path, capsys):
    out = tmp_path / "mine.npz"
    out.write_bytes(b"before")
    coefficients = np.zeros((200, 32, 3), np.float32)
    coefficients[190, 3, 1] = np.nan
    np.save(tmp_path / "c.npy", coefficients)
    assert main(["encode", str(tmp_path / "c.npy"), str(out), "--run", str(trained_run), "--overwrite"]) == 2
    assert "c.npy: mesh 190 (c.npy) has values that are not finite" in capsys.readouterr().err
    assert out.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"mine.npz", "c.npy"}


def error_cases(tmp_path, data, run, latents, sphere, codec):
    """Arguments, and what the one line of the error must say."""
    faces, values = np.asarray(codec.basis.faces), load(latents)
    write_mesh(tmp_path / "small.ply", Mesh(sphere.vertices[:3], np.array([[0, 1, 2]], np.int32)))
    write_mesh(tmp_path / "other.ply", sphere._replace(faces=faces[::-1][:-9]))
    write_mesh(tmp_path / "fine.ply", sphere)
    np.save(tmp_path / "modes.npy", np.zeros((5, 31, 3), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((5, 32, 3), np.int32))
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "none.npy", np.zeros((0, 4), np.float32))
    np.save(tmp_path / "five.npy", np.zeros((2, 5), np.float32))
    np.save(tmp_path / "infinite.npy", np.array([[0, 0, 0, 0], [1, np.inf, 0, 0]], np.float32))
    np.savez(tmp_path / "nothing.npz", something=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", latents=np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "foreign.npz", latents=values["latents"], fingerprint=np.array("0123456789abcdef"))
    (tmp_path / "torn.npz").write_bytes(latents.read_bytes()[:-100])
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "taken.npz").write_text("years of work")
    new, at = str(tmp_path / "new.npz"), lambda name: str(tmp_path / name)

    def enc(data, *options, out=new):
        return ["encode", data, out, *options, "--run", run]

    def dec(latents, out=new):
        return ["decode", latents, out, "--run", run]

    return {
        "no run": (["encode", data, new, "--run", "none"], "none: no such run folder"),
        "no data": (enc("none"), "none: no such dataset, mesh or file of coefficients"),
        "no split": (enc(data, "--split", "vald"), "no split 'vald', available: train, test, all"),
        "split of a mesh": (enc(at("fine.ply"), "--split", "test"), "is not a dataset, it has no split 'test'"),
        "another suffix": (enc(data, out=at("new.npy")), "new.npy: latents are written as an .npz file"),
        "taken": (enc(data, out=at("taken.npz")), "taken.npz exists already; --overwrite replaces it"),
        "no meshes": (enc(at("empty")), "no mesh files"),
        "other count": (enc(at("small.ply")), f"3 vertices, the template has 162; the template is the mesh of {run}"),
        "other faces": (enc(at("other.ply")), "other.ply: connectivity"),
        "large": (enc(at("fine.ply"), "--max-file-bytes", "100"), "the limit is 100; --max-file-bytes lifts it"),
        "other modes": (enc(at("modes.npy")), f"float32 (5, 31, 3), {run} needs float (meshes, 32, 3)"),
        "whole numbers": (enc(at("whole.npy")), "whole.npy: coefficients are int32 (5, 32, 3)"),
        "pickled coefficients": (enc(at("pickled.npy")), "pickled.npy: not a readable file of coefficients"),
        "no arrays": (enc(at("nothing.npz")), "nothing.npz: not readable as meshes"),
        "no latents": (dec("none.npz"), "none.npz: no such file"),
        "latents of no name": (dec(at("nothing.npz")), "nothing.npz: not a readable file of latents"),
        "other size": (dec(at("five.npy")), f"five.npy: latents are float32 (2, 5), {run} needs float (meshes, 4)"),
        "empty": (dec(at("none.npy")), "none.npy"),
        "infinite": (dec(at("infinite.npy")), "infinite.npy: latent 1 is [1.0, inf, 0.0, 0.0], expected finite"),
        "pickled latents": (dec(at("pickled.npz")), "pickled.npz: not a readable file of latents"),
        "foreign": (dec(at("foreign.npz")), f"connectivity 0123456789ab, {run} has 162 vertices and connectivity"),
        "torn": (dec(at("torn.npz")), "torn.npz: not a readable file of latents"),
        "text": (dec(at("text.npz")), "text.npz: not a readable file of latents"),
        "taken by decode": (dec(str(latents), at("taken.npz")), "taken.npz exists already; --overwrite replaces it"),
        "full": (dec(str(latents), at("full")), "full is not empty; --overwrite replaces its meshes"),
        "one mesh file": (dec(str(latents), at("new.ply")), "new.ply: meshes are written into a folder"),
    }


def test_mistakes_get_one_line_and_exit_code_2(trained_run, latents, data_folder, sphere, codec, tmp_path, capsys):
    cases = error_cases(tmp_path, str(data_folder), str(trained_run), latents, sphere, codec)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for name, (arguments, message) in cases.items():
        assert main(arguments) == 2, name
        error = capsys.readouterr().err
        assert message in error, (name, error)
        assert error.count("\n") == 1, (name, error)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path != tmp_path} == before


def test_other_modes_of_the_same_mesh_are_refused(trained_run, latents, data_folder, tmp_path, capsys):
    from spectral_jax.basis import spectral

    turned = shutil.copytree(data_folder, tmp_path / "turned")
    basis = spectral.load(turned / "basis.npz")
    modes = np.array(basis.modes)
    modes[:, 5] *= -1
    spectral.save(turned / "basis.npz", spectral.SpectralBasis(modes, basis.eigenvalues, basis.faces))
    assert main(["encode", str(turned), str(tmp_path / "out.npz"), "--run", str(trained_run)]) == 2
    assert "have different modes (1 of 32 differ, the first is mode 5)" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()
