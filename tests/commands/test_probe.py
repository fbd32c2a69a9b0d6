"""`spectral-jax probe` and `swap` on a small run."""

import json

import numpy as np
import pytest
from sklearn.linear_model import RidgeClassifier

from spectral_jax.cli import main
from spectral_jax.data import dataset
from spectral_jax.geometry.mesh import read_mesh
from spectral_jax.network import probing
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
def test_the_demo_network_tells_people_apart_and_swaps_them(tmp_path, monkeypatch):
    """A body that is given the identity of another is taken for that one."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--network", "residual", "--mirror", "--run", "run"]) == 0
    assert main(["probe", "run", "--json", "scores.json"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["identity"]["score"] > 0.5 > 4 * scores["identity"]["chance"]
    assert main(["swap", "run", "--pose", "0", "--identity", "60", "--out", "mesh.ply"]) == 0
    assert np.isfinite(read_mesh(tmp_path / "mesh.ply").vertices).all()
    opened = open_run("run")
    train = dataset.read_split(opened.data, "train", opened.num_modes)
    latents, who = opened.codec.encode(train.coefficients), np.array(train.identities)
    separation = probing.separate(latents, train.identities)
    pose, identity = np.random.default_rng(0).integers(len(latents), size=(2, 200))
    swapped = probing.swap(separation, latents[pose], latents[identity])
    taken_for = RidgeClassifier().fit(latents, who).predict(swapped)
    assert (taken_for == who[identity]).mean() > 0.9
