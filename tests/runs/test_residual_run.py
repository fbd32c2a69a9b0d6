"""Runs of the residual network: trained, resumed, exported and used like any other, and never worse than PCA."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from helpers import Stopping

import spectral_jax as sj
from spectral_jax.basis import mirror, spectral
from spectral_jax.cli import main
from spectral_jax.data import coefficients, writer
from spectral_jax.data.dataset import Example
from spectral_jax.network import networks
from spectral_jax.paths import interpolate
from spectral_jax.runs import bundle, checkpoint
from spectral_jax.runs.logs import read_log
from spectral_jax.runs.run import load_constants
from spectral_jax.training.placement import read_fit_data

SWEEP = ["--epochs", "2", "--latent-sizes", "3", "--batch-size", "8", "--validate-every", "1"]
OPTIONS = {"network": "residual", "latent_size": 3, "hidden_size": 32, "epochs": 40, "validate_every": 10}


@pytest.fixture(scope="module")
def spheres(sphere, sphere_basis, tmp_path_factory):
    """A prepared dataset of 400 train and 9 test spheres with 32 modes."""
    return write(tmp_path_factory.mktemp("data") / "spheres", sphere, sphere_basis, 400)


def write(folder, sphere, basis, count):
    kept = spectral.truncate(basis, 32)
    train, test = (twisted(sphere, kept, *which) for which in ((count, 1, False), (9, 2, True)))
    return writer.write(folder, kept, sphere, {"train": train, "test": test}, {"recipe": "test"})


def twisted(sphere, basis, count, seed, keep_vertices):
    """Spheres stretched and twisted about y: two numbers each, and a family that is not linear."""
    x, y, z = sphere.vertices.T
    for i, (stretch, twist) in enumerate(np.random.default_rng(seed).uniform((0.5, -2), (1.5, 2), (count, 2))):
        cos, sin = np.cos(twist * y), np.sin(twist * y)
        vertices = np.stack([stretch * cos * x - sin * z, y, stretch * sin * x + cos * z], 1).astype(np.float32)
        kept = vertices if keep_vertices else None
        yield Example(np.asarray(spectral.project(basis, vertices)), kept, f"id{seed}", "Spheres", f"{i}.ply", i, "")


@pytest.fixture(scope="module")
def trained(spheres, tmp_path_factory):
    return sj.train(spheres, tmp_path_factory.mktemp("runs") / "residual", **OPTIONS)


def test_the_recipe_is_its_own_and_the_error_below_pca(trained, spheres):
    assert (trained.config.train.schedule, trained.config.train.loss) == ("cosine", "distance")
    assert trained.config.model.directions == 96  # three for each mode
    summary = sj.evaluate(trained)
    assert summary.mean_mm < 0.9 * summary.pca_mm
    lines = read_log(trained.path)
    assert [line["epoch"] for line in lines if "spatial_validation_loss" in line] == [0, 10, 20, 30, 40]
    assert lines[0]["spatial_validation_loss"] == pytest.approx(summary.pca_mm, rel=1e-4)


@pytest.mark.parametrize("count", [2, 12])
def test_it_is_never_worse_than_pca(sphere, sphere_basis, tmp_path, count):
    """On meshes fewer than directions and batch, and with a learning rate that ruins it."""
    data = write(tmp_path / "few", sphere, sphere_basis, count)
    run = sj.train(data, tmp_path / "run", learning_rate=0.5, **OPTIONS)
    assert (run.config.model.directions, run.config.train.batch_size) == (count - 1, count)
    summary = sj.evaluate(run)
    assert summary.mean_mm <= summary.pca_mm * (1 + 1e-4)


def test_mirror_images_are_built_into_the_network(spheres, tmp_path):
    """A mesh and its mirror image have the same error, and what is decoded from them are mirror images."""
    folder = tmp_path / "run"
    sj.train(spheres, folder, progress=Stopping([False, True]), mirror=True, **OPTIONS)
    run = sj.train(spheres, folder, resume=True)
    assert run.config.model.symmetric
    data = sj.open_data(spheres)
    reflection = coefficients.find_reflection(coefficients.LazyCoefficients(data, "train", 32), data)
    whole = np.stack([example.coefficients for example in data.splits["test"]])
    codec, images = sj.Codec.of(run), np.asarray(mirror.reflect(reflection, whole))
    latents, mirrored = codec.encode(whole), codec.encode(images)
    np.testing.assert_allclose(np.abs(mirrored), np.abs(latents), atol=1e-3)
    decoded = np.asarray(mirror.reflect(reflection, codec.decode(latents)))
    inside = data.basis.eigenvalues < 0.999 * data.basis.eigenvalues[-1]  # the last ones may lack some of their group
    np.testing.assert_allclose(codec.decode(mirrored)[:, inside], decoded[:, inside], atol=1e-3 * np.abs(whole).max())
    rows = read_fit_data(data, run.config.model, run.config.train, constants=load_constants(folder, run.config.model))
    assert rows.num_meshes == 400  # mirror images would teach it nothing
    summary = sj.evaluate(run)
    assert summary.mean_mm < 0.9 * summary.pca_mm


def test_stopped_and_resumed_it_is_the_uninterrupted_run(trained, spheres, tmp_path):
    folder = tmp_path / "stopped"
    sj.train(spheres, folder, progress=Stopping([False, False, True]), **OPTIONS)
    assert sj.load_run(folder, "last").epoch < 40
    sj.train(spheres, folder, resume=True)
    for which in ("last", "best"):
        ours, whole = (sj.load_run(path, which) for path in (folder, trained.path))
        assert ours.epoch == whole.epoch
        jax.tree.map(np.testing.assert_array_equal, ours.params, whole.params)
    jax.tree.map(np.testing.assert_array_equal, ours.constants, whole.constants)


def test_the_best_checkpoint_is_what_is_loaded(trained):
    best = checkpoint.restore(trained.path / "best", trained.config.model, trained.config.train)
    assert sj.load_run(trained.path).epoch == best.epoch


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_release_holds_all_of_it(trained, spheres, tmp_path, suffix):
    file, folder = tmp_path / f"release{suffix}", tmp_path / "imported"
    bundle.save_release(file, trained)
    bundle.import_release(file, folder, sj.open_data(spheres).basis, str(spheres))
    coefficients = np.stack([example.coefficients for example in sj.open_data(spheres).splits["test"]])
    ours, theirs = (sj.Codec.of(sj.load_run(path)).reconstruct(coefficients) for path in (folder, trained.path))
    np.testing.assert_array_equal(ours, theirs)


def test_damaged_constants_are_named(trained, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(trained.path, folder)
    with np.load(folder / "constants.npz") as file:
        constants = dict(file)
    for changed, said in (
        ({**constants, "scales": constants["scales"][:5]}, r"scales is float32 \(5,\), not float32 \(96,\)"),
        ({**constants, "mean": np.full_like(constants["mean"], np.nan)}, "mean has 96 values that are not finite"),
        ({"mean": constants["mean"], "scales": constants["scales"]}, r"directions \(96, 32, 3\) is missing"),
    ):
        np.savez(folder / "constants.npz", **changed)
        with pytest.raises(ValueError, match=rf"constants\.npz: .*{said}"):
            sj.load_run(folder)
    (folder / "constants.npz").unlink()
    with pytest.raises(ValueError, match=r"constants\.npz .* is missing"):
        sj.load_run(folder)


def test_every_command_takes_it(trained, spheres, tmp_path, capsys):
    run, out = str(trained.path), str(tmp_path / "out")
    for command in (
        ["eval", run, "--json", f"{out}.json"],
        ["report", run, "--out", f"{out}.html"],
        ["encode", str(spheres), f"{out}-latents.npz", "--run", run],
        ["decode", f"{out}-latents.npz", f"{out}-meshes.npz", "--run", run],
        [
            "interpolate",
            run,
            "--from",
            "0",
            "--to",
            "1",
            "--method",
            "geodesic",
            "--steps",
            "5",
            "--out",
            f"{out}-path",
        ],
        ["sample", run, "--count", "3", "--out", f"{out}-samples"],
        ["export", run, f"{out}.npz"],
        ["import", f"{out}.npz", f"{out}-run", "--data", str(spheres)],
        ["sweep", "--network", "residual", "--data", str(spheres), "--out", f"{out}-sweep", *SWEEP],
    ):
        assert main(command) == 0, (command, capsys.readouterr().err)
    assert json.loads((tmp_path / "out.json").read_text())["mean_mm"] == pytest.approx(sj.evaluate(trained).mean_mm)
    capsys.readouterr()
    assert main(["convert", run, f"{out}.ckpt"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "residual" in error


def test_its_directions_give_the_vertices_that_its_modes_give(trained):
    codec, latents = sj.Codec.of(trained), np.random.default_rng(0).standard_normal((5, 3), np.float32)
    wanted = spectral.reconstruct(trained.basis, codec.decode(latents))
    size = 128 * np.finfo(np.float32).eps * np.abs(wanted).max()  # sums of 96 directions, or of 32 modes of them
    np.testing.assert_allclose(codec.decode_vertices(latents), wanted, atol=size)


def test_the_metric_of_scores_is_that_of_coefficients(trained, spheres):
    codec = sj.Codec.of(trained)
    coefficients = np.stack([example.coefficients for example in sj.open_data(spheres).splits["test"]])[:2]
    start, end = codec.encode(coefficients)
    decode = functools.partial(trained.model.apply, trained.variables, method="decode")
    whole = jax.jit(lambda start, end: interpolate.geodesic(decode, start, end, 8))(start, end)
    found = interpolate.codec_geodesic(codec, start, end, 8)
    np.testing.assert_allclose(found.energy, whole.energy, rtol=1e-4)
    np.testing.assert_allclose(found.straight_energy, whole.straight_energy, rtol=1e-4)


def test_the_command_line_trains_it_with_its_recipe(spheres, tmp_path, capsys):
    folder = tmp_path / "run"
    command = ["train", "--data", str(spheres), "--run", str(folder), "--network", "residual"]
    assert main([*command, "--epochs", "3", "--validate-every", "1"]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert (config["model"]["network"], config["train"]["learning_rate"]) == ("residual", 2e-3)
    assert main([*command, "--epochs", "4", "--resume"]) == 0
    assert sj.load_run(folder, "last").epoch == 4
    assert main([*command, "--conv-size", "5", "--overwrite"]) == 2
    assert "residual has no conv size" in capsys.readouterr().err
    assert networks.build(sj.load_run(folder).config.model) == sj.load_run(folder).model


@pytest.mark.parametrize("network", ["residual", "sae-lp"])
def test_identities_held_out_choose_the_checkpoint_instead_of_the_test_split(
    sphere, sphere_basis, tmp_path, capsys, network
):
    kept = spectral.truncate(sphere_basis, 32)
    train = [mesh for seed in range(4) for mesh in twisted(sphere, kept, 20 + seed, seed, False)]
    data = writer.write(
        tmp_path / "data", kept, sphere, {"train": train, "test": twisted(sphere, kept, 9, 9, True)}, {"recipe": "test"}
    )
    options = {"network": network, "latent_size": 3, "epochs": 2, "validate_every": 1, "batch_size": 16}
    whole, held = (sj.train(data, tmp_path / str(n), holdout=n, **options) for n in (0, 2))
    assert [line["epoch"] for line in read_log(held.path)] == [line["epoch"] for line in read_log(whole.path)]
    assert read_log(held.path)[-1]["spatial_validation_loss"] != read_log(whole.path)[-1]["spatial_validation_loss"]
    held_out = coefficients.hold_out(sj.open_data(data), 2, 42)
    assert len(held_out.identities) == 2
    owners = [mesh.identity for mesh in train]
    assert {owners[i] for i in held_out.held} == set(held_out.identities)
    assert sorted([*held_out.held, *held_out.meshes]) == list(range(86))
    with pytest.raises(ValueError, match="4 identities to hold out, the train split has 4"):
        sj.train(data, tmp_path / "none", holdout=4, network=network)
    if network == "residual":  # of SAE-LP the newest checkpoint is evaluated
        assert main(["eval", str(tmp_path / "2")]) == 0
        assert "2 identities held out of the train split" in capsys.readouterr().err.replace("\n", " ")
