"""Sweeps: many trainings at once, each as if it were alone."""

import json

import numpy as np
import pytest

import spectral_jax as sj
from spectral_jax import cli
from spectral_jax.commands.sweep import baselines, load
from spectral_jax.files.progress import SILENT
from spectral_jax.network.config import ModelConfig
from spectral_jax.training import loop, placement, sweep
from spectral_jax.training.config import TrainConfig

MODEL = ModelConfig(modes=32, latent_size=4)


@pytest.mark.parametrize("schedule", ["plateau", pytest.param("cosine", marks=pytest.mark.slow)])
def test_a_trial_is_a_training_of_its_own(fit_data, schedule):
    config = TrainConfig(epochs=5, batch_size=8, validate_every=2, schedule=schedule)
    trials = sweep.sweep(MODEL, config, fit_data, seeds=[1, 2], rates=[1e-3, 3e-4])
    assert [(trial.seed, trial.learning_rate) for trial in trials] == [(1, 1e-3), (1, 3e-4), (2, 1e-3), (2, 3e-4)]
    for trial in trials[1:3]:
        alone = TrainConfig(**(vars(config) | {"seed": trial.seed, "learning_rate": trial.learning_rate}))
        figures = [f for progress in loop.fit(MODEL, alone, fit_data) for f in progress.figures.values()]
        expected = [f["spatial_validation_loss"] for f in figures if "spatial_validation_loss" in f]
        assert len(expected) == 3
        np.testing.assert_allclose(trial.validations_mm, expected, rtol=1e-3)


def test_a_trial_that_diverges_leaves_the_others_alone(fit_data):
    config = TrainConfig(epochs=5, batch_size=8, validate_every=2)
    broken, good, *_ = sweep.sweep(MODEL, config, fit_data, seeds=[1, 2], rates=[1e18, 1e-3])
    beside, *_ = sweep.sweep(MODEL, config, fit_data, seeds=[1, 2], rates=[1e-3, 1e-4])
    assert not np.isfinite(broken.error_mm)
    assert good.error_mm == pytest.approx(beside.error_mm, rel=1e-4)


@pytest.mark.slow
def test_the_command_compares_sizes_with_pca_and_goes_on_where_it_was(data_folder, tmp_path, capsys):
    out = tmp_path / "sweep"
    options = ["--data", str(data_folder), "--out", str(out), "--epochs", "3", "--batch-size", "8", "--learning-rates"]
    options += ["1e-3", "3e-3", "--latent-sizes"]
    assert cli.main(["sweep", *options, "2"]) == 0
    first = json.loads((out / "sweep.json").read_text())
    assert cli.main(["sweep", *options, "2", "4"]) == 0
    both = json.loads((out / "sweep.json").read_text())
    assert both["networks"][0] == first["networks"][0]
    assert [(n["latent_size"], n["modes"], len(n["trials"])) for n in both["networks"]] == [(2, 32, 2), (4, 32, 2)]
    for network in both["networks"]:
        assert network["truncation_mm"] < 1.001 * network["pca_mm"]  # four numbers make these spheres
        assert network["error_mm"] == min(trial["validations_mm"][-1] for trial in network["trials"])
    assert both["networks"][1]["pca_mm"] < both["networks"][0]["pca_mm"]
    assert "PCA" in capsys.readouterr().out
    page = (out / "sweep.html").read_text()
    assert "latent size" in page
    assert 'src="http' not in page


def test_validation_meshes_that_stay_on_disk_give_the_same_baselines(data_folder, monkeypatch):
    data, models = sj.open_data(data_folder), [ModelConfig(modes=20, latent_size=size) for size in (2, 4)]
    expected = baselines(data, models, SILENT)
    monkeypatch.setattr(placement, "TEST_BYTES", 0)
    assert baselines(data, models, SILENT) == expected


def test_a_sweep_into_another_ones_folder_is_refused(data_folder, tmp_path, capsys):
    options = ["--data", str(data_folder), "--out", str(tmp_path / "sweep"), "--latent-sizes", "2", "--batch-size", "8"]
    shape = ["--pooled", "8", "4", "--channels", "3", "5", "--pooling", "before-activation"]
    assert cli.main(["sweep", *options, *shape, "--epochs", "2"]) == 0
    assert cli.main(["sweep", *options, *shape, "--epochs", "3"]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in ("sweep.json", "epochs 2", "not 3"))
    assert cli.main(["sweep", *options, *shape, "--epochs", "2"]) == 0
    assert cli.main(["sweep", *options, "--epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in ("pooled [8, 4]", "not [256, 64, 32, 16]"))


def test_a_record_of_an_earlier_version_is_of_the_published_network(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"epochs": 2, "networks": []}))
    published = {"epochs": 2, "network": "sae-lp", "channels": ModelConfig.channels}
    assert load(path, published)["channels"] == [16, 32, 64, 128]
    path.write_text(json.dumps({"epochs": 2, "network": "residual", "networks": []}))
    with pytest.raises(ValueError, match="network residual, not sae-lp"):
        load(path, published)
