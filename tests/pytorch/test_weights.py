"""Weights are found wherever a checkpoint holds them; what does not fit is named."""

import numpy as np
import pytest
from helpers import TINY

from spectral_jax.cli import main
from spectral_jax.files import torch_file
from spectral_jax.files.torch_file import Record
from spectral_jax.pytorch.weights import find_weights
from spectral_jax.runs import run


@pytest.fixture(scope="module")
def saved():
    return torch_file.load(TINY / "last.ckpt")


@pytest.fixture(scope="module")
def weights(saved):
    return saved["state_dict"]


def prefixed(weights, prefix):
    return {prefix + name: array for name, array in weights.items()}


def compiled_parts(weights):
    return {name.replace("features.", "features._orig_mod."): array for name, array in weights.items()}


WRAPPED = {
    "at the top": lambda w: w,
    "with numbers beside it": lambda w: {"epoch": 3, "rate": 0.1, **w},
    "under a key": lambda w: {"model_state_dict": w, "epoch": 12},
    "under keys": lambda w: {"a": [{"b": w}], "c": {"last_conv.bias": np.zeros(3)}},
    "in an object": lambda w: {"model": Record("nets.Net", (), {"state": w})},
    "compiled": lambda w: prefixed(w, "_orig_mod."),
    "prefixes in prefixes": lambda w: {"state_dict": prefixed(w, "net.model._orig_mod.module.")},
    "compiled in parts": lambda w: {"state_dict": prefixed(compiled_parts(w), "model.")},
    "the same twice": lambda w: {"state_dict": w, "again": w},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_weights_are_found(name, weights):
    found, _, _ = find_weights(WRAPPED[name](weights))
    assert list(found) == list(weights)
    assert all(found[key] is weights[key] for key in weights)


def test_what_is_left_out_of_names_is_said(weights):
    _, keys, lines = find_weights({"state_dict": prefixed(weights, "net._orig_mod.")})
    assert keys == ["state_dict"]
    assert any("net._orig_mod." in line for line in lines)
    assert find_weights({"state_dict": weights})[2] == []


def test_one_of_several_sets_is_chosen_by_its_label(weights):
    average = {name: array + np.float32(1) for name, array in weights.items()}
    trees = {
        "ema": {"state_dict": weights, "ema": average},
        "state_dict.ema_model": {"state_dict": prefixed(weights, "model.") | prefixed(average, "ema_model.")},
    }
    for label, tree in trees.items():
        with pytest.raises(ValueError, match=f"2 sets .*{label}.*--weights"):
            find_weights(tree)
        np.testing.assert_array_equal(find_weights(tree, label)[0]["last_conv.bias"], average["last_conv.bias"])
        with pytest.raises(ValueError, match=f"'none'.*{label}"):
            find_weights(tree, "none")


def test_other_tensors_are_named_unless_ignored(weights):
    others = {"criterion.weight": np.ones(3), "n_averaged": np.array(7)}
    with pytest.raises(ValueError, match=r"criterion\.weight \(3,\), n_averaged \(\); .*--ignore 'criterion\.\*'"):
        find_weights({"state_dict": weights | others})
    found, _, _ = find_weights({"state_dict": weights | others}, ignore=["criterion.*", "n_*"])
    assert list(found) == list(weights)


def save(path, tree):
    torch_file.save(path, tree)
    return str(path)


def test_the_command_chooses_ignores_and_verifies(tmp_path, saved, weights, capsys):
    average = {f"module.{name}": array + np.float32(1) for name, array in weights.items()}
    extra = {**weights, "criterion.weight": np.ones(3)}
    source = save(tmp_path / "a.ckpt", {**saved, "state_dict": extra, "ema": average})
    target = str(tmp_path / "run")
    assert main(["convert", source, target]) == 2
    assert "state_dict, ema.module" in capsys.readouterr().err
    assert main(["convert", source, target, "--weights", "state_dict"]) == 2
    assert "a.ckpt: " in (error := capsys.readouterr().err)
    assert "criterion.weight (3,)" in error
    chosen = ["--weights", "state_dict", "--ignore", "criterion.*", "--ignore", "unused.*"]
    assert main(["convert", source, target, *chosen, "--verify", "--meshes", "2"]) == 0
    assert "comparisons passed" in capsys.readouterr().out
    assert run.load_run(tmp_path / "run").epoch == 60
    assert main(["convert", source, str(tmp_path / "ema"), "--weights", "ema.module"]) == 0
    loaded = run.load_run(tmp_path / "ema")
    assert loaded.epoch == 0  # the moments are of the other weights
    np.testing.assert_array_equal(loaded.params["last_conv"]["bias"], average["module.last_conv.bias"])
    assert main(["convert", target, str(tmp_path / "b.ckpt"), "--ignore", "x"]) == 2


def test_missing_tensors_are_named(tmp_path, weights, capsys):
    fewer = {f"model.{name}": array for name, array in weights.items() if name != "last_conv.bias"}
    source = save(tmp_path / "a.pth", {"net": fewer})
    assert main(["convert", source, str(tmp_path / "run")]) == 2
    assert "last_conv.bias (3,) is missing" in capsys.readouterr().err


def module_of(weights, name="nets.Net"):
    """A pickled module with these weights, as it is read: inert records within one another."""
    parts = {}
    for full, array in weights.items():
        head, _, rest = full.partition(".")
        parts.setdefault(head, {})[rest] = array
    tensors = {head: inner[""] for head, inner in parts.items() if "" in inner}
    modules = {head: module_of(inner, "torch.nn.Part") for head, inner in parts.items() if "" not in inner}
    state = {"training": True, "_parameters": tensors, "_buffers": {}, "_modules": modules}
    return Record(name, (), state | {"_non_persistent_buffers_set": set()})


def test_a_pickled_module_has_its_state_dict(tmp_path, weights):
    whole = module_of(weights)
    whole.state["_buffers"]["cache"] = np.zeros(3)
    whole.state["_non_persistent_buffers_set"] = {"cache"}
    for tree, label in (
        ({"nets.Net": whole}, "nets.Net"),
        ({"epoch": 3, "model": whole}, "model"),
        ({"trainer": Record("lib.Trainer", (), {"model": whole, "lr": 0.1})}, "trainer.model"),
        ({"wrapped": Record("nets.Wrapper", (), {"_modules": {"net": whole}})}, "wrapped.net"),
    ):
        found, _, lines = find_weights(tree)
        assert {name: array.tobytes() for name, array in found.items()} == {
            name: weights[name].tobytes() for name in found
        }
        assert len(found) == len(weights)
        assert f"weights: {label}" in lines
    loss = Record("nets.Loss", (), {"_modules": {}, "_parameters": {"weight": np.ones(3)}})
    whole.state["_modules"]["criterion"] = loss
    with pytest.raises(ValueError, match=r"criterion\.weight \(3,\).*--ignore 'criterion\.\*'"):
        find_weights({"model": whole})
    assert len(find_weights({"model": whole}, ignore=["criterion.*"])[0]) == len(weights)


def test_a_module_within_itself_ends(weights):
    whole = module_of(weights)
    whole.state["_modules"]["self"] = whole
    with pytest.raises(ValueError, match="sets of weights fit"):
        find_weights({"model": whole})


@pytest.mark.needs("torch")
@pytest.mark.parametrize("zipped", [True, False])
def test_the_command_reads_whole_modules_without_their_code(tmp_path, weights, zipped, capsys):
    import torch

    from spectral_jax.network.config import ModelConfig
    from spectral_jax.pytorch.reference import TorchSpectralAutoencoder

    module = TorchSpectralAutoencoder(ModelConfig(128, 8))
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in weights.items()})
    module.downsampling_mats.register_buffer("cache", torch.zeros(3), persistent=False)
    path, target = tmp_path / "model.pt", str(tmp_path / "run")
    wrapped = torch.nn.DataParallel(module)
    torch.save(wrapped, path, _use_new_zipfile_serialization=zipped)
    assert main(["convert", str(path), target, "--verify", "--meshes", "2"]) == 0
    out = capsys.readouterr().out
    assert "weights: torch.nn.parallel.data_parallel.DataParallel.module" in out
    assert "comparisons passed" in out
    loaded = run.load_run(tmp_path / "run")
    np.testing.assert_array_equal(loaded.params["last_conv"]["bias"], weights["last_conv.bias"])
    assert main(["convert", str(path), "--show"]) == 0
    assert "_parameters: " in capsys.readouterr().out
