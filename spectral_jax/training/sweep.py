"""Many trainings side by side on one device: seeds and learning rates of one network, by vmap."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spectral_jax.files.progress import SILENT, Progress
from spectral_jax.network import networks
from spectral_jax.network.config import ModelConfig
from spectral_jax.training import devices
from spectral_jax.training.batches import DeviceData, FitData, num_steps, shuffling_key
from spectral_jax.training.config import TrainConfig
from spectral_jax.training.dispatch import StepRange, TrainContext, train_epochs
from spectral_jax.training.loop import TestMeshes
from spectral_jax.training.schedule import Plateau, learning_rates, step_plateau
from spectral_jax.training.state import EpochMetrics, init_state
from spectral_jax.training.step import validate


class Trial(NamedTuple):
    """One training of a sweep."""

    seed: int
    learning_rate: float
    validations_mm: list[float]
    """Mean vertex error on the test split at each validation, mm."""

    @property
    def error_mm(self) -> float:
        """The error after the last epoch; not finite when training diverged."""
        return self.validations_mm[-1]


def sweep(
    model_config: ModelConfig,
    config: TrainConfig,
    data: FitData,
    *,
    seeds: Sequence[int],
    rates: Sequence[float],
    constants: Any = None,
    progress: Progress = SILENT,
) -> list[Trial]:
    """Train a network with every seed and learning rate at once; each trial is what `fit` would do with it alone.

    All trials share the coefficients on the device. A trial that diverges does not disturb the others.
    """
    context = TrainContext(networks.trained_part(networks.build(model_config)), config)
    task = f"{model_config.modes:,} modes, latent {model_config.latent_size}"
    configs = [dataclasses.replace(config, seed=seed, learning_rate=rate) for seed in seeds for rate in rates]
    trials = [Trial(c.seed, c.learning_rate, []) for c in configs]
    plateaus = [Plateau(c.learning_rate) for c in configs]
    validation_mm: list[float | None] = [None] * len(configs)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(init_state(model_config, c) for c in configs))
    keys = jnp.stack([shuffling_key(c.seed) for c in configs])
    device_mesh = devices.data_mesh(jax.devices()[:1])
    train = data.train_coefficients
    train = train.coefficients if isinstance(train, DeviceData) else jax.device_put(train)
    constants = jax.device_put(constants)
    test = TestMeshes(device_mesh, data, constants)
    steps, every, epoch = num_steps(len(train), config.batch_size), config.validate_every, 0
    progress.update(task, 0, config.epochs)
    while epoch < config.epochs:
        arguments = zip(configs, plateaus, validation_mm, strict=True)
        ahead = np.stack([learning_rates(c, plateau, mm, epoch, steps) for c, plateau, mm in arguments])
        count = min(ahead.shape[1], every - epoch % every, config.epochs - epoch)
        taken = StepRange(np.int32(epoch), np.int32(count), np.int32(0), np.int32(steps), ahead)
        states = _train(context.program, states, train, keys, taken, constants)
        epoch += count
        due, errors = epoch % every == 0, None
        if due or epoch == config.epochs:
            each, _ = test.errors(functools.partial(_validate, context.model, states.params))
            errors = np.asarray(each, np.float64).mean(axis=1)
        for i, trial in enumerate(trials):
            for done in range(epoch - count + 1, epoch + 1):
                if errors is not None and done == epoch:
                    trial.validations_mm.append(float(errors[i]))
                    validation_mm[i] = float(errors[i]) if due else validation_mm[i]
                plateaus[i] = step_plateau(plateaus[i], validation_mm[i])
        progress.update(task, epoch, config.epochs)
    return trials


@functools.partial(jax.jit, static_argnames="context", donate_argnames="states")
def _train(context, states, coefficients, keys, steps, constants):
    """`train_epochs` for every trial: states, keys and learning rates have a leading axis trial."""
    by_rate = StepRange(epoch=None, count=None, start=None, stop=None, learning_rates=0)
    epochs = functools.partial(train_epochs, context)
    trials = jax.vmap(epochs, in_axes=(0, None, None, 0, by_rate, None))
    return trials(states, EpochMetrics(), coefficients, keys, steps, constants)[0]


@functools.partial(jax.jit, static_argnames="model")
def _validate(model, params, *test):
    return jax.vmap(lambda params: validate(model, params, *test))(params)
