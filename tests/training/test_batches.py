"""Training gives the same whatever holds the data, however it is cut into dispatches, and on however many devices."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import Stopping

from spectral_jax.data import coefficients, dataset
from spectral_jax.network.config import ModelConfig
from spectral_jax.runs import run, train
from spectral_jax.runs.logs import read_log
from spectral_jax.training import batches, devices, dispatch, loop, placement, step
from spectral_jax.training.batches import StreamedData
from spectral_jax.training.config import TrainConfig

MODEL = ModelConfig(modes=32, latent_size=4)
TRAIN = TrainConfig(epochs=5, batch_size=8, learning_rate=1e-3, validate_every=2, seed=3)


@pytest.fixture
def placements(fit_data, data_folder):
    """The same data on the device, in host memory and on disk."""
    records = dataset.open_prepared(data_folder).splits["train"]
    return {
        "device": fit_data,
        "host": fit_data._replace(train_coefficients=StreamedData(fit_data.train_coefficients, 32)),
        "stream": fit_data._replace(train_coefficients=StreamedData(records, 32)),
    }


def trained(data, config=TRAIN, **options):
    """Losses by epoch, and the last parameters on the host."""
    losses, params = [], None
    for progress in loop.fit(MODEL, config, data, **options):
        losses += [figures["spectral_train_loss"] for figures in progress.figures.values()]
        params = jax.device_get(progress.position.state.params)
    return losses, params


def equal(ours, theirs):
    assert ours[0] == theirs[0]
    jax.tree.map(np.testing.assert_array_equal, ours[1], theirs[1])


@pytest.mark.parametrize("place", ["host", "stream"])
@pytest.mark.parametrize("block_steps", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_blocks_give_what_resident_data_gives(placements, place, block_steps, monkeypatch):
    monkeypatch.setattr(batches, "BLOCK_BYTES", block_steps * 8 * 32 * 3 * 4)
    equal(trained(placements[place]), trained(placements["device"]))


@pytest.mark.parametrize("seconds", [1e-9, 100])
def test_the_length_of_a_dispatch_changes_nothing(fit_data, seconds, monkeypatch):
    expected = trained(fit_data)
    monkeypatch.setattr(dispatch, "DISPATCH_SECONDS", seconds)
    monkeypatch.setattr(dispatch, "FIRST_STEPS", 1)
    equal(trained(fit_data), expected)


@pytest.mark.parametrize("schedule", ["plateau", pytest.param("cosine", marks=pytest.mark.slow)])
def test_a_run_stopped_inside_its_epochs_continues_bit_for_bit(
    placements, sphere_basis, tmp_path, schedule, monkeypatch
):
    """Stopped after every other dispatch, one step long or a block; going on with the data in another place."""
    config = TrainConfig(epochs=4, batch_size=8, learning_rate=1e-3, validate_every=2, schedule=schedule)
    monkeypatch.setattr(batches, "BLOCK_BYTES", 4 * 8 * 32 * 3 * 4)
    monkeypatch.setattr(dispatch, "FIRST_STEPS", 1)
    folders = [run.create(tmp_path / name, run.RunConfig(MODEL, config, "data"), sphere_basis) for name in ("a", "b")]
    for _ in train.train_run(folders[0], placements["device"]):
        pass
    stops, done = 0, 0
    while done < 4:
        data = placements[("device", "host", "stream")[stops % 3]]
        for progress in train.train_run(folders[1], data, progress=Stopping([False, True])):
            done = progress.position.epoch
        stops += 1
    assert stops > 4
    whole, parted = (
        [{k: v for k, v in line.items() if "loss" in k or k in ("epoch", "learning_rate")} for line in read_log(folder)]
        for folder in folders
    )
    assert parted == whole
    jax.tree.map(np.testing.assert_array_equal, *(run.load_run(folder).params for folder in folders))


@pytest.mark.slow
def test_bf16_storage_and_arithmetic_stay_near_float32(placements):
    losses, _ = trained(placements["device"])
    stored = [trained(placements[name], storage="bf16") for name in placements]
    equal(stored[1], stored[0])
    equal(stored[2], stored[0])
    np.testing.assert_allclose(stored[0][0], losses, rtol=2e-2)
    computed, params = trained(placements["device"], TrainConfig(**(vars(TRAIN) | {"precision": "bf16"})))
    np.testing.assert_allclose(computed, losses, rtol=5e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_a_streamed_mesh_that_is_not_finite_is_named(placements):
    records = [example._replace(coefficients=example.coefficients.copy()) for example in placements["stream"][0].meshes]
    records[7].coefficients[3, 1] = np.nan
    broken = placements["stream"]._replace(train_coefficients=StreamedData(records, 32))
    with pytest.raises(ValueError, match=r"mesh 7 of the train split \(007\.ply\) has values that are not finite"):
        trained(broken)


def test_slabs_in_their_place_are_the_whole(fit_data, monkeypatch):
    rows = fit_data.train_coefficients
    monkeypatch.setattr(batches, "BLOCK_BYTES", 10 * 32 * 3 * 4)  # 44 meshes in slabs of 10

    class Disk:
        shape, most = rows.shape, 0

        def __len__(self):
            return len(rows)

        def __getitem__(self, chosen):
            self.most = max(self.most, len(rows[chosen]))
            return rows[chosen]

    for storage in ("float32", "bf16"):
        found = batches.resident(Disk(), 44, devices.data_mesh(), storage).coefficients
        np.testing.assert_array_equal(found, rows.astype(batches.storage_dtype(storage)))
    disk = Disk()
    batches.resident(disk, 44, devices.data_mesh(), "float32")
    assert disk.most == 10


@pytest.mark.parametrize("holdout", [0, 1])
def test_test_meshes_on_disk_are_validated_in_slabs(data_folder, holdout, monkeypatch):
    """Nothing but slabs is read, and the figures are those of meshes in memory."""
    data = dataset.open_prepared(data_folder)
    people = [example._replace(identity=f"id{i % 3}") for i, example in enumerate(data.splits["train"])]
    data = dataclasses.replace(data, splits={"train": people, "test": data.splits["test"]})
    config = TrainConfig(epochs=2, batch_size=8, validate_every=1, holdout=holdout)
    model = ModelConfig(modes=16, latent_size=4)
    monkeypatch.setattr(loop, "SLAB", 4)
    monkeypatch.setattr(step, "VALIDATION_BATCH", 4)

    def validations():
        read = placement.read_fit_data(data, model, config, "device")
        updates = loop.fit(model, config, read)
        return read, [figures for update in updates for figures in update.figures.values()]

    held, expected = validations()
    assert isinstance(held.test_vertices, np.ndarray)
    monkeypatch.setattr(placement, "TEST_BYTES", 0)
    lazy, found = validations()
    assert not isinstance(lazy.test_vertices, np.ndarray)
    read, most = coefficients._read, []
    monkeypatch.setattr(coefficients, "_read", lambda *args, **kw: most.append(len(args[2])) or read(*args, **kw))
    for _ in loop.fit(model, config, lazy):
        pass
    assert max(most) == 4
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("spatial_validation_loss", "spectral_validation_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6)


def test_pictures_of_test_meshes_on_disk(data_folder, tmp_path, monkeypatch):
    options = {"epochs": 1, "batch_size": 8, "latent_size": 4, "pictures": 3}
    held = train.train(data_folder, tmp_path / "held", **options)
    monkeypatch.setattr(placement, "TEST_BYTES", 0)
    lazy = train.train(data_folder, tmp_path / "lazy", **options)
    jax.tree.map(np.testing.assert_array_equal, lazy.params, held.params)
    (ours,), (theirs,) = (read_log(tmp_path / name) for name in ("lazy", "held"))
    assert ours["spatial_validation_loss"] == pytest.approx(theirs["spatial_validation_loss"], rel=1e-6)


def test_placement_is_the_first_with_room(monkeypatch):
    free = 12 * 2**30
    monkeypatch.setattr(placement.memory, "free_bytes", lambda: (free, "its control group"))
    most = (free - placement.WORKING_BYTES) // (1024 * 3 * 4)
    assert placement.choose_placement(most, 1024) == "device"
    with pytest.warns(UserWarning, match=r"--placement is stream: the coefficients take 11\.8 GB .* 12\.9 GB are free"):
        assert placement.choose_placement(most + 1, 1024) == "stream"
    assert placement.choose_placement(most + 1, 1024, "bf16") == "device"
    with pytest.warns(UserWarning, match="its control group"):
        assert placement.choose_placement(most // 2, 1024, beside=8 * 2**30) == "stream"


def test_all_processes_place_alike(monkeypatch):
    monkeypatch.setattr(devices, "max_over_processes", lambda *values: (max(1, *values),))
    with pytest.warns(UserWarning, match="--placement is stream: .* another process has less free"):
        assert placement.choose_placement(10, 1024) == "stream"


@pytest.mark.parametrize(("count", "chosen"), [(1000, "device"), (200_000, "host"), (1_000_000, "stream")])
def test_placement_beside_a_gpu(monkeypatch, count, chosen):
    monkeypatch.setattr(placement.memory, "free_bytes", lambda: (12 * 2**30, "this machine"))
    monkeypatch.setattr(placement, "_device_bytes", lambda: 2**30)
    if chosen == "device":
        assert placement.choose_placement(count, 1024) == chosen
        return
    with pytest.warns(UserWarning, match=r"1\.07 GB are free on the device" + (", 12" if chosen == "stream" else "")):
        assert placement.choose_placement(count, 1024) == chosen


DEVICES = """
import json, sys, jax, numpy as np
from spectral_jax.training import batches, devices, loop
from spectral_jax.network.config import ModelConfig
from spectral_jax.training.config import TrainConfig
arrays = np.load(sys.argv[1])
data = batches.FitData(*(arrays[name] for name in batches.FitData._fields))
config = TrainConfig(epochs=4, batch_size=12, learning_rate=1e-3, validate_every=2)
losses = {}
host = data._replace(train_coefficients=batches.StreamedData(data.train_coefficients, 32))
for place, count in (("device", 1), ("device", 2), ("device", 8), ("host", 2), ("host", 8))[:: int(sys.argv[2])]:
    device_mesh = devices.data_mesh(jax.devices()[:count])
    source = data if place == "device" else host
    progress = loop.fit(ModelConfig(modes=32, latent_size=4), config, source, device_mesh=device_mesh)
    losses[f"{place} {count}"] = [f["spectral_train_loss"] for p in progress for f in p.figures.values()]
