"""Coefficients that stay on disk are those that are read whole, and their mirror images those of mirrored vertices."""

import shutil

import numpy as np
import pytest
from helpers import write_2026

import spectral_jax as sj
from spectral_jax.basis import mirror
from spectral_jax.data import coefficients, dataset
from spectral_jax.data.coefficients import LazyCoefficients, LazySplit, LazyVertices, MirroredCoefficients
from spectral_jax.network import principal
from spectral_jax.network.config import ModelConfig
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.placement import read_fit_data


@pytest.fixture(scope="module", params=["prepared", "2026"])
def data(request, data_folder, tmp_path_factory):
    prepared = sj.open_data(data_folder)
    if request.param == "prepared":
        return prepared
    return sj.open_data(write_2026(tmp_path_factory.mktemp("published"), prepared))


@pytest.fixture(scope="module")
def whole(data):
    return dataset.read_split(data, "train").coefficients


def test_any_index_is_that_of_the_array(data, whole):
    lazy = LazyCoefficients(data, "train", 20)
    assert lazy.shape == (len(whole), 20, 3)
    for rows in (slice(None), slice(3, 9), slice(40, 400), slice(0, 0), np.array([5, 0, 5, 43])):
        np.testing.assert_array_equal(lazy[rows], whole[rows, :20])
    np.testing.assert_array_equal(coefficients.read(lazy, range(4, 40)), whole[4:40, :20])


def test_a_split_on_disk_is_the_one_in_memory(data):
    lazy, held = LazySplit(data, "test", 20), dataset.read_split(data, "test")
    assert lazy.identities == held.identities
    assert lazy.vertices is not None
    assert held.vertices is not None
    for rows in (slice(2, 100), slice(0, 0), np.array([8, 0])):
        np.testing.assert_array_equal(lazy.vertices[rows], held.vertices[rows])
        np.testing.assert_array_equal(lazy.coefficients[rows], held.coefficients[rows, :20])
    for array, expected in zip(lazy.read(slice(2, 6)), (held.coefficients[2:6, :20], held.vertices[2:6]), strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.ctypes.data % 64 == 0  # JAX takes it without a copy
    np.testing.assert_array_equal(coefficients.truncate(lazy.coefficients, 5)[:], held.coefficients[:, :5])
    assert LazySplit(data, "train", 20).vertices is None
    with pytest.raises(ValueError, match="mesh 3 of the train split has no vertices"):
        LazyVertices(data, "train")[3:4]


def test_principal_components_need_no_array(data, whole):
    lazy, held = principal.fit(LazyCoefficients(data, "train", 32), 4), principal.fit(whole, 4)
    for found, expected in zip(lazy, held, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_mesh_that_is_not_finite_is_named(data_folder, tmp_path, monkeypatch):
    data = sj.open_data(data_folder)
    monkeypatch.setattr(dataset.tf_example, "find_bytes", lambda *_: np.full(32 * 3, np.nan, np.float32).tobytes())
    with pytest.raises(ValueError, match=r"mesh 2 of the train split \(002\.ply\) has values that are not finite"):
        LazyCoefficients(data, "train", 32)[2:5]


def test_damaged_records_are_named(data_folder, tmp_path):
    shutil.copytree(data_folder, tmp_path / "data")
    data = sj.open_data(tmp_path / "data")
    (file,) = (tmp_path / "data").glob("*train*record*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'data'}: "):
        coefficients.read(LazyCoefficients(data, "train", 32), range(44))


def test_mirror_images_follow_their_meshes(data, whole):
    """The sphere is symmetric, and its bumps are not."""
    rows = coefficients.train_coefficients(data, 32, mirrored=True)
    assert isinstance(rows, MirroredCoefficients)
    everything = rows[:]
    np.testing.assert_array_equal(everything[::2], whole)
    np.testing.assert_array_equal(rows[5:9], everything[5:9])
    np.testing.assert_array_equal(rows[np.array([8, 3])], everything[[8, 3]])
    reflection = coefficients.find_reflection(LazyCoefficients(data, "train", 32), data)
    np.testing.assert_allclose(everything[1::2], mirror.reflect(reflection, whole), atol=1e-5)
    assert np.abs(everything[1::2] - whole).max() > 0.1


def test_training_takes_them(data):
    config = TrainConfig(mirror=True)
    for placement in ("device", "host", "stream"):
        fit_data = read_fit_data(data, ModelConfig(32, 4), config, placement)
        assert fit_data.num_meshes == 88
