import shutil

import numpy as np
import pytest
from helpers import TINY, Counted

import spectral_jax as sj
from spectral_jax.basis import spectral
from spectral_jax.data import open as opening
from spectral_jax.data import posed_bodies, writer


def test_open_data_opens_prepared_folders_and_pytorch_layouts(data_folder):
    assert sj.open_data(data_folder).metadata["source"] == {"recipe": "test"}
    assert sj.open_data(str(data_folder)).path == data_folder
    data = sj.open_data(str(TINY / "root" / "DEMO"))
    assert data.metadata["source"]["recipe"] == "upstream-2022"
    assert data.splits["test"][0].vertices.shape == (data.basis.num_vertices, 3)


def test_the_demo_is_built_where_it_is_missing(sphere, data_folder, tmp_path, monkeypatch):
    def build(recipe, progress):
        built.append(recipe.out)
        basis, splits = spectral.load(data_folder / "basis.npz"), sj.open_data(data_folder).splits
        return writer.write(recipe.out, basis, sphere, splits, {}, progress=progress)

    built, progress = [], Counted()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(posed_bodies, "demo", build)
    found = opening.open_data("demo", progress).splits["test"]
    assert len(progress.done) == 44 + 9
    again = sj.open_data("demo")
    assert built == [again.path] == [opening.DEMO_DATA]
    np.testing.assert_array_equal(again.splits["test"][0].coefficients, found[0].coefficients)


def test_a_folder_that_is_no_dataset_is_named(tmp_path):
    (tmp_path / "demo").mkdir()
    with pytest.raises(ValueError, match=r"demo: not a prepared dataset \(metadata\.json is missing\)"):
        sj.open_data(tmp_path / "demo")
    shutil.rmtree(tmp_path / "demo")
    with pytest.raises(ValueError, match="demo: no such data folder"):
        sj.open_data(tmp_path / "demo")
