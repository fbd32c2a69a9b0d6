"""Reading a dataset for training: the test split into memory, the train split to where it fits."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import numpy as np
import psutil

from spectral_jax.basis import spectral
from spectral_jax.data import coefficients
from spectral_jax.data.coefficients import HeldOut, LazyCoefficients, MirroredCoefficients
from spectral_jax.data.dataset import Data, read_split
from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.geometry.sampling import evenly_spaced
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
    modes, held_out = model.modes, _held_out(data, config, progress)
    mirrored = config.mirror and not model.symmetric  # a symmetric network learns nothing from mirror images
    rows = _train_rows(data, modes, mirrored, held_out, progress)
    count = len(rows)
    if config.batch_size > count:
        raise ValueError(f"batch size {config.batch_size} is larger than the train split, {count} meshes")
    if constants is not None:
        own = devices.local_rows(count)
        blocks = (rows[start : min(start + coefficients.CHUNK, own.stop)] for start in own[:: coefficients.CHUNK])
        train = batches.resident(scores.all_rows(constants, blocks), count, devices.data_mesh(), "float32")
        test, vertices = _validation_meshes(data, modes, MOST_VALIDATED, held_out, progress)
        moved = scores.displacements(data.basis.modes[:, :modes], constants)
        return FitData(train, moved, scores.all_rows(constants, [test]), vertices)
    if placement == "auto":
        placement = choose_placement(count, modes, storage)
    if placement == "device":
        own = coefficients.read(rows, devices.local_rows(count))
        train = batches.resident(own, count, devices.data_mesh(), storage)
    elif placement == "host":
        train = StreamedData(coefficients.read(rows, range(count)), modes)
    else:
        train = StreamedData(rows, modes)
    test, vertices = _validation_meshes(data, modes, None, held_out, progress)
    return FitData(train, data.basis.modes[:, :modes], test, vertices)


def fit_principal(
    data: Data, model: ModelConfig, config: TrainConfig, progress: Progress = SILENT
) -> tuple[ModelConfig, TrainConfig, dict[str, Any]]:
    """The constants of a residual network for the train split, and the options as far as the split determines them.

    There are at most as many directions as meshes less one, and a batch has at most all meshes. Raises ValueError for
    too many modes or fewer than 2 meshes.
    """
    rows = _train_rows(data, model.modes, config.mirror, _held_out(data, config, progress), progress)
    fitted, constants = scores.fit_constants(model, rows)
    count = len(rows) // (2 if fitted.symmetric else 1)
    return fitted, dataclasses.replace(config, batch_size=min(config.batch_size, count)), constants


def _held_out(data: Data, config: TrainConfig, progress: Progress) -> HeldOut | None:
    return coefficients.hold_out(data, config.holdout, config.seed, progress) if config.holdout else None


def _train_rows(
    data: Data, modes: int, mirrored: bool, held_out: HeldOut | None, progress: Progress
) -> LazyCoefficients | MirroredCoefficients:
    meshes = held_out.meshes if held_out else None
    return coefficients.train_coefficients(data, modes, mirrored, progress, meshes)


def _validation_meshes(
    data: Data, modes: int, most: int | None, held_out: HeldOut | None, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and vertices to validate on, at most so many: of the test split, or of the identities held out.

    The train split has no original vertices. Those that all modes of the dataset reconstruct take their place.
    """
    if held_out:
        spread = held_out.held[evenly_spaced(len(held_out.held), most or len(held_out.held))]
        whole = LazyCoefficients(data, "train", data.basis.num_modes, progress, spread)[:]
        vertices = [np.asarray(spectral.reconstruct(data.basis, mesh)) for mesh in whole]
        return whole[:, :modes], np.stack(vertices)
    count = len(data.splits["test"])
    test = read_split(data, "test", modes, range(0, count, -(-count // (most or count))), progress)
    if test.vertices is None:
        raise ValueError(f"{data.path}: the test split has no original vertices to validate against")
    return test.coefficients, test.vertices
