"""Training processes that are killed, meet a full disk, a folder they may not write, or each other."""

import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers import ROOT

from spectral_jax.cli import main
from spectral_jax.runs import checkpoint, run
from spectral_jax.runs.logs import read_log

SCRIPT = str(ROOT / "train.py")
OPTIONS = ["--batch-size", "8", "--latent-size", "4", "--validate-every", "1", "--learning-rate", "1e-3"]
OPTIONS += ["--pictures", "0"]


def start(folder, *more, after=""):
    """A process that trains, after the statements `after`."""
    script = f"import runpy\n{after}\nrunpy.run_path({SCRIPT!r}, run_name='__main__')"
    command = [sys.executable, "-c", script, "--run", str(folder), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def losses(folder):
    """Epochs and what they came to, without the clock's figures."""
    keys = ("epoch", "spectral_train_loss", "gradient_norm", "learning_rate", "spatial_validation_loss")
    return [{key: line[key] for key in keys} for line in read_log(folder)]


def wait_for(process, happened):
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


@pytest.mark.parametrize(("kills", "seed"), [(1, 0), pytest.param(25, 1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_training_ends_where_it_would_have_ended(data_folder, tmp_path, kills, seed):
    """kill -9 at random moments, of which most fall into the writing of checkpoints; then --resume."""
    rng, folder = np.random.default_rng(seed), tmp_path / "killed"
    epochs, done = 6 * kills, 0
    options = ["--data", str(data_folder), "--epochs", str(epochs), *OPTIONS]
    for _ in range(kills):
        begun = (folder / run.CONFIG_FILE).is_file()
        process = start(folder, *(["--resume", "--pictures", "0"] if begun else options))
        seen = len(read_log(folder))
        wait_for(process, lambda seen=seen: len(read_log(folder)) != seen)
        time.sleep(rng.uniform(0, 0.8))
        process.kill()
        process.communicate()
        with contextlib.suppress(ValueError):  # none yet
            done = checkpoint.restore(folder / "last", *configs(folder)).epoch
        assert done <= len(read_log(folder)) < epochs
    assert main(["train", "--run", str(folder), "--resume", "--pictures", "0"]) == 0
    assert main(["train", "--run", str(tmp_path / "whole"), *options]) == 0
    assert losses(folder) == losses(tmp_path / "whole")
    for which in ("last", "best"):
        states = [
            checkpoint.restore(path / which, *configs(path))._replace(sums=None)
            for path in (folder, tmp_path / "whole")
        ]
        jax.tree.map(np.testing.assert_array_equal, *states)
        assert len(list((folder / which).iterdir())) == 1  # what the kills left is gone


def configs(folder):
    config = run.load_config(folder)
    return config.model, config.train


@pytest.fixture(scope="module")
def trained(data_folder, tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    assert main(["train", "--data", str(data_folder), "--run", str(folder), "--epochs", "2", *OPTIONS]) == 0
    return folder


def files(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in (folder / "last").rglob("*")}


FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""
# root may write whatever the permissions say, unless it gives up CAP_DAC_OVERRIDE for the programs it becomes
NO_PRIVILEGES = """
import ctypes, os, sys
if not os.environ.pop("PRIVILEGED", "yes") == "no":
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
    os.execve(sys.executable, sys.orig_argv, os.environ | {"PRIVILEGED": "no"})
"""


@pytest.mark.parametrize("trouble", ["full disk", "read-only folder"])
def test_what_cannot_be_written_ends_training_and_the_checkpoint_stays(trained, tmp_path, trouble):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = files(folder)
    if trouble == "read-only folder":
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    after = FULL_DISK if trouble == "full disk" else NO_PRIVILEGES
    process = start(folder, "--resume", "--pictures", "0", "--epochs", "4", after=after)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    told = {
        "full disk": f"error: {folder}/best/3: File too large; the checkpoint after 2 epochs is kept",
        "read-only folder": f"error: {folder}/.lock: Permission denied",
    }
    assert error.splitlines()[-1] == told[trouble]
    assert "Traceback" not in error
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert before.items() <= files(folder).items()
    assert run.load_run(folder).epoch == 2
    assert main(["train", "--run", str(folder), "--resume", "--pictures", "0", "--epochs", "3"]) == 0
    assert [line["epoch"] for line in read_log(folder)] == [1, 2, 3]


def test_without_posix_fallocate_a_full_disk_is_found_before_anything_is_written(trained, tmp_path, monkeypatch):
    """As on macOS and Windows."""
    config = run.load_config(trained)
    position = checkpoint.restore(trained / "last", config.model, config.train)
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=100, used=0, free=100))
    with pytest.raises(OSError, match="No space left") as raised:
        checkpoint.save(tmp_path / "last", position)
    assert raised.value.filename == str(tmp_path / "last" / "2")
    assert files(tmp_path) == {}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=1 << 40, used=0, free=1 << 40))
    checkpoint.save(tmp_path / "last", position)
    assert checkpoint.find(tmp_path / "last").name == "2"


def test_a_second_process_is_refused_until_the_first_ends_or_crashes(data_folder, tmp_path, capsys):
    folder = tmp_path / "run"
    process = start(folder, "--data", str(data_folder), "--epochs", "100000", *OPTIONS)
    wait_for(process, lambda: read_log(folder))
    for more in (["--resume"], ["--data", str(data_folder), "--overwrite", *OPTIONS]):
        assert main(["train", "--run", str(folder), *more]) == 2
        error = capsys.readouterr().err
        assert error == f"error: {folder}: another process is training this run\n"
    process.kill()
    process.communicate()
    epochs = len(read_log(folder)) + 1
    assert main(["train", "--run", str(folder), "--resume", "--pictures", "0", "--epochs", str(epochs)]) == 0


def test_missing_data_leave_the_run_as_it_was(trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    record = json.loads((folder / run.CONFIG_FILE).read_text()) | {"data": str(tmp_path / "gone")}
    (folder / run.CONFIG_FILE).write_text(json.dumps(record))
    before = files(folder)
    assert main(["train", "--run", str(folder), "--resume", "--pictures", "0", "--epochs", "4"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/gone: no such data folder\n"
    assert files(folder) == before


def test_a_folder_half_made_can_be_made_again(data_folder, trained, tmp_path):
    """As a process leaves it that is killed while it makes it, or while it replaces another."""
    new = tmp_path / "new"
    new.mkdir()
    (new / ".lock").touch()
    (new / run.PARTIAL_FILE).write_text("{")
    assert main(["train", "--data", str(data_folder), "--run", str(new), "--epochs", "1", *OPTIONS]) == 0
    old = tmp_path / "old"
    shutil.copytree(trained, old)
    (old / "last").rename(old / ".last")
    (old / run.BASIS_FILE).unlink()
    arguments = ["train", "--data", str(data_folder), "--run", str(old), "--epochs", "1", *OPTIONS]
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite"]) == 0
    assert run.load_run(old).epoch == 1
    assert not (old / ".last").exists()


def test_the_history_of_a_run_tells_versions_revision_devices_and_data(trained, data_folder, sphere, tmp_path, capsys):
    folder, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(trained, folder)
    shutil.copytree(data_folder, data)
    assert main(["train", "--run", str(folder), "--resume", "--epochs", "3", "--data", str(data)]) == 0
    assert "the data have changed" not in capsys.readouterr().err
    first, second = run.load_history(folder)
    assert first["versions"]["jax"] == jax.__version__
    assert first["devices"] == "1 x cpu"
    assert first["data_fingerprint"] == second["data_fingerprint"] != ""
    assert first["revision"] is None or len(first["revision"].removesuffix("-dirty")) == 40
    content = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps(content | {"note": "other"}))
    assert main(["train", "--run", str(folder), "--resume", "--epochs", "4", "--data", str(data)]) == 0
    assert f"note: the data have changed since {folder} was last trained" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_bytes(trained, data_folder, tmp_path):
    """In another process, too, and with the flags of --deterministic."""
    folder = tmp_path / "again"
    process = start(folder, "--data", str(data_folder), "--epochs", "2", "--deterministic", *OPTIONS)
    process.communicate(timeout=120)
    assert process.returncode == 0
    first, second = (run.load_run(path).params for path in (trained, folder))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))
    assert losses(trained) == losses(folder)
    assert "xla_gpu_deterministic_ops" in run.load_history(folder)[0]["xla_flags"]


def test_two_builds_into_one_folder_are_refused(sphere, sphere_basis, tmp_path):
    from conftest import sphere_examples

    from spectral_jax.data import writer

    out = tmp_path / "data"

    def train():
        examples = sphere_examples(sphere, sphere_basis, 4, 1, False)
        yield from itertools.islice(examples, 2)
        script = (
            "import sys; from pathlib import Path; from spectral_jax.files.locks import locked\n"
            f"with locked(Path({str(tmp_path / '.data.building')!r}), 'busy'): pass"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert "ValueError: busy" in done.stderr
        yield from examples

    splits = {"train": train(), "test": sphere_examples(sphere, sphere_basis, 3, 2, True)}
    assert writer.write(out, sphere_basis, sphere, splits, {"recipe": "test"}) == out
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_build_killed_between_its_last_renames_is_set_right_by_the_next(sphere, sphere_basis, data_folder, tmp_path):
    from conftest import sphere_examples

    from spectral_jax.data import writer

    out, staging = tmp_path / "data", tmp_path / ".data.building"
    shutil.copytree(data_folder, staging / writer.REPLACED)
    splits = {"train": sphere_examples(sphere, sphere_basis, 4, 1, False)}
    with pytest.raises(ValueError, match="exists already; --overwrite replaces it"):
        writer.write(out, sphere_basis, sphere, splits, {})
    assert (out / "metadata.json").read_bytes() == (data_folder / "metadata.json").read_bytes()
