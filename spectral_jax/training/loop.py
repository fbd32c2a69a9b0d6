"""The training loop: dispatches of steps, validations and the learning-rate rule, one after the other."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from spectral_jax.network import networks
from spectral_jax.network.config import ModelConfig
from spectral_jax.network.networks import TrainedPart
from spectral_jax.training import batches, devices
from spectral_jax.training.batches import DeviceData, FitData, StreamedData
from spectral_jax.training.config import Storage, TrainConfig
from spectral_jax.training.dispatch import ResidentDispatcher, StreamDispatcher, TrainContext
from spectral_jax.training.schedule import learning_rates, step_plateau
from spectral_jax.training.state import EpochMetrics, TrainingProgress, TrainState, init_progress
from spectral_jax.training.step import VALIDATION_BATCH, validate

SLAB = 8 * VALIDATION_BATCH  # test meshes that are read at a time where they do not fit into memory


class TrainingUpdate(NamedTuple):
    """The position after a dispatch, and the figures of the epochs that it finished.

    The state is donated to the next dispatch: use it before asking for the next update.
    """

    position: TrainingProgress
    figures: dict[int, dict[str, float]]
    """Figures by name of each epoch; epochs count from 1."""
    meshes_per_second: float


def fit(
    model_config: ModelConfig,
    config: TrainConfig,
    data: FitData,
    position: TrainingProgress | None = None,
    device_mesh: Mesh | None = None,
    storage: Storage = "float32",
    constants: Any = None,
    on_step: Callable[[Any, Any], None] | None = None,
) -> Iterator[TrainingUpdate]:
    """Train from a position (default: a new network) to `config.epochs`; yield an update about once a second.

    The devices of `device_mesh` (default: all) share every batch. A residual network takes its `constants` and the data
    of `training.scores`; its first update, of epoch 0, is the error of the untrained network. The result depends
    neither on how the coefficients reach the devices nor on interruptions, bit for bit on one CPU device. `on_step` is
    called with the number of every step, from 1, and its loss, from each device of this process. Raises
    FloatingPointError with the epoch, the step and the learning rate when the loss is not finite.
    """
    device_mesh = devices.data_mesh() if device_mesh is None else device_mesh
    context = TrainContext(networks.trained_part(networks.build(model_config)), config, device_mesh, on_step)
    position = init_progress(model_config, config) if position is None else position
    position = position._replace(state=devices.replicate(position.state, device_mesh))
    constants = devices.replicate(constants, device_mesh)
    test = TestMeshes(device_mesh, data, constants)
    dispatcher = _dispatcher(context, device_mesh, data.train_coefficients, storage, constants)
    if model_config.network == "residual" and position.best_mm is None:
        # The untrained network is PCA. As the first to be the best, it leaves the best never worse than PCA.
        start_figures = _validation(context.model, position.state, test, 0)
        position = position._replace(best_mm=start_figures["spatial_validation_loss"])
        yield TrainingUpdate(position, {0: start_figures}, 0.0)

    seconds = 0.0  # spent on the current epoch so far
    while position.epoch < config.epochs:
        rates = learning_rates(config, position.plateau, position.validation_mm, position.epoch, dispatcher.epoch_steps)
        start = time.perf_counter()
        for done in dispatcher.dispatches(position, rates):
            per_step = (time.perf_counter() - start) / done.num_steps
            figures: dict[int, dict[str, float]] = {}
            for sums, epoch_rates in zip(done.finished, rates, strict=False):
                seconds += per_step * (dispatcher.epoch_steps - position.step)
                epoch = position.epoch + 1
                rate = position.plateau.learning_rate if config.schedule == "plateau" else float(epoch_rates[-1])
                figures[epoch] = _totals(config, sums, epoch, dispatcher.epoch_steps) | {
                    "learning_rate": rate,
                    "epoch_time": seconds,
                    "meshes_per_second": dispatcher.num_meshes / seconds,
                }
                if epoch % config.validate_every == 0 or epoch == config.epochs:
                    figures[epoch] |= _validation(context.model, done.state, test, epoch)
                position = _end_epoch(config, position, figures[epoch].get("spatial_validation_loss"))
                seconds = 0.0
            seconds += per_step * (done.step - position.step)
            position = position._replace(state=done.state, step=done.step, sums=done.sums)
            yield TrainingUpdate(position, figures, dispatcher.num_meshes / (per_step * dispatcher.epoch_steps))
            start = time.perf_counter()


def _dispatcher(
    context: TrainContext, device_mesh: Mesh, train: Any, storage: Storage, constants: Any
) -> ResidentDispatcher | StreamDispatcher:
    if isinstance(train, StreamedData):
        return StreamDispatcher(context, device_mesh, train, storage, constants)
    if not isinstance(train, DeviceData):
        train = batches.resident(np.asarray(train), len(train), device_mesh, storage)
    return ResidentDispatcher(context, device_mesh, train, constants)


def _totals(config: TrainConfig, sums: EpochMetrics, epoch: int, steps: int) -> dict[str, float]:
    """An epoch's mean loss over meshes and mean gradient norm over steps, by the published names."""
    if not sums.meshes:
        raise FloatingPointError(f"the loss or its gradient is not finite in any step of epoch {epoch}")
    figures = {
        "spectral_train_loss": float(sums.loss / sums.meshes),
        "gradient_norm": float(sums.gradient_norm / (steps - sums.skipped)),
    }
    return figures | ({"skipped_steps": int(sums.skipped)} if config.skip_bad_steps else {})


