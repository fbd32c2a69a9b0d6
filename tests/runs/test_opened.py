"""A run with its dataset: latents of some meshes of a split."""

import dataclasses

import numpy as np
import pytest

from spectral_jax.runs.opened import encode_some, open_run


def test_some_meshes_are_encoded_spread_evenly(trained_run):
    opened = open_run(trained_run)
    records = opened.data.records("train")
    indices, examples, latents = encode_some(opened, 5)
    assert indices == [0, 10, 21, 32, 43]
    assert [example.file for example in examples] == [records[i].file for i in indices]
    expected = opened.codec.encode(np.stack([records[i].coefficients for i in indices]))
    np.testing.assert_allclose(latents, expected, atol=1e-5)
    assert len(encode_some(opened, 100, "test").latents) == 9  # all there are
    with pytest.raises(ValueError, match="no split 'validation'"):
        encode_some(opened, 5, "validation")


def test_a_mesh_that_cannot_be_encoded_is_named(trained_run):
    opened = open_run(trained_run)
    records = [opened.data.records("train")[i] for i in range(3)]
    records[2] = records[2]._replace(coefficients=np.full_like(records[2].coefficients, np.nan))
    spoiled = dataclasses.replace(opened, data=dataclasses.replace(opened.data, splits={"train": records}))
    with pytest.raises(ValueError, match=r"mesh 2 of the train split \(.*\) has values that are not finite"):
        encode_some(spoiled)
