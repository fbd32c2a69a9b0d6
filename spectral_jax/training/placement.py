"""Reading a dataset for training: the test split into memory, the train split to where it fits."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import psutil

from spectral_jax.data import coefficients
from spectral_jax.data.coefficients import LazyCoefficients, MirroredCoefficients
from spectral_jax.data.dataset import Data, read_split
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.network.config import ModelConfig
from spectral_jax.training import batches, devices, scores
from spectral_jax.training.batches import FitData, StreamedData
from spectral_jax.training.config import Placement, Storage, TrainConfig

DEVICE_SHARE = 0.6  # of a device's free memory that the coefficients may take; activations need the rest
HOST_SHARE = 0.5  # of the host's memory
MOST_VALIDATED = 1024  # test meshes that the residual network is validated on: an epoch of it takes a second


def choose_placement(num_meshes: int, num_modes: int, storage: Storage = "float32") -> Placement:
    """The first of device, host and stream with enough room for the coefficients."""
    size = num_meshes * num_modes * 3 * batches.storage_dtype(storage).itemsize
    fits_host = size <= HOST_SHARE * psutil.virtual_memory().total
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        if size <= DEVICE_SHARE * (stats["bytes_limit"] - stats["bytes_in_use"]):
            return "device"
        return "host" if fits_host else "stream"
    return "device" if fits_host else "stream"  # a CPU: the device's memory is the host's


def read_fit_data(
    data: Data,
    model: ModelConfig,
    config: TrainConfig,
    placement: Literal["auto"] | Placement = "auto",
    storage: Storage = "float32",
    progress: Progress = SILENT,
    constants: dict[str, Any] | None = None,
) -> FitData:
    """Read an opened dataset for training: the test split into memory, the train split to its placement.

    With the `constants` of a residual network, scores take the place of coefficients: they always fit on the device.
    Raises ValueError for too many modes, a batch larger than the train split, or a test split without vertices.
    """
    modes = model.modes
    rows = coefficients.train_coefficients(data, modes, config.mirror, progress)
    count = len(rows)
    if config.batch_size > count:
        raise ValueError(f"batch size {config.batch_size} is larger than the train split, {count} meshes")
    if constants is not None:
        return _read_scores(data, rows, constants, progress)
    if placement == "auto":
        placement = choose_placement(count, modes, storage)
    if placement == "device":
        own = coefficients.read(rows, devices.local_rows(count))
        train = batches.resident(own, count, devices.data_mesh(), storage)
    elif placement == "host":
        train = StreamedData(coefficients.read(rows, range(count)), modes)
    else:
        train = StreamedData(rows, modes)
    test = read_split(data, "test", modes, progress=progress)
    if test.vertices is None:
        raise ValueError(f"{data.path}: the test split has no original vertices to validate against")
    return FitData(train, data.basis.modes[:, :modes], test.coefficients, test.vertices)


def fit_principal(
    data: Data, model: ModelConfig, config: TrainConfig, progress: Progress = SILENT
) -> tuple[ModelConfig, TrainConfig, dict[str, Any]]:
    """The constants of a residual network for the train split, and the options as far as the split determines them.

    There are at most as many directions as meshes less one, and a batch has at most all meshes. Raises ValueError for
    too many modes or fewer than 2 meshes.
    """
    rows = coefficients.train_coefficients(data, model.modes, config.mirror, progress)
    fitted, constants = scores.fit_constants(model, rows)
    return fitted, dataclasses.replace(config, batch_size=min(config.batch_size, len(rows))), constants


def _read_scores(
    data: Data,
    rows: LazyCoefficients | MirroredCoefficients,
    constants: dict[str, Any],
    progress: Progress,
) -> FitData:
    """Scores of the train split on the devices, and of test meshes spread over their split."""
    own, modes = devices.local_rows(len(rows)), rows.shape[1]
    blocks = (rows[start : min(start + coefficients.CHUNK, own.stop)] for start in own[:: coefficients.CHUNK])
    train = batches.resident(scores.all_rows(constants, blocks), len(rows), devices.data_mesh(), "float32")
    num_test = len(data.splits["test"])
    every = range(0, num_test, -(-num_test // MOST_VALIDATED))
    test = read_split(data, "test", modes, every, progress)
    if test.vertices is None:
        raise ValueError(f"{data.path}: the test split has no original vertices to validate against")
    moved = scores.displacements(data.basis.modes[:, :modes], constants)
    return FitData(train, moved, scores.all_rows(constants, [test.coefficients]), test.vertices)
