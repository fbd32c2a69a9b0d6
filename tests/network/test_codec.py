import jax
import numpy as np
import pytest
from rounding import network_rounding

import spectral_jax as sj
from spectral_jax.basis import spectral
from spectral_jax.data import dataset
from spectral_jax.network import codec as network_codec
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.codec import Codec
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import evaluate
from spectral_jax.runs.run import Run, RunConfig
from spectral_jax.training.config import TrainConfig

FUNCTIONS = [
    network_codec.encode_batch,
    network_codec.decode_batch,
    network_codec.encode_vertices_batch,
    network_codec.decode_vertices_batch,
    network_codec.reconstruct_batch,
]


def make_run(basis, tmp_path, seed=0):
    """An untrained network of 20 modes."""
    config = ModelConfig(modes=20, latent_size=3)
    params = init_params(config, jax.random.key(seed))
    return Run(tmp_path, SpectralAutoencoder(config), params, basis, RunConfig(config, TrainConfig(), ""), 0)


@pytest.fixture
def run(sphere_basis, tmp_path):
    return make_run(sphere_basis, tmp_path)


@pytest.fixture
def codec(run):
    return Codec.of(run)


def meshes(basis, count):
    """Vertices (count, 162, 3) and their first 20 coefficients."""
    vertices = np.random.default_rng(count).standard_normal((count, 162, 3)).astype(np.float32)
    return vertices, np.asarray(sj.project(spectral.truncate(basis, 20), vertices))


def clear():
    for function in FUNCTIONS:
        function.clear_cache()


def test_any_number_of_meshes_is_what_the_network_makes_of_them(run, codec, monkeypatch):
    monkeypatch.setattr(network_codec, "BATCH", 8)
    vertices, coefficients = meshes(run.basis, 21)
    apply = jax.jit(run.model.apply, static_argnames="method")
    latents = apply({"params": run.params}, coefficients, method="encode")
    decoded = apply({"params": run.params}, latents, method="decode")
    rebuilt = sj.reconstruct(run.basis, decoded)
    for count in (1, 3, 8, 9, 21):
        found = [
            (codec.encode(coefficients[:count]), latents),
            (codec.encode_vertices(vertices[:count]), latents),
            (codec.decode(latents[:count]), decoded),
            (codec.decode_vertices(latents[:count]), rebuilt),
            (codec.reconstruct(coefficients[:count]), rebuilt),
        ]
        for ours, expected in found:
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, expected[:count], atol=network_rounding(expected))


def test_no_meshes_at_all(codec):
    assert codec.encode(np.zeros((0, 20, 3), np.float32)).shape == (0, 3)
    assert codec.decode_vertices(iter([])).shape == (0, 162, 3)


def test_programs_are_few_and_serve_every_number_of_meshes_and_every_network_of_the_kind(
    run, codec, tmp_path, monkeypatch
):
    monkeypatch.setattr(network_codec, "BATCH", 16)
    clear()
    _, coefficients = meshes(run.basis, 50)
    for count in (16, 17, 25, 32, 33, 49, 50):
        codec.reconstruct(coefficients[:count])
    assert network_codec.reconstruct_batch._cache_size() == 1  # a rest is filled up to a whole batch
    for count in range(1, 51):
        codec.encode(coefficients[:count])
    assert network_codec.encode_batch._cache_size() == 5  # 1, 2, 4, 8, 16
    other = Codec.of(make_run(run.basis, tmp_path, seed=1))  # parameters are arguments
    assert np.abs(other.encode(coefficients) - codec.encode(coefficients)).max() > 0.01
    list(codec.stream(network_codec.encode_batch, (row for row in coefficients[:37])))
    assert network_codec.encode_batch._cache_size() == 5


def test_a_row_depends_on_no_other_row(run, codec):
    _, coefficients = meshes(run.basis, 70)
    latents, spoilt = codec.encode(coefficients), coefficients.copy()
    spoilt[[3, 69]] = np.nan
    others = np.setdiff1d(np.arange(70), [3, 69])
    found = codec.encode(spoilt)
    np.testing.assert_array_equal(found[others], latents[others])
    assert np.isnan(found[[3, 69]]).all()