print(json.dumps(losses))
"""


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_eight_devices_train_as_one_does(fit_data, tmp_path, every):
    """12 meshes a batch, 8 in the last one: neither number of rows is a multiple of 8."""
    np.savez(tmp_path / "data.npz", **fit_data._asdict())
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-c", DEVICES, tmp_path / "data.npz", str(every)]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    losses = json.loads(printed)
    assert len(losses) == len(range(0, 5, every))
    for values in losses.values():
        assert len(values) == 4
        np.testing.assert_allclose(values, losses["device 1"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "placements"), [(2, ["device", "stream"]), (4, ["device", "stream"])])
def test_processes_train_as_one_does(data_folder, fit_data, tmp_path, count, placements):
    """Real processes on this machine, through the command line."""
    options = ["--batch-size", "12", "--epochs", "4", "--validate-every", "2", "--learning-rate", "1e-3"]
    options += ["--pictures", "0"]
    config = TrainConfig(epochs=4, batch_size=12, learning_rate=1e-3, validate_every=2)
    expected = [
        figures["spectral_train_loss"]
        for progress in loop.fit(ModelConfig(modes=32), config, fit_data)
        for figures in progress.figures.values()
    ]
    for place in placements:
        folder = tmp_path / place
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "spectral_jax", "train", "--data", data_folder, "--run", folder, *options]
        command += ["--placement", place, "--coordinator", address, "--num-processes", str(count), "--process-id"]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        processes = [
            subprocess.Popen([*command, str(i)], env=environment, stderr=subprocess.PIPE, text=True)
            for i in range(count)
        ]
        printed = [process.communicate(timeout=240)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * count, printed
        assert all("trained 4 epochs" not in text for text in printed[1:])
        lines = read_log(folder)
        assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
        np.testing.assert_allclose([line["spectral_train_loss"] for line in lines], expected, rtol=1e-5)
        assert run.load_run(folder).epoch == 4
