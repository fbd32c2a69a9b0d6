import csv

import numpy as np
import pytest
import trimesh

import spectral_jax as sj
from spectral_jax.cli import main
from spectral_jax.data import dataset
from spectral_jax.fitting import fit
from spectral_jax.geometry.mesh import read_mesh


@pytest.fixture
def quick(monkeypatch):
    """Fits of few points and rounds."""
    monkeypatch.setattr(fit, "COARSE", fit.COARSE._replace(points=128, modes=32, rounds=2))
    monkeypatch.setattr(fit, "FINE", fit.FINE._replace(points=256, rounds=3))
    monkeypatch.setattr(fit, "NUM_STARTS", 3)


@pytest.fixture
def scans(data_folder, tmp_path):
    """A point cloud in mm and a mesh of other connectivity in mm, of two test spheres."""
    data = dataset.open_prepared(data_folder)
    first, second = (1000 * data.splits["test"][i].vertices for i in range(2))
    trimesh.PointCloud(first).export(tmp_path / "first.ply")
    hull = trimesh.Trimesh(second, np.asarray(data.basis.faces), process=False).subdivide()
    hull.export(tmp_path / "second.obj")
    return [tmp_path / "first.ply", tmp_path / "second.obj"]


def run(run, scans, out, *options):
    return main(["fit", str(run), *map(str, scans), "--out", str(out), *options])


def test_scans_become_registered_meshes(trained_run, scans, tmp_path, quick, capsys):
    out = tmp_path / "fits"
    assert run(trained_run, scans, out, "--unit", "mm") == 0
    assert "first" in capsys.readouterr().out
    with (out / "errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["scan"] for row in rows] == ["first", "second"]
    loaded = sj.load_run(trained_run)
    for row in rows:
        found = read_mesh(out / f"{row['scan']}.ply")
        np.testing.assert_array_equal(found.faces, loaded.basis.faces)
        assert 900 < np.linalg.norm(found.vertices - found.vertices.mean(axis=0), axis=1).mean() < 1300  # in mm
        assert 0 < float(row["median_mm"]) <= float(row["percentile_95_mm"]) < 300  # of spheres of 1 m
        with np.load(out / f"{row['scan']}.npz", allow_pickle=False) as file:
            latent, rotation, translation, scale = (
                file[name] for name in ("latents", "rotation", "translation", "scale")
            )
        decoded = sj.Codec.of(loaded).decode_vertices(latent)[0]
        np.testing.assert_allclose(found.vertices, scale * decoded @ rotation.T + translation, atol=0.1)
        assert set(trimesh.load(out / f"{row['scan']}.glb").geometry) == {"geometry_0", "geometry_1"}
    assert run(trained_run, scans[:1], out, "--unit", "mm") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["decode", str(out / "first.npz"), str(tmp_path / "decoded.npy"), "--run", str(trained_run)]) == 0


def test_mistakes_are_named_before_anything_is_fitted(trained_run, scans, tmp_path, capsys):
    def refused(given, *options):
        assert run(trained_run, given, tmp_path / "fits", *options) == 2
        assert not (tmp_path / "fits").exists()
        return " ".join(capsys.readouterr().err.split())

    assert "first.ply" in (message := refused(scans))
    assert "--unit mm" in message
    assert "two scans are called first" in refused([scans[0], tmp_path / "first.obj"])
    assert "no such mesh file" in refused([tmp_path / "gone.ply"])
    (tmp_path / "marks.txt").write_text("162 0 0 0\n")
    marks = ["--unit", "mm", "--landmarks", str(tmp_path / "marks.txt")]
    assert "1 files of landmarks for 2 scans" in refused(scans, *marks)
    assert "marks.txt: vertex 162" in refused(scans[:1], *marks)


def test_ctrl_c_leaves_what_is_finished(trained_run, scans, tmp_path, quick, monkeypatch, capsys):
    from spectral_jax.runs import scans as runs

    fit_scan, calls = runs.fit_scan, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit_scan(*arguments, **options)

    monkeypatch.setattr(runs, "fit_scan", interrupted)
    assert run(trained_run, scans, tmp_path / "fits", "--unit", "mm") == 130
    assert "1 of 2 scans" in " ".join(capsys.readouterr().err.split())
    names = {path.name for path in (tmp_path / "fits").iterdir()}
    assert names == {"errors.csv", "first.glb", "first.npz", "first.ply"}
