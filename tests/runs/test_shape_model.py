"""Measures of shape models where they are known, and against plain loops."""

import jax
import numpy as np
import pytest
from helpers import Counted
from rounding import rounding

from spectral_jax.basis.spectral import SpectralBasis, truncate
from spectral_jax.data import coefficients, dataset
from spectral_jax.data.dataset import Split
from spectral_jax.network import codec as codecs
from spectral_jax.network import density, principal
from spectral_jax.network.autoencoder import SpectralAutoencoder, init_params
from spectral_jax.network.codec import Codec
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import shape_model

MODES = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 6)))[0].astype(np.float32)


def meshes(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 6, 3)).astype(np.float32)


def plane(count, seed):
    """Coefficients on one plane."""
    directions, offset = meshes(2, 5), meshes(1, 6)
    scores = np.random.default_rng(seed).standard_normal((count, 2)).astype(np.float32) * [3, 1]
    return (np.einsum("nc,cfd->nfd", scores, directions) + offset).astype(np.float32)


def test_two_components_hold_all_of_a_plane():
    train, test = plane(60, 0), plane(20, 1)
    fitted = principal.fit(train, 3)
    shares = shape_model.pca_compactness(fitted, shape_model.total_variance(train))
    assert 0.5 < shares[0] < 0.999
    assert shares[1] == pytest.approx(1, abs=1e-4)
    vertices = np.einsum("vf,nfc->nvc", MODES, test)
    mean, one, two = shape_model.pca_generalisation_mm(MODES, fitted, test, vertices, [0, 1, 2])
    assert mean > one > 100
    assert two < 1000 * 10 * rounding(10, 18)


def test_compactness_is_that_of_the_components_and_streams(monkeypatch):
    rows = meshes(50)
    fitted = principal.fit(rows, 4)
    reconstructed = np.asarray(principal.reconstruct(fitted, principal.project(fitted, rows)))
    share = shape_model.pca_compactness(fitted, shape_model.total_variance(rows))[3]
    assert shape_model.compactness(rows, [reconstructed]) == pytest.approx(share, rel=1e-4)
    monkeypatch.setattr(shape_model, "BLOCK", 7)
    batches = np.split(reconstructed, [3, 20, 44])
    assert shape_model.compactness(rows, iter(batches)) == pytest.approx(share, rel=1e-4)
    assert shape_model.compactness(rows, [np.tile(rows.mean(axis=0), (50, 1, 1))]) == pytest.approx(0, abs=1e-5)
    for wrong in (reconstructed[:49], np.concatenate([reconstructed, rows[:1]])):
        with pytest.raises(ValueError, match=f"{len(wrong)} reconstructions of 50 meshes"):
            shape_model.compactness(rows, [wrong])
    with pytest.raises(ValueError, match="at least 2 meshes, not 1"):
        shape_model.compactness(rows[:1], [rows[:1]])


def exact_mm(samples, train):
    """Specificity by comparing every pair."""
    apart = np.einsum("vf,stfc->stvc", MODES.astype(np.float64), samples[:, None] - train[None].astype(np.float64))
    return 1000 * np.linalg.norm(apart, axis=-1).mean(axis=-1).min(axis=1).mean()


def test_specificity_is_that_of_every_pair_in_any_blocks(monkeypatch):
    samples, train = meshes(9, 1), meshes(70, 2)
    exact = exact_mm(samples, train)
    assert shape_model.specificity_mm(MODES, samples, train, candidates=70) == pytest.approx(exact, rel=1e-5)
    few = shape_model.specificity_mm(MODES, samples, train, candidates=3)
    assert exact * (1 - 1e-5) <= few < 1.1 * exact
    monkeypatch.setattr(shape_model, "BLOCK", 11)
    monkeypatch.setattr(shape_model, "PAIRS", 5)
    monkeypatch.setattr(shape_model, "HELD_BYTES", 4 * MODES[:, :3].nbytes)  # four random meshes
    progress = Counted()
    blocks = shape_model.specificity_mm(MODES, samples, train, candidates=3, progress=progress)
    assert blocks == pytest.approx(few, rel=1e-5)
    assert (max(progress.done), progress.done[-1]) == (7, 1)  # blocks of meshes, then of pairs: 3, 3 and 1


