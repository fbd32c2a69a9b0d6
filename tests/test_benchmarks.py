"""That the benchmarks count right and run; no test is a stopwatch."""

import json
import os
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest
from helpers import ROOT

from spectral_jax.data.dataset import read_split
from spectral_jax.data.pytorch_layouts import open_pytorch_layout
from spectral_jax.network.autoencoder import init_params
from spectral_jax.network.config import ModelConfig

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize(
    "config", [ModelConfig(), ModelConfig(modes=1024, latent_size=8), ModelConfig(modes=512, conv_size=5)]
)
def test_all_parameters_are_counted(config):
    import work

    leaves = jax.tree.leaves(init_params(config, jax.random.key(0)))
    assert work.num_parameters(config) == sum(leaf.size for leaf in leaves)


def test_the_flops_of_the_published_network():
    import work

    config = ModelConfig()
    assert work.num_parameters(config) == 2_268_579
    assert work.forward_flops(config) == pytest.approx(85e6, rel=0.01)
    assert work.step_flops(config, 1) == pytest.approx(250e6, rel=0.02)
    assert work.step_flops(config, 64) == 64 * work.step_flops(config, 1)


def test_the_bytes_of_a_step():
    """Without meshes: ten passes over the parameters; the widest activations alone pass 17 times."""
    import work

    config, widest = ModelConfig(), 16 * 4096
    assert work.step_bytes(config, 0) == 10 * 4 * work.num_parameters(config)
    a_mesh = work.step_bytes(config, 1) - work.step_bytes(config, 0)
    assert 17 * widest * 4 < a_mesh < 1.5 * 17 * widest * 4
    assert work.step_bytes(config, 3, 2) == 3 * a_mesh / 2 + 8 * 4 * work.num_parameters(config) + 4 * 2_268_579


def test_sides_take_turns_and_only_an_optional_one_may_fail():
    import machine

    calls = []

    def fails():
        raise RuntimeError("no compiler\nwas found")

    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b"), "c": fails}
    timings = machine.alternate(sides, 3, optional={"c"})
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert timings["a"].median >= 0
    assert timings["c"] == (None, None, "not available: RuntimeError: no compiler")
    with pytest.raises(RuntimeError, match="no compiler"):
        machine.alternate(sides, 1)


@pytest.mark.needs("torch")
def test_a_dataset_of_the_2022_layout_is_written(tmp_path):
    import published

    coefficients = np.random.default_rng(0).standard_normal((20, 32, 3), np.float32)
    folder = published.write(tmp_path, coefficients, num_test=2)
    with tarfile.open(folder / "train.tar") as tar:
        assert tar.getnames()[:2] == ["000000.infos.json", "000000.coeffs.pth"]
    np.testing.assert_array_equal(read_split(open_pytorch_layout(folder), "train").coefficients, coefficients)
    batches = list(published.loader(folder / "train.tar", 8, 0))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    meshes = {mesh.numpy().tobytes() for batch in batches for mesh in batch}
    assert meshes == {mesh.tobytes() for mesh in coefficients}


@pytest.mark.slow
def test_a_cell_of_the_training_step(tmp_path):
    command = [sys.executable, BENCHMARKS / "train_step.py", "--freq", "64", "--batch", "4", "--rounds", "1", "--eager"]
    command += ["--json", tmp_path / "cell.json"]
    paths = os.pathsep.join([str(BENCHMARKS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=600
    )
    assert "eager/ours" in done.stdout
    cell = json.loads((tmp_path / "cell.json").read_text())
    assert {"jax", "torch", "python", "device", "date"} <= set(cell["machine"])
    assert (cell["freq"], cell["batch"], cell["precision"]) == (64, 4, "default")
    for key in ("ours_ms", "ours_first_call_s", "torch_eager_ms", "ratio_torch_eager", "roofline_fraction"):
        assert cell[key] > 0, key
    assert list(cell)[-1] == "ratio_torch_eager"
