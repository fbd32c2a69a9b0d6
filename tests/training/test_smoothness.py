"""The Laplacian loss: weights of modes are the Laplacian's quadratic form, and training takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectral_jax.basis import spectral
from spectral_jax.geometry import mesh
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import run, train
from spectral_jax.runs.logs import read_log
from spectral_jax.training import loop, smoothness
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.step import loss_and_gradient


def test_weights_by_eigenvalue_are_the_laplacian_loss_in_a_full_basis(sphere, sphere_basis):
    """Of two meshes: trace(D^T L D) for their difference D, which is the squared error of their edges."""
    other = sphere.vertices + np.random.default_rng(0).standard_normal(sphere.vertices.shape).astype(np.float32)
    difference = np.asarray(other - sphere.vertices, np.float64)
    squared = np.square(np.asarray(spectral.project(sphere_basis, other - sphere.vertices), np.float64)).sum(axis=1)
    eigenvalues = np.asarray(sphere_basis.eigenvalues)
    edges = mesh.edges(sphere.faces, len(other))
    laplacian = mesh.graph_laplacian(edges, len(other))
    expected = np.trace(difference.T @ (laplacian @ difference))
    assert np.sum(eigenvalues * squared) == pytest.approx(expected, rel=1e-5)
    assert np.square(difference[edges[:, 0]] - difference[edges[:, 1]]).sum() == pytest.approx(expected)
    model, config = ModelConfig(modes=sphere_basis.num_modes), TrainConfig(laplacian_weight=0.5)
    weights = smoothness.mode_weights(sphere_basis, model, config)
    positions = np.square(difference).sum()
    assert np.sum(weights * squared) == pytest.approx(positions + 0.5 * expected / eigenvalues.mean(), rel=1e-5)


def test_the_loss_of_sae_lp_is_that_of_its_decoded_meshes(sphere, sphere_basis):
    model = ModelConfig(modes=sphere_basis.num_modes, latent_size=4, pooled=(8,), channels=(4,))
    rows = np.random.default_rng(0).standard_normal((5, model.modes, 3))
    rows = jnp.asarray(rows, jnp.float32)
    params = init_params(model, jax.random.key(0))
    network = SpectralAutoencoder(model)
    fixed = smoothness.with_metric(None, sphere_basis, model, TrainConfig(laplacian_weight=2.0))
    loss, _ = jax.jit(lambda *given: loss_and_gradient(network, *given, constants=fixed))(params, rows)
    decoded = jax.jit(network.apply)({"params": params}, rows)
    off = np.asarray(spectral.reconstruct(sphere_basis, decoded - rows), np.float64)
    laplacian = mesh.graph_laplacian(mesh.edges(sphere.faces, off.shape[1]), off.shape[1])
    smooth = sum(np.trace(each.T @ (laplacian @ each)) for each in off) / np.mean(sphere_basis.eigenvalues)
    assert float(loss) == pytest.approx((np.square(off).sum() + 2 * smooth) / rows.size, rel=1e-4)


OPTIONS = {"latent_size": 2, "batch_size": 8, "learning_rate": 1e-2, "schedule": "plateau", "validate_every": 4}
SMALL = {"network": "residual", "hidden_size": 16, "directions": 16}


def read_train(data_folder):
    meshes = train.open_data(data_folder).records("train")
    return jnp.stack([meshes[i].coefficients for i in range(len(meshes))])


def test_sae_lp_trains_on_it(data_folder, tmp_path):
    """The loss of an epoch that changes nothing, at a tiny learning rate, is that of the network."""
    options = OPTIONS | {"learning_rate": 1e-12, "pooled": (8,), "channels": (4,)}
    trained = train.train(data_folder, tmp_path / "run", epochs=1, laplacian_weight=2.0, **options)
    coefficients = read_train(data_folder)
    off = np.asarray(jax.jit(trained.model.apply)(trained.variables, coefficients) - coefficients, np.float64)
    weights = smoothness.mode_weights(trained.require_basis(), trained.config.model, trained.config.train)
    (line,) = read_log(tmp_path / "run")
    assert line["spectral_train_loss"] == pytest.approx(np.mean(weights[:, None] * np.square(off)), rel=1e-4)


def test_training_with_it_lowers_the_errors_of_edges(data_folder, tmp_path):
    errors, coefficients = {}, read_train(data_folder)
    for weight in (0.0, 1e4):
        train.train(data_folder, tmp_path / f"{weight}", epochs=8, laplacian_weight=weight, **OPTIONS, **SMALL)
        trained = run.load_run(tmp_path / f"{weight}", "last")
        off = np.asarray(jax.jit(trained.model.apply)(trained.variables, coefficients) - coefficients)
        errors[weight] = np.sum(np.asarray(trained.require_basis().eigenvalues) * np.square(off).sum(axis=(0, 2)))
    assert errors[1e4] < 0.95 * errors[0.0]


def test_a_resumed_run_goes_on_with_it(data_folder, tmp_path):
    for name, epochs in (("whole", 8), ("halved", 4)):
        train.train(data_folder, tmp_path / name, epochs=epochs, laplacian_weight=3.0, **OPTIONS, **SMALL)
    train.train(data_folder, tmp_path / "halved", resume=True, epochs=8)
    ours, theirs = (run.load_run(tmp_path / name, "last").params for name in ("whole", "halved"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_what_cannot_be_weighted_is_refused(fit_data):
    with pytest.raises(ValueError, match="laplacian weight must be at least 0, not -1"):
        TrainConfig(laplacian_weight=-1.0)
    model, config = ModelConfig(modes=32, latent_size=4), TrainConfig(batch_size=8, laplacian_weight=2.0)
    with pytest.raises(ValueError, match=r"laplacian weight 2\.0 needs constants"):
        next(loop.fit(model, config, fit_data))
    with pytest.raises(ValueError, match="needs a basis"):
        smoothness.with_metric(None, None, model, config)