def test_rows_come_from_arrays_files_and_iterators_alike(run, codec, tmp_path):
    _, coefficients = meshes(run.basis, 70)
    expected = codec.encode(coefficients)
    np.save(tmp_path / "c.npy", coefficients)
    on_disk = np.load(tmp_path / "c.npy", mmap_mode="r")
    for rows in (coefficients.astype(np.float64), jax.numpy.asarray(coefficients), on_disk, list(coefficients)):
        np.testing.assert_array_equal(codec.encode(rows), expected)
    np.testing.assert_array_equal(codec.encode(row for row in coefficients), expected)


def test_a_stream_reads_no_further_than_the_device_needs(run, codec, monkeypatch):
    monkeypatch.setattr(network_codec, "BATCH", 8)
    _, coefficients = meshes(run.basis, 100)
    read = 0

    def rows():
        nonlocal read
        for row in coefficients:
            read += 1
            yield row

    parts = []
    for part in codec.stream(network_codec.reconstruct_batch, rows()):
        parts.append(part)
        assert read - 8 * len(parts) <= 8 * network_codec.AHEAD
    assert [len(part) for part in parts] == 12 * [8] + [4]
    np.testing.assert_array_equal(np.concatenate(parts), codec.reconstruct(coefficients))


def test_every_product_is_at_full_precision(run, codec):
    vertices, coefficients = meshes(run.basis, 2)
    latents = np.zeros((2, 3), np.float32)
    for function, rows in zip(FUNCTIONS, [coefficients, latents, vertices, latents, coefficients], strict=True):
        text = str(jax.make_jaxpr(function)(codec, jax.numpy.asarray(rows)))
        products = text.count("dot_general[")
        assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products > 0


def test_reconstructions_have_the_errors_of_the_evaluation(data_folder, tmp_path):
    data = dataset.open_prepared(data_folder)
    train, test = (dataset.read_split(data, name) for name in ("train", "test"))
    run = make_run(data.basis, tmp_path)
    errors = 1000 * np.linalg.norm(Codec.of(run).reconstruct(test.coefficients[:, :20]) - test.vertices, axis=-1)
    summary = evaluate.evaluate_split(run, data.basis, train, test)
    assert errors.mean() == pytest.approx(summary.mean_mm, rel=1e-5)


def test_the_cotangent_basis_is_projected_under_its_mass(sphere, tmp_path):
    basis = spectral.compute(sphere.faces, 162, 20, sphere.vertices)
    run, vertices = make_run(basis, tmp_path), meshes(basis, 3)[0]
    codec = Codec.of(run)
    expected = codec.encode(np.asarray(sj.project(basis, vertices)))
    np.testing.assert_allclose(codec.encode_vertices(vertices), expected, atol=1e-5)


def test_the_functions_are_differentiable(run, codec):
    latent = np.array([0.3, -0.2, 0.5], np.float32)

    def shape(latent):
        return network_codec.decode_vertices_batch(codec, latent[None])[0]

    forward, reverse = jax.jacfwd(shape)(latent), jax.jacrev(shape)(latent)
    np.testing.assert_allclose(forward, reverse, atol=1e-5)
    step = 0.01 * np.eye(3, dtype=np.float32)
    around = codec.decode_vertices(latent + step) - codec.decode_vertices(latent - step)
    np.testing.assert_allclose(np.moveaxis(forward, -1, 0), around / 0.02, atol=1e-2)


def test_meshes_of_another_shape_are_refused(codec):
    with pytest.raises(ValueError, match=r"coefficients are \(batch, 20, 3\) for this network, not \(2, 32, 3\)"):
        codec.encode(np.zeros((2, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r"latents are \(batch, 3\) for this network, not \(2, 4\)"):
        codec.decode(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="meshes have 161 vertices, the basis has 162"):
        codec.encode_vertices(np.zeros((2, 161, 3), np.float32))
