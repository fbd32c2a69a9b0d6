import csv
import json
import re

import jax
import numpy as np
import pytest
from helpers import ROOT

from spectral_jax.basis import spectral
from spectral_jax.cli import main
from spectral_jax.data import dataset
from spectral_jax.geometry.mesh import Mesh, read_mesh, write_mesh
from spectral_jax.runs import run

DOCS = ROOT / "docs" / "howto" / "experiments.md"


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory):
    """A folder with runs/demo and data/demo, a small network on spheres."""
    home = tmp_path_factory.mktemp("home")
    (home / "data").mkdir()
    (home / "data" / "demo").symlink_to(data_folder)
    options = ["--epochs", "2", "--latent-size", "4", "--learning-rate", "1e-2", "--validate-every", "1"]
    assert main(["train", "--data", str(data_folder), "--run", str(home / "runs" / "demo"), *options]) == 0
    return home


def interpolate(trained, out, *options):
    return main(["interpolate", str(trained / "runs" / "demo"), "--out", str(out), *options])


@pytest.mark.parametrize("method", ["spatial", "latent", "spherical", "geodesic"])
def test_a_path_is_written_in_every_form(trained, tmp_path, capsys, method):
    assert interpolate(trained, tmp_path / "out", "--from", "2", "--to", "5", "--method", method, "--steps", "5") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"frames", "path.glb", "path.gif", "path.npz", "measures.json"}
    loaded = run.load_run(trained / "runs" / "demo")
    with np.load(tmp_path / "out" / "path.npz", allow_pickle=False) as file:
        coefficients, latents = file["coefficients"], file.get("latents")
    frames = sorted((tmp_path / "out" / "frames").iterdir())
    assert [path.name for path in frames] == [f"{i:03d}.ply" for i in range(5)]
    for frame, row in zip(frames, coefficients, strict=True):
        mesh = read_mesh(frame)
        np.testing.assert_allclose(mesh.vertices, spectral.reconstruct(loaded.basis, row), atol=1e-5)
        np.testing.assert_array_equal(mesh.faces, loaded.basis.faces)
    records = dataset.open_prepared(trained / "data" / "demo").splits["test"]
    ends = np.stack([records[2].coefficients, records[5].coefficients])
    if method == "spatial":
        np.testing.assert_allclose(coefficients[[0, -1]], ends, atol=1e-6)
    else:
        wanted = loaded.model.apply({"params": loaded.params}, jax.numpy.asarray(ends), method="encode")
        np.testing.assert_allclose(latents[[0, -1]], wanted, atol=1e-5)
    measures = json.loads((tmp_path / "out" / "measures.json").read_text())
    assert measures["method"] == method
    steps = np.diff(spectral.reconstruct(loaded.basis, coefficients), axis=0)
    assert measures["length_mm"] == pytest.approx(1000 * np.linalg.norm(steps, axis=-1).mean(axis=1).sum(), rel=1e-4)
    assert f"{method}, 2 to 5, 5 meshes" in capsys.readouterr().out


def test_a_mesh_file_is_an_end_like_any_other(trained, tmp_path, capsys):
    data = dataset.open_prepared(trained / "data" / "demo")
    example = data.splits["test"][3]
    write_mesh(tmp_path / "mine.obj", Mesh(example.vertices, np.asarray(data.basis.faces)))
    for name, end in (("index", "3"), ("file", str(tmp_path / "mine.obj"))):
        assert interpolate(trained, tmp_path / name, "--to", end, "--steps", "3", "--method", "spatial") == 0
    paths = [np.load(tmp_path / name / "path.npz")["coefficients"] for name in ("index", "file")]
    np.testing.assert_allclose(*paths, atol=1e-4)
    assert interpolate(trained, tmp_path / "large", "--to", str(tmp_path / "mine.obj"), "--max-file-bytes", "100") == 2
    assert "mine.obj: " in (error := capsys.readouterr().err)
    assert "the limit is 100; --max-file-bytes lifts it" in error


def test_extending_goes_beyond_the_ends(trained, tmp_path):
    assert interpolate(trained, tmp_path / "out", "--method", "spatial", "--extend", "0.5", "--steps", "5") == 0
    path = np.load(tmp_path / "out" / "path.npz")
    np.testing.assert_allclose(path["amounts"], [-0.5, 0, 0.5, 1, 1.5])
    first, second = (dataset.open_prepared(trained / "data" / "demo").splits["test"][i].coefficients for i in (0, 1))
    np.testing.assert_allclose(path["coefficients"][-1], 1.5 * second - 0.5 * first, atol=1e-5)