class TestMeshes:
    """The test meshes of `FitData`: on the devices if they are arrays, else read from disk at each validation."""

    __test__ = False  # not a test, whatever pytest thinks of its name

    def __init__(self, device_mesh: Mesh, data: FitData, constants: Any = None):
        self._device_mesh = device_mesh
        self._modes, self._constants = devices.replicate((data.modes, constants), device_mesh)
        self._meshes = data.test_coefficients, data.test_vertices
        self._resident = all(isinstance(array, np.ndarray | jax.Array) for array in self._meshes)
        if self._resident:
            self._meshes = devices.replicate(self._meshes, device_mesh)

    def errors(self, validate: Callable[..., Any]) -> list[np.ndarray]:
        """Errors (..., mesh) of all meshes; `validate` takes arguments of `training.step.validate` from `modes` on."""
        found, under_way = [], None
        for meshes in self._slabs():
            launched = validate(self._modes, *meshes, self._constants)
            if under_way is not None:  # one slab is computed while the next is read
                found.append(jax.device_get(under_way))
            under_way = launched
        found.append(jax.device_get(under_way))
        return [np.concatenate(each, axis=-1) for each in zip(*found, strict=True)]

    def _slabs(self) -> Iterator[tuple]:
        if self._resident:
            yield self._meshes
            return
        for start in range(0, len(self._meshes[1]), SLAB):
            slab = tuple(np.asarray(array[start : start + SLAB]) for array in self._meshes)
            yield devices.replicate(slab, self._device_mesh)


def _validation(model: TrainedPart, state: TrainState, test: TestMeshes, epoch: int) -> dict[str, float]:
    """Mean errors over the test split: of coefficients, and of vertices in mm."""
    errors = test.errors(functools.partial(validate, model, state.params))
    spatial, spectral = (float(np.mean(each, dtype=np.float64)) for each in errors)
    if not math.isfinite(spatial):
        raise FloatingPointError(f"validation error {spatial} mm after epoch {epoch}")
    return {"spectral_validation_loss": spectral, "spatial_validation_loss": spatial}


def _end_epoch(config: TrainConfig, position: TrainingProgress, error_mm: float | None) -> TrainingProgress:
    """The position at the start of the next epoch, after a validation (or none: None)."""
    epoch, validation_mm, best_mm = position.epoch + 1, position.validation_mm, position.best_mm
    if error_mm is not None:
        best_mm = error_mm if best_mm is None else min(best_mm, error_mm)
        if epoch % config.validate_every == 0:  # a longer run would not have the closing validation of a shorter one
            validation_mm = error_mm
    plateau = step_plateau(position.plateau, validation_mm)
    return position._replace(plateau=plateau, epoch=epoch, validation_mm=validation_mm, best_mm=best_mm, step=0)
