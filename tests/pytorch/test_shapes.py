"""Networks of another shape than the published one: trained, and back from every file that can hold them."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import spectral_jax as sj
from spectral_jax.cli import main
from spectral_jax.files import torch_file
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import bundle, run

SHAPES = {
    "lengths": {"pooled": (48, 12, 20, 6)},
    "channels": {"channels": (4, 6, 5, 8)},
    "fewer layers, pooled first": {"pooled": (20, 8), "channels": (6, 8), "pooling": "before-activation"},
    "more layers, SiLU": {"pooled": (24, 20, 16, 10, 6), "channels": (4, 4, 6, 6, 8), "activation": "SiLU"},
}


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def trained(shape, data_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "run"
    options = [part for name, value in shape.items() for part in (f"--{name}", *np.ravel(value).astype(str))]
    options += ["--epochs", "2", "--latent-size", "4", "--batch-size", "8", "--validate-every", "1"]
    assert main(["train", "--data", str(data_folder), "--run", str(folder), *options, "--pictures", "0"]) == 0
    return sj.load_run(folder)


def assert_same(ours, theirs):
    assert ours.config.model == theirs.config.model
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert jax.tree.structure(ours.params) == jax.tree.structure(theirs.params)


def test_it_trains_and_its_folder_remembers_the_shape(shape, trained, data_folder):
    assert trained.config.model == ModelConfig(32, 4, **shape)
    log = [json.loads(line) for line in (trained.path / "log.jsonl").read_text().splitlines()]
    errors = [line["spatial_validation_loss"] for line in log if "spatial_validation_loss" in line]
    assert errors[-1] < errors[0]
    assert main(["train", "--run", str(trained.path), "--resume", "--data", str(data_folder)]) == 0


def test_it_returns_from_a_release(trained, data_folder, tmp_path):
    bundle.save_release(tmp_path / "release.npz", trained)
    bundle.import_release(tmp_path / "release.npz", tmp_path / "run", trained.basis)
    assert_same(sj.load_run(tmp_path / "run"), trained)


def test_it_returns_from_a_checkpoint_for_pytorch(shape, trained, tmp_path, capsys):
    target = tmp_path / "job" / "last.ckpt"
    assert main(["convert", str(trained.path), str(target)]) == 0
    error = capsys.readouterr().err
    for name, value in shape.items():
        assert f"{name} {' '.join(np.ravel(value).astype(str))}" in error.replace("\n", " ")
    assert main(["convert", str(target), str(tmp_path / "back")]) == 0
    assert_same(sj.load_run(tmp_path / "back"), trained)


def test_what_weights_do_not_tell_can_be_said(shape, trained, tmp_path, capsys):
    target, config = tmp_path / "job" / "last.ckpt", trained.config.model
    assert main(["convert", str(trained.path), str(target)]) == 0
    target.with_name("infos.json").unlink()
    assert main(["convert", str(target), str(tmp_path / "assumed")]) == 0
    printed = capsys.readouterr().out
    assert "activation ELU: assumed" in printed
    assert "pooling after-activation: assumed" in printed
    published = dataclasses.replace(config, pooling="after-activation", activation="ELU")
    assert run.load_config(tmp_path / "assumed").model == published
    said = ["--pooling", config.pooling, "--activation", config.activation]
    assert main(["convert", str(target), str(tmp_path / "said"), *said]) == 0
    assert "assumed" not in capsys.readouterr().out
    assert_same(sj.load_run(tmp_path / "said"), trained)


@pytest.mark.needs("torch")
def test_it_is_the_network_of_plain_pytorch(shape, trained, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    command = ["convert", str(trained.path), str(tmp_path / "job" / "last.ckpt"), "--verify", "--meshes", "4"]
    assert main([*command, "--json", str(figures)]) == 0
    rows = json.loads(figures.read_text())["rows"]
    exact = [row for row in rows if row["dtype"] == "float64"]
    assert max(row["max_rel"] for row in exact) <= 1e-10
    layers = [row["quantity"] for row in exact if "layer" in row["quantity"]]
    assert len(layers) == 2 * len(trained.config.model.channels)


def test_options_go_with_what_needs_them(trained, tmp_path, capsys):
    assert main(["convert", str(trained.path), str(tmp_path / "last.ckpt"), "--pooling", "after-activation"]) == 2
    assert "--pooling go with a checkpoint" in capsys.readouterr().err


def test_a_layer_of_which_only_a_part_is_there_is_named(trained, tmp_path, capsys):
    target, config = tmp_path / "job" / "last.ckpt", trained.config.model
    assert main(["convert", str(trained.path), str(target)]) == 0
    weights, layers = dict(torch_file.load(target)["state_dict"]), len(config.channels)
    weights[f"downsampling_mats.{layers}"] = np.zeros((config.pooled[-1], 3), np.float32)
    torch_file.save(tmp_path / "more.pth", weights)
    assert main(["convert", str(tmp_path / "more.pth"), str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.replace("\n", " ")
    for name in ("encoder_features", "decoder_features"):
        assert f"{name}.{2 * layers}.weight" in error
    assert f"upsampling_mats.{layers}" in error