def test_methods_are_compared_on_the_same_pairs(trained, tmp_path, capsys):
    assert interpolate(trained, tmp_path / "out", "--compare", "5", "--steps", "4") == 0
    with (tmp_path / "out" / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    record = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert len(rows) == len(record["rows"]) == 24  # four methods on five random pairs, and on one far apart
    for i in range(0, 24, 4):
        assert [row["method"] for row in rows[i : i + 4]] == ["spatial", "latent", "spherical", "geodesic"]
        assert len({(row["from"], row["to"]) for row in rows[i : i + 4]}) == 1
        found = record["rows"][i + 3]
        assert found["energy"] <= found["straight_energy"]
    text = capsys.readouterr().out
    assert "5 random pairs" in text
    assert "the 1 farthest apart of 100 random pairs" in text
    assert re.search("spatial.*latent.*spherical.*geodesic", text)
    assert re.search(r"longest step.*±.*±.*±.*±", text)
    assert "…" not in text  # numbers that do not fit go on in the next line
    lengths = [float(row["length_mm"]) for row in rows if row["method"] == "spatial"]
    assert rows[-1]["pairs"] == "far"
    assert lengths[-1] == max(lengths)


def test_samples_filtered_and_mixed_meshes_are_written(trained, tmp_path, capsys):
    folder = str(trained / "runs" / "demo")
    assert main(["sample", folder, "--count", "3", "--out", str(tmp_path / "s"), "--format", "obj"]) == 0
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["000.obj", "001.obj", "002.obj", "samples.npz"]
    drawn = {}
    for density in ("gaussian", "mixture"):  # 44 latents of the train split allow a mixture of one part
        out = tmp_path / density
        assert main(["sample", folder, "--count", "3", "--out", str(out), "--density", density]) == 0
        with np.load(out / "samples.npz") as file:
            drawn[density] = file["latents"]
    with np.load(tmp_path / "s" / "samples.npz") as file:
        np.testing.assert_array_equal(file["latents"], drawn["mixture"])
    assert not np.array_equal(drawn["gaussian"], drawn["mixture"])
    assert main(["filter", folder, "1", "--modes", "8", "--out", str(tmp_path / "low.ply")]) == 0
    assert main(["mix", folder, "--low", "1", "--high", "4", "--cut", "8", "--out", str(tmp_path / "mix.ply")]) == 0
    assert main(["filter", folder, "1", "--modes", "4", "--out", str(tmp_path / "low.ply")]) == 2
    assert "low.ply exists already; --overwrite replaces it" in capsys.readouterr().err
    data = dataset.open_prepared(trained / "data" / "demo")
    first, second = (data.splits["test"][i].coefficients for i in (1, 4))
    low = np.where(np.arange(32)[:, None] < 8, first, 0)
    mixed = np.where(np.arange(32)[:, None] < 8, first, second)
    for name, wanted in (("low", low), ("mix", mixed)):
        found = read_mesh(tmp_path / f"{name}.ply").vertices
        np.testing.assert_allclose(found, spectral.reconstruct(data.basis, wanted.astype(np.float32)), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "2"], "--steps must be at least 3, not 2"),
        (["--extend", "-1"], "--extend must be at least 0, and 0 for a geodesic, not -1.0"),
        (["--extend", "0.5", "--method", "geodesic"], "0 for a geodesic, not 0.5"),
        (["--compare", "0"], "--compare must be at least 1, not 0"),
        (["--from", "99"], "no mesh 99 in split test (available: 0 to 8)"),
        (["--split", "vald"], "no split 'vald', available: train, test"),
        (["--to", "none.ply"], "none.ply: no such mesh file"),
    ],
)
def test_mistakes_are_named(trained, tmp_path, capsys, options, message):
    assert interpolate(trained, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_mesh_of_another_connectivity_is_refused(trained, tmp_path, capsys):
    import trimesh

    trimesh.creation.icosphere(subdivisions=1).export(tmp_path / "other.ply")
    assert interpolate(trained, tmp_path / "out", "--to", str(tmp_path / "other.ply")) == 2
    error = capsys.readouterr().err
    assert "other.ply has 42 vertices and connectivity" in error
    assert "has 162 vertices" in error


def test_a_folder_with_files_is_not_written_to_unasked(trained, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert interpolate(trained, tmp_path) == 2
    assert "is not empty; --overwrite replaces its files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_the_examples_of_the_documentation_run(trained, monkeypatch):
    monkeypatch.chdir(trained)
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) >= 7
    names = {}
    with jax.numpy_rank_promotion("allow"):  # readers write as NumPy lets them
        for block in blocks:
            exec(compile(block, str(DOCS), "exec"), names)
    assert names["found"].energy <= names["found"].straight_energy
    assert names["moves_mm"].shape == (162, 4)
    assert names["people"].shape == (4, 32, 3)
