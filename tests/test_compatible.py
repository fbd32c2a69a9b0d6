"""Datasets, runs and releases of every version so far, as they were written; tools/make_compatible.py made them."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from rounding import network_rounding, product_rounding

import spectral_jax
from spectral_jax import Codec
from spectral_jax.basis import spectral
from spectral_jax.cli import main
from spectral_jax.data.dataset import read_split
from spectral_jax.runs import bundle, run
from spectral_jax.runs.logs import read_log

VERSIONS = sorted((Path(__file__).parent / "compatible").iterdir())


@pytest.fixture(params=VERSIONS, ids=lambda folder: folder.name)
def kept(request):
    """A version's folder, and what came of it when it was written."""
    with np.load(request.param / "expected.npz") as expected:
        return request.param, dict(expected)


def test_this_version_is_kept():
    assert spectral_jax.__version__ in {folder.name for folder in VERSIONS}


def test_datasets_load(kept):
    folder, expected = kept
    data = spectral_jax.open_data(folder / "data")
    assert {name: len(records) for name, records in data.splits.items()} == {"train": 10, "test": 3}
    split = read_split(data, "test")
    np.testing.assert_array_equal(split.coefficients, expected["coefficients"])
    assert split.identities == ["id0", "id1", "id0"]
    found = spectral.project(data.basis, split.vertices)
    tolerance = product_rounding(data.basis.modes.T, split.vertices)
    np.testing.assert_allclose(found, split.coefficients, atol=tolerance)


def test_runs_load_and_give_the_same_latents(kept):
    folder, expected = kept
    loaded = run.load_run(folder / "run")
    assert (loaded.epoch, loaded.config.model.latent_size, loaded.config.train.clip_norm) == (2, 2, 2.0)
    latents, wanted = Codec.of(loaded).encode(expected["coefficients"]), expected["latents"]
    np.testing.assert_allclose(latents, wanted, atol=network_rounding(wanted))
    assert [line["epoch"] for line in read_log(folder / "run")] == [1, 2]


def test_runs_continue(kept, tmp_path):
    folder, expected = kept
    shutil.copytree(folder / "run", tmp_path / "run")
    command = ["train", "--run", str(tmp_path / "run"), "--resume", "--data", str(folder / "data"), "--epochs", "3"]
    assert main(command) == 0
    errors = [line["spatial_validation_loss"] for line in read_log(tmp_path / "run")]
    np.testing.assert_allclose(errors[:2], expected["validation_mm"])
    assert errors[2] < errors[1]


def test_releases_load(kept):
    folder, _ = kept
    loaded = bundle.load_release(folder / "release.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, run.load_run(folder / "run").params)
