"""The training loop: one dispatch of steps after another, validations, and the schedule of the learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from spectral_jax.network.autoencoder import ModelConfig, SpectralAutoencoder
from spectral_jax.training import batches, devices
from spectral_jax.training.batches import DeviceData, Storage, StreamedData
from spectral_jax.training.schedule import Plateau, cosine, step_plateau
from spectral_jax.training.step import (
    EpochMetrics,
    StepRange,
    TrainConfig,
    TrainingProgress,
    TrainState,
    epoch_order,
    init_state,
    num_steps,
    train_block,
    train_resident,
    validate,
)  # fmt: skip

DISPATCH_SECONDS = 1.0  # how long the devices are left to work on their own
DISPATCH_EPOCHS = 16  # and how many epochs at most
FIRST_STEPS = 8  # of the first two dispatches: one compiles, the other tells how long a step takes


class FitData(NamedTuple):
    """What fit reads, all with the network's mode count; float32 and metres."""

    train_coefficients: Float[Array | np.ndarray, "mesh freq 3"] | DeviceData | StreamedData
    modes: Float[Array | np.ndarray, "vertex freq"]
    test_coefficients: Float[Array | np.ndarray, "mesh freq 3"]
    test_vertices: Float[Array | np.ndarray, "mesh vertex 3"]


class TrainingUpdate(NamedTuple):
    """The position after a dispatch, and the figures of the epochs that it finished, by their number (epochs done).

    The state is donated to the next dispatch: use it before asking for that one.
    """

    position: TrainingProgress
    figures: dict[int, dict[str, float]]
    meshes_per_second: float


def fit(
    model_config: ModelConfig,
    config: TrainConfig,
    data: FitData,
    position: TrainingProgress | None = None,
    mesh: Mesh | None = None,
    storage: Storage = "float32",
) -> Iterator[TrainingUpdate]:
    """Train from a position (default: the start) to `config.epochs`, yielding after each dispatch, about once a second.

    Each of the devices of `mesh` (default: all there are) takes its part of every batch. However the coefficients reach
    them, and however training is interrupted and continued, the results are the same, bit for bit on one CPU device.
    Raises FloatingPointError with the epoch, the step and the learning rate when the loss is not finite.
    """
    model, mesh = SpectralAutoencoder(model_config), devices.data_mesh() if mesh is None else mesh
    if position is None:
        position = TrainingProgress(init_state(model_config, config), Plateau(config.learning_rate), 0)
    position = position._replace(state=devices.replicate(position.state, mesh))
    train, *rest = data
    validation = devices.replicate(tuple(rest), mesh)
    if isinstance(train, StreamedData):
        loop = _BlockLoop(model, config, mesh, train, storage)
    elif isinstance(train, DeviceData):
        loop = _ResidentLoop(model, config, mesh, train)
    else:
        loop = _ResidentLoop(model, config, mesh, batches.resident(np.asarray(train), len(train), mesh, storage))

    seconds = 0.0  # spent on this epoch so far
    while position.epoch < config.epochs:
        rates = learning_rates(config, position.plateau, position.validation_mm, position.epoch, loop.steps)
        start = time.perf_counter()
        for done in loop.dispatches(position, rates):
            per_step = (time.perf_counter() - start) / done.steps
            plateau, epoch, validation_mm, best_mm = position[1:5]
            figures: dict[int, dict[str, float]] = {}
            for i, sums in enumerate(done.epochs):
                epoch, seconds = epoch + 1, seconds + per_step * (loop.steps - (0 if i else position.step))
                if not sums.meshes:
                    raise FloatingPointError(f"the loss or its gradient is not finite in any step of epoch {epoch}")
                figures[epoch] = {
                    "spectral_train_loss": float(sums.loss / sums.meshes),
                    "learning_rate": plateau.learning_rate if config.schedule == "plateau" else float(rates[i, -1]),
                    "gradient_norm": float(sums.gradient_norm / (loop.steps - sums.skipped)),
                    "epoch_time": seconds,
                    "meshes_per_second": loop.num_meshes / seconds,
                }
                if config.skip_bad_steps:
                    figures[epoch]["skipped_steps"] = int(sums.skipped)
                seconds = 0.0
                due = epoch % config.validate_every == 0
                if due or epoch == config.epochs:
                    errors = jax.device_get(validate(model, done.state.params, *validation))
                    spatial, spectral = (float(np.mean(e, dtype=np.float64)) for e in errors)
                    if not math.isfinite(spatial):
                        raise FloatingPointError(f"validation error {spatial} mm after epoch {epoch}")
                    figures[epoch] |= {"spectral_validation_loss": spectral, "spatial_validation_loss": spatial}
                    best_mm = spatial if best_mm is None else min(best_mm, spatial)
                if due:  # the plateau rule sees no validation that a longer run would not have made
                    validation_mm = figures[epoch]["spatial_validation_loss"]
                if validation_mm is not None:
                    plateau = step_plateau(plateau, validation_mm)
            seconds += per_step * (done.step - (0 if done.epochs else position.step))
            position = TrainingProgress(done.state, plateau, epoch, validation_mm, best_mm, done.step, done.sums)
            yield TrainingUpdate(position, figures, loop.num_meshes / (per_step * loop.steps))
            start = time.perf_counter()


