import dataclasses
import json
import re
import shlex
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import DOCUMENTS, ROOT

import spectral_jax
from spectral_jax.basis import spectral
from spectral_jax.cli import main, parse
from spectral_jax.commands import train
from spectral_jax.geometry.mesh import write_mesh
from spectral_jax.runs import run
from spectral_jax.runs.logs import read_log
from spectral_jax.training import loop

QUICK = ["--batch-size", "8", "--latent-size", "4", "--validate-every", "2", "--learning-rate", "1e-3"]
QUICK += ["--pictures", "0"]


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory):
    """A run of two epochs, made by the command line."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert main(["train", "--data", str(data_folder), "--run", str(folder), "--epochs", "2", *QUICK]) == 0
    return folder


def test_train_leaves_a_run_that_loads_and_works(trained, data_folder):
    import spectral_jax as sj

    loaded = sj.load_run(trained)
    assert loaded.epoch == 2
    assert loaded.config.model.modes == 32  # all the data has, as it has fewer than the published 4096
    coefficients = sj.project(loaded.basis, sj.open_data(data_folder).splits["test"][0].vertices[None])
    latents = loaded.model.apply({"params": loaded.params}, coefficients, method="encode")
    assert latents.shape == (1, 4)
    decoded = loaded.model.apply({"params": loaded.params}, latents, method="decode")
    assert sj.reconstruct(loaded.basis, decoded).shape == (1, 162, 3)
    assert {p.name for p in trained.glob("[!.]*")} == {
        "basis.npz",
        "best",
        "config.json",
        "last",
        "log.jsonl",
        "tb_logs",
    }


@pytest.mark.parametrize("page", ["README.md", "docs/howto/library.md", "docs/howto/meshes.md"])
def test_the_python_of_the_documents_runs(page, trained, data_folder, tmp_path, monkeypatch):
    for link, folder in (("runs/demo", trained), ("data/demo", data_folder)):
        (tmp_path / link).parent.mkdir()
        (tmp_path / link).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names = {}
    with jax.numpy_rank_promotion("allow"):  # readers write as NumPy lets them
        for block in blocks:
            exec(compile(block, page, "exec"), names)
    if "vertices" in names:
        assert names["vertices"].shape == (1, 162, 3)
    if page == "docs/howto/library.md":
        assert names["run"].epoch == 24
        assert names["summary"].count == 9


def test_eval_prints_the_table_and_writes_the_figures(trained, tmp_path, capsys):
    assert main(["eval", str(trained), "--json", str(tmp_path / "out" / "eval.json")]) == 0
    figures = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert list(figures) == [
        "mean_mm", "median_mm", "std_mm", "min_mm", "max_mm", "count", "truncation_mm", "mean_shape_mm", "pca_mm"
    ]  # fmt: skip
    assert figures["count"] == 9
    assert figures["truncation_mm"] <= 1.001 * figures["pca_mm"] < figures["mean_shape_mm"]
    printed = capsys.readouterr().out
    for name in ("mean_mm", "median_mm", "std_mm", "truncation_mm", "mean_shape_mm", "pca_mm"):
        assert f"{figures[name]:.2f}" in printed
    last = [line for line in read_log(trained) if "spatial_validation_loss" in line][-1]
    assert figures["mean_mm"] == pytest.approx(last["spatial_validation_loss"], rel=1e-6)


def test_scripts_at_the_top_are_the_same_commands(trained):
    done = subprocess.run([sys.executable, ROOT / "eval.py", trained], capture_output=True, text=True, check=True)
    assert "PCA, 4 components" in done.stdout
    done = subprocess.run([sys.executable, ROOT / "train.py", "--help"], capture_output=True, text=True, check=True)
    assert "--learning-rate FLOAT" in done.stdout
    assert "(default: 10000)" in done.stdout


def test_bare_call_prints_help(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"• {name}" in printed for name in ("demo", "train", "eval", "basis", "dataset"))
    assert main(["basis"]) == 0
    assert "compute" in capsys.readouterr().out


def test_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["spectral-jax", spectral_jax.__version__]


def documented_commands():
    """Yield page and arguments of all commands in the documents, except those that resume a run: they read it."""
    scripts = {"train": ["train"], "eval": ["eval"], "convert_torch_checkpoint": ["convert"]}
    for page in DOCUMENTS:
        text = (ROOT / page).read_text(encoding="utf-8")
        for script, options in re.findall(r"^(?:    .*?|!)(?:spectral-jax|python (\w+)\.py)( .*)$", text, re.MULTILINE):
            if "--resume" not in options:
                yield page, scripts.get(script, []) + shlex.split(options, comments=True)


def test_every_command_in_the_documents_parses():
    commands = list(documented_commands())
    assert len(commands) > 30
    for page, arguments in commands:
        try:
            parse(arguments)
        except SystemExit:
            pytest.fail(f"{page}: {' '.join(arguments)}")


def test_resume_keeps_the_options_and_takes_more_epochs(trained, tmp_path):
    import shutil

    folder = tmp_path / "resumed"
    shutil.copytree(trained, folder)
    assert main(["train", "--run", str(folder), "--resume", "--epochs", "4"]) == 0
    assert [line["epoch"] for line in read_log(folder)] == [1, 2, 3, 4]
    assert run.load_run(folder).epoch == 4
    assert run.load_config(folder).train.batch_size == 8


def test_basis_compute_and_check(sphere, tmp_path, capsys):
    mesh, out = tmp_path / "sphere.ply", tmp_path / "basis.npz"
    write_mesh(mesh, sphere)
    assert main(["basis", "compute", str(mesh), "--out", str(out), "--modes", "12"]) == 0
    assert spectral.load(out).num_modes == 12
    assert main(["basis", "check", str(out), "--mesh", str(mesh)]) == 0
    assert "12 modes of 162 vertices" in capsys.readouterr().out


def test_dataset_info_counts(data_folder, capsys):
    assert main(["dataset", "info", str(data_folder)]) == 0
    printed = capsys.readouterr().out
    assert "44" in printed
    assert "162 vertices" in printed


def mistakes(tmp_path, data, trained, sphere):
    """Yield arguments, and what the one line of the error names: files, values, options. Its wording is free."""
    other, basis = str(tmp_path / "other.ply"), str(tmp_path / "basis.npz")
    write_mesh(other, sphere._replace(faces=sphere.faces[:-9]))
    spectral.save(basis, spectral.compute(sphere.faces, 162, 5))
    run_option = ["--run", str(tmp_path / "new")]
    new, resume = ["train", "--data", data, *run_option], ["train", "--run", trained, "--resume"]
    yield ["train", "--data", "none", *run_option], ["none"]
    yield ["train", "--data", str(tmp_path), *run_option], [str(tmp_path), "metadata.json"]
    yield [*new, "--modes", "33"], [data, "33", "32"]
    yield [*new, "--modes", "0"], ["modes", "1", "0"]
    yield [*new, "--conv-size", "4"], ["conv size", "odd"]
    yield [*new, "--channels", "8", "16"], ["256 64 32 16", "8 16"]
    yield [*new, "--latent-size", "0"], ["latent size", "1", "0"]
    yield [*new, "--learning-rate", "-1"], ["learning rate", "-1"]
    yield [*new, "--epochs", "0"], ["epochs", "1", "0"]
    yield [*new, "--batch-size", "45"], ["batch size", "45", "44"]
    yield ["train", "--data", data, "--run", trained], [trained, "--resume", "--overwrite"]
    yield ["train", "--data", data, "--run", str(tmp_path), "--overwrite"], [str(tmp_path), "config.json"]
    yield [*resume, "--overwrite"], ["--resume", "--overwrite"]
    yield ["train", *run_option, "--resume"], [str(tmp_path / "new"), "config.json"]
    yield ["train", "--resume"], ["--resume", "--run"]
    yield [*resume, "--latent-size", "5"], ["--latent-size", "4", "5"]
    yield [*resume, "--seed", "1"], ["--seed", "42", "1"]
    yield ["eval", "none"], ["none"]
    yield ["eval", str(tmp_path)], [str(tmp_path), "config.json"]
    yield ["eval", trained, "--split", "vald"], ["'vald'", "train, test"]
    yield ["eval", trained, "--split", "train"], ["vertices"]
    yield ["basis", "compute", "none.obj", "--out", str(tmp_path / "x.npz")], ["none.obj"]
    yield ["basis", "compute", other, "--out", basis], [basis, "--overwrite"]
    yield ["basis", "check", basis, "--mesh", other], ["connectivity"]
    yield ["basis", "check", "none.npz"], ["none.npz"]
    yield ["dataset", "demo", "--out", data], [data, "--overwrite"]


def test_mistakes_get_one_line_and_exit_code_2(tmp_path, data_folder, trained, sphere, capsys):
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    for arguments, named in mistakes(tmp_path, str(data_folder), str(trained), sphere):
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert [value for value in named if value not in error] == [], (arguments, error)
        assert error.count("\n") == 1, (arguments, error)
        assert "Traceback" not in error
    assert not (tmp_path / "new").exists()
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_unwritable_output_is_one_line(data_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "--data", str(data_folder), "--run", str(tmp_path / "file" / "run")]) == 2
    assert "file" in capsys.readouterr().err


def test_a_residual_sweep_has_that_network_s_recipe():
    command = parse(["sweep", "--network", "residual", "--out", "a", "--epochs", "9"])
    assert (command.epochs, command.learning_rates, command.batch_size) == (9, (2e-3,), 64)
    assert parse(["sweep", "--out", "a"]).learning_rates == (3e-3,)


def test_a_misspelt_option_gets_a_suggestion(capsys):
    assert main(["train", "--latent-siz", "3"]) == 2
    assert "--latent-size" in capsys.readouterr().err


def test_memory_that_runs_out_gets_one_line(data_folder, tmp_path, monkeypatch, capsys):
    """It says how much was wanted, what is kept and what helps; every test mesh fits until then."""
    run, validate = tmp_path / "run", loop.validate

    def too_large(model, params, modes, rows, vertices, constants):
        errors = validate(model, params, modes, rows, vertices, constants)
        if (run / "last").exists():
            np.zeros((2**50, 3))
        return errors

    monkeypatch.setattr(loop, "validate", too_large)
    options = ["--data", str(data_folder), "--run", str(run), "--epochs", "5", *QUICK]
    assert main(["train", *options]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    for part in ("(1125899906842624, 3)", "are free", "after 2 epochs is kept", "--placement stream", "--batch-size"):
        assert part in line


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="none"):
        main(["--debug", "eval", "none"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_prints_how_to_resume(data_folder, tmp_path, number, code):
    options = ["--data", str(data_folder), "--epochs", "300", *QUICK, "--validate-every", "50"]
    command = [sys.executable, ROOT / "train.py", "--run", tmp_path / "stopped", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while len(read_log(tmp_path / "stopped")) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "--resume" in error
    stopped_after = len(read_log(tmp_path / "stopped"))
    assert run.load_run(tmp_path / "stopped").epoch == stopped_after < 300


def test_the_demo_can_be_run_again(data_folder, tmp_path, monkeypatch):
    """Nothing is trained twice, although training itself found out how many directions there are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "ensure_demo_data", lambda overwrite: None)
    for name, options in train.DEMO_RUNS.items():
        training = dataclasses.replace(options.training, epochs=1, batch_size=8)
        tiny = dataclasses.replace(options, data=str(data_folder), training=training, latent_size=4)
        monkeypatch.setitem(train.DEMO_RUNS, name, tiny)
    for _ in range(2):
        assert main(["demo"]) == 0
    assert [len(read_log(name)) for name in ("runs/demo", "runs/demo-residual")] == [1, 2]  # PCA is its epoch 0


@pytest.mark.slow
def test_the_demo_ends_below_pca(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    assert main(["eval", "runs/demo", "--json", "eval.json"]) == 0
    printed = capsys.readouterr()
    assert "runs/demo/report.html" in printed.out
    assert "spectral-jax view runs/demo" in printed.err
    assert (tmp_path / "runs/demo/report.html").stat().st_size < 15e6
    figures = json.loads((tmp_path / "eval.json").read_text())
    assert figures["truncation_mm"] < figures["mean_mm"] < figures["pca_mm"] < figures["mean_shape_mm"]
    assert main(["demo"]) == 0  # again: nothing is built or trained twice
    assert len(read_log("runs/demo")) == run.load_config("runs/demo").train.epochs