def test_train_meshes_are_specific_and_bad_numbers_refused():
    train = meshes(30)
    assert shape_model.specificity_mm(MODES, train[::4], train) == 0
    for samples, rows, candidates in ((train[:0], train, 1), (train, train[:0], 1), (train, train, 0)):
        with pytest.raises(ValueError, match="specificity needs"):
            shape_model.specificity_mm(MODES, samples, rows, candidates)


def test_a_mixture_is_more_specific_where_meshes_form_clusters():
    train = meshes(800) / 100
    train[::2, 0, 0] += 50
    fitted = principal.fit(train, 2)
    scores = np.asarray(principal.project(fitted, train))
    found = []
    for fit in (density.fit_gaussian, density.fit_mixture):
        drawn = density.sample(jax.random.key(0), fit(scores), 200)
        found.append(shape_model.specificity_mm(MODES, principal.reconstruct(fitted, drawn), train))
    assert found[1] < 0.1 * found[0]


def test_a_network_and_pca_are_measured_alike():
    config = ModelConfig(modes=6, latent_size=4)
    model = SpectralAutoencoder(config)
    basis = SpectralBasis(MODES, np.arange(6.0), np.array([[0, 1, 2]], np.int32))
    codec = Codec(model, init_params(config, jax.random.key(0)), basis)
    train, test = plane(60, 0), plane(20, 1)
    vertices = np.einsum("vf,nfc->nvc", MODES, test)
    names = ["seen"] * 60
    split = Split(test, vertices, ["new"] * 15 + ["seen"] * 5)
    found = shape_model.measure(codec, Split(train, None, names), split, sizes=(1, 2, 400), count=20)
    assert found.sizes == [1, 2, 4]
    assert found.pca.compactness == found.pca_compactness[2] == pytest.approx(1, abs=1e-4)
    assert found.pca.generalisation_mm == found.pca_generalisation_mm[2]
    one = principal.fit(train, 1)
    expected = shape_model.pca_generalisation_mm(MODES, one, test[:15], vertices[:15], [1])
    assert found.pca_generalisation_mm[0] == pytest.approx(expected[0], rel=1e-3)
    decoded = codec.reconstruct(test[:15])
    error = 1000 * np.linalg.norm(decoded - vertices[:15], axis=-1).mean()
    assert found.network.generalisation_mm == pytest.approx(error, rel=1e-4)
    assert found.network.compactness == pytest.approx(
        shape_model.compactness(train, [codec.decode(codec.encode(train))]), abs=1e-5
    )
    with pytest.raises(ValueError, match=r"all 20 meshes of this split are of its 1$"):
        shape_model.measure(codec, Split(train, None, names), split._replace(identities=["seen"] * 20))
    with pytest.raises(ValueError, match="no original vertices"):
        shape_model.measure(codec, Split(train, None, names), split._replace(vertices=None))


def test_a_train_split_on_disk_is_read_in_blocks(data_folder, monkeypatch):
    data = dataset.open_prepared(data_folder)
    config = ModelConfig(modes=20, latent_size=3)
    codec = Codec(SpectralAutoencoder(config), init_params(config, jax.random.key(0)), truncate(data.basis, 20))
    for module, name, value in ((shape_model, "BLOCK", 8), (codecs, "BATCH", 8), (shape_model, "PAIRS", 8)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(principal, "BLOCK", 8)
    monkeypatch.setattr(principal, "SAMPLE_BYTES", 0)  # at least 4 meshes a component
    read, most = coefficients._read, []
    monkeypatch.setattr(coefficients, "_read", lambda *args, **kw: most.append(len(args[2])) or read(*args, **kw))
    train, test = (dataset.read_split(data, name) for name in ("train", "test"))
    held = shape_model.measure(codec, train, test, [1, 2], count=6)
    assert not most
    lazy = shape_model.measure(codec, coefficients.LazySplit(data, "train", 20), test, [1, 2], count=6)
    assert lazy == held
    assert max(most) == 4 * 3