def learning_rates(
    config: TrainConfig, plateau: Plateau, validation_mm: float | None, epoch: int, steps: int
) -> Float[np.ndarray, "epoch step"]:
    """The rates of the steps of `epoch` and the next ones, as far as a dispatch may go without another validation."""
    count = min(DISPATCH_EPOCHS, config.validate_every)
    if config.schedule == "cosine":
        return cosine(config.learning_rate, epoch * steps, count * steps, config.epochs * steps).reshape(count, steps)
    rates = np.empty((count, steps), np.float32)
    for row in rates:
        row[:] = plateau.learning_rate
        if validation_mm is not None:
            plateau = step_plateau(plateau, validation_mm)
    return rates


class _Dispatched(NamedTuple):
    """What came of a dispatch of `steps` steps: the state, sums of the epochs it ended, step and sums of the next."""

    state: TrainState
    epochs: list[EpochMetrics]
    step: int
    sums: EpochMetrics
    steps: int


class _ResidentLoop:
    """Dispatches over coefficients on the devices, as long as the clock, the next validation and the end allow."""

    def __init__(self, model: SpectralAutoencoder, config: TrainConfig, mesh: Mesh, train: DeviceData):
        self._arguments, self._coefficients = (model, config, mesh), train.coefficients
        self._config, self._key = config, devices.replicate(_key_data(config), mesh)
        self.num_meshes = len(train.coefficients)
        self.steps = num_steps(self.num_meshes, config.batch_size)
        self._dispatches, self._step_seconds = 0, 0.0

    def dispatches(self, position: TrainingProgress, rates: np.ndarray) -> Iterator[_Dispatched]:
        """One dispatch from the position."""
        span = self._span(position)
        start = time.perf_counter()
        state, sums = train_resident(
            *self._arguments, position.state, position.sums, self._coefficients, self._key, span, rates
        )
        every = [EpochMetrics(*values) for values in zip(*jax.device_get(sums), strict=True)][: span.count]
        taken = (span.count - 1) * self.steps + span.stop - span.start
        self._dispatches, self._step_seconds = self._dispatches + 1, (time.perf_counter() - start) / taken
        for i, sums in enumerate(every):
            _check_finite(sums, position.epoch + i, 0, rates[i])
        if span.stop == self.steps:
            yield _Dispatched(state, every, 0, EpochMetrics(), taken)
        else:
            yield _Dispatched(state, [], int(span.stop), every[0], taken)

    def _span(self, position: TrainingProgress) -> StepRange:
        """The steps to take next; int32 for jit."""
        budget = FIRST_STEPS
        if self._dispatches > 1:
            (microseconds,) = devices.max_over_processes(max(1, round(self._step_seconds * 1e6)))
            budget = max(1, round(DISPATCH_SECONDS * 1e6 / microseconds))
        left, every = self.steps - position.step, self._config.validate_every
        until = min(DISPATCH_EPOCHS, every - position.epoch % every, self._config.epochs - position.epoch)
        count = 1 + min(max(0, budget - left) // self.steps, until - 1)
        stop = min(position.step + budget, self.steps)
        return StepRange(*(np.int32(number) for number in (position.epoch, count, position.step, stop)))


class _BlockLoop:
    """Dispatches over blocks that come to the devices while they work on the one before."""

    def __init__(
        self, model: SpectralAutoencoder, config: TrainConfig, mesh: Mesh, train: StreamedData, storage: Storage
    ):
        self._arguments, self._train = (model, config, mesh), train
        self._storage: Storage = storage
        self._key = jax.random.wrap_key_data(_key_data(config))
        self.num_meshes = len(train.meshes)
        self.steps = num_steps(self.num_meshes, config.batch_size)

    def dispatches(self, position: TrainingProgress, rates: np.ndarray) -> Iterator[_Dispatched]:
        """The rest of the position's epoch, a dispatch for each block."""
        _, config, mesh = self._arguments
        order = np.asarray(epoch_order(self._key, position.epoch, self.num_meshes, config.batch_size, mesh.size))
        blocks = batches.blocks(self._train, order[position.step :], mesh, self._storage)
        state, sums, step = position.state, position.sums, position.step
        block = next(blocks)
        while block is not None:
            meshes, counts, count = block
            own, numbers = np.zeros((2, len(meshes)), np.float32)
            own[:count] = rates[0, step : step + count]
            numbers[:count] = np.sum(order[step : step + count] >= 0, axis=1)
            state, sums = train_block(*self._arguments, state, sums, meshes, counts, numbers, own, np.int32(count))
            block = next(blocks, None)
            sums = jax.device_get(sums)
            _check_finite(sums, position.epoch, step, own)
            step += count
            if step == self.steps:
                yield _Dispatched(state, [sums], 0, EpochMetrics(), count)
            else:
                yield _Dispatched(state, [], step, sums, count)


def _key_data(config: TrainConfig) -> Array:
    return jax.random.key_data(jax.random.fold_in(jax.random.key(config.seed), 1))


def _check_finite(sums: EpochMetrics, epoch: int, start: int, rates: np.ndarray) -> None:
    """Raise FloatingPointError for a bad step of a dispatch, whose first step is `start`, with these rates."""
    step = int(sums.bad_step)
    if step >= 0:
        raise FloatingPointError(
            f"the loss or its gradient is not finite in epoch {epoch + 1}, step {start + step + 1}, "
            f"at learning rate {rates[step]:.3g}"
        )
