"""The way of a notebook, `sj.train`, and runs without a basis."""

import shutil

import jax
import numpy as np
import pytest
from helpers import Counted

import spectral_jax as sj
from spectral_jax.cli import main
from spectral_jax.runs.logs import read_log
from spectral_jax.training import dispatch

OPTIONS = {"batch_size": 8, "latent_size": 4, "validate_every": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    return sj.train(data_folder, folder, epochs=2, **OPTIONS)


def test_train_returns_the_run_and_resumes_it(trained, data_folder, tmp_path):
    assert (trained.epoch, trained.config.model.latent_size, trained.config.model.modes) == (2, 4, 32)
    folder, progress = tmp_path / "run", Counted()
    shutil.copytree(trained.path, folder)
    again = sj.train(sj.open_data(data_folder), folder, resume=True, epochs=4, progress=progress)
    assert again.epoch == 4
    assert [line["epoch"] for line in read_log(folder)] == [1, 2, 3, 4]
    assert {2 * 6, 4 * 6} <= set(progress.done)  # six steps an epoch


def test_train_refuses_what_it_cannot_do(trained, data_folder, tmp_path):
    for options, said in (
        ({}, "exists already"),
        ({"resume": True, "latent_size": 5}, "--latent-size 4, not 5"),
        ({"resume": True, "epoch": 5}, "epoch; available: .*epochs"),
    ):
        with pytest.raises(ValueError, match=said):
            sj.train(data_folder, trained.path, **options)
    with pytest.raises(ValueError, match=r"config\.json"):
        sj.train(data_folder, tmp_path / "new", resume=True)


def test_a_run_stopped_by_the_clock_is_resumed_to_the_same_numbers(trained, data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "FIRST_STEPS", 1)
    stopped = sj.train(data_folder, tmp_path / "run", epochs=2, max_hours=1e-9, **OPTIONS)
    assert stopped.epoch == 0  # after the first dispatch, of one step
    seen = []
    again = sj.train(
        data_folder, tmp_path / "run", resume=True, max_hours=1.0, on_epoch=lambda *each: seen.append(each)
    )
    assert [epoch for epoch, _ in seen] == [1, 2]
    assert seen[1][1]["spatial_validation_loss"] > 0
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)


def test_training_ends_when_the_error_falls_no_more(trained, data_folder, tmp_path, capsys):
    folder = tmp_path / "run"
    options = {**OPTIONS, "validate_every": 1, "learning_rate": 1e-30}  # the parameters stay what they are
    stuck = sj.train(data_folder, folder, epochs=40, patience=3, **options)
    assert stuck.epoch < 40
    assert len(read_log(folder)) == stuck.epoch
    command = ["train", "--data", str(data_folder), "--run", str(folder), "--resume", "--patience", "3"]
    assert main(command) == 0
    assert f"of 40 epochs, saved; resume with: train.py --run {folder}" in capsys.readouterr().err.replace("\n", " ")
    with pytest.raises(ValueError, match="patience must be above 0, not 0"):
        sj.train(data_folder, tmp_path / "other", patience=0, **options)


def test_what_a_callback_raises_ends_training_after_a_checkpoint(trained, data_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "FIRST_STEPS", 1)

    def fails(epoch, figures):
        raise RuntimeError(f"no logger at epoch {epoch}")

    with pytest.raises(RuntimeError, match="epoch 1"):
        sj.train(data_folder, tmp_path / "run", epochs=2, on_epoch=fails, **OPTIONS)
    assert sj.load_run(tmp_path / "run").epoch >= 1
    again = sj.train(data_folder, tmp_path / "run", resume=True)
    jax.tree.map(np.testing.assert_array_equal, again.params, trained.params)


@pytest.fixture
def bare(trained, tmp_path):
    """A run without a basis, as a checkpoint is that was converted without data."""
    folder = tmp_path / "bare"
    shutil.copytree(trained.path, folder)
    (folder / "basis.npz").unlink()
    return folder


def test_a_run_without_a_basis_encodes_and_decodes_coefficients(bare, trained, data_folder):
    loaded = sj.load_run(bare)
    assert loaded.basis is None
    codec, whole = sj.Codec.of(loaded), sj.Codec.of(trained)
    coefficients = np.stack([example.coefficients for example in sj.open_data(data_folder).splits["test"]])
    latents = codec.encode(coefficients)
    np.testing.assert_array_equal(latents, whole.encode(coefficients))
    np.testing.assert_array_equal(codec.decode(latents), whole.decode(latents))
    vertices = whole.decode_vertices(latents)
    for method, rows in (("decode_vertices", latents), ("reconstruct", coefficients), ("encode_vertices", vertices)):
        with pytest.raises(ValueError, match=r"basis.*convert .* --data DATA"):
            getattr(codec, method)(rows)


def test_commands_that_need_the_basis_say_so_in_one_line(bare, data_folder, tmp_path, capsys):
    data, out = ["--data", str(data_folder)], tmp_path / "out.npz"
    for command in (
        ["eval", str(bare), *data],
        ["report", str(bare), *data],
        ["view", str(bare), *data],
        ["export", str(bare), str(out)],
        ["encode", str(data_folder), str(out), "--run", str(bare)],
        ["interpolate", str(bare), "--from", "0", "--to", "1", *data, "--out", str(tmp_path / "path")],
    ):
        assert main(command) == 2, command
        error = capsys.readouterr().err
        assert error.count("\n") == 1, (command, error)
        assert str(bare) in error, (command, error)
        assert "--data DATA" in error, (command, error)
