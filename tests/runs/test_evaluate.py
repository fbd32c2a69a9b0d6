import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import Counted

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.data import dataset
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import evaluate
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
    from spectral_jax.cli import main

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
