"""`spectral-jax probe` and `swap` on a small run."""

import json

import numpy as np
import pytest

from spectral_jax.cli import main
from spectral_jax.data import dataset
from spectral_jax.geometry.mesh import read_mesh
from spectral_jax.runs.opened import open_run


def test_labels_of_a_dataset_and_of_a_file_are_probed(trained_run, data_folder, tmp_path, capsys):
    coefficients = dataset.read_split(dataset.open_prepared(data_folder), "train").coefficients
    np.savez(tmp_path / "labels.npz", low=coefficients[:, :3, 0], kind=np.array(["a", "b"] * 22))
    words = ["probe", str(trained_run), "--json", str(tmp_path / "scores.json"), "--labels"]
    assert main([*words, str(tmp_path / "labels.npz")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["low"]["score"] > 0.5 > scores["low"]["chance"]
    assert scores["kind"]["chance"] == 0.5
    printed = capsys.readouterr().out
    assert "44 meshes" in printed
    assert "the same for all meshes" in printed
    np.savez(tmp_path / "few.npz", low=np.zeros(3))
    assert main([*words, str(tmp_path / "few.npz")]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in ("few.npz", "low", "(3,)", "44 meshes"))


def test_without_several_identities_there_is_nothing_to_swap(trained_run, tmp_path, capsys):
    words = ["swap", str(trained_run), "--pose", "0", "--identity", "1", "--out", str(tmp_path / "mesh.ply")]
    assert main(words) == 2
    assert "44 meshes of 1 identities" in capsys.readouterr().err
    assert not (tmp_path / "mesh.ply").exists()


@pytest.mark.slow
def test_the_demo_network_knows_something_of_people(tmp_path, monkeypatch):
    """Its 16 numbers hold poses above all, so identity is found more often than by chance, and no more is owed."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--network", "residual", "--mirror", "--run", "run"]) == 0
    assert main(["probe", "run", "--json", "scores.json"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["identity"]["score"] > 1.5 * scores["identity"]["chance"]
    assert main(["swap", "run", "--pose", "0", "--identity", "400", "--out", "mesh.ply"]) == 0
    swapped, pose = read_mesh(tmp_path / "mesh.ply").vertices, open_run("run").data.splits["test"][0].vertices
    assert np.linalg.norm(swapped - pose, axis=1).mean() < 0.1
