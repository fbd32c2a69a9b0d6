import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from helpers import TINY, Counted, sphere_examples, write_2026

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.cli import main
from spectral_jax.data import dataset, pytorch_layouts, writer
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import evaluate
from spectral_jax.runs.opened import open_run
from spectral_jax.runs.run import Run, RunConfig
from spectral_jax.training.config import TrainConfig


@pytest.fixture
def splits(data_folder):
    data = dataset.open_prepared(data_folder)
    return data.basis, dataset.read_split(data, "train"), dataset.read_split(data, "test")


def untrained(basis, modes, tmp_path):
    config = ModelConfig(modes=modes, latent_size=3)
    params = init_params(config, jax.random.key(0))
    return Run(tmp_path, SpectralAutoencoder(config), params, basis, RunConfig(config, TrainConfig(), ""), 0)


def mean_error_mm(basis, coefficients, vertices):
    modes = np.asarray(basis.modes, np.float64)[:, : coefficients.shape[1]]
    return 1000 * np.linalg.norm(modes @ np.asarray(coefficients, np.float64) - vertices, axis=-1).mean()


@pytest.mark.parametrize("modes", [32, 20])
def test_summary_against_numpy(splits, tmp_path, modes):
    basis, train, test = splits
    run = untrained(basis, modes, tmp_path)
    summary = evaluate.evaluate_split(run, basis, train, test)
    cut, wanted = train.coefficients[:, :modes], test.coefficients[:, :modes]

    decoded = jax.jit(run.model.apply)({"params": run.params}, wanted)
    assert summary.mean_mm == pytest.approx(mean_error_mm(basis, decoded, test.vertices), rel=1e-5)
    assert summary.min_mm <= summary.median_mm <= summary.max_mm
    assert summary.count == 9
    assert summary.truncation_mm == pytest.approx(mean_error_mm(basis, wanted, test.vertices), rel=1e-5)
    mean = cut.mean(axis=0)
    assert summary.mean_shape_mm == pytest.approx(
        mean_error_mm(basis, np.tile(mean, (9, 1, 1)), test.vertices), rel=1e-5
    )
    components = np.linalg.svd((cut - mean).reshape(44, -1), full_matrices=False)[2][:3]
    projected = ((wanted - mean).reshape(9, -1) @ components.T @ components).reshape(wanted.shape) + mean
    assert summary.pca_mm == pytest.approx(mean_error_mm(basis, projected, test.vertices), rel=1e-4)


def test_a_run_is_evaluated_in_one_line(data_folder, tmp_path, capsys):
    import spectral_jax as sj

    options = ["--epochs", "1", "--latent-size", "3", "--validate-every", "1"]
    assert main(["train", "--data", str(data_folder), "--run", str(tmp_path / "run"), *options]) == 0
    progress = Counted()
    summary = sj.evaluate(tmp_path / "run", str(data_folder), progress=progress)
    assert (summary.count, max(progress.done)) == (9, 44)
    run, data = sj.load_run(tmp_path / "run"), sj.open_data(data_folder)
    train, test = dataset.read_split(data, "train"), dataset.read_split(data, "test")
    expected = evaluate.evaluate_split(run, data.basis, train, test)
    assert summary == sj.evaluate(run, data) == sj.evaluate(str(tmp_path / "run")) == expected
    assert main(["eval", str(tmp_path / "run"), "--json", str(tmp_path / "new" / "errors.json")]) == 0
    assert json.loads((tmp_path / "new" / "errors.json").read_text()) == dataclasses.asdict(expected)
    assert main(["eval", str(tmp_path / "run"), "--measures", "--json", str(tmp_path / "errors.json")]) == 0
    record = json.loads((tmp_path / "errors.json").read_text())
    assert record["shape_models"]["pca"]["generalisation_mm"] == pytest.approx(expected.pca_mm, rel=1e-3)
    assert "specificity, mixture" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no split 'vald', .*train, test"):
        sj.evaluate(run, data, split="vald")


def test_a_run_without_a_dataset_needs_one(data_folder, tmp_path, splits):
    run = untrained(splits[0], 32, tmp_path)
    with pytest.raises(ValueError, match="names no dataset"):
        evaluate.evaluate(run)
    assert evaluate.evaluate(run, data_folder).count == 9


def test_another_basis_is_refused(splits, tmp_path):
    basis, train, test = splits
    flipped = SpectralBasis(-np.asarray(basis.modes), basis.eigenvalues, basis.faces)
    with pytest.raises(ValueError, match="different modes"):
        evaluate.evaluate_split(untrained(basis, 32, tmp_path), flipped, train, test)


def test_a_split_without_vertices_is_refused(splits, tmp_path):
    basis, train, _ = splits
    with pytest.raises(ValueError, match="no original vertices"):
        evaluate.evaluate_split(untrained(basis, 32, tmp_path), basis, train, train)


def test_identity_of_coefficients_leaves_the_truncation(splits):
    basis, _, test = splits
    errors = evaluate.spatial_errors_mm(np.asarray(basis.modes), test.coefficients, test.vertices)
    expected = 1000 * np.linalg.norm(spectral.reconstruct(basis, test.coefficients) - test.vertices, axis=-1).mean(
        axis=1
    )
    np.testing.assert_allclose(errors, expected, rtol=1e-5)


