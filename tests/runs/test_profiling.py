"""What `train` records on request: the loss of every step, and a profile."""

import re

import numpy as np
import pytest

from spectral_jax.cli import main
from spectral_jax.runs import profiling
from spectral_jax.runs.logs import read_log

OPTIONS = ["--epochs", "6", "--batch-size", "11", "--latent-size", "4", "--validate-every", "2"]
OPTIONS += ["--pictures", "0"]


def scalars(folder):
    """Steps and values of the only tag in the event file of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.glob("events*")
    data, found = path.read_bytes(), {}
    while data:
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value.simple_value
        data = data[16 + length :]
    (only,) = found.values()
    return only


@pytest.mark.parametrize("placement", ["device", "host"])
def test_the_loss_of_every_step(placement, data_folder, tmp_path):
    run = tmp_path / "run"
    options = [*OPTIONS, "--step-losses", "--placement", placement]
    assert main(["train", "--data", str(data_folder), "--run", str(run), *options]) == 0
    losses = scalars(run / "tb_logs" / "steps")
    assert list(losses) == list(range(1, 25))  # 44 meshes in batches of 11, 6 times
    per_epoch = np.array(list(losses.values())).reshape(6, 4).mean(axis=1)
    np.testing.assert_allclose(per_epoch, [line["spectral_train_loss"] for line in read_log(run)], rtol=1e-5)


def test_a_profile_names_the_slowest_operations(data_folder, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "--data", str(data_folder), "--run", str(run), *OPTIONS, "--profile", "3"]) == 0
    printed = capsys.readouterr().out
    assert "where the time went" in printed
    assert re.search(r"fusion|dot", printed)
    operations = profiling.slowest(run / "profile")
    spent = [operation.milliseconds for operation in operations]
    assert spent == sorted(spent, reverse=True)
    assert max(operation.calls for operation in operations) >= 3
    assert not any("::" in operation.name for operation in operations)


def test_a_run_too_short_for_a_profile_says_so(data_folder, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--epochs", "1", "--batch-size", "44", "--profile", "3", "--pictures", "0"]
    assert main(["train", "--data", str(data_folder), "--run", str(run), *options]) == 0
    assert "training ended before the profile began" in capsys.readouterr().err
    assert main(["train", "--data", str(data_folder), "--run", str(tmp_path / "no"), "--profile", "-1"]) == 2
    assert "profile must be at least 0, not -1" in capsys.readouterr().err
