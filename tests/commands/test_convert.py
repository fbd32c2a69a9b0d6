import argparse
import functools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from helpers import ROOT, TINY
from torch_archives import safetensors

from spectral_jax.cli import main
from spectral_jax.data import dataset, pytorch_layouts, writer
from spectral_jax.files import torch_file
from spectral_jax.pytorch import lightning, verify
from spectral_jax.runs import run
from spectral_jax.runs.logs import read_log

CHECKPOINT, DATA = str(TINY / "last.ckpt"), str(TINY / "root" / "DEMO")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The published checkpoint as a run folder, with its data."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    assert main(["convert", CHECKPOINT, str(folder), "--data", DATA]) == 0
    return folder


class WithoutTorch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")


@pytest.fixture
def no_torch(monkeypatch):
    """As if torch were not installed; a None in sys.modules would trip tyro, which looks there."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [WithoutTorch, *sys.meta_path])


def test_imported_run_evaluates_to_the_published_figures(imported, tmp_path):
    assert main(["eval", str(imported), "--json", str(tmp_path / "eval.json")]) == 0
    figures = json.loads((tmp_path / "eval.json").read_text())
    names = ("mean_mm", "median_mm", "std_mm", "min_mm", "max_mm")
    expected = np.load(TINY / "expected.npz")["summary_mm"]
    np.testing.assert_allclose([figures[name] for name in names], expected, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_imported_run_is_continued_by_train(imported, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(imported, folder)
    assert main(["train", "--run", str(folder), "--resume", "--epochs", "61"]) == 0
    assert [line["epoch"] for line in read_log(folder)] == [61]
    assert run.load_run(folder).epoch == 61


def test_exported_run_is_the_imported_checkpoint_bit_for_bit(imported, tmp_path, capsys):
    target = tmp_path / "job" / "last.ckpt"
    assert main(["convert", str(imported), str(target)]) == 0
    assert "infos.json" in capsys.readouterr().out
    ours, theirs = torch_file.load(target), torch_file.load(CHECKPOINT)
    assert list(ours["state_dict"]) == list(theirs["state_dict"])
    for name, array in theirs["state_dict"].items():
        assert ours["state_dict"][name].tobytes() == array.tobytes()
    for index, moments in theirs["optimizer_states"][0]["state"].items():
        for name, array in moments.items():
            np.testing.assert_array_equal(ours["optimizer_states"][0]["state"][index][name], array)
    infos = json.loads((TINY / "infos.json").read_text()) | {"job_id": "job", "path": DATA}
    assert json.loads(target.with_name("infos.json").read_text()) == infos


def test_basis_of_an_imported_run_is_cut_to_the_network(tmp_path, sphere, sphere_basis):
    from conftest import sphere_examples

    splits = {"train": sphere_examples(sphere, sphere_basis, 2, 1, False)}
    splits |= {"test": sphere_examples(sphere, sphere_basis, 2, 2, True)}
    writer.write(tmp_path / "data", sphere_basis, sphere, splits, {})
    assert main(["convert", CHECKPOINT, str(tmp_path / "run"), "--data", str(tmp_path / "data")]) == 0
    loaded = run.load_run(tmp_path / "run")
    assert (sphere_basis.num_modes, loaded.basis.num_modes) == (162, 128)
    assert loaded.config.data == str(tmp_path / "data")


def test_without_options_it_says_what_was_inferred(tmp_path):
    shutil.copy(CHECKPOINT, tmp_path / "last.ckpt")
    script = [sys.executable, ROOT / "convert_torch_checkpoint.py"]
    done = subprocess.run(
        [*script, tmp_path / "last.ckpt", tmp_path / "run"], capture_output=True, text=True, check=True
    )
    for words in ("128 modes, latent size 8, conv size 3: from the weights", "activation ELU: assumed", "no basis"):
        assert words in done.stdout
    assert run.load_config(tmp_path / "run").model == run.ModelConfig(128, 8)


def test_verify_without_torch_checks_what_it_can(tmp_path, capsys, no_torch):
    report = tmp_path / "reports" / "verify.json"
    arguments = ["convert", CHECKPOINT, str(tmp_path / "run"), "--data", DATA, "--verify", "--json", str(report)]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    line = "torch is not installed: pip install 'spectral-jax[torch]' for the comparison with PyTorch\n"
    assert captured.err == line
    assert "JAX in float32 against float64, 8 meshes of" in captured.out
    assert "all 22 comparisons passed" in captured.out
    assert "FAIL" not in captured.out
    record = json.loads(report.read_text())
    assert record["passed"]
    assert [row["quantity"] for row in record["rows"]][:2] == ["parameters", "encoder layer 0"]
    assert {row["dtype"] for row in record["rows"]} == {"float32", "float32/64"}


@pytest.fixture
def faulty(monkeypatch):
    """A converter that gets one kernel wrong."""
    honest = lightning.params_from_state_dict

    def wrong(state_dict, config):
        params = honest(state_dict, config)
        params["decoder_conv_0"]["kernel"] += np.float32(1e-3)
        return params

    monkeypatch.setattr(lightning, "params_from_state_dict", wrong)


def test_verify_of_a_faulty_conversion_is_exit_code_1(tmp_path, capsys, monkeypatch, no_torch, faulty):
    finite = verify.Row("latents", "float32/64", 1e-9, 1e-9, 2e-5, True)
    spoilt = verify.Row("loss", "float32/64", math.nan, math.nan, 2e-5, False)
    monkeypatch.setattr(verify, "verify_precision", lambda *args: [finite, spoilt])
    report = tmp_path / "verify.json"
    assert main(["convert", CHECKPOINT, str(tmp_path / "run"), "--verify", "--json", str(report)]) == 1
    printed = capsys.readouterr().out
    assert "2 of 3 comparisons failed" in printed
    assert printed.count("FAIL") == 2
    record = json.loads(report.read_text())
    assert [row["passed"] for row in record["rows"]] == [False, True, False]
    assert record["rows"][2]["max_abs"] is record["rows"][2]["max_rel"] is None
    assert not record["passed"]


@pytest.mark.needs("torch")
def test_verify_with_torch(imported, tmp_path, capsys):
    import torch

    target = tmp_path / "job" / "last.ckpt"
    assert main(["convert", str(imported), str(target), "--verify", "--meshes", "8"]) == 0
    printed = capsys.readouterr().out
    assert f"JAX against PyTorch {torch.__version__}, 8 random meshes" in printed
    assert "all 43 comparisons passed" in printed
    assert main(["convert", str(target), str(tmp_path / "run"), "--data", DATA, "--verify"]) == 0
    printed = capsys.readouterr().out
    assert f"JAX against PyTorch {torch.__version__}, 8 meshes of" in printed
    assert "all 43 comparisons passed" in printed


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("latent_size", "conv_size", "activation"),
    [(32, 5, "LeakyReLU"), pytest.param(64, 3, "Tanh", marks=pytest.mark.slow)],
)
def test_checkpoints_that_torch_saved_convert_and_verify(tmp_path, capsys, latent_size, conv_size, activation):
    import torch

    from spectral_jax.network.config import ModelConfig
    from spectral_jax.pytorch.reference import TorchSpectralAutoencoder

    torch.manual_seed(0)
    config = ModelConfig(40, latent_size, conv_size, activation)
    module = TorchSpectralAutoencoder(config)
    adam = torch.optim.Adam(module.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.99, patience=3)
    for _ in range(3):
        adam.zero_grad()
        module(torch.randn(4, 40, 3)).square().mean().backward()
        adam.step()
    scheduler.step(12.5)
    checkpoint = {
        "epoch": 1,
        "global_step": 3,
        "pytorch-lightning_version": "1.6.0",
        "state_dict": module.state_dict(),
        "optimizer_states": [adam.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    infos = {"nb_freq": 40, "size_latent": latent_size, "size_conv": conv_size, "activation_func": activation}
    (tmp_path / "infos.json").write_text(json.dumps(infos))
    assert main(["convert", str(tmp_path / "last.ckpt"), str(tmp_path / "run"), "--verify", "--meshes", "4"]) == 0
    assert "all 43 comparisons passed" in capsys.readouterr().out
    assert run.load_config(tmp_path / "run").model == config
    line = "1 epochs and 3 steps done, learning rate 0.002"
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    assert main(["convert", str(tmp_path / "last.ckpt"), str(tmp_path / "again")]) == 0
    assert line in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "weights.pth"), str(tmp_path / "weights")]) == 0


@pytest.mark.needs("torch")
def test_verify_with_torch_of_a_faulty_conversion(tmp_path, capsys, faulty):
    assert main(["convert", CHECKPOINT, str(tmp_path / "run"), "--data", DATA, "--verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for quantity, count in {"parameters": 1, "decoder layer 0": 2, "coefficients": 2, "error in mm": 2}.items():
        assert sum(quantity in line and "FAIL" in line for line in lines) == count
    assert not any(quantity in line and "FAIL" in line for line in lines for quantity in ("latents", "encoder layer"))


def test_dataset_import_keeps_everything(tmp_path, capsys):
    out = tmp_path / "data"
    assert main(["dataset", "import", DATA, str(out)]) == 0
    assert "1,229 vertices" in capsys.readouterr().out.replace("\n", " ")
    ours, theirs = dataset.open_prepared(out), pytorch_layouts.open_pytorch_layout(DATA)
    np.testing.assert_array_equal(ours.basis.modes, theirs.basis.modes)
    np.testing.assert_array_equal(ours.basis.faces, theirs.basis.faces)
    assert {name: ours.metadata[name] for name in theirs.metadata} == theirs.metadata
    for name, records in theirs.splits.items():
        for a, b in zip(ours.splits[name], records, strict=True):
            np.testing.assert_array_equal(a.coefficients, b.coefficients)
            assert (a.vertices is None) == (b.vertices is None)
            if b.vertices is not None:
                np.testing.assert_array_equal(a.vertices, b.vertices)
            assert a[2:] == b[2:]


def error_cases(tmp_path, run_folder, data):
    """Arguments, and what the one line of the error must say."""
    other, mangled = tmp_path / "other.json", tmp_path / "mangled.ckpt"
    other.write_text(json.dumps({"nb_freq": 64}))
    mangled.write_bytes(Path(CHECKPOINT).read_bytes()[:1000])
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "infos.json").write_text("{}")
    new = str(tmp_path / "new")
    return {
        "absent": (["convert", "none.ckpt", new], "none.ckpt: no such checkpoint or run folder"),
        "target exists": (["convert", CHECKPOINT, run_folder], f"{run_folder} exists already"),
        "exported target exists": (["convert", run_folder, CHECKPOINT], "last.ckpt exists already"),
        "options exist": (["convert", run_folder, str(tmp_path / "job" / "a.ckpt")], "infos.json exists already"),
        "not a checkpoint": (["convert", str(TINY / "infos.json"), new], "infos.json: is not a zip archive"),
        "mangled": (["convert", str(mangled), new], "mangled.ckpt: "),
        "no run": (["convert", str(TINY), f"{new}.ckpt"], "tiny: not a run folder (config.json is missing)"),
        "options contradict": (
            ["convert", CHECKPOINT, new, "--infos", str(other)], "other.json: nb_freq is 64, the weights say 128"
        ),
        "options absent": (["convert", CHECKPOINT, new, "--infos", "none.json"], "none.json: no such file"),
        "options of a run": (["convert", run_folder, f"{new}.ckpt", "--infos", str(other)], "--infos goes with"),
        "not a .ckpt": (["convert", run_folder, new], f"such as {new}/last.ckpt"),
        "data for nothing": (["convert", run_folder, f"{new}.ckpt", "--data", DATA], "--data goes with --verify"),
        "json for nothing": (["convert", CHECKPOINT, new, "--json", "x.json"], "--json goes with --verify"),
        "against for nothing": (["convert", CHECKPOINT, new, "--against", "SAE"], "--against goes with --verify"),
        "steps for nothing": (["convert", CHECKPOINT, new, "--verify", "--steps", "3"], "go with --against"),
        "steps back": (
            ["convert", CHECKPOINT, new, "--verify", "--against", "SAE", "--steps", "-1"], "at least 0, not -1"
        ),
        "no clone": (["convert", CHECKPOINT, new, "--verify", "--against", "SAE"], "SAE: no models/LearnedPooling.py"),
        "no meshes": (["convert", CHECKPOINT, new, "--verify", "--meshes", "0"], "at least 1, not 0"),
        "no target": (["convert", CHECKPOINT], "last.ckpt: no TARGET"),
        "nothing to show": (["convert", "--show", "none.ckpt"], "none.ckpt: no such file"),
        "show and convert": (["convert", "--show", CHECKPOINT, new], "no TARGET"),
        "no data": (["convert", CHECKPOINT, new, "--data", "none"], "none: no such data folder"),
        "few modes": (["convert", CHECKPOINT, new, "--data", data], "the network has 128 modes, the basis only 32"),
        "other basis": (
            ["convert", run_folder, f"{new}.ckpt", "--verify", "--data", data], "not the same connectivity"
        ),
        "import of prepared data": (["dataset", "import", data, new], "0 datasets, expected 1"),
        "import over a folder": (["dataset", "import", DATA, data], "exists already; --overwrite replaces it"),
    }  # fmt: skip


def test_mistakes_get_one_line_and_exit_code_2(tmp_path, imported, data_folder, capsys):
    before = {p: p.stat().st_mtime_ns for p in imported.rglob("*")}
    for name, (arguments, message) in error_cases(tmp_path, str(imported), str(data_folder)).items():
        assert main(arguments) == 2, name
        captured = capsys.readouterr()
        assert message in captured.err, (name, captured.err)
        assert captured.err.count("\n") == 1, (name, captured.err)
        assert captured.out == "", name
    assert {p.name for p in tmp_path.iterdir()} == {"other.json", "mangled.ckpt", "job"}
    assert {p: p.stat().st_mtime_ns for p in imported.rglob("*")} == before


@pytest.mark.needs("torch")
def test_objects_beside_the_weights_do_not_matter(tmp_path, capsys):
    import torch

    tree = torch.load(CHECKPOINT, weights_only=False)
    tree["hyper_parameters"] = argparse.Namespace(rate=1e-3, out=PurePosixPath("/data"), widths=np.arange(3))
    tree["callbacks"] = {WithoutTorch: functools.partial(max, WithoutTorch())}
    torch.save(tree, tmp_path / "last.ckpt")
    assert main(["convert", str(tmp_path / "last.ckpt"), str(tmp_path / "run"), "--verify", "--meshes", "2"]) == 0
    assert "all 43 comparisons passed" in capsys.readouterr().out
    assert run.load_run(tmp_path / "run").epoch == 60


def test_show_prints_tensors_and_the_rest(capsys):
    assert main(["convert", "--show", CHECKPOINT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "    last_conv.bias: float32 (3,)" in lines
    assert "  epoch: 59" in lines


@pytest.mark.needs("torch")
def test_the_older_format_and_safetensors_convert_alike(tmp_path, capsys):
    import torch

    tree = torch.load(CHECKPOINT, weights_only=False)
    torch.save(tree, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    weights = {name: tensor.numpy() for name, tensor in tree["state_dict"].items()}
    (tmp_path / "a.safetensors").write_bytes(safetensors(weights))
    for name, epoch in {"old.ckpt": 60, "a.safetensors": 0}.items():
        target = tmp_path / f"{epoch}"
        assert main(["convert", str(tmp_path / name), str(target), "--verify", "--meshes", "2"]) == 0
        assert "all 43 comparisons passed" in capsys.readouterr().out
        assert run.load_run(target).epoch == epoch