@pytest.mark.parametrize("layout", ["2022", "2026"])
def test_a_published_dataset_without_its_train_split(layout, tmp_path, capsys):
    from spectral_jax.cli import main

    if layout == "2022":
        root = shutil.copytree(TINY / "root", tmp_path / "root")
        train = [root / "DEMO" / "train.tar"]
    else:
        folder = write_2026(tmp_path / "root", pytorch_layouts.open_pytorch_layout(TINY / "root"))
        root, train = tmp_path / "root", list(folder.glob("train*"))
    run = tmp_path / "run"
    assert main(["convert", str(TINY / "last.ckpt"), str(run), "--data", str(root)]) == 0
    whole = evaluate.evaluate(run)
    for file in train:
        file.unlink()
    assert evaluate.evaluate(run) == dataclasses.replace(whole, mean_shape_mm=None, pca_mm=None)
    capsys.readouterr()
    assert main(["eval", str(run), "--json", str(tmp_path / "errors.json")]) == 0
    printed = capsys.readouterr()
    assert "PCA" not in printed.out
    assert f"{whole.mean_mm:.2f}" in printed.out
    assert "no train split, hence no mean shape and no PCA" in printed.err
    assert json.loads((tmp_path / "errors.json").read_text())["pca_mm"] is None
    for command in (["train", "--data", str(root), "--run", str(tmp_path / "no")], ["report", str(run)]):
        assert main(command) == 2
        assert "no split 'train', available: test" in capsys.readouterr().err


def test_baselines_are_those_of_the_train_split_that_the_run_was_trained_on(
    data_folder, sphere, sphere_basis, tmp_path, capsys
):
    from spectral_jax.cli import main

    basis, other = spectral.truncate(sphere_basis, 32), tmp_path / "other"
    splits = {
        name: list(sphere_examples(sphere, basis, 12, seed, name == "test"))
        for name, seed in (("train", 7), ("test", 8))
    }
    writer.write(other, basis, sphere, splits, {"recipe": "test"})
    run = tmp_path / "run"
    assert main(["train", "--data", str(data_folder), "--run", str(run), "--epochs", "1", "--latent-size", "3"]) == 0
    loaded = evaluate.open_run(run).run
    train = dataset.read_split(dataset.open_prepared(data_folder), "train")
    test = dataset.read_split(dataset.open_prepared(other), "test")
    capsys.readouterr()
    assert (
        main(["eval", str(run), "--data", str(data_folder), "--data", str(other), "--json", str(tmp_path / "e")]) == 0
    )
    printed = capsys.readouterr()
    found = json.loads((tmp_path / "e").read_text())
    assert list(found) == [str(data_folder), str(other)]
    assert found[str(data_folder)] == dataclasses.asdict(evaluate.evaluate(run))
    assert found[str(other)] == dataclasses.asdict(evaluate.evaluate_split(loaded, basis, train, test))
    assert "all runs on all datasets" in printed.out
    assert f"mean shape and PCA are those of the train split of {data_folder}" in printed.err.replace("\n", "")
    away = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, data=str(tmp_path / "away")))
    own = dataset.read_split(dataset.open_prepared(other), "train")
    assert evaluate.evaluate(away, other) == evaluate.evaluate_split(loaded, basis, own, test)


def test_errors_over_all_vertices_against_numpy(trained_run, data_folder, tmp_path, capsys):
    opened = open_run(trained_run)
    test = dataset.read_split(opened.data, "test", opened.num_modes)
    found = opened.codec.reconstruct(test.coefficients)
    errors = 1000 * np.linalg.norm(found.astype(np.float64) - test.vertices, axis=-1)
    regressor = np.random.default_rng(0).dirichlet(np.ones(opened.basis.num_vertices), 5)
    np.save(tmp_path / "joints.npy", regressor)
    json_file = tmp_path / "errors.json"
    words = ["eval", str(trained_run), "--vertex-errors", "--json", str(json_file), "--joints"]
    assert main([*words, str(tmp_path / "joints.npy")]) == 0
    (measured,) = json.loads(json_file.read_text())["vertex_errors"].values()
    assert measured["mean_mm"] == pytest.approx(errors.mean(), rel=1e-4)
    assert measured["std_mm"] == pytest.approx(errors.std(), rel=1e-3)
    lower = np.quantile(errors, 0.5, method="lower")  # of an even number of vertices
    assert measured["median_mm"] == pytest.approx(lower, abs=0.02)
    assert measured["aligned_mm"] <= measured["mean_mm"]
    joints = 1000 * np.linalg.norm(regressor @ (found - test.vertices), axis=-1)
    assert measured["joints_mm"] == pytest.approx(joints.mean(), rel=1e-3)
    assert f"{errors.mean():.2f}" in capsys.readouterr().out
    np.save(tmp_path / "joints.npy", regressor[:, :7])
    assert main([*words, str(tmp_path / "joints.npy")]) == 2
    error = capsys.readouterr().err
    assert "7 vertices" in error
    assert f"have {opened.basis.num_vertices}" in error
